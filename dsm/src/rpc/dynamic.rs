//! Calls without stubs: arguments and results as JSON, by the description that a server gives of its
//! interface. For the command line and for looking in; programs use stubs.
//!
//! `bytes` are a text of hexadecimal digits, an enum is its name, a union an object with one key, a
//! `global<T>` is `{"addr": .., "len": .., "generation": ..}`; the keys of maps are texts, and so are integers beyond
//! 2^53. The description comes from a peer: it is data, bounded like any other, and a mistake in it is an error.
//! So is an answer that nests deeper than [`JSON_DEPTH_MAX`] levels, which would overflow a thread's stack, or
//! whose values take more than [`ANSWER_MEMORY_MAX`], the items of a stream together.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "over twenty types, `any other` is what is meant; `read`, `write` and `shape` name them all"
)]

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::channel::Channel;
use super::error::{Error, MethodError};
use super::interface::{Kind, Method};
use super::wire::{Decoder, FIELD_ID_MAX, Shape, Wire};
use crate::codec::DecodeError;
use crate::config::rpc::{ANSWER_MEMORY_MAX, GATHERED_ITEMS_MAX, JSON_DEPTH_MAX};

mod read;
mod write;

/// An interface as a server describes it.
pub struct Dynamic {
    description: Description,
    methods: Vec<&'static Method>,
}

/// Why a call without stubs gave no result. Both `Display` and `Debug` print the message.
#[derive(thiserror::Error)]
pub enum DynamicError {
    /// The description is not one. Nothing was called.
    #[error("the description does not read: {0}")]
    Description(String),
    /// There is no such method. Nothing was called.
    #[error("there is no method {0}")]
    NoMethod(String),
    /// The arguments do not fit the method. Nothing was called.
    #[error("{0}")]
    Arguments(String),
    /// The method threw a declared error.
    #[error("thrown: {0}")]
    Thrown(Value),
    /// The call failed.
    #[error("{0}")]
    Failed(Error),
    /// A stream has more items than an answer in JSON gathers. The call was cancelled.
    #[error(
        "the stream has more than {GATHERED_ITEMS_MAX} items, which is all that an answer in JSON gathers"
    )]
    TooMany,
    /// The answer, or the items of a stream together, take more memory than an answer in JSON may. A stream
    /// was cancelled.
    #[error("the answer takes more than {} MiB, which is all that an answer in JSON may take", ANSWER_MEMORY_MAX >> 20)]
    TooLarge,
    /// The answer nests deeper than one in JSON may.
    #[error("the answer nests deeper than {JSON_DEPTH_MAX} levels, which is all that an answer in JSON may")]
    TooDeep,
}

/// What one answer may still take. The items of a stream share it.
struct Budget {
    levels: usize,
    memory: usize,
}

/// Why bytes gave no JSON.
enum Unreadable {
    /// They are not of the type.
    Garbled(DecodeError),
    /// See [`DynamicError::TooDeep`].
    TooDeep,
    /// See [`DynamicError::TooLarge`].
    TooLarge,
}

impl Budget {
    fn new() -> Budget {
        Budget { levels: JSON_DEPTH_MAX, memory: ANSWER_MEMORY_MAX }
    }

    /// Goes a level down, for one more value. The caller gives the level back.
    fn enter(&mut self) -> Result<(), Unreadable> {
        self.levels = self.levels.checked_sub(1).ok_or(Unreadable::TooDeep)?;
        self.charge(size_of::<Value>())
    }

    fn charge(&mut self, bytes: usize) -> Result<(), Unreadable> {
        self.memory = self.memory.checked_sub(bytes).ok_or(Unreadable::TooLarge)?;
        Ok(())
    }
}

impl From<DecodeError> for Unreadable {
    fn from(error: DecodeError) -> Self {
        Unreadable::Garbled(error)
    }
}

impl From<Unreadable> for DynamicError {
    fn from(unreadable: Unreadable) -> Self {
        match unreadable {
            Unreadable::Garbled(error) => DynamicError::Failed(Error::remote(format!("the answer: {error}"))),
            Unreadable::TooDeep => DynamicError::TooDeep,
            Unreadable::TooLarge => DynamicError::TooLarge,
        }
    }
}

impl std::fmt::Debug for DynamicError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl From<DynamicError> for crate::error::Error {
    fn from(error: DynamicError) -> Self {
        crate::error::Error::call(error)
    }
}

#[derive(Deserialize)]
struct Description {
    name: String,
    version: u32,
    methods: Vec<DescribedMethod>,
    types: BTreeMap<String, TypeDef>,
}

#[derive(Deserialize)]
struct DescribedMethod {
    id: String,
    name: String,
    kind: String,
    arguments: Vec<DescribedField>,
    returns: Type,
    throws: Vec<String>,
    idempotent: bool,
    longrunning: bool,
}

#[derive(Deserialize)]
struct DescribedField {
    id: u16,
    name: String,
    #[serde(rename = "type")]
    ty: Type,
}

#[derive(Deserialize)]
struct Variant {
    name: String,
    value: i32,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum TypeDef {
    Enum(Vec<Variant>),
    Struct(Vec<DescribedField>),
    Union(Vec<DescribedField>),
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Type {
    Void,
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F32,
    F64,
    String,
    Bytes,
    Named(String),
    Array(Box<Type>, u32),
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    Optional(Box<Type>),
    /// The element does not matter: what travels is the reference.
    Global(serde::de::IgnoredAny),
}

impl Dynamic {
    /// Reads what `Meta.describe` gave. The names of the methods live as long as the process, as those of
    /// generated stubs do: make one value for an interface, not one for a call.
    pub fn new(description: &str) -> Result<Dynamic, DynamicError> {
        let description: Description = serde_json::from_str(description)
            .map_err(|error| DynamicError::Description(error.to_string()))?;
        for (name, def) in &description.types {
            let fields = match def {
                TypeDef::Enum(_) => &[][..],
                TypeDef::Struct(fields) | TypeDef::Union(fields) => fields,
            };
            if let Some(field) = fields.iter().find(|field| !(1..=FIELD_ID_MAX).contains(&field.id)) {
                let (field, id) = (&field.name, field.id);
                let message = format!("{name}.{field} has the id {id}, which no field can have");
                return Err(DynamicError::Description(message));
            }
        }
        let interface: &'static str = description.name.clone().leak();
        let mut methods = Vec::new();
        for method in &description.methods {
            let id = u64::from_str_radix(method.id.trim_start_matches("0x"), 16);
            let kind = match method.kind.as_str() {
                "unary" => Kind::Unary,
                "stream" => Kind::Stream,
                "oneway" => Kind::Oneway,
                other => return Err(DynamicError::Description(format!("no kind {other}"))),
            };
            methods.push(&*Box::leak(Box::new(Method {
                interface,
                version: description.version,
                name: method.name.clone().leak(),
                id: id.map_err(|error| DynamicError::Description(error.to_string()))?,
                kind,
                deadline_us: None,
                idempotent: method.idempotent,
                longrunning: method.longrunning,
            })));
        }
        Ok(Dynamic { description, methods })
    }

    /// Calls a method with an object of arguments by name, and waits. A stream gives an array.
    pub fn call(&self, channel: &Channel, method: &str, arguments: &Value) -> Result<Value, DynamicError> {
        let mut pairs = self.description.methods.iter().zip(&self.methods);
        let Some((described, method)) = pairs.find(|(described, _)| described.name == method) else {
            let names = self.description.methods.iter().map(|described| described.name.as_str());
            let near = crate::settings::nearest(method, names, method.len() / 2);
            let hint = near.map_or_else(String::new, |near| format!("; did you mean `{near}`?"));
            return Err(DynamicError::NoMethod(format!("{}.{method}{hint}", self.description.name)));
        };
        let mut bytes = Vec::new();
        let object = arguments.as_object().cloned().unwrap_or_default();
        if !arguments.is_object() && !arguments.is_null() {
            return Err(DynamicError::Arguments("arguments are an object of names and values".to_owned()));
        }
        self.write_arguments(described, &object, &mut bytes).map_err(DynamicError::Arguments)?;
        let mut call = channel.prepare(method);
        call.arguments().extend_from_slice(&bytes);
        match method.kind {
            Kind::Oneway => call.notify().map(|()| Value::Null).map_err(DynamicError::Failed),
            Kind::Unary => self.result(described, call.start::<Raw, RawError>().wait(), &mut Budget::new()),
            Kind::Stream => {
                let (mut items, mut budget) = (Vec::new(), Budget::new());
                for item in call.stream::<Raw, RawError>() {
                    if items.len() == GATHERED_ITEMS_MAX {
                        return Err(DynamicError::TooMany);
                    }
                    items.push(self.result(described, item, &mut budget)?);
                }
                Ok(Value::Array(items))
            }
        }
    }

    fn write_arguments(
        &self,
        method: &DescribedMethod,
        object: &Map<String, Value>,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        if let Some(stranger) =
            object.keys().find(|key| method.arguments.iter().all(|known| known.name != **key))
        {
            let known: Vec<&str> = method.arguments.iter().map(|field| field.name.as_str()).collect();
            return Err(format!("{} has no argument {stranger}; it has: {}", method.name, known.join(", ")));
        }
        for field in &method.arguments {
            let written = write::given(object, field)
                .and_then(|value| self.write(&field.ty, value, JSON_DEPTH_MAX, out));
            written.map_err(|misfit| format!("argument {}{misfit}", field.name))?;
        }
        Ok(())
    }

    fn result(
        &self,
        method: &DescribedMethod,
        result: Result<Raw, RawError>,
        budget: &mut Budget,
    ) -> Result<Value, DynamicError> {
        match result {
            Ok(Raw(bytes)) => {
                let mut from = Decoder::new(&bytes);
                if matches!(method.returns, Type::Void) {
                    return Ok(Value::Null);
                }
                Ok(self.read(&method.returns, &mut from, budget)?)
            }
            Err(RawError::Thrown(bytes)) => {
                let mut from = Decoder::new(&bytes);
                let tag = usize::from(from.variant().map_err(Unreadable::Garbled)?);
                let name =
                    method.throws.get(tag).ok_or(Unreadable::Garbled(DecodeError::Bad("thrown type")))?;
                let value = self.read(&Type::Named(name.clone()), &mut from, budget)?;
                Err(DynamicError::Thrown(json!({ name: value })))
            }
            Err(RawError::Rpc(error)) => Err(DynamicError::Failed(error)),
        }
    }
}

/// A result as it came.
struct Raw(Vec<u8>);

enum RawError {
    Thrown(Vec<u8>),
    Rpc(Error),
}

impl Wire for Raw {
    const SHAPE: Shape = Shape::Bare;
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Raw(from.take_rest().to_vec()))
    }
}

impl From<Error> for RawError {
    fn from(error: Error) -> Self {
        RawError::Rpc(error)
    }
}

impl MethodError for RawError {
    fn encode_thrown(&self, out: &mut Vec<u8>) -> Option<&Error> {
        match self {
            RawError::Thrown(bytes) => {
                out.extend_from_slice(bytes);
                None
            }
            RawError::Rpc(error) => Some(error),
        }
    }
    fn decode_thrown(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(RawError::Thrown(from.take_rest().to_vec()))
    }
}
