//! What an interface says about itself: the JSON that travels in the stubs, for calls without stubs,
//! and the numbers by which client and server know that they mean the same.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::schema::{Interface, Method, Schema, Shape, Type, TypeDef};

/// An interface with all the types that its methods reach, as the runtime reads it.
#[derive(Serialize)]
struct Description<'a> {
    name: &'a str,
    version: u32,
    methods: Vec<Described<'a>>,
    types: BTreeMap<&'a str, &'a TypeDef>,
}

#[derive(Serialize)]
struct Described<'a> {
    /// In hexadecimal: not every reader of JSON has integers of 64 bits.
    id: String,
    #[serde(flatten)]
    method: &'a Method,
}

/// The interface and its types in one line of JSON.
pub(crate) fn json(schema: &Schema, interface: &Interface) -> String {
    let types = reached(schema, interface);
    let describe = |method| Described { id: format!("{:#018x}", method_id(interface, method)), method };
    let methods = interface.methods.iter().map(describe).collect();
    let description = Description { name: &interface.name, version: interface.version, methods, types };
    serde_json::to_string(&description).expect("plain data always prints")
}

/// A number for everything that matters on the wire: another one, another interface.
pub(crate) fn interface_hash(schema: &Schema, interface: &Interface) -> u64 {
    fnv(json(schema, interface).as_bytes())
}

/// The number that a call carries: the interface's name in the upper half, and below it all that client
/// and server must agree on. Fields of structs are not part of it: they may be added.
pub(crate) fn method_id(interface: &Interface, method: &Method) -> u64 {
    let arguments: Vec<String> = method.arguments.iter().map(|field| field.ty.to_string()).collect();
    let signature = format!(
        "{}:{}.{}({})->{}!{};{}",
        interface.name,
        interface.version,
        method.name,
        arguments.join(","),
        method.returns,
        method.throws.join(","),
        method.kind,
    );
    let fold = |hash: u64| (hash ^ (hash >> 32)) & 0xffff_ffff;
    fold(fnv(interface.name.as_bytes())) << 32 | fold(fnv(signature.as_bytes()))
}

/// Fields, variants and methods of the description: what its length grows with.
pub(crate) fn size(schema: &Schema, interface: &Interface) -> usize {
    let arguments = interface.methods.iter().map(|method| 1 + method.arguments.len());
    let types = reached(schema, interface).into_values().map(|def| match &def.shape {
        Shape::Enum(variants) => 1 + variants.len(),
        Shape::Struct(fields) | Shape::Union(fields) => 1 + fields.len(),
    });
    arguments.sum::<usize>() + types.sum::<usize>()
}

fn reached<'a>(schema: &'a Schema, interface: &'a Interface) -> BTreeMap<&'a str, &'a TypeDef> {
    let mut names = BTreeSet::new();
    for method in &interface.methods {
        method.arguments.iter().for_each(|field| field.ty.names(&mut |name| _ = names.insert(name)));
        method.returns.names(&mut |name| _ = names.insert(name));
        names.extend(method.throws.iter().map(String::as_str));
    }
    let mut found = BTreeMap::new();
    while let Some(name) = names.pop_first() {
        let Some(def) = schema.types.get(name) else { continue };
        if found.insert(name, def).is_none() {
            let fields = match &def.shape {
                Shape::Enum(_) => &[][..],
                Shape::Struct(fields) | Shape::Union(fields) => fields,
            };
            fields.iter().for_each(|field| {
                field.ty.names(&mut |name| {
                    if !found.contains_key(name) {
                        names.insert(name);
                    }
                });
            });
        }
    }
    found
}

/// FNV-1a: short, the same on every machine, and nobody's secret depends on it.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// Names of other modules' types that the types and interfaces of this module use, by module.
pub(crate) fn foreign(schema: &Schema) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut used = BTreeSet::new();
    let note = |ty: &'_ Type, used: &mut BTreeSet<String>| {
        ty.names(&mut |name| _ = used.insert(name.to_owned()));
    };
    for def in schema.types.values().filter(|def| def.module == schema.module) {
        def.shape.fields().iter().for_each(|field| note(&field.ty, &mut used));
    }
    for method in schema.interfaces.iter().flat_map(|interface| &interface.methods) {
        method.arguments.iter().for_each(|field| note(&field.ty, &mut used));
        note(&method.returns, &mut used);
        used.extend(method.throws.iter().cloned());
    }
    let mut modules: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, def) in &schema.types {
        if def.module != schema.module && used.contains(name) {
            modules.entry(&def.module).or_default().insert(name);
        }
    }
    modules
}
