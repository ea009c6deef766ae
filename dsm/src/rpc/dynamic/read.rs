//! The bytes of a result to JSON.

use serde_json::{Map, Value, json};

use super::{Budget, Dynamic, Type, TypeDef, Unreadable};
use crate::codec::DecodeError;
use crate::rpc::wire::{Decoder, Shape, Wire};

/// Greatest integer up to which a `double` holds every integer.
const EXACT_MAX: u128 = 1 << 53;

impl Dynamic {
    /// Reads a value of the type. Each value inside another one is a level of the budget, whatever its type:
    /// each is a call of this function inside another one.
    pub(super) fn read(
        &self,
        ty: &Type,
        from: &mut Decoder<'_>,
        budget: &mut Budget,
    ) -> Result<Value, Unreadable> {
        budget.enter()?;
        let value = match ty {
            Type::Named(name) => self.read_named(name, from, budget),
            Type::Array(inner, len) => self.read_many(inner, *len, from, budget),
            Type::List(inner) => {
                let count = u32::decode(from)?;
                self.read_many(inner, count, from, budget)
            }
            Type::Map(key, inner) => self.read_map(key, inner, from, budget),
            Type::Optional(inner) => match bool::decode(from)? {
                true => self.read(inner, from, budget),
                false => Ok(Value::Null),
            },
            single => read_single(single, from, budget),
        }?;
        budget.levels += 1;
        Ok(value)
    }

    fn read_map(
        &self,
        key: &Type,
        inner: &Type,
        from: &mut Decoder<'_>,
        budget: &mut Budget,
    ) -> Result<Value, Unreadable> {
        let mut map = Map::new();
        for _ in 0..u32::decode(from)? {
            let name = match self.read(key, from, budget)? {
                Value::String(text) => text,
                other => other.to_string(),
            };
            map.insert(name, self.read(inner, from, budget)?);
        }
        Ok(Value::Object(map))
    }

    /// Without room made ahead: the count is a peer's word, the bytes end it.
    fn read_many(
        &self,
        ty: &Type,
        count: u32,
        from: &mut Decoder<'_>,
        budget: &mut Budget,
    ) -> Result<Value, Unreadable> {
        let mut list = Vec::new();
        for _ in 0..count {
            let before = from.remaining();
            list.push(self.read(ty, from, budget)?);
            if from.remaining() == before {
                return Err(DecodeError::Bad("elements without bytes").into());
            }
        }
        Ok(Value::Array(list))
    }

    fn read_named(
        &self,
        name: &str,
        from: &mut Decoder<'_>,
        budget: &mut Budget,
    ) -> Result<Value, Unreadable> {
        match self.description.types.get(name) {
            None => Err(DecodeError::Bad("type without description").into()),
            Some(TypeDef::Enum(variants)) => {
                let value = i32::decode(from)?;
                let found = variants.iter().find(|variant| variant.value == value);
                Ok(found.map_or_else(|| json!(value), |variant| json!(variant.name)))
            }
            Some(TypeDef::Struct(fields)) => {
                let outside = from.enter()?;
                let mut object = Map::new();
                while let Some(field) = from.field()? {
                    let Some(known) = fields.iter().find(|known| known.id == field.id()) else {
                        from.skip(field)?;
                        continue;
                    };
                    let ty = match &known.ty {
                        Type::Optional(inner) => inner,
                        required => required,
                    };
                    let framed = self.shape(ty) == Shape::Bare;
                    let inner = if framed { Some(from.enter()?) } else { None };
                    budget.charge(known.name.len() + size_of::<String>())?;
                    object.insert(known.name.clone(), self.read(ty, from, budget)?);
                    if let Some(inner) = inner {
                        from.leave(inner);
                    }
                }
                from.leave(outside);
                Ok(Value::Object(object))
            }
            Some(TypeDef::Union(fields)) => {
                let outside = from.enter()?;
                let id = from.variant()?;
                let field = fields.iter().find(|field| field.id == id).ok_or(DecodeError::Bad("union"))?;
                budget.charge(field.name.len() + size_of::<String>())?;
                let value = self.read(&field.ty, from, budget)?;
                from.leave(outside);
                Ok(json!({ field.name.clone(): value }))
            }
        }
    }

    /// What a field of the type looks like from outside, as the stubs' `Wire::SHAPE`.
    pub(super) fn shape(&self, ty: &Type) -> Shape {
        match ty {
            Type::Bool | Type::I8 | Type::U8 => Shape::One,
            Type::I16 | Type::U16 => Shape::Two,
            Type::I32 | Type::U32 | Type::F32 => Shape::Four,
            Type::I64 | Type::U64 | Type::F64 => Shape::Eight,
            Type::String => Shape::Framed,
            Type::Named(name) => match self.description.types.get(name) {
                Some(TypeDef::Enum(_)) => Shape::Four,
                Some(TypeDef::Struct(_) | TypeDef::Union(_)) | None => Shape::Framed,
            },
            Type::Void
            | Type::Bytes
            | Type::Array(..)
            | Type::List(_)
            | Type::Map(..)
            | Type::Optional(_)
            | Type::Global(_) => Shape::Bare,
        }
    }
}

/// A value without others inside.
fn read_single(ty: &Type, from: &mut Decoder<'_>, budget: &mut Budget) -> Result<Value, Unreadable> {
    Ok(match ty {
        Type::Bool => json!(bool::decode(from)?),
        Type::I8 => json!(i8::decode(from)?),
        Type::I16 => json!(i16::decode(from)?),
        Type::I32 => json!(i32::decode(from)?),
        Type::I64 => exact(i64::decode(from)?),
        Type::U8 => json!(u8::decode(from)?),
        Type::U16 => json!(u16::decode(from)?),
        Type::U32 => json!(u32::decode(from)?),
        Type::U64 => exact(u64::decode(from)?),
        Type::F32 => json!(f32::decode(from)?),
        Type::F64 => json!(f64::decode(from)?),
        Type::String => {
            let text = from.str()?;
            budget.charge(text.len())?;
            json!(text)
        }
        Type::Bytes => {
            let bytes = from.bytes()?;
            budget.charge(2 * bytes.len())?;
            let mut digits = String::with_capacity(2 * bytes.len());
            for byte in bytes {
                for half in [byte >> 4, byte & 0xf] {
                    digits.push(char::from_digit(u32::from(half), 16).expect("a half of a byte"));
                }
            }
            Value::String(digits)
        }
        Type::Global(_) => {
            // An object of three numbers, each with its name.
            budget.charge(3 * (size_of::<String>() + size_of::<Value>()))?;
            let (addr, len, generation) = (u64::decode(from)?, u64::decode(from)?, u64::decode(from)?);
            json!({ "addr": exact(addr), "len": exact(len), "generation": exact(generation) })
        }
        // `void` has no bytes: a list of it would be read for ever. The others hold values.
        Type::Void | Type::Named(_) | Type::Array(..) | Type::List(_) | Type::Map(..) | Type::Optional(_) => {
            return Err(DecodeError::Bad("void").into());
        }
    })
}

/// A number, or, beyond what a `double` holds exactly, its digits as a text: most readers of JSON have no other
/// numbers, and an id that lost its last digits names something else.
fn exact(number: impl Into<i128>) -> Value {
    let number = number.into();
    if number.unsigned_abs() <= EXACT_MAX { json!(number as i64) } else { Value::String(number.to_string()) }
}
