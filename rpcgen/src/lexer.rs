//! Text to tokens. Written by hand, for three reasons: the formatter needs the comments that lexer
//! generators throw away, every byte of a hostile file must end in a token or in a problem with its
//! place, and the whole of it is one screen. Linear in the text; memory is bounded by it.

use std::ops::Range;
use std::sync::Arc;

use crate::diagnostic::{Problem, Problems, Source};

/// Bytes that an interface file may have.
pub const SOURCE_LEN_MAX: usize = 1 << 20;

/// What a token is. Its text is the source at its span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A name or a keyword.
    Word,
    /// A number, with its unit if it has one: `0x10`, `2.5e-3`, `500ms`.
    Number,
    /// A quoted text, quotes included.
    Text,
    /// One of `{ } ( ) [ ] < > , ; : = @ -`.
    Mark,
    /// `/// ...`, or a `/** ... */`.
    Doc,
    /// Any other comment.
    Comment,
    /// The end of the file; always the last token.
    End,
}

/// A piece of the source.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Where it is, in bytes.
    pub span: Range<usize>,
}

/// All tokens of a source, comments included, with [`Kind::End`] last.
pub fn tokens(source: &Arc<Source>, problems: &mut Problems) -> Vec<Token> {
    let text = source.text.as_str();
    let mut list = Vec::new();
    if text.len() > SOURCE_LEN_MAX {
        let message =
            format!("the file has {} bytes; an interface file may have {SOURCE_LEN_MAX}", text.len());
        problems.push(Problem::new(source, 0..1, message, "this file"));
        list.push(Token { kind: Kind::End, span: text.len()..text.len() });
        return list;
    }
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (len, kind) = match first {
            _ if first.is_whitespace() => (first.len_utf8(), None),
            'a'..='z' | 'A'..='Z' | '_' => {
                (length(rest, |c| c.is_ascii_alphanumeric() || c == '_'), Some(Kind::Word))
            }
            '0'..='9' => (number_length(rest), Some(Kind::Number)),
            '"' => match text_length(rest) {
                Ok(len) => (len, Some(Kind::Text)),
                Err(len) => {
                    let message = "a text without its closing quote";
                    problems.push(Problem::new(source, at..at + len, message, "starts here"));
                    (len, Some(Kind::Text))
                }
            },
            '/' if rest.starts_with("//") => {
                let doc = rest.starts_with("///") && !rest.starts_with("////");
                (length(rest, |c| c != '\n'), Some(if doc { Kind::Doc } else { Kind::Comment }))
            }
            '/' if rest.starts_with("/*") => match rest[2..].find("*/") {
                Some(end) => {
                    let doc = rest.starts_with("/**") && end > 1;
                    (end + 4, Some(if doc { Kind::Doc } else { Kind::Comment }))
                }
                None => {
                    let message = "a comment without its closing `*/`";
                    problems.push(Problem::new(source, at..at + 2, message, "starts here"));
                    (rest.len(), None)
                }
            },
            '{' | '}' | '(' | ')' | '[' | ']' | '<' | '>' | ',' | ';' | ':' | '=' | '@' | '-' => {
                (1, Some(Kind::Mark))
            }
            _ => {
                let len = length(rest, is_stray);
                let message = "these characters have no meaning here";
                problems.push(Problem::new(source, at..at + len, message, "not part of the language"));
                (len, None)
            }
        };
        if let Some(kind) = kind {
            list.push(Token { kind, span: at..at + len });
        }
        at += len;
    }
    list.push(Token { kind: Kind::End, span: at..at });
    list
}

fn length(text: &str, belongs: impl Fn(char) -> bool) -> usize {
    text.find(|c| !belongs(c)).unwrap_or(text.len())
}

fn is_stray(c: char) -> bool {
    !(c.is_whitespace() || c.is_ascii_alphanumeric() || "_\"/{}()[]<>,;:=@-".contains(c)) || c == '/'
}

fn number_length(text: &str) -> usize {
    let hexadecimal = text.starts_with("0x") || text.starts_with("0X");
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let exponent = !hexadecimal && matches!(before, 'e' | 'E') && matches!(c, '+' | '-');
        if !(c.is_ascii_alphanumeric() || c == '_' || c == '.' || exponent) {
            return at;
        }
        before = c;
    }
    text.len()
}

/// Length of the text with both quotes, or of what stands on the line if the second is missing.
fn text_length(text: &str) -> Result<usize, usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return Err(at),
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Ok(at + 1),
            _ => {}
        }
    }
    Err(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> (Vec<(Kind, String)>, usize) {
        let source = Arc::new(Source { name: "t.idl".into(), text: text.into() });
        let mut problems = Problems::default();
        let list = tokens(&source, &mut problems);
        (list.iter().map(|t| (t.kind, text[t.span.clone()].to_owned())).collect(), problems.len())
    }

    #[test]
    fn numbers_keep_their_units_and_comments_their_text() {
        let (list, problems) = kinds("@deadline(500ms) /* c */ /// d\n2.5e-3;");
        assert_eq!(problems, 0);
        let texts: Vec<_> = list.iter().map(|(_, text)| text.as_str()).collect();
        assert_eq!(texts, ["@", "deadline", "(", "500ms", ")", "/* c */", "/// d", "2.5e-3", ";", ""]);
        assert_eq!(list[6].0, Kind::Doc);
    }

    #[test]
    fn stray_and_unfinished_text_is_named_and_passed_over() {
        let (list, problems) = kinds("int $$§ x; \"abc\n /* never");
        assert_eq!(problems, 3);
        assert_eq!(list.len(), 5);
    }
}
