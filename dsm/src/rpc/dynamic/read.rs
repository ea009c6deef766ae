//! The bytes of a result to JSON.

use serde_json::{Map, Value, json};

use super::{Dynamic, Type, TypeDef};
use crate::codec::DecodeError;
use crate::rpc::wire::{Decoder, Shape, Wire};

impl Dynamic {
    /// Reads a value of the type.
    pub(super) fn read(&self, ty: &Type, from: &mut Decoder<'_>) -> Result<Value, DecodeError> {
        Ok(match ty {
            // It has no bytes: a list of it would be read for ever.
            Type::Void => return Err(DecodeError::Bad("void")),
            Type::Bool => json!(bool::decode(from)?),
            Type::I8 => json!(i8::decode(from)?),
            Type::I16 => json!(i16::decode(from)?),
            Type::I32 => json!(i32::decode(from)?),
            Type::I64 => json!(i64::decode(from)?),
            Type::U8 => json!(u8::decode(from)?),
            Type::U16 => json!(u16::decode(from)?),
            Type::U32 => json!(u32::decode(from)?),
            Type::U64 => json!(u64::decode(from)?),
            Type::F32 => json!(f32::decode(from)?),
            Type::F64 => json!(f64::decode(from)?),
            Type::String => json!(from.str()?),
            Type::Bytes => {
                let digits = from.bytes()?.iter().map(|byte| format!("{byte:02x}"));
                Value::String(digits.collect())
            }
            Type::Named(name) => self.read_named(name, from)?,
            Type::Array(inner, len) => self.read_many(inner, *len, from)?,
            Type::List(inner) => {
                let count = u32::decode(from)?;
                self.read_many(inner, count, from)?
            }
            Type::Map(key, inner) => {
                let mut map = Map::new();
                for _ in 0..u32::decode(from)? {
                    let name = match self.read(key, from)? {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    map.insert(name, self.read(inner, from)?);
                }
                Value::Object(map)
            }
            Type::Optional(inner) => match bool::decode(from)? {
                true => self.read(inner, from)?,
                false => Value::Null,
            },
            Type::Global(_) => json!({ "addr": u64::decode(from)?, "len": u64::decode(from)? }),
        })
    }

    /// Without room made ahead: the count is a peer's word, the bytes end it.
    fn read_many(&self, ty: &Type, count: u32, from: &mut Decoder<'_>) -> Result<Value, DecodeError> {
        let mut list = Vec::new();
        for _ in 0..count {
            let before = from.remaining();
            list.push(self.read(ty, from)?);
            if from.remaining() == before {
                return Err(DecodeError::Bad("elements without bytes"));
            }
        }
        Ok(Value::Array(list))
    }

    fn read_named(&self, name: &str, from: &mut Decoder<'_>) -> Result<Value, DecodeError> {
        match self.description.types.get(name) {
            None => Err(DecodeError::Bad("type without description")),
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
                    object.insert(known.name.clone(), self.read(ty, from)?);
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
                let value = self.read(&field.ty, from)?;
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
