//! JSON to the bytes that stubs would have written.

use serde_json::Value;

use super::{DescribedField, Dynamic, Type, TypeDef};
use crate::rpc::wire::{Wire, begin_frame, end_frame, put_bytes, put_str};

impl Dynamic {
    /// Appends the value as one of the type, or says what does not fit.
    pub(super) fn write(&self, ty: &Type, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
        match ty {
            Type::Void => return Err("void has no value".to_owned()),
            Type::Bool => value.as_bool().ok_or("expected true or false")?.encode(out),
            Type::I8 => signed::<i8>(value)?.encode(out),
            Type::I16 => signed::<i16>(value)?.encode(out),
            Type::I32 => signed::<i32>(value)?.encode(out),
            Type::I64 => signed::<i64>(value)?.encode(out),
            Type::U8 => unsigned::<u8>(value)?.encode(out),
            Type::U16 => unsigned::<u16>(value)?.encode(out),
            Type::U32 => unsigned::<u32>(value)?.encode(out),
            Type::U64 => unsigned::<u64>(value)?.encode(out),
            Type::F32 => (value.as_f64().ok_or("expected a number")? as f32).encode(out),
            Type::F64 => value.as_f64().ok_or("expected a number")?.encode(out),
            Type::String => put_str(out, value.as_str().ok_or("expected a text")?),
            Type::Bytes => put_bytes(out, &hexadecimal(value)?),
            Type::Named(name) => self.write_named(name, value, out)?,
            Type::Array(inner, len) => {
                let list = value.as_array().filter(|list| list.len() == *len as usize);
                let list = list.ok_or_else(|| format!("expected an array of {len}"))?;
                list.iter().try_for_each(|value| self.write(inner, value, out))?;
            }
            Type::List(inner) => {
                let list = value.as_array().ok_or("expected an array")?;
                put_count(list.len(), out);
                list.iter().try_for_each(|value| self.write(inner, value, out))?;
            }
            Type::Map(key, inner) => {
                let map = value.as_object().ok_or("expected an object")?;
                put_count(map.len(), out);
                for (name, value) in map {
                    self.write(key, &self.key(key, name), out)?;
                    self.write(inner, value, out)?;
                }
            }
            Type::Optional(_) if value.is_null() => out.push(0),
            Type::Optional(inner) => {
                out.push(1);
                self.write(inner, value, out)?;
            }
            Type::Global(_) => {
                unsigned::<u64>(&value["addr"])?.encode(out);
                unsigned::<u64>(&value["len"])?.encode(out);
            }
        }
        Ok(())
    }

    fn write_named(&self, name: &str, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
        match self.description.types.get(name) {
            None => Err(format!("the description has no type {name}")),
            Some(TypeDef::Enum(variants)) => {
                let found = variants.iter().find(|variant| value.as_str() == Some(&variant.name));
                let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
                found.ok_or_else(|| format!("expected one of {}", names.join(", ")))?.value.encode(out);
                Ok(())
            }
            Some(TypeDef::Struct(fields)) => {
                let object = value.as_object().ok_or_else(|| format!("expected an object, a {name}"))?;
                if let Some(stranger) =
                    object.keys().find(|key| fields.iter().all(|field| field.name != **key))
                {
                    return Err(format!("{name} has no field {stranger}"));
                }
                let frame = begin_frame(out);
                for field in fields {
                    let value = object.get(&field.name).unwrap_or(&Value::Null);
                    self.write_field(field, value, out)
                        .map_err(|error| format!("{}: {error}", field.name))?;
                }
                end_frame(out, frame);
                Ok(())
            }
            Some(TypeDef::Union(fields)) => {
                let single = value
                    .as_object()
                    .filter(|object| object.len() == 1)
                    .and_then(|object| object.iter().next());
                let found = single.and_then(|(key, value)| {
                    fields.iter().find(|field| field.name == *key).map(|field| (field, value))
                });
                let (field, value) = found.ok_or_else(|| format!("expected one variant of {name}"))?;
                let frame = begin_frame(out);
                out.extend_from_slice(&field.id.to_le_bytes());
                self.write(&field.ty, value, out)?;
                end_frame(out, frame);
                Ok(())
            }
        }
    }

    fn write_field(&self, field: &DescribedField, value: &Value, out: &mut Vec<u8>) -> Result<(), String> {
        let ty = match &field.ty {
            Type::Optional(_) if value.is_null() => return Ok(()),
            Type::Optional(inner) => inner,
            required => required,
        };
        let shape = self.shape(ty);
        let tag = field.id << 3 | shape as u16;
        if tag < 0x80 {
            out.push(tag as u8);
        } else {
            out.extend_from_slice(&[(tag & 0x7f) as u8 | 0x80, (tag >> 7) as u8]);
        }
        if shape == crate::rpc::Shape::Bare {
            let frame = begin_frame(out);
            self.write(ty, value, out)?;
            end_frame(out, frame);
            return Ok(());
        }
        self.write(ty, value, out)
    }

    /// The key of a JSON object as a value of the map's key type.
    fn key(&self, ty: &Type, name: &str) -> Value {
        match ty {
            Type::String | Type::Named(_) => Value::from(name),
            _scalar => serde_json::from_str(name).unwrap_or_else(|_| Value::from(name)),
        }
    }
}

fn put_count(count: usize, out: &mut Vec<u8>) {
    // JSON of four billion elements is not in memory.
    (count as u32).encode(out);
}

fn signed<T: TryFrom<i64>>(value: &Value) -> Result<T, String> {
    let number = value.as_i64().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("{value} is not such an integer"))
}

fn unsigned<T: TryFrom<u64>>(value: &Value) -> Result<T, String> {
    let number = value.as_u64().and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| format!("{value} is not such an integer"))
}

fn hexadecimal(value: &Value) -> Result<Vec<u8>, String> {
    let text = value.as_str().filter(|text| text.is_ascii() && text.len() % 2 == 0);
    let text = text.ok_or("expected a text of hexadecimal digits")?;
    let pair = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).map_err(|error| error.to_string());
    (0..text.len()).step_by(2).map(pair).collect()
}
