//! Stub generator: interface files to Rust stubs for the calls between nodes.
//!
//! A file goes through five steps, each a module: text to tokens ([`lexer`]), tokens to a tree
//! ([`parser`], [`ast`]), the tree to a [`schema`] with every name resolved ([`mod@check`]), the schema to Rust
//! (`emit`). The problems of all steps are collected and reported at once ([`diagnostic`]).
//! The crate imports nothing of the runtime: generated code names it as `dsm::rpc`.

pub mod ast;
pub mod check;
pub mod diagnostic;
pub mod lexer;
pub mod parser;
pub mod schema;
