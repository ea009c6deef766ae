//! A description back to the text of an interface file: the other direction of [`crate::describe`], for
//! people who look at a server of which they have no interface file.
//!
//! The description holds what travels. Documentation, constants, `@deadline` and `@near` are not part of it, and
//! imported types stand beside the file's own. Stubs of the text speak to the server that gave it: the number of
//! the interface is the same.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;

use crate::schema::{Field, Interface, Method, Schema, Shape, TypeDef};
use crate::{describe, format_source};

/// Why a description gives no interface file.
#[derive(Debug, thiserror::Error)]
pub enum DescriptionError {
    /// It is not the JSON of a description.
    #[error("the description does not read: {0}")]
    Json(#[from] serde_json::Error),
    /// It says what no interface file can say. A peer of another version, or one that is broken, wrote it.
    #[error("the description is not one of an interface file")]
    Meaning,
}

#[derive(Deserialize)]
struct Description {
    name: String,
    version: u32,
    methods: Vec<Method>,
    types: BTreeMap<String, TypeDef>,
}

/// The interface file of a description, in the usual layout. What comes out is input of the generator: it was
/// checked, so that no text of a peer reaches a terminal as anything but names.
pub fn interface_file(description: &str) -> Result<String, DescriptionError> {
    let Description { name, version, methods, types } = serde_json::from_str(description)?;
    let mut text = String::new();
    for (name, def) in &types {
        declaration(&mut text, name, def);
    }
    let suffix = if version == 1 { String::new() } else { format!(" : {version}") };
    // Writing to a String does not fail.
    let _ = writeln!(text, "interface {name}{suffix} {{");
    methods.iter().for_each(|method| line(&mut text, method));
    text.push_str("};\n");
    let text = format_source("description", &text).map_err(|_| DescriptionError::Meaning)?;
    // Read again, it must describe itself with the same words.
    let read = crate::check::check(Path::new("description.idl"), &mut |_| Ok(text.clone()));
    let schema = read.map_err(|_| DescriptionError::Meaning)?;
    let wanted = Interface { docs: Vec::new(), name, version, methods };
    let own = Schema { types, ..Schema::default() };
    match &schema.interfaces[..] {
        [only] if describe::json(&schema, only) == describe::json(&own, &wanted) => Ok(text),
        _others => Err(DescriptionError::Meaning),
    }
}

fn declaration(text: &mut String, name: &str, def: &TypeDef) {
    let _ = writeln!(text, "{} {name} {{", def.shape.word());
    match &def.shape {
        Shape::Enum(variants) => {
            let mut next = 0i64;
            for variant in variants {
                let value = if i64::from(variant.value) == next {
                    String::new()
                } else {
                    format!(" = {}", variant.value)
                };
                let _ = writeln!(text, "{}{value},", variant.name);
                next = i64::from(variant.value) + 1;
            }
        }
        Shape::Struct(fields) | Shape::Union(fields) => {
            let mut next = 1;
            for Field { id, name, ty, .. } in fields {
                let number = if *id == next { String::new() } else { format!("@id({id}) ") };
                let _ = writeln!(text, "{number}{ty} {name};");
                next = id.saturating_add(1);
            }
        }
    }
    text.push_str("};\n\n");
}

fn line(text: &mut String, method: &Method) {
    for (is_set, annotation) in [(method.idempotent, "@idempotent "), (method.longrunning, "@longrunning ")] {
        if is_set {
            text.push_str(annotation);
        }
    }
    let flow = match method.kind {
        "stream" => "stream ",
        "oneway" => "oneway ",
        _unary => "",
    };
    let arguments: Vec<String> =
        method.arguments.iter().map(|field| format!("{} {}", field.ty, field.name)).collect();
    let throws = match method.throws.is_empty() {
        true => String::new(),
        false => format!(" throws {}", method.throws.join(", ")),
    };
    let _ = writeln!(text, "{flow}{} {}({}){throws};", method.returns, method.name, arguments.join(", "));
}
