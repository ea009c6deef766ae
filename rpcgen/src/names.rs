//! How names of the language become names of Rust, and which cannot.

use std::collections::BTreeMap;

/// Characters that a name may have.
const NAME_LEN_MAX: usize = 64;

/// Types and traits that generated code names without a path.
const PRELUDE: [&str; 24] = [
    "String",
    "Vec",
    "Option",
    "Result",
    "Box",
    "Some",
    "None",
    "Ok",
    "Err",
    "Self",
    "Send",
    "Sync",
    "Clone",
    "Copy",
    "Debug",
    "PartialEq",
    "Eq",
    "PartialOrd",
    "Ord",
    "Hash",
    "From",
    "Into",
    "Rpc",
    "Default",
];

/// Keywords of Rust that cannot be written `r#..`.
const UNRAW: [&str; 4] = ["self", "Self", "super", "crate"];

/// Rust names that a module has already, each with what declared it.
#[derive(Default)]
pub(crate) struct Names {
    taken: BTreeMap<String, String>,
}

impl Names {
    /// Takes a name that an import brings; several imports may bring the same declaration.
    pub(crate) fn imported(&mut self, name: &str) {
        self.taken.insert(camel(name), format!("an import declares `{name}` too"));
    }

    /// Takes a name, or says who has it.
    pub(crate) fn declare(&mut self, rust: String, origin: &str) -> Option<String> {
        let says = format!("the stubs of `{origin}` have this name");
        self.taken.insert(rust, says)
    }
}

/// Whether generated code needs `name` to mean what it means in Rust.
pub(crate) fn is_prelude(name: &str) -> bool {
    PRELUDE.contains(&name)
}

/// Refuses what no stub can be called.
pub(crate) fn check_identifier(name: &str) -> Result<(), String> {
    if name.starts_with('_') {
        return Err("names do not begin with an underscore".to_owned());
    }
    if name.len() > NAME_LEN_MAX {
        return Err(format!("a name has at most {NAME_LEN_MAX} characters"));
    }
    Ok(())
}

/// `someName`, `SomeName`, `SOME_NAME` to `some_name`.
pub(crate) fn snake(name: &str) -> String {
    let mut out = String::new();
    let chars: Vec<char> = name.chars().collect();
    for (at, c) in chars.iter().enumerate() {
        if !c.is_ascii_alphanumeric() {
            out.push('_');
            continue;
        }
        let after_lower = at > 0 && (chars[at - 1].is_ascii_lowercase() || chars[at - 1].is_ascii_digit());
        let word_begins = at > 0
            && chars[at - 1].is_ascii_uppercase()
            && chars.get(at + 1).is_some_and(|next| next.is_ascii_lowercase());
        if c.is_ascii_uppercase() && (after_lower || word_begins) {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// `some_name`, `SOME_NAME` to `SomeName`; `someName` keeps its inner capitals.
pub(crate) fn camel(name: &str) -> String {
    let shouted = !name.chars().any(|c| c.is_ascii_lowercase());
    let mut out = String::new();
    let mut begins = true;
    for c in name.chars() {
        match c {
            _ if !c.is_ascii_alphanumeric() => begins = true,
            _ if begins => {
                out.push(c.to_ascii_uppercase());
                begins = c.is_ascii_digit();
            }
            _ if shouted => out.push(c.to_ascii_lowercase()),
            _ => out.push(c),
        }
    }
    out
}

/// `some_name` to `SOME_NAME`.
pub(crate) fn shout(name: &str) -> String {
    snake(name).to_ascii_uppercase()
}

/// Whether [`identifier`] has one for it.
pub(crate) fn is_name(name: &str) -> bool {
    let rest = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(rest)
}

/// The name as an identifier of Rust, escaped if it is a keyword.
pub(crate) fn identifier(name: &str) -> proc_macro2::Ident {
    let span = proc_macro2::Span::call_site();
    if UNRAW.contains(&name) {
        return proc_macro2::Ident::new(&format!("{name}_"), span);
    }
    match syn::parse_str::<syn::Ident>(name) {
        Ok(plain) => plain,
        Err(_) => proc_macro2::Ident::new_raw(name, span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_change_their_case_and_keep_their_words() {
        for (name, as_snake, as_camel) in [
            ("func1", "func1", "Func1"),
            ("someName", "some_name", "SomeName"),
            ("HTTPServer2", "http_server2", "HTTPServer2"),
            ("SOME_NAME", "some_name", "SomeName"),
            ("two_words", "two_words", "TwoWords"),
        ] {
            assert_eq!((snake(name).as_str(), camel(name).as_str()), (as_snake, as_camel), "{name}");
        }
        assert_eq!(identifier("type").to_string(), "r#type");
        assert_eq!(identifier("self").to_string(), "self_");
    }
}
