//! Constants, and every other place where a number is written.

use crate::ast::{self, Name};
use crate::names;
use crate::schema::{Const, Type, Value};

use super::Checker;

impl Checker<'_> {
    pub(super) fn constant(&mut self, item: &ast::Const) -> Option<Const> {
        self.identifier(&item.name);
        let ty = self.value_type(&item.ty);
        let value = self.const_value(&item.value, &ty)?;
        if let Some(other) = self.names.declare(names::shout(&item.name.text), &item.name.text) {
            self.problem(&item.name.span, format!("`{}` is declared twice", item.name.text), other);
        }
        self.consts.insert(item.name.text.clone(), value.clone());
        Some(Const { docs: item.docs.clone(), name: item.name.text.clone(), ty, value })
    }

    fn const_value(&mut self, written: &Name, ty: &Type) -> Option<Value> {
        let text = written.text.as_str();
        if ty.range().is_some() {
            return self.integer(written, ty).map(Value::Integer);
        }
        let named = self.consts.get(text).cloned();
        let value = match (ty, named) {
            (Type::F32 | Type::F64, Some(Value::Float(value))) => Some(Value::Float(value)),
            (Type::F32 | Type::F64, None) => number(text).map(Value::Float),
            (Type::Bool, Some(Value::Bool(value))) => Some(Value::Bool(value)),
            (Type::Bool, None) => text.parse().ok().map(Value::Bool),
            (Type::String, Some(Value::Text(value))) => Some(Value::Text(value)),
            (Type::String, None) => unquoted(text).map(Value::Text),
            (Type::F32 | Type::F64 | Type::Bool | Type::String, Some(_)) => None,
            (other, _) => {
                let message = format!("a constant cannot have the type `{other}`");
                let help = "constants are numbers, `bool` and `string`".to_owned();
                self.problem_with(&written.span, message, "no constant of this type", Some(help));
                return None;
            }
        };
        if value.is_none() {
            self.problem(
                &written.span,
                format!("this is not a value of `{ty}`"),
                format!("expected a `{ty}`"),
            );
        }
        value
    }

    /// The integer that is written or named here, if it is a value of `ty`.
    pub(super) fn integer(&mut self, written: &Name, ty: &Type) -> Option<i128> {
        let text = written.text.as_str();
        let (low, high) = ty.range().expect("asked for integers only");
        let value = match self.consts.get(text) {
            Some(Value::Integer(value)) => Some(*value),
            Some(Value::Float(_) | Value::Bool(_) | Value::Text(_)) => None,
            None => whole(text),
        };
        match value {
            Some(value) if (low..=high).contains(&value) => return Some(value),
            Some(value) => {
                let message = format!("{value} is not a value of `{ty}`");
                self.problem(&written.span, message, format!("`{ty}` goes from {low} to {high}"));
            }
            None => {
                let help = self.problems.suggestion(text, self.consts.keys().map(String::as_str));
                self.problem_with(&written.span, "this is not an integer", "expected an integer", help);
            }
        }
        None
    }
}

fn whole(text: &str) -> Option<i128> {
    let (minus, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let digits = digits.replace('_', "");
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hexadecimal) => i128::from_str_radix(hexadecimal, 16).ok()?,
        None => digits.parse().ok()?,
    };
    if digits.starts_with('+') || digits.starts_with('-') {
        return None;
    }
    Some(if minus { -value } else { value })
}

fn number(text: &str) -> Option<f64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    // Rust would also read `inf` and `nan`, which are names here.
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    text.replace('_', "").parse().ok().filter(|value: &f64| value.is_finite())
}

/// The text between the quotes, its escapes resolved.
fn unquoted(text: &str) -> Option<String> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    let mut out = String::new();
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '0' => '\0',
                same @ ('\\' | '"') => same,
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(out)
}
