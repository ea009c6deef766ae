//! Types as they are written: C's integer names in any of C's spellings, the fixed-width names, the
//! generic ones, and suffixes.

use crate::ast::{Name, Type, TypeKind};
use crate::diagnostic::suggestion;
use crate::lexer::Kind;
use crate::schema::Type as Builtin;

use super::{DEPTH_MAX, Parsed, Parser, shown};

/// Words of C's integer types, which may stand in several and in any order.
const C_WORDS: [&str; 6] = ["signed", "unsigned", "char", "short", "int", "long"];
const GENERIC: [&str; 4] = ["list", "map", "optional", "global"];
const SIMPLE: [(&str, Builtin); 14] = [
    ("void", Builtin::Void),
    ("bool", Builtin::Bool),
    ("int8", Builtin::I8),
    ("int16", Builtin::I16),
    ("int32", Builtin::I32),
    ("int64", Builtin::I64),
    ("uint8", Builtin::U8),
    ("uint16", Builtin::U16),
    ("uint32", Builtin::U32),
    ("uint64", Builtin::U64),
    ("float", Builtin::F32),
    ("double", Builtin::F64),
    ("string", Builtin::String),
    ("bytes", Builtin::Bytes),
];

pub(super) fn is_type_word(word: &str) -> bool {
    type_words().any(|known| known == word)
}

/// Words that are types only in front of a `<`, and may name a method elsewhere.
pub(super) fn is_generic(word: &str) -> bool {
    GENERIC.contains(&word)
}

/// Every word that begins a type of the language.
pub(crate) fn type_words() -> impl Iterator<Item = &'static str> {
    C_WORDS.into_iter().chain(GENERIC).chain(SIMPLE.iter().map(|(name, _)| *name))
}

impl Parser<'_> {
    /// A type with its suffixes.
    pub(super) fn ty(&mut self) -> Parsed<Type> {
        self.ty_at(0)
    }

    fn ty_at(&mut self, depth: usize) -> Parsed<Type> {
        let mut ty = self.prefix(depth)?;
        let mut depth = depth;
        while self.eat("[") {
            depth += 1;
            self.limit(depth)?;
            let kind = if self.at_mark("]") {
                TypeKind::List(Box::new(ty.clone()))
            } else {
                TypeKind::Array(Box::new(ty.clone()), self.array_len()?)
            };
            let end = self.peek().span.end;
            self.mark("]")?;
            ty = Type { kind, span: ty.span.start..end };
        }
        Ok(ty)
    }

    fn array_len(&mut self) -> Parsed<Name> {
        let token = self.peek().clone();
        if !matches!(token.kind, Kind::Number | Kind::Word) {
            return self.expected("a length or `]`");
        }
        self.at += 1;
        Ok(self.named(&token))
    }

    fn prefix(&mut self, depth: usize) -> Parsed<Type> {
        self.limit(depth)?;
        let token = self.peek().clone();
        let word = self.text(&token).to_owned();
        if token.kind != Kind::Word {
            return self.expected("a type");
        }
        if C_WORDS.contains(&word.as_str()) {
            return self.c_integer();
        }
        self.at += 1;
        let start = token.span.start;
        if let Some((_, builtin)) = SIMPLE.iter().find(|(name, _)| *name == word) {
            return Ok(Type { kind: TypeKind::Builtin(builtin.clone()), span: token.span });
        }
        if GENERIC.contains(&word.as_str()) {
            self.mark("<")?;
            let inner = Box::new(self.ty_at(depth + 1)?);
            let kind = match word.as_str() {
                "list" => TypeKind::List(inner),
                "optional" => TypeKind::Optional(inner),
                "global" => TypeKind::Global(inner),
                _map => {
                    self.mark(",")?;
                    TypeKind::Map(inner, Box::new(self.ty_at(depth + 1)?))
                }
            };
            let end = self.peek().span.end;
            self.mark(">")?;
            return Ok(Type { kind, span: start..end });
        }
        if super::is_reserved(&word) {
            self.at -= 1;
            let help = suggestion(&word, type_words());
            return self.fail(
                token.span,
                format!("expected a type, found {}", shown(&word)),
                "not a type",
                help,
            );
        }
        Ok(Type { kind: TypeKind::Named(word), span: token.span })
    }

    /// `unsigned long long int` and its relatives, with the sizes of LP64.
    fn c_integer(&mut self) -> Parsed<Type> {
        let start = self.peek().span.start;
        let mut end = start;
        let mut count = [0usize; C_WORDS.len()];
        while let Some(which) = C_WORDS.iter().position(|word| *word == self.text(self.peek())) {
            count[which] += 1;
            end = self.peek().span.end;
            self.at += 1;
        }
        let [signed, unsigned, char, short, int, long] = count;
        let sensible = signed + unsigned <= 1
            && int <= 1
            && match (char, short, long) {
                (1, 0, 0) => int == 0,
                (0, 0..=1, 0) | (0, 0, 1..=2) => true,
                _ => false,
            };
        if !sensible {
            let help = "C has `char`, `short`, `int`, `long`, each `signed` or `unsigned`".to_owned();
            return self.fail(start..end, "these words make no integer type", "not a type of C", Some(help));
        }
        let size = if char == 1 {
            0
        } else if short == 1 {
            1
        } else if long > 0 {
            3
        } else {
            2
        };
        let kinds = if unsigned == 1 {
            [Builtin::U8, Builtin::U16, Builtin::U32, Builtin::U64]
        } else {
            [Builtin::I8, Builtin::I16, Builtin::I32, Builtin::I64]
        };
        Ok(Type { kind: TypeKind::Builtin(kinds[size].clone()), span: start..end })
    }

    fn limit(&mut self, depth: usize) -> Parsed<()> {
        if depth < DEPTH_MAX {
            return Ok(());
        }
        let span = self.peek().span.clone();
        self.fail(span, format!("types nest deeper than {DEPTH_MAX}"), "too deep", None)
    }
}
