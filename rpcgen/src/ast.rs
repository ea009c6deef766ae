//! The tree of one interface file as it was written: names unresolved, every part with its place, so
//! that the check can underline what it rejects. [`crate::schema`] is the same after the check.

use std::ops::Range;

/// A place in the source, in bytes.
pub type Span = Range<usize>;

/// A name and where it stands.
#[derive(Clone, Debug)]
pub struct Name {
    /// As written.
    pub text: String,
    /// Where.
    pub span: Span,
}

/// One file.
#[derive(Debug, Default)]
pub struct File {
    /// `import "..."`, in order.
    pub imports: Vec<Name>,
    /// Declarations, in order.
    pub items: Vec<Item>,
}

/// A declaration at the top of a file.
#[derive(Debug)]
pub enum Item {
    /// `const int N = 4;`
    Const(Const),
    /// `enum Color { red, green = 5 };`
    Enum(Enum),
    /// `struct Sample { double value; };`
    Struct(Struct),
    /// `union Shape { Circle circle; Square square; };`
    Union(Struct),
    /// `interface Calculator : 2 { ... };`
    Interface(Interface),
}

/// A named constant.
#[derive(Debug)]
pub struct Const {
    /// Documentation, line by line.
    pub docs: Vec<String>,
    /// Its type: a number, `bool` or `string`.
    pub ty: Type,
    /// Its name.
    pub name: Name,
    /// The value as written, a minus sign included.
    pub value: Name,
}

/// A set of named integers.
#[derive(Debug)]
pub struct Enum {
    /// Documentation, line by line.
    pub docs: Vec<String>,
    /// Its name.
    pub name: Name,
    /// Documentation, name and explicit value of each variant.
    pub variants: Vec<(Vec<String>, Name, Option<Name>)>,
}

/// Named fields; a union has the same shape and holds one of them.
#[derive(Debug)]
pub struct Struct {
    /// Documentation, line by line.
    pub docs: Vec<String>,
    /// Its name.
    pub name: Name,
    /// Its fields.
    pub fields: Vec<Member>,
}

/// A field or an argument.
#[derive(Debug)]
pub struct Member {
    /// Documentation, line by line.
    pub docs: Vec<String>,
    /// What stands before it.
    pub annotations: Vec<Annotation>,
    /// Its type.
    pub ty: Type,
    /// Its name.
    pub name: Name,
}

/// A set of methods.
#[derive(Debug)]
pub struct Interface {
    /// Documentation, line by line.
    pub docs: Vec<String>,
    /// Its name, unless it takes the file's.
    pub name: Option<Name>,
    /// The number after the colon.
    pub version: Option<Name>,
    /// The word `interface`.
    pub keyword: Span,
    /// Its methods.
    pub methods: Vec<Method>,
}

/// How the results of a method travel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// One answer.
    Unary,
    /// Any number of results, then the end.
    Stream,
    /// Nothing comes back.
    Oneway,
}

/// One method.
#[derive(Debug)]
pub struct Method {
    /// Documentation, line by line.
    pub docs: Vec<String>,
    /// What stands before it.
    pub annotations: Vec<Annotation>,
    /// How its results travel.
    pub flow: Flow,
    /// Type of the result, or of each result.
    pub returns: Type,
    /// Its name.
    pub name: Name,
    /// Its arguments.
    pub arguments: Vec<Member>,
    /// Names of the structs that it may throw.
    pub throws: Vec<Name>,
}

/// `@name` or `@name(value)`.
#[derive(Debug)]
pub struct Annotation {
    /// The word after the `@`.
    pub name: Name,
    /// What stands in parentheses.
    pub value: Option<Name>,
}

/// A type as written.
#[derive(Clone, Debug)]
pub struct Type {
    /// Which.
    pub kind: TypeKind,
    /// Where.
    pub span: Span,
}

/// What a type is made of.
#[derive(Clone, Debug)]
pub enum TypeKind {
    /// A type of the language: `int`, `uint8`, `string`, `void`.
    Builtin(crate::schema::Type),
    /// A declared one.
    Named(String),
    /// `T[4]`, the length a number or a constant.
    Array(Box<Type>, Name),
    /// `T[]`, `list<T>`.
    List(Box<Type>),
    /// `map<K, V>`.
    Map(Box<Type>, Box<Type>),
    /// `optional<T>`.
    Optional(Box<Type>),
    /// `global<T>`.
    Global(Box<Type>),
}
