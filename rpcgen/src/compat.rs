//! `rpcgen check --against old.idl`: which changes break those who speak the old version.
//!
//! What may change: methods and types may be added, optional fields may be added or removed, docs,
//! deadlines and names of arguments and fields may change. A raised version number allows all: the two
//! versions then refuse each other by name instead of misunderstanding.

use std::collections::{BTreeMap, BTreeSet};

use crate::schema::{Field, Interface, Method, Schema, Shape, Type, Variant};

/// Every change from `old` to `new` that breaks a peer that was built with `old`.
pub fn breaking_changes(old: &Schema, new: &Schema) -> Vec<String> {
    let mut changes = Vec::new();
    let mut lasting = false;
    let named: BTreeMap<&str, &Interface> =
        new.interfaces.iter().map(|interface| (interface.name.as_str(), interface)).collect();
    for before in &old.interfaces {
        match named.get(before.name.as_str()) {
            None => changes.push(format!("interface `{}` is gone", before.name)),
            Some(after) if after.version > before.version => {}
            Some(after) if after.version < before.version => changes.push(format!(
                "interface `{}` went back from version {} to {}",
                before.name, before.version, after.version
            )),
            Some(after) => {
                lasting = true;
                interface(before, after, &mut changes);
            }
        }
    }
    // Types matter as long as an interface of the old version is served with them.
    if lasting || old.interfaces.is_empty() {
        types(old, new, &mut changes);
    }
    changes
}

fn interface(before: &Interface, after: &Interface, changes: &mut Vec<String>) {
    let named: BTreeMap<&str, &Method> =
        after.methods.iter().map(|method| (method.name.as_str(), method)).collect();
    for old in &before.methods {
        let place = format!("`{}.{}`", before.name, old.name);
        match named.get(old.name.as_str()) {
            None => changes.push(format!("method {place} is gone")),
            Some(new) => method(&place, old, new, changes),
        }
    }
}

fn method(place: &str, old: &Method, new: &Method, changes: &mut Vec<String>) {
    if old.kind != new.kind {
        changes.push(format!("method {place} was {}, is {}", old.kind, new.kind));
    }
    if old.returns != new.returns {
        changes.push(format!("method {place} returned `{}`, returns `{}`", old.returns, new.returns));
    }
    if old.throws != new.throws {
        let list = |names: &[String]| if names.is_empty() { "nothing".to_owned() } else { names.join(", ") };
        changes.push(format!("method {place} threw {}, throws {}", list(&old.throws), list(&new.throws)));
    }
    if old.arguments.len() != new.arguments.len() {
        let (had, has) = (old.arguments.len(), new.arguments.len());
        changes.push(format!("method {place} had {had} arguments, has {has}"));
    }
    for (before, after) in old.arguments.iter().zip(&new.arguments) {
        if before.ty != after.ty {
            let name = &after.name;
            changes.push(format!("method {place}: argument `{name}` was `{}`, is `{}`", before.ty, after.ty));
        }
    }
    if old.idempotent && !new.idempotent {
        changes.push(format!("method {place} was idempotent: old clients may call it twice"));
    }
}

fn types(old: &Schema, new: &Schema, changes: &mut Vec<String>) {
    for (name, before) in &old.types {
        let Some(after) = new.types.get(name) else {
            changes.push(format!("{} `{name}` is gone", before.shape.word()));
            continue;
        };
        match (&before.shape, &after.shape) {
            (Shape::Enum(old), Shape::Enum(new)) => {
                let values = |variants: &[Variant]| -> BTreeSet<i32> {
                    variants.iter().map(|variant| variant.value).collect()
                };
                let (had, has) = (values(old), values(new));
                for variant in old.iter().filter(|variant| !has.contains(&variant.value)) {
                    changes.push(format!("enum `{name}`: {} = {} is gone", variant.name, variant.value));
                }
                for variant in new.iter().filter(|variant| !had.contains(&variant.value)) {
                    let text = format!("{} = {}", variant.name, variant.value);
                    changes.push(format!("enum `{name}`: {text} is new: old readers reject it"));
                }
            }
            (Shape::Struct(old), Shape::Struct(new)) => fields(name, "struct", old, new, changes),
            (Shape::Union(old), Shape::Union(new)) => fields(name, "union", old, new, changes),
            (old, new) => changes.push(format!("`{name}` was {}, is {}", old.word(), new.word())),
        }
    }
}

fn fields(name: &str, word: &str, old: &[Field], new: &[Field], changes: &mut Vec<String>) {
    let needed = |field: &Field| word == "union" || !matches!(field.ty, Type::Optional(_));
    let by_id = |fields: &'_ [Field]| -> BTreeMap<u16, usize> {
        fields.iter().enumerate().map(|(at, field)| (field.id, at)).collect()
    };
    let (had, has) = (by_id(old), by_id(new));
    for before in old {
        match has.get(&before.id).map(|at| &new[*at]) {
            None if needed(before) => {
                changes.push(format!("{word} `{name}`: `{}` (id {}) is gone", before.name, before.id));
            }
            None => {}
            Some(after) if after.ty != before.ty => changes.push(format!(
                "{word} `{name}`: `{}` (id {}) was `{}`, is `{}`",
                after.name, after.id, before.ty, after.ty
            )),
            Some(_) => {}
        }
    }
    for after in new.iter().filter(|after| needed(after) && !had.contains_key(&after.id)) {
        let advice = if word == "union" { "old readers reject it" } else { "make it optional" };
        changes.push(format!("{word} `{name}`: `{}` (id {}) is new: {advice}", after.name, after.id));
    }
}
