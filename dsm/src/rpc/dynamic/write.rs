//! JSON to the bytes that stubs would have written.

use serde_json::{Map, Value};

use super::{DescribedField, Dynamic, Type, TypeDef};
use crate::config::rpc::JSON_DEPTH_MAX;
use crate::rpc::wire::{Wire, begin_frame, end_frame, put_bytes, put_str, put_tag};

/// Characters of a wrong value that an error repeats.
const FOUND_LEN_MAX: usize = 40;

/// A value that does not fit: where it stands in its argument (`[3].time`), and why.
pub(super) struct Misfit {
    place: String,
    why: String,
}

impl Misfit {
    /// It stands further inside.
    fn inside(self, step: &str) -> Misfit {
        Misfit { place: format!("{step}{}", self.place), ..self }
    }
}

impl<T: Into<String>> From<T> for Misfit {
    fn from(why: T) -> Misfit {
        Misfit { place: String::new(), why: why.into() }
    }
}

impl std::fmt::Display for Misfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.place, self.why)
    }
}

/// What stands for an argument or field; only an optional one may be left out.
pub(super) fn given<'a>(object: &'a Map<String, Value>, field: &DescribedField) -> Result<&'a Value, Misfit> {
    match (object.get(&field.name), &field.ty) {
        (Some(value), _) => Ok(value),
        (None, Type::Optional(_)) => Ok(&Value::Null),
        (None, _) => Err("it is missing".into()),
    }
}

impl Dynamic {
    /// Appends the value as one of the type, or says what does not fit.
    /// `levels` is how many values it may still have inside each other; each is a call inside another one.
    pub(super) fn write(
        &self,
        ty: &Type,
        value: &Value,
        levels: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Misfit> {
        let Some(levels) = levels.checked_sub(1) else {
            return Err(format!("it nests deeper than {JSON_DEPTH_MAX} levels").into());
        };
        match ty {
            Type::Void => return Err("void has no value".into()),
            Type::Bool => value.as_bool().ok_or_else(|| expected("true or false", value))?.encode(out),
            Type::I8 => signed::<i8>(value, "int8")?.encode(out),
            Type::I16 => signed::<i16>(value, "int16")?.encode(out),
            Type::I32 => signed::<i32>(value, "int32")?.encode(out),
            Type::I64 => signed::<i64>(value, "int64")?.encode(out),
            Type::U8 => unsigned::<u8>(value, "uint8")?.encode(out),
            Type::U16 => unsigned::<u16>(value, "uint16")?.encode(out),
            Type::U32 => unsigned::<u32>(value, "uint32")?.encode(out),
            Type::U64 => unsigned::<u64>(value, "uint64")?.encode(out),
            Type::F32 => (value.as_f64().ok_or_else(|| expected("a number", value))? as f32).encode(out),
            Type::F64 => value.as_f64().ok_or_else(|| expected("a number", value))?.encode(out),
            Type::String => put_str(out, value.as_str().ok_or_else(|| expected("a text", value))?),
            Type::Bytes => put_bytes(out, &hexadecimal(value)?),
            Type::Named(name) => self.write_named(name, value, levels, out)?,
            Type::Array(inner, len) => {
                let list = value.as_array().filter(|list| list.len() == *len as usize);
                let list = list.ok_or_else(|| expected(&format!("an array of {len}"), value))?;
                self.write_elements(inner, list, levels, out)?;
            }
            Type::List(inner) => {
                let list = value.as_array().ok_or_else(|| expected("an array", value))?;
                put_count(list.len(), out);
                self.write_elements(inner, list, levels, out)?;
            }
            Type::Map(key, inner) => {
                let map = value.as_object().ok_or_else(|| expected("an object", value))?;
                put_count(map.len(), out);
                for (name, value) in map {
                    let here = |misfit: Misfit| misfit.inside(&format!("[\"{name}\"]"));
                    self.write(key, &self.key(key, name), levels, out).map_err(here)?;
                    self.write(inner, value, levels, out).map_err(here)?;
                }
            }
            Type::Optional(_) if value.is_null() => out.push(0),
            Type::Optional(inner) => {
                out.push(1);
                self.write(inner, value, levels, out)?;
            }
            Type::Global(_) => {
                for part in ["addr", "len", "generation"] {
                    let number = unsigned::<u64>(&value[part], "uint64");
                    number.map_err(|misfit| misfit.inside(&format!(".{part}")))?.encode(out);
                }
            }
        }
        Ok(())
    }

    fn write_elements(
        &self,
        ty: &Type,
        list: &[Value],
        levels: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Misfit> {
        for (at, value) in list.iter().enumerate() {
            self.write(ty, value, levels, out).map_err(|misfit| misfit.inside(&format!("[{at}]")))?;
        }
        Ok(())
    }

    fn write_named(&self, name: &str, value: &Value, levels: usize, out: &mut Vec<u8>) -> Result<(), Misfit> {
        match self.description.types.get(name) {
            None => Err(format!("the description has no type {name}").into()),
            Some(TypeDef::Enum(variants)) => {
                let found = variants.iter().find(|variant| value.as_str() == Some(&variant.name));
                let names: Vec<&str> = variants.iter().map(|variant| variant.name.as_str()).collect();
                let one_of = || expected(&format!("one of {}", names.join(", ")), value);
                found.ok_or_else(one_of)?.value.encode(out);
                Ok(())
            }
            Some(TypeDef::Struct(fields)) => {
                let object =
                    value.as_object().ok_or_else(|| expected(&format!("an object, a {name}"), value))?;
                if let Some(stranger) =
                    object.keys().find(|key| fields.iter().all(|field| field.name != **key))
                {
                    return Err(format!("{name} has no field {stranger}").into());
                }
                let frame = begin_frame(out);
                for field in fields {
                    let here = |misfit: Misfit| misfit.inside(&format!(".{}", field.name));
                    let value = given(object, field).map_err(here)?;
                    self.write_field(field, value, levels, out).map_err(here)?;
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
                let variants: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
                let one_of =
                    || expected(&format!("an object with one of {}, a {name}", variants.join(", ")), value);
                let (field, value) = found.ok_or_else(one_of)?;
                let frame = begin_frame(out);
                out.extend_from_slice(&field.id.to_le_bytes());
                self.write(&field.ty, value, levels, out)
                    .map_err(|misfit| misfit.inside(&format!(".{}", field.name)))?;
                end_frame(out, frame);
                Ok(())
            }
        }
    }

    fn write_field(
        &self,
        field: &DescribedField,
        value: &Value,
        levels: usize,
        out: &mut Vec<u8>,
    ) -> Result<(), Misfit> {
        let ty = match &field.ty {
            Type::Optional(_) if value.is_null() => return Ok(()),
            Type::Optional(inner) => inner,
            required => required,
        };
        let shape = self.shape(ty);
        put_tag(out, field.id, shape);
        if shape == crate::rpc::Shape::Bare {
            let frame = begin_frame(out);
            self.write(ty, value, levels, out)?;
            end_frame(out, frame);
            return Ok(());
        }
        self.write(ty, value, levels, out)
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

fn signed<T: TryFrom<i64>>(value: &Value, ty: &str) -> Result<T, Misfit> {
    // Great numbers come as texts, see `read`.
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok());
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| expected(&format!("an {ty}"), value))
}

fn unsigned<T: TryFrom<u64>>(value: &Value, ty: &str) -> Result<T, Misfit> {
    let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    let number = number.and_then(|number| T::try_from(number).ok());
    number.ok_or_else(|| expected(&format!("a {ty}"), value))
}

fn hexadecimal(value: &Value) -> Result<Vec<u8>, Misfit> {
    let digits =
        value.as_str().filter(|text| text.len() % 2 == 0 && text.chars().all(|c| c.is_ascii_hexdigit()));
    let digits = digits.ok_or_else(|| expected("a text of pairs of hexadecimal digits", value))?;
    let pair =
        |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).map_err(|error| error.to_string().into());
    (0..digits.len()).step_by(2).map(pair).collect()
}

fn expected(what: &str, found: &Value) -> Misfit {
    let text = found.to_string();
    let shown: String = text.chars().take(FOUND_LEN_MAX).collect();
    let more = if shown.len() < text.len() { ".." } else { "" };
    format!("expected {what}, found {shown}{more}").into()
}
