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
mod compat;
mod describe;
pub mod diagnostic;
mod emit;
mod layout;
pub mod lexer;
mod names;
pub mod parser;
pub mod schema;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use diagnostic::{Problems, Style};
use schema::Schema;

pub use compat::breaking_changes;
pub use layout::format_source;

/// Why no stubs were written. Both `Display` and `Debug` print the message: `unwrap` in a build script
/// shows what is wrong with the file.
#[derive(thiserror::Error)]
pub enum Error {
    /// The interface file is not right. Nothing was written for it.
    #[error("{}", .0.render(Style::Plain))]
    Rejected(Problems),
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
pub fn compile<P: AsRef<Path>>(paths: &[P]) -> Result<(), Error> {
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").ok_or(Error::NoOutDir)?);
    for path in paths {
        let path = path.as_ref();
        let mut read_files = Vec::new();
        let schema = check::check(path, &mut |file| {
            read_files.push(file.to_owned());
            read_bounded(file)
        });
        for file in read_files {
            println!("cargo::rerun-if-changed={}", file.display());
        }
        let schema = schema.map_err(Error::Rejected)?;
        let target = out_dir.join(&schema.module).with_extension("rs");
        std::fs::write(&target, generate(&schema))
            .map_err(|source| Error::Write { path: target.clone(), source })?;
    }
    Ok(())
}

/// Reads a file, but never more of it than the lexer would take.
fn read_bounded(path: &Path) -> io::Result<String> {
    use io::Read;
    let mut text = String::new();
    std::fs::File::open(path)?.take(lexer::SOURCE_LEN_MAX as u64 + 1).read_to_string(&mut text)?;
    Ok(text)
}
