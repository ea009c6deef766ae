//! Interfaces and methods: annotations and what they demand, kinds of calls, names of stubs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::ast::{self, Flow, Name};
use crate::diagnostic::suggestion;
use crate::names;
use crate::schema::{Field, Interface, Method, Type};

use super::Checker;

/// Methods that one interface may have.
const METHODS_MAX: usize = 1024;
/// Arguments that one method may have.
const ARGUMENTS_MAX: usize = 64;

const ANNOTATIONS: [&str; 4] = ["deadline", "idempotent", "longrunning", "near"];
const UNITS: [(&str, u64); 4] = [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("min", 60_000_000)];

impl Checker<'_> {
    pub(super) fn interface(&mut self, item: &ast::Interface, stem: &str) -> Option<Interface> {
        let name = item.name.clone().unwrap_or_else(|| {
            let text = names::camel(stem);
            Name { text, span: item.keyword.clone() }
        });
        if item.name.is_none() && !name.text.starts_with(|c: char| c.is_ascii_alphabetic()) {
            let message = format!("the file's name `{stem}` cannot name the interface");
            let help = "name it: `interface Name { .. };`".to_owned();
            self.problem_with(&item.keyword, message, "takes the file's name", Some(help));
            return None;
        }
        self.declared_type(&name);
        let rust = names::camel(&name.text);
        for stub in ["Client", "Calls", "Server"] {
            self.names.declare(format!("{rust}{stub}"), &name.text);
        }
        self.names.declare(names::shout(&name.text), &name.text);
        let version = match &item.version {
            Some(written) => self.integer(written, &Type::U32).unwrap_or(1),
            None => 1,
        };
        if item.methods.len() > METHODS_MAX {
            self.problem(&name.span, format!("an interface has at most {METHODS_MAX} methods"), "too many");
        }
        let mut seen = BTreeSet::new();
        let mut methods = Vec::new();
        for method in &item.methods {
            if !seen.insert(names::snake(&method.name.text)) {
                let message = format!("`{}` stands twice in `{}`", method.name.text, name.text);
                let help = "there is no overloading: a call goes by its name".to_owned();
                self.problem_with(&method.name.span, message, "again", Some(help));
            }
            methods.push(self.method(&name, method));
        }
        let version = u32::try_from(version).unwrap_or(1);
        Some(Interface { docs: item.docs.clone(), name: name.text, version, methods })
    }

    fn method(&mut self, interface: &Name, item: &ast::Method) -> Method {
        self.identifier(&item.name);
        let arguments = self.arguments(item);
        let returns = self.resolve(&item.returns);
        let (kind, sends_nothing) = match item.flow {
            Flow::Unary => ("unary", false),
            Flow::Stream => ("stream", false),
            Flow::Oneway => ("oneway", true),
        };
        if sends_nothing && (returns != Type::Void || !item.throws.is_empty()) {
            let message = "a `oneway` method returns nothing and throws nothing";
            self.problem(&item.returns.span, message, "must be `void`, without `throws`");
        }
        if item.flow == Flow::Stream && returns == Type::Void {
            self.problem(&item.returns.span, "a stream of `void` carries nothing", "needs a type");
        }
        self.throws(interface, item);
        let mut method = Method {
            docs: item.docs.clone(),
            name: item.name.text.clone(),
            kind,
            arguments,
            returns,
            throws: item.throws.iter().map(|name| name.text.clone()).collect(),
            deadline: None,
            idempotent: false,
            longrunning: false,
            near: None,
        };
        self.annotations(item, &mut method);
        method
    }

    fn arguments(&mut self, item: &ast::Method) -> Vec<Field> {
        if item.arguments.len() > ARGUMENTS_MAX {
            let message = format!("a method has at most {ARGUMENTS_MAX} arguments");
            self.problem(&item.name.span, message, "too many: pass a struct");
        }
        let mut seen = BTreeSet::new();
        let mut fields = Vec::new();
        for (position, argument) in item.arguments.iter().enumerate() {
            self.identifier(&argument.name);
            if let Some(annotation) = argument.annotations.first() {
                let message = format!("`@{}` does not stand at an argument", annotation.name.text);
                self.problem(&annotation.name.span, message, "belongs to the method");
            }
            if !seen.insert(names::snake(&argument.name.text)) {
                let message = format!("two arguments are called `{}`", argument.name.text);
                self.problem(&argument.name.span, message, "again");
            }
            let ty = self.value_type(&argument.ty);
            let id = u16::try_from(position + 1).unwrap_or(u16::MAX);
            fields.push(Field { docs: argument.docs.clone(), id, name: argument.name.text.clone(), ty });
        }
        fields
    }

    fn throws(&mut self, interface: &Name, item: &ast::Method) {
        if !item.throws.is_empty() {
            let rust = format!("{}{}Error", names::camel(&interface.text), names::camel(&item.name.text));
            if let Some(other) = self.names.declare(rust.clone(), &item.name.text) {
                self.problem(&item.name.span, format!("the stubs need the name `{rust}`"), other);
            }
        }
        let mut seen = BTreeSet::new();
        for name in &item.throws {
            match self.kinds.get(&name.text) {
                Some(&"struct") => {}
                Some(other) => {
                    let message = format!("`{}` is an {other}; only structs are thrown", name.text);
                    self.problem(&name.span, message, "not a struct");
                }
                None => {
                    let known = self.kinds.keys().map(String::as_str);
                    let help = self
                        .problems
                        .suggestion(&name.text, known)
                        .unwrap_or_else(|| format!("declare it: `struct {} {{ .. }};`", name.text));
                    let message = format!("there is no struct `{}`", name.text);
                    self.problem_with(&name.span, message, "unknown", Some(help));
                }
            }
            if !seen.insert(&name.text) {
                self.problem(&name.span, format!("`{}` is thrown twice", name.text), "again");
            }
        }
    }

    fn annotations(&mut self, item: &ast::Method, method: &mut Method) {
        let mut seen = BTreeSet::new();
        for annotation in &item.annotations {
            let word = annotation.name.text.as_str();
            if !seen.insert(word) {
                self.problem(&annotation.name.span, format!("`@{word}` stands twice"), "again");
                continue;
            }
            match (word, &annotation.value) {
                ("deadline", Some(value)) => method.deadline = self.duration(value),
                ("idempotent", None) => method.idempotent = true,
                ("longrunning", None) => method.longrunning = true,
                ("near", Some(value)) => method.near = self.near(value, &method.arguments),
                ("deadline", None) => {
                    let help = Some("write `@deadline(500ms)`".to_owned());
                    self.problem_with(&annotation.name.span, "`@deadline` needs a time", "no time", help);
                }
                ("near", None) => {
                    let help = Some("write `@near(argument)`".to_owned());
                    self.problem_with(&annotation.name.span, "`@near` needs an argument", "near what?", help);
                }
                ("idempotent" | "longrunning", Some(value)) => {
                    self.problem(&value.span, format!("`@{word}` takes no value"), "not needed");
                }
                _ => {
                    let help = suggestion(word, ANNOTATIONS)
                        .unwrap_or_else(|| format!("there are {}", crate::parser::list(&ANNOTATIONS)));
                    let message = format!("there is no annotation `@{word}`");
                    self.problem_with(&annotation.name.span, message, "unknown annotation", Some(help));
                }
            }
        }
        if method.kind == "oneway" && (method.deadline.is_some() || method.longrunning) {
            let message = "nobody waits for a `oneway` method";
            self.problem(&item.name.span, message, "`@deadline` and `@longrunning` have no effect");
        }
    }

    fn duration(&mut self, written: &Name) -> Option<Duration> {
        let digits = written.text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = UNITS.iter().find(|(unit, _)| *unit == &written.text[digits.len()..]);
        let micros = match (digits.parse::<u64>(), unit) {
            (Ok(number), Some((_, micros))) => number.checked_mul(*micros).filter(|total| *total > 0),
            (Err(_), _) | (_, None) => None,
        };
        if micros.is_none() {
            let help = "a whole number with `us`, `ms`, `s` or `min`: `500ms`".to_owned();
            self.problem_with(&written.span, "this is not a time", "expected a time", Some(help));
        }
        micros.map(Duration::from_micros)
    }

    fn near(&mut self, written: &Name, arguments: &[Field]) -> Option<usize> {
        let Some(position) = arguments.iter().position(|field| field.name == written.text) else {
            let known = arguments.iter().map(|field| field.name.as_str());
            let help = self.problems.suggestion(&written.text, known);
            let message = format!("there is no argument `{}`", written.text);
            self.problem_with(&written.span, message, "not an argument", help);
            return None;
        };
        if !matches!(arguments[position].ty, Type::Global(_)) {
            let message = format!("`{}` does not lie in shared memory", written.text);
            let help = "`@near` names an argument of type `global<T>`".to_owned();
            self.problem_with(&written.span, message, "not a global", Some(help));
            return None;
        }
        Some(position)
    }
}
