//! A file after the check: every name resolved, every id and value decided, no places in the source.
//! The generator, the self-description and the comparison of versions all read this and nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One checked file with all that it imports.
#[derive(Debug, Default)]
pub struct Schema {
    /// The file's name without its ending; the name of its Rust module.
    pub module: String,
    /// Constants of this file.
    pub consts: Vec<Const>,
    /// Types of this file and of everything that it imports, by name.
    pub types: BTreeMap<String, TypeDef>,
    /// Interfaces of this file.
    pub interfaces: Vec<Interface>,
}

/// A named constant.
#[derive(Clone, Debug)]
pub struct Const {
    /// Documentation, line by line.
    pub docs: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its type.
    pub ty: Type,
    /// Its value.
    pub value: Value,
}

/// The value of a constant.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of any integer type.
    Integer(i128),
    /// Of a floating type.
    Float(f64),
    /// Of `bool`.
    Bool(bool),
    /// Of `string`.
    Text(String),
}

/// A declared type.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TypeDef {
    /// The module that declares it.
    #[serde(skip)]
    pub module: String,
    /// Where it stands among the declarations of its module.
    #[serde(skip)]
    pub position: usize,
    /// Documentation, line by line.
    #[serde(skip)]
    pub docs: Vec<String>,
    /// What it is.
    #[serde(flatten)]
    pub shape: Shape,
}

/// What a declared type is.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// Named integers.
    Enum(Vec<Variant>),
    /// All of the fields.
    Struct(Vec<Field>),
    /// One of the fields.
    Union(Vec<Field>),
}

/// One of an enum's names.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Variant {
    /// Documentation, line by line.
    #[serde(skip)]
    pub docs: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its value on the wire.
    pub value: i32,
}

/// A field of a struct, a variant of a union, an argument of a method.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Field {
    /// Documentation, line by line.
    #[serde(skip)]
    pub docs: Vec<String>,
    /// Its number on the wire; arguments have their position.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub ty: Type,
}

/// A set of methods.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Documentation, line by line.
    pub docs: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its version; 1 if none was written.
    pub version: u32,
    /// Its methods.
    pub methods: Vec<Method>,
}

/// The word of a kind of method. A name of its own for serde, which would borrow a plain `&str` from its input.
pub type KindWord = &'static str;

/// One method.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Method {
    /// Documentation, line by line.
    #[serde(skip)]
    pub docs: Vec<String>,
    /// Its name.
    pub name: String,
    /// `unary`, `stream` or `oneway`.
    #[serde(deserialize_with = "kind")]
    pub kind: KindWord,
    /// Its arguments.
    pub arguments: Vec<Field>,
    /// Type of the result, or of each result.
    pub returns: Type,
    /// Names of the structs that it throws.
    pub throws: Vec<String>,
    /// `@deadline`.
    #[serde(skip)]
    pub deadline: Option<Duration>,
    /// `@idempotent`.
    pub idempotent: bool,
    /// `@longrunning`.
    pub longrunning: bool,
    /// The argument that `@near` names, by position.
    #[serde(skip)]
    pub near: Option<usize>,
}

/// The kind of a method, one of the three.
fn kind<'de, D: serde::Deserializer<'de>>(from: D) -> Result<KindWord, D::Error> {
    let word = String::deserialize(from)?;
    let known = ["unary", "stream", "oneway"].into_iter().find(|kind| *kind == word);
    known.ok_or_else(|| serde::de::Error::custom(format_args!("no kind of method: {word}")))
}

/// A type.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "each is the Rust type of its name")]
pub enum Type {
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
    Global(Box<Type>),
}

impl Type {
    /// Range of the values, for integer types.
    pub fn range(&self) -> Option<(i128, i128)> {
        let (bits, signed) = match self {
            Type::I8 => (8, true),
            Type::I16 => (16, true),
            Type::I32 => (32, true),
            Type::I64 => (64, true),
            Type::U8 => (8, false),
            Type::U16 => (16, false),
            Type::U32 => (32, false),
            Type::U64 => (64, false),
            Type::Void
            | Type::Bool
            | Type::F32
            | Type::F64
            | Type::String
            | Type::Bytes
            | Type::Named(_)
            | Type::Array(..)
            | Type::List(_)
            | Type::Map(..)
            | Type::Optional(_)
            | Type::Global(_) => return None,
        };
        let size = 1i128 << bits;
        Some(if signed { (-size / 2, size / 2 - 1) } else { (0, size - 1) })
    }

    /// Whether it is a number.
    pub fn is_number(&self) -> bool {
        self.range().is_some() || matches!(self, Type::F32 | Type::F64)
    }

    /// The types that it is made of.
    pub fn parts(&self) -> Vec<&Type> {
        match self {
            Type::Array(inner, _) | Type::List(inner) | Type::Optional(inner) | Type::Global(inner) => {
                vec![inner]
            }
            Type::Map(key, value) => vec![key, value],
            Type::Void
            | Type::Bool
            | Type::I8
            | Type::I16
            | Type::I32
            | Type::I64
            | Type::U8
            | Type::U16
            | Type::U32
            | Type::U64
            | Type::F32
            | Type::F64
            | Type::String
            | Type::Bytes
            | Type::Named(_) => Vec::new(),
        }
    }

    /// Calls `visit` with every declared name inside.
    pub fn names<'a>(&'a self, visit: &mut dyn FnMut(&'a str)) {
        if let Type::Named(name) = self {
            visit(name);
        }
        self.parts().into_iter().for_each(|part| part.names(visit));
    }
}

/// The type as the language writes it, with its shortest name.
impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Void => f.write_str("void"),
            Type::Bool => f.write_str("bool"),
            Type::I8 => f.write_str("int8"),
            Type::I16 => f.write_str("int16"),
            Type::I32 => f.write_str("int32"),
            Type::I64 => f.write_str("int64"),
            Type::U8 => f.write_str("uint8"),
            Type::U16 => f.write_str("uint16"),
            Type::U32 => f.write_str("uint32"),
            Type::U64 => f.write_str("uint64"),
            Type::F32 => f.write_str("float"),
            Type::F64 => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Bytes => f.write_str("bytes"),
            Type::Named(name) => f.write_str(name),
            Type::Array(inner, len) => write!(f, "{inner}[{len}]"),
            Type::List(inner) => write!(f, "{inner}[]"),
            Type::Map(key, value) => write!(f, "map<{key}, {value}>"),
            Type::Optional(inner) => write!(f, "optional<{inner}>"),
            Type::Global(inner) => write!(f, "global<{inner}>"),
        }
    }
}

impl Shape {
    /// Fields of a struct or a union; none of an enum.
    pub fn fields(&self) -> &[Field] {
        match self {
            Shape::Enum(_) => &[],
            Shape::Struct(fields) | Shape::Union(fields) => fields,
        }
    }

    /// What it is called.
    pub fn word(&self) -> &'static str {
        match self {
            Shape::Enum(_) => "enum",
            Shape::Struct(_) => "struct",
            Shape::Union(_) => "union",
        }
    }
}
