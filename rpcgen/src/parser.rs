//! Tokens to the tree of a file: recursive descent with recovery. After a problem the parser goes on
//! behind the next `;` or `}`, so that one mistake hides no other. Nesting is bounded by
//! [`DEPTH_MAX`], and every loop consumes a token: no input makes it hang or overflow the stack.

mod types;

pub(crate) use types::type_words;

use std::sync::Arc;

use crate::ast::{Annotation, Const, Enum, File, Flow, Interface, Item, Member, Method, Name, Span, Struct};
use crate::diagnostic::{Problem, Problems, Source, suggestion};
use crate::lexer::{Kind, Token, tokens};

/// How deep types may nest.
pub const DEPTH_MAX: usize = 32;

const DECLARATIONS: [&str; 6] = ["interface", "struct", "enum", "union", "const", "import"];
const FLOWS: [&str; 3] = ["stream", "oneway", "throws"];

/// Words that name no thing of the user's: they begin a declaration, a method or a type.
pub(crate) fn is_reserved(word: &str) -> bool {
    DECLARATIONS.contains(&word) || FLOWS.contains(&word) || types::is_type_word(word)
}

/// A problem was recorded; whoever can recover skips to a place where it can go on.
struct Skip;
type Parsed<T> = Result<T, Skip>;

/// The tree of a source. With problems, the tree holds what could be read.
pub fn parse(source: &Arc<Source>, problems: &mut Problems) -> File {
    let mut list = tokens(source, problems);
    list.retain(|token| token.kind != Kind::Comment);
    let mut parser = Parser { source, tokens: list, at: 0, problems };
    parser.file()
}

struct Parser<'a> {
    source: &'a Arc<Source>,
    tokens: Vec<Token>,
    at: usize,
    problems: &'a mut Problems,
}

impl Parser<'_> {
    fn file(&mut self) -> File {
        let mut file = File::default();
        loop {
            let docs = self.docs();
            if self.peek().kind == Kind::End {
                return file;
            }
            let start = self.at;
            if self.item(docs, &mut file).is_err() {
                self.skip_item(start);
            }
        }
    }

    fn item(&mut self, docs: Vec<String>, file: &mut File) -> Parsed<()> {
        let token = self.peek().clone();
        let item = match self.text(&token) {
            "import" => {
                self.at += 1;
                let path = self.kind(Kind::Text, "the path of a file, in quotes")?;
                self.mark(";")?;
                file.imports.push(Name { text: path.text.trim_matches('"').to_owned(), span: path.span });
                return Ok(());
            }
            "const" => Item::Const(self.constant(docs)?),
            "enum" => Item::Enum(self.enumeration(docs)?),
            "struct" => Item::Struct(self.structure(docs)?),
            "union" => Item::Union(self.structure(docs)?),
            "interface" => Item::Interface(self.interface(docs)?),
            ";" => {
                self.at += 1;
                return Ok(());
            }
            word => {
                let help = suggestion(word, DECLARATIONS)
                    .unwrap_or_else(|| format!("a declaration begins with {}", list(&DECLARATIONS)));
                let message = format!("expected a declaration, found {}", shown(word));
                return self.fail(token.span, message, "not a declaration", Some(help));
            }
        };
        file.items.push(item);
        // C writes a `;` after the brace; here it may be left out.
        self.eat(";");
        Ok(())
    }

    fn constant(&mut self, docs: Vec<String>) -> Parsed<Const> {
        self.at += 1;
        let ty = self.ty()?;
        let name = self.name("a name for the constant")?;
        self.mark("=")?;
        let value = self.value("a value")?;
        self.mark(";")?;
        Ok(Const { docs, ty, name, value })
    }

    fn enumeration(&mut self, docs: Vec<String>) -> Parsed<Enum> {
        self.at += 1;
        let name = self.name("a name for the enum")?;
        self.mark("{")?;
        let mut variants = Vec::new();
        loop {
            let variant_docs = self.docs();
            if self.eat("}") {
                return Ok(Enum { docs, name, variants });
            }
            let variant = self.name("a variant or `}`")?;
            let value = if self.eat("=") { Some(self.value("a number")?) } else { None };
            variants.push((variant_docs, variant, value));
            if !self.eat(",") && !self.at_mark("}") {
                return self.expected("`,` or `}` after the variant");
            }
        }
    }

    fn structure(&mut self, docs: Vec<String>) -> Parsed<Struct> {
        self.at += 1;
        let name = self.name("a name for the type")?;
        let mut fields = Vec::new();
        self.members(|parser, docs| {
            let annotations = parser.annotations()?;
            let ty = parser.ty()?;
            let name = parser.name("a name for the field")?;
            parser.no_suffix(&name)?;
            parser.mark(";")?;
            fields.push(Member { docs, annotations, ty, name });
            Ok(())
        })?;
        Ok(Struct { docs, name, fields })
    }

    fn interface(&mut self, docs: Vec<String>) -> Parsed<Interface> {
        let keyword = self.peek().span.clone();
        self.at += 1;
        let named = self.peek().kind == Kind::Word;
        let name = if named { Some(self.name("a name for the interface")?) } else { None };
        let version = if self.eat(":") { self.version() } else { None };
        let mut methods = Vec::new();
        self.members(|parser, docs| {
            let method = parser.method(docs)?;
            methods.push(method);
            Ok(())
        })?;
        Ok(Interface { docs, name, version, keyword, methods })
    }

    /// The number behind the colon. A wrong one is reported, and the methods are read all the same.
    fn version(&mut self) -> Option<Name> {
        let version = self.kind(Kind::Number, "a version number").ok();
        if version.is_none() && self.peek().kind == Kind::Word {
            self.at += 1;
        }
        version
    }

    fn method(&mut self, docs: Vec<String>) -> Parsed<Method> {
        let annotations = self.annotations()?;
        let flow = if self.eat("stream") {
            Flow::Stream
        } else if self.eat("oneway") {
            Flow::Oneway
        } else {
            Flow::Unary
        };
        let returns = self.ty()?;
        let name = self.name("a name for the method")?;
        self.mark("(")?;
        let mut arguments = Vec::new();
        if !self.eat(")") {
            loop {
                let docs = self.docs();
                let annotations = self.annotations()?;
                let ty = self.ty()?;
                // C's way to say that there are none.
                let empty = matches!(ty.kind, crate::ast::TypeKind::Builtin(crate::schema::Type::Void));
                if empty && arguments.is_empty() && self.eat(")") {
                    break;
                }
                let name = self.name("a name for the argument")?;
                self.no_suffix(&name)?;
                arguments.push(Member { docs, annotations, ty, name });
                if self.eat(")") {
                    break;
                }
                if !self.eat(",") {
                    return self.expected("`,` or `)` after the argument");
                }
            }
        }
        let mut throws = Vec::new();
        if self.eat("throws") {
            throws.push(self.name("the name of a struct")?);
            while self.eat(",") {
                throws.push(self.name("the name of a struct")?);
            }
        }
        self.mark(";")?;
        Ok(Method { docs, annotations, flow, returns, name, arguments, throws })
    }

    /// `{ member* }`, going on behind a member that cannot be read.
    fn members(&mut self, mut member: impl FnMut(&mut Self, Vec<String>) -> Parsed<()>) -> Parsed<()> {
        let open = self.peek().span.clone();
        self.mark("{")?;
        loop {
            let docs = self.docs();
            if self.eat("}") {
                return Ok(());
            }
            if self.peek().kind == Kind::End {
                return self.fail(open, "a `{` without its closing `}`", "opened here", None);
            }
            let start = self.at;
            if member(self, docs).is_err() {
                self.skip_member(start);
            }
        }
    }

    fn annotations(&mut self) -> Parsed<Vec<Annotation>> {
        let mut annotations = Vec::new();
        while self.eat("@") {
            let name = self.kind(Kind::Word, "the name of an annotation")?;
            let mut value = None;
            if self.eat("(") {
                let token = self.peek().clone();
                if !matches!(token.kind, Kind::Word | Kind::Number | Kind::Text) {
                    return self.expected("a value for the annotation");
                }
                self.at += 1;
                value = Some(self.named(&token));
                self.mark(")")?;
            }
            annotations.push(Annotation { name, value });
        }
        Ok(annotations)
    }

    /// C writes the length of an array behind the name; say where it stands here.
    fn no_suffix(&mut self, name: &Name) -> Parsed<()> {
        if !self.at_mark("[") {
            return Ok(());
        }
        let help = format!("the length belongs to the type: `T[4] {}`", name.text);
        let span = self.peek().span.clone();
        self.fail(span, "an array's length does not follow its name", "here", Some(help))
    }

    fn docs(&mut self) -> Vec<String> {
        let mut docs = Vec::new();
        while self.peek().kind == Kind::Doc {
            let token = self.peek().clone();
            docs.extend(doc_lines(self.text(&token)));
            self.at += 1;
        }
        docs
    }

    fn value(&mut self, wanted: &str) -> Parsed<Name> {
        let start = self.peek().span.start;
        let minus = self.eat("-");
        let token = self.peek().clone();
        if !matches!(token.kind, Kind::Number | Kind::Word | Kind::Text) {
            return self.expected(wanted);
        }
        self.at += 1;
        let sign = if minus { "-" } else { "" };
        Ok(Name { text: format!("{sign}{}", self.text(&token)), span: start..token.span.end })
    }

    fn name(&mut self, wanted: &str) -> Parsed<Name> {
        let name = self.kind(Kind::Word, wanted)?;
        if is_reserved(&name.text) && !types::is_generic(&name.text) {
            self.at -= 1;
            return self.expected(wanted);
        }
        Ok(name)
    }

    fn kind(&mut self, kind: Kind, wanted: &str) -> Parsed<Name> {
        let token = self.peek().clone();
        if token.kind != kind {
            return self.expected(wanted);
        }
        self.at += 1;
        Ok(self.named(&token))
    }

    fn mark(&mut self, mark: &str) -> Parsed<()> {
        if self.eat(mark) { Ok(()) } else { self.expected(&format!("`{mark}`")) }
    }

    fn eat(&mut self, word: &str) -> bool {
        let token = self.peek();
        let found = matches!(token.kind, Kind::Mark | Kind::Word) && self.text(token) == word;
        self.at += usize::from(found);
        found
    }

    fn at_mark(&self, mark: &str) -> bool {
        self.text(self.peek()) == mark
    }

    fn peek(&self) -> &Token {
        // The last token is `End`, and nothing steps over it.
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    fn text(&self, token: &Token) -> &str {
        &self.source.text[token.span.clone()]
    }

    fn named(&self, token: &Token) -> Name {
        Name { text: self.text(token).to_owned(), span: token.span.clone() }
    }

    fn expected<T>(&mut self, wanted: &str) -> Parsed<T> {
        let token = self.peek().clone();
        let found = self.text(&token);
        let reserved = is_reserved(found) && wanted.starts_with("a name");
        let help = reserved.then(|| format!("`{found}` is a word of the language"));
        let message = format!("expected {wanted}, found {}", shown(found));
        // A missing `;` is where the line ends, not where the next one begins.
        let before = self.at.checked_sub(1).map(|at| self.tokens[at].span.end);
        let span = match before {
            Some(end) if wanted == "`;`" => end.saturating_sub(1)..end,
            Some(_) | None => token.span.clone(),
        };
        self.fail(span, message, format!("expected {wanted}"), help)
    }

    fn fail<T>(
        &mut self,
        span: Span,
        message: impl Into<String>,
        label: impl Into<String>,
        help: Option<String>,
    ) -> Parsed<T> {
        self.problems.push(Problem::new(self.source, span, message, label).help(help));
        Err(Skip)
    }

    /// To behind the declaration that began at `start`.
    fn skip_item(&mut self, start: usize) {
        self.at = start;
        let mut depth = 0usize;
        while self.peek().kind != Kind::End {
            let token = self.peek().clone();
            let word = self.text(&token);
            if depth == 0 && self.at > start && DECLARATIONS.contains(&word) {
                return;
            }
            self.at += 1;
            match self.text(&token) {
                "{" => depth += 1,
                "}" => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return;
                    }
                }
                ";" if depth == 0 => return,
                _ => {}
            }
        }
    }

    /// To behind the next `;`, or in front of the `}` that closes the members.
    fn skip_member(&mut self, start: usize) {
        self.at = self.at.max(start);
        // A problem that consumed nothing must not be met again.
        if self.at == start && !self.at_mark("}") && !self.at_mark(";") {
            self.at += 1;
        }
        let mut depth = 0usize;
        while self.peek().kind != Kind::End {
            let token = self.peek().clone();
            match self.text(&token) {
                "{" => depth += 1,
                "}" if depth == 0 => return,
                "}" => depth -= 1,
                ";" if depth == 0 => {
                    self.at += 1;
                    return;
                }
                _ => {}
            }
            self.at += 1;
        }
    }
}

/// The lines of a doc comment without its marks.
fn doc_lines(comment: &str) -> Vec<String> {
    let Some(body) = comment.strip_prefix("/**") else {
        return vec![comment.trim_start_matches('/').trim().to_owned()];
    };
    let lines = body.trim_end_matches("*/").lines();
    let lines: Vec<String> =
        lines.map(|line| line.trim().trim_start_matches('*').trim().to_owned()).collect();
    let filled = |line: &String| !line.is_empty();
    let first = lines.iter().position(filled).unwrap_or(0);
    let last = lines.iter().rposition(filled).map_or(0, |last| last + 1);
    lines[first.min(last)..last].to_vec()
}

fn shown(text: &str) -> String {
    if text.is_empty() { "the end of the file".to_owned() } else { format!("`{}`", clip(text)) }
}

/// At most forty characters: a message does not repeat a megabyte.
fn clip(text: &str) -> String {
    if text.chars().count() <= 40 {
        text.to_owned()
    } else {
        text.chars().take(40).collect::<String>() + ".."
    }
}

pub(crate) fn list(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}
