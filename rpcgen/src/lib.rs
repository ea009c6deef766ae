//! Stub generator: interface files to Rust stubs for the calls between nodes.
//!
//! A file goes through five steps, each a module: text to tokens ([`lexer`]), tokens to a tree
//! ([`parser`], [`ast`]), the tree to a [`schema`] with every name resolved ([`mod@check`]), the schema to
//! Rust (`emit`). The problems of all steps are collected and reported at once ([`diagnostic`]).
//! The crate imports nothing of the runtime: generated code names it as `pagemesh::rpc`.
//!
//! In a build script:
//! ```no_run
//! pagemesh_rpcgen::compile(&["calculator.idl"]).unwrap();
//! ```
//! and in the program `pagemesh::include_idl!("calculator" as calculator);`.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "over twenty types, `any other` is what is meant; `Type::range` and `types::rust` name them all"
)]

pub mod ast;
pub mod check;
#[cfg(feature = "cli")]
pub mod command;
mod compat;
mod cycles;
mod describe;
pub mod diagnostic;
mod emit;
mod idl;
mod layout;
pub mod lexer;
mod names;
mod output;
pub mod parser;
pub mod schema;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use diagnostic::{Problems, Style};
use schema::Schema;

pub use compat::breaking_changes;
pub use idl::{DescriptionError, interface_file};
pub use layout::format_source;

/// Why no stubs were written. Both `Display` and `Debug` print the message: `unwrap` in a build script
/// shows what is wrong with the file.
#[derive(thiserror::Error)]
pub enum Error {
    /// Interface files are not right. Nothing was written.
    #[error("{}", .0.render(Style::Plain))]
    Rejected(Problems),
    /// Two files would give the same module. Nothing was written.
    #[error(
        "{} and {} both give the module `{module}`, which would be written to {}: rename one of the two files",
        first.display(), second.display(), target.display()
    )]
    SameModule {
        /// The module's name.
        module: String,
        /// The file that was given first, in this call or an earlier one of this process.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
        /// Where the stubs of both would be.
        target: PathBuf,
    },
    /// The output could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not called from a build script: there is no `OUT_DIR`.
    #[error(
        "OUT_DIR is not set: pagemesh_rpcgen::compile runs in a build script; elsewhere use pagemesh_rpcgen::generate"
    )]
    NoOutDir,
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The checked content of the file at `path` and of what it imports, which may not be larger than
/// [`lexer::SOURCE_LEN_MAX`] bytes each.
pub fn read(path: &Path) -> Result<Schema, Problems> {
    check::check(path, &mut read_bounded)
}

/// The stubs of a checked file.
pub fn generate(schema: &Schema) -> String {
    emit::module(schema)
}

/// For build scripts: writes `OUT_DIR/<name>.rs` for each file, and tells cargo when to run again.
///
/// # Errors
/// [`Error::Rejected`] with the mistakes of all files, or [`Error::SameModule`] if two files have one name, in
/// this call or in two calls of one process: nothing is written then.
pub fn compile<P: AsRef<Path>>(paths: &[P]) -> Result<(), Error> {
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or(Error::NoOutDir)?);
    let mut rerun = |file: &Path| println!("cargo::rerun-if-changed={}", file.display());
    compile_into(&out_dir, paths.iter().map(AsRef::as_ref), &mut rerun)
}

/// [`compile`] into any directory. Every file that is read is passed to `opened`.
pub fn compile_into<'a>(
    directory: &Path,
    paths: impl IntoIterator<Item = &'a Path>,
    opened: &mut dyn FnMut(&Path),
) -> Result<(), Error> {
    let mut problems = Problems::default();
    let mut stubs: BTreeMap<PathBuf, (PathBuf, Schema)> = BTreeMap::new();
    for path in paths {
        let schema = match check::check(path, &mut |file| {
            opened(file);
            read_bounded(file)
        }) {
            Ok(schema) => schema,
            Err(found) => {
                problems.append(found);
                continue;
            }
        };
        let target = directory.join(&schema.module).with_extension("rs");
        let module = schema.module.clone();
        let before = stubs.insert(target.clone(), (path.to_owned(), schema));
        if let Some((first, _)) = before.filter(|(first, _)| !is_same_file(first, path)) {
            return Err(Error::SameModule { module, first, second: path.to_owned(), target });
        }
    }
    if !problems.is_empty() {
        return Err(Error::Rejected(problems));
    }
    for (target, (path, schema)) in stubs {
        claim(&target, &path, &schema.module)?;
        output::replace(&target, &generate(&schema))
            .map_err(|source| Error::Write { path: target.clone(), source })?;
    }
    Ok(())
}

/// Fails if another call of this process has written the stubs of another file to `target`.
fn claim(target: &Path, path: &Path, module: &str) -> Result<(), Error> {
    /// What this process has written, and from which file: a build script may call [`compile`] many times.
    static WRITTEN: Mutex<BTreeMap<PathBuf, PathBuf>> = Mutex::new(BTreeMap::new());
    let mut written = WRITTEN.lock().unwrap_or_else(PoisonError::into_inner);
    match written.get(target).filter(|first| !is_same_file(first, path)) {
        Some(first) => Err(Error::SameModule {
            module: module.to_owned(),
            first: first.clone(),
            second: path.to_owned(),
            target: target.to_owned(),
        }),
        None => {
            written.insert(target.to_owned(), path.to_owned());
            Ok(())
        }
    }
}

/// Whether both names lead to one file. Files that cannot be looked up are compared by name.
fn is_same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    real(one) == real(other)
}

/// Reads a file, but never more of it than the lexer would take.
fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(lexer::SOURCE_LEN_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
