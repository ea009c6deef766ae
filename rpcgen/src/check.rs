//! From the tree as written to the [`Schema`]: imports read, names resolved, ids and values decided,
//! and everything refused that has no meaning. Goes on after each problem, to report them all.
//! The work grows with the length of the file, times a logarithm: sets and maps, no search in a loop.

mod consts;
mod methods;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::ast::{self, Item, Name, Span, TypeKind};
use crate::cycles::{Cycles, Through};
use crate::describe;
use crate::diagnostic::{Problem, Problems, Source, suggestion};
use crate::names::{self, Names, check_identifier};
use crate::parser::{parse, type_words};
use crate::schema::{Field, Schema, Shape, Type, TypeDef, Value, Variant};

/// Elements of one array, nested ones multiplied: arrays lie on the stack, longer ones are lists.
pub const ARRAY_LEN_MAX: u32 = 4096;
/// Number of a field or of a union's variant. A tag of two bytes holds it beside the field's shape.
pub const FIELD_ID_MAX: u16 = 2047;
/// Fields, variants and methods in the descriptions of one file's interfaces, each counted as often as an
/// interface reaches it.
pub const DESCRIBED_MAX: usize = 1 << 18;
/// Files that one run may read.
pub const FILES_MAX: usize = 64;

/// Reads a file by its path.
pub type Loader<'a> = &'a mut dyn FnMut(&Path) -> io::Result<String>;

/// Checks the file at `path` and all that it imports.
pub fn check(path: &Path, loader: Loader<'_>) -> Result<Schema, Problems> {
    let mut problems = Problems::default();
    let name = path.display().to_string();
    let text = match loader(path) {
        Ok(text) => text,
        Err(error) => {
            let source = Arc::new(Source { name: name.clone(), text: String::new() });
            problems.push(Problem::new(&source, 0..0, format!("cannot read {name}: {error}"), "here"));
            return Err(problems);
        }
    };
    let modules = BTreeMap::new();
    let mut run = Run { loader, problems, open: Vec::new(), done: BTreeMap::new(), modules };
    let schema = run.file(path, Arc::new(Source { name, text }));
    if run.problems.is_empty() { Ok(schema.schema) } else { Err(run.problems) }
}

/// One run over a file and its imports.
struct Run<'a> {
    loader: Loader<'a>,
    problems: Problems,
    /// Files that are being read: one of them must not be imported again.
    open: Vec<PathBuf>,
    done: BTreeMap<PathBuf, Arc<Checked>>,
    /// The file that each Rust module is made from.
    modules: BTreeMap<String, PathBuf>,
}

/// A file after its check, with what its importers see of it.
#[derive(Default)]
struct Checked {
    schema: Schema,
    consts: BTreeMap<String, Value>,
}

impl Run<'_> {
    fn file(&mut self, path: &Path, source: Arc<Source>) -> Checked {
        self.open.push(path.to_owned());
        let file = parse(&source, &mut self.problems);
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("interface");
        let module = names::snake(stem);
        self.modules.insert(module.clone(), path.to_owned());
        let mut checked = Checked::default();
        checked.schema.module = module.clone();
        for import in &file.imports {
            if let Some(imported) = self.import(path, &source, import) {
                checked.schema.types.extend(imported.schema.types.clone());
                checked.consts.extend(imported.consts.clone());
            }
        }
        let mut checker = Checker {
            source: &source,
            problems: &mut self.problems,
            kinds: BTreeMap::new(),
            consts: checked.consts,
            module: &module,
            names: Names::default(),
        };
        checker.items(&file, stem, &mut checked.schema);
        checked.consts = checker.consts;
        self.open.pop();
        checked
    }

    fn import(&mut self, from: &Path, source: &Arc<Source>, import: &Name) -> Option<Arc<Checked>> {
        let path = normal(&from.parent().unwrap_or(Path::new("")).join(&import.text));
        if let Some(done) = self.done.get(&path) {
            return Some(done.clone());
        }
        if self.open.iter().any(|open| normal(open) == path) {
            let message = "a file that imports itself, directly or through others";
            self.problems.push(Problem::new(source, import.span.clone(), message, "closes the circle"));
            return None;
        }
        let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if !names::is_name(&names::snake(stem)) {
            let message = "the name of an imported file becomes the name of a module";
            let label = "begins with a letter, and goes on with letters, digits and `_`";
            self.problems.push(Problem::new(source, import.span.clone(), message, label));
            return None;
        }
        if let Some(other) = self.modules.get(&names::snake(stem)) {
            let message = format!(
                "the stubs of {} and of {} would be the same module, `{}`",
                other.display(),
                path.display(),
                names::snake(stem)
            );
            self.problems.push(
                Problem::new(source, import.span.clone(), message, "imported here")
                    .help(Some("rename one of the two files".to_owned())),
            );
            return None;
        }
        if self.done.len() + self.open.len() >= FILES_MAX {
            let message = format!("more than {FILES_MAX} files");
            self.problems.push(Problem::new(source, import.span.clone(), message, "not read"));
            return None;
        }
        match (self.loader)(&path) {
            Ok(text) => {
                let imported = Source { name: path.display().to_string(), text };
                let checked = Arc::new(self.file(&path, Arc::new(imported)));
                self.done.insert(path, checked.clone());
                Some(checked)
            }
            Err(error) => {
                let message = format!("cannot read {}: {error}", path.display());
                self.problems.push(Problem::new(source, import.span.clone(), message, "imported here"));
                None
            }
        }
    }
}

/// `a/../b.idl` is `b.idl`: one file has one name, whoever imports it.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if out.file_name().is_some() => {
                out.pop();
            }
            std::path::Component::ParentDir
            | std::path::Component::Prefix(_)
            | std::path::Component::RootDir
            | std::path::Component::Normal(_) => out.push(part),
        }
    }
    out
}

/// Checks the declarations of one file.
struct Checker<'a> {
    source: &'a Arc<Source>,
    problems: &'a mut Problems,
    /// What each visible type is: `enum`, `struct` or `union`.
    kinds: BTreeMap<String, &'static str>,
    consts: BTreeMap<String, Value>,
    module: &'a str,
    names: Names,
}

impl Checker<'_> {
    fn items(&mut self, file: &ast::File, stem: &str, schema: &mut Schema) {
        for (name, def) in &schema.types {
            self.kinds.insert(name.clone(), def.shape.word());
            self.names.imported(name);
        }
        self.declare(file);
        for (position, item) in file.items.iter().enumerate() {
            let (name, docs, shape) = match item {
                Item::Const(constant) => {
                    schema.consts.extend(self.constant(constant));
                    continue;
                }
                Item::Interface(interface) => {
                    let interface = self.interface(interface, stem);
                    schema.interfaces.extend(interface);
                    continue;
                }
                Item::Enum(item) => (&item.name, &item.docs, Shape::Enum(self.enumeration(item))),
                Item::Struct(item) => (&item.name, &item.docs, Shape::Struct(self.fields(item))),
                Item::Union(item) => {
                    if item.fields.is_empty() {
                        self.problem(&item.name.span, "a union without fields has no value", "empty");
                    }
                    (&item.name, &item.docs, Shape::Union(self.fields(item)))
                }
            };
            let module = self.module.to_owned();
            let def = TypeDef { module, position, docs: docs.clone(), shape };
            schema.types.insert(name.text.clone(), def);
        }
        self.endless(file, schema);
        self.descriptions(file, schema);
    }

    /// First all names, so that a declaration may use one that comes later.
    fn declare(&mut self, file: &ast::File) {
        for item in &file.items {
            let (name, kind) = match item {
                Item::Enum(item) => (&item.name, "enum"),
                Item::Struct(item) => (&item.name, "struct"),
                Item::Union(item) => (&item.name, "union"),
                Item::Const(_) | Item::Interface(_) => continue,
            };
            self.declared_type(name);
            self.kinds.insert(name.text.clone(), kind);
        }
    }

    /// A name of the Rust module's type namespace must be free, and one that generated code can use.
    fn declared_type(&mut self, name: &Name) {
        let rust = names::camel(&name.text);
        self.identifier(name);
        if names::is_prelude(&rust) {
            let message = format!("`{rust}` has a meaning of its own in Rust");
            self.problem(&name.span, message, "choose another name");
        }
        if let Some(other) = self.names.declare(rust, &name.text) {
            let message = format!("`{}` is declared twice", name.text);
            self.problem(&name.span, message, other);
        }
    }

    fn identifier(&mut self, name: &Name) {
        if let Err(message) = check_identifier(&name.text) {
            self.problem(&name.span, message, "not a name that stubs can have");
        }
    }

    fn enumeration(&mut self, item: &ast::Enum) -> Vec<Variant> {
        let mut variants: Vec<Variant> = Vec::new();
        let mut next = 0i128;
        let mut seen = BTreeSet::new();
        let mut by_value: BTreeMap<i32, &str> = BTreeMap::new();
        for (docs, name, value) in &item.variants {
            self.identifier(name);
            let value = value.as_ref().and_then(|value| self.integer(value, &Type::I32)).unwrap_or(next);
            next = value + 1;
            let Ok(value) = i32::try_from(value) else {
                self.problem(&name.span, format!("{value} is not a value of `int`"), "out of range");
                continue;
            };
            if !seen.insert(names::camel(&name.text)) {
                self.problem(&name.span, format!("`{}` stands twice in the enum", name.text), "again");
            }
            match by_value.entry(value) {
                Entry::Vacant(free) => _ = free.insert(&name.text),
                Entry::Occupied(same) => {
                    let message = format!("`{}` and `{}` have the same value {value}", same.get(), name.text);
                    self.problem(&name.span, message, "same value");
                }
            }
            variants.push(Variant { docs: docs.clone(), name: name.text.clone(), value });
        }
        if variants.is_empty() {
            self.problem(&item.name.span, "an enum without names has no value", "empty");
        }
        variants
    }

    fn fields(&mut self, item: &ast::Struct) -> Vec<Field> {
        let mut fields: Vec<Field> = Vec::new();
        let mut next = 1u16;
        let mut by_id: BTreeMap<u16, &str> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for member in &item.fields {
            self.identifier(&member.name);
            let mut id = next;
            let mut is_given = false;
            for annotation in &member.annotations {
                match (annotation.name.text.as_str(), &annotation.value) {
                    ("id", Some(value)) => {
                        if is_given {
                            let message = format!("`{}` has two ids", member.name.text);
                            self.problem(&annotation.name.span, message, "second id");
                            continue;
                        }
                        let wanted = self.integer(value, &Type::U16).unwrap_or(i128::from(next));
                        id = u16::try_from(wanted).unwrap_or(0);
                        is_given = true;
                        if !(1..=FIELD_ID_MAX).contains(&id) {
                            let message = format!("a field's id is between 1 and {FIELD_ID_MAX}");
                            self.problem(&value.span, message, "out of range");
                        }
                    }
                    (word, _) => {
                        let help = suggestion(word, ["id"])
                            .unwrap_or_else(|| "a field has `@id(number)` and no other".to_owned());
                        let message = format!("`@{word}` is no annotation of a field");
                        self.problem_with(&annotation.name.span, message, "unknown", Some(help));
                    }
                }
            }
            if !is_given && id > FIELD_ID_MAX {
                let message = format!("`{}` would have the id {id}", member.name.text);
                let help = format!("a field's id is between 1 and {FIELD_ID_MAX}: nest structs");
                self.problem_with(&member.name.span, message, "too many fields", Some(help));
                // One problem a struct: all that follow are above the limit too.
                break;
            }
            next = id.saturating_add(1);
            let ty = self.value_type(&member.ty);
            match by_id.entry(id) {
                Entry::Vacant(free) => _ = free.insert(&member.name.text),
                Entry::Occupied(same) => {
                    let message =
                        format!("`{}` and `{}` have the same id {id}", same.get(), member.name.text);
                    self.problem(&member.name.span, message, "same id");
                }
            }
            if !seen.insert(names::snake(&member.name.text)) {
                let message = format!("`{}` stands twice in `{}`", member.name.text, item.name.text);
                self.problem(&member.name.span, message, "again");
            }
            fields.push(Field { docs: member.docs.clone(), id, name: member.name.text.clone(), ty });
        }
        fields
    }

    /// A type that has values: any but `void`.
    fn value_type(&mut self, ty: &ast::Type) -> Type {
        let resolved = self.resolve(ty);
        if resolved == Type::Void {
            self.problem(&ty.span, "`void` has no value", "only a method may return it");
        }
        resolved
    }

    fn resolve(&mut self, ty: &ast::Type) -> Type {
        match &ty.kind {
            TypeKind::Builtin(builtin) => builtin.clone(),
            TypeKind::Named(name) => {
                if !self.kinds.contains_key(name) {
                    let declared = self.kinds.keys().map(String::as_str);
                    let known = type_words().map(|word| -> &str { word }).chain(declared);
                    let help = self.problems.suggestion(name, known);
                    let message = format!("there is no type `{name}`");
                    self.problem_with(&ty.span, message, "unknown type", help);
                }
                Type::Named(name.clone())
            }
            TypeKind::Array(inner, len) => {
                let inner_type = self.value_type(inner);
                let below = match &inner_type {
                    Type::Array(..) => flat_len(&inner_type),
                    _single => 1,
                };
                let len_value = self.integer(len, &Type::U32).unwrap_or(1);
                if len_value < 1 || len_value.saturating_mul(i128::from(below)) > i128::from(ARRAY_LEN_MAX) {
                    let message = format!("an array has between 1 and {ARRAY_LEN_MAX} elements in all");
                    let help = "longer ones are lists: `T[]`".to_owned();
                    self.problem_with(&len.span, message, "out of range", Some(help));
                }
                Type::Array(Box::new(inner_type), u32::try_from(len_value).unwrap_or(1))
            }
            TypeKind::List(inner) => Type::List(Box::new(self.value_type(inner))),
            TypeKind::Optional(inner) => Type::Optional(Box::new(self.value_type(inner))),
            TypeKind::Map(key, value) => {
                let key_type = self.value_type(key);
                let ordered = match &key_type {
                    Type::Bool | Type::String => true,
                    Type::Named(name) => self.kinds.get(name).is_none_or(|kind| *kind == "enum"),
                    other => other.range().is_some(),
                };
                if !ordered {
                    let message = format!("`{key_type}` cannot be the key of a map");
                    let help = "keys are integers, `bool`, `string` and enums".to_owned();
                    self.problem_with(&key.span, message, "not a key", Some(help));
                }
                Type::Map(Box::new(key_type), Box::new(self.value_type(value)))
            }
            TypeKind::Global(inner) => {
                let inner_type = self.value_type(inner);
                let element = match &inner_type {
                    Type::List(element) | Type::Array(element, _) => element,
                    single => single,
                };
                if !element.is_number() {
                    let message = format!("`{inner_type}` cannot lie in shared memory");
                    let help = "a global refers to a number, or to an array or list of numbers".to_owned();
                    self.problem_with(&inner.span, message, "not plain numbers", Some(help));
                }
                Type::Global(Box::new(inner_type))
            }
        }
    }

    /// Structs that hold themselves by value would be endless.
    fn endless(&mut self, file: &ast::File, schema: &Schema) {
        let cycles = Cycles::of(schema, Through::ValuesOnly);
        for item in &file.items {
            let name = match item {
                Item::Struct(item) | Item::Union(item) => &item.name,
                Item::Enum(_) | Item::Const(_) | Item::Interface(_) => continue,
            };
            if cycles.holds_itself(&name.text) {
                let help = format!("break the circle with `optional<{0}>` or `list<{0}>`", name.text);
                let message = format!("`{}` contains itself without end", name.text);
                self.problem_with(&name.span, message, "endless", Some(help));
            }
        }
    }

    /// Each interface's stubs carry a description of all types that it reaches: many interfaces that reach
    /// many types would make stubs of the size of the file's square.
    fn descriptions(&mut self, file: &ast::File, schema: &Schema) {
        let interfaces = file.items.iter().filter_map(|item| match item {
            Item::Interface(interface) => Some(interface),
            Item::Const(_) | Item::Enum(_) | Item::Struct(_) | Item::Union(_) => None,
        });
        let mut left = DESCRIBED_MAX;
        // A rejected interface is not in the schema; then no stubs are made, and no sum matters.
        for (written, interface) in interfaces.zip(&schema.interfaces) {
            match left.checked_sub(describe::size(schema, interface)) {
                Some(less) => left = less,
                None => {
                    let message = format!(
                        "the descriptions of this file's interfaces have more than {DESCRIBED_MAX} parts"
                    );
                    let help = "a part is a field, a variant or a method, counted for each interface that \
                        reaches it: split the file, or unite its interfaces"
                        .to_owned();
                    self.problem_with(&written.keyword, message, "exceeds the sum", Some(help));
                    return;
                }
            }
        }
    }

    fn problem(&mut self, span: &Span, message: impl Into<String>, label: impl Into<String>) {
        self.problem_with(span, message, label, None);
    }

    fn problem_with(
        &mut self,
        span: &Span,
        message: impl Into<String>,
        label: impl Into<String>,
        help: Option<String>,
    ) {
        self.problems.push(Problem::new(self.source, span.clone(), message, label).help(help));
    }
}

fn flat_len(ty: &Type) -> u64 {
    match ty {
        Type::Array(inner, len) => u64::from(*len) * flat_len(inner),
        _single => 1,
    }
}
