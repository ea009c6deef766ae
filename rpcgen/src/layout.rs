//! `rpcgen fmt`: one layout for every interface file. Works on the tokens, not on the tree, so that no
//! comment is lost; only a file without problems of syntax is touched.

use std::sync::Arc;

use crate::diagnostic::{Problems, Source};
use crate::lexer::{Kind, Token, tokens};
use crate::parser::parse;

/// The same file in the usual layout. Formatting twice changes nothing more.
pub fn format_source(name: &str, text: &str) -> Result<String, Problems> {
    let source = Arc::new(Source { name: name.to_owned(), text: text.to_owned() });
    let mut problems = Problems::default();
    parse(&source, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let list = tokens(&source, &mut problems);
    let mut layout =
        Layout { text, out: String::new(), depth: 0, parentheses: 0, head_is_enum: false, in_enum: false };
    for (at, token) in list.iter().enumerate() {
        let before = at.checked_sub(1).map(|at| &list[at]);
        layout.token(before, token);
    }
    layout.finish()
}

struct Layout<'a> {
    text: &'a str,
    out: String,
    depth: usize,
    parentheses: usize,
    /// The declaration that is being read began with `enum`.
    head_is_enum: bool,
    /// The innermost open brace is an enum's.
    in_enum: bool,
}

impl Layout<'_> {
    fn token(&mut self, before: Option<&Token>, token: &Token) {
        if token.kind == Kind::End {
            return;
        }
        let word = &self.text[token.span.clone()];
        if word == "}" {
            self.depth = self.depth.saturating_sub(1);
        }
        if let Some(before) = before {
            self.gap(before, token, word);
        }
        match word {
            "enum" => self.head_is_enum = true,
            "{" => {
                self.depth += 1;
                self.in_enum = std::mem::take(&mut self.head_is_enum);
            }
            "}" => self.in_enum = false,
            "(" => self.parentheses += 1,
            ")" => self.parentheses = self.parentheses.saturating_sub(1),
            _ => {}
        }
        self.out.push_str(word.trim_end());
    }

    /// What stands between two tokens: nothing, a space, or one or two new lines.
    fn gap(&mut self, before: &Token, token: &Token, word: &str) {
        let last = &self.text[before.span.clone()];
        let between = &self.text[before.span.end..token.span.start];
        let lines = between.matches('\n').count();
        let comment = matches!(token.kind, Kind::Comment | Kind::Doc);
        let line_comment = matches!(before.kind, Kind::Comment | Kind::Doc) && last.starts_with("//");
        let ends_item = self.parentheses == 0
            && (matches!(last, ";" | "{") || (last == "}" && word != ";") || (last == "," && self.in_enum));
        let empty_body = last == "{" && word == "}";
        let breaks = (ends_item && !(comment && lines == 0)) || word == "}" || line_comment;
        let comment_line = (comment || before.kind == Kind::Comment || before.kind == Kind::Doc) && lines > 0;
        if (breaks || comment_line) && !empty_body {
            // At most one empty line, and none next to a brace.
            let spaced = lines > 1 && last != "{" && word != "}";
            self.out.push_str(if spaced { "\n\n" } else { "\n" });
            self.out.push_str(&"    ".repeat(self.depth + usize::from(self.parentheses > 0)));
        } else if comment || before.kind == Kind::Comment || spaced(last, word) {
            self.out.push(' ');
        }
    }

    fn finish(mut self) -> Result<String, Problems> {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        Ok(self.out)
    }
}

/// Whether a space separates two tokens of one line.
fn spaced(last: &str, word: &str) -> bool {
    let tight_before = matches!(word, ";" | "," | ")" | ">" | "<" | "[" | "]" | "(");
    let tight_after = matches!(last, "(" | "<" | "[" | "@" | "-");
    // `{};` and `throws A;` are tight, `{ }` does not occur: bodies are broken, empty ones are `{}`.
    !(tight_before || tight_after || (last == "{" && word == "}"))
}
