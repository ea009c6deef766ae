//! What is wrong with an interface file: problems with a place in the source, and their rendering
//! through miette. Problems are collected, not thrown: a file is told all of its errors at once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme, LabeledSpan, SourceCode};

/// Problems of one run that are reported; what comes after the first hundred is noise.
pub const PROBLEMS_MAX: usize = 100;

/// Pairs of letters that all searches for suggestions of one run may compare. A file of a few hundred names
/// needs a thousandth of it; in a file of a hundred thousand, later mistakes get no suggestion.
const COMPARED_MAX: usize = 1 << 26;
/// Characters of a line that a report shows on each side of the place.
const SHOWN_BESIDE_MAX: usize = 120;

/// The text of one interface file.
#[derive(Debug)]
pub struct Source {
    /// The name shown to the reader.
    pub name: String,
    /// The whole file.
    pub text: String,
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug)]
pub struct Problem {
    message: String,
    label: String,
    help: Option<String>,
    place: Range<usize>,
    source: Arc<Source>,
}

/// Everything that is wrong with one run, in the order of the source. Both `Display` and `Debug` print
/// the report.
#[derive(Default)]
pub struct Problems {
    list: Vec<Problem>,
    /// Pairs of letters that searches for suggestions have compared.
    compared: usize,
}

impl Problem {
    /// A problem at the bytes `place` of `source`; `label` stands beside the underlined text.
    pub fn new(
        source: &Arc<Source>,
        place: Range<usize>,
        message: impl Into<String>,
        label: impl Into<String>,
    ) -> Problem {
        let end = place.end.min(source.text.len());
        Problem {
            message: message.into(),
            label: label.into(),
            help: None,
            place: place.start.min(end)..end,
            source: source.clone(),
        }
    }

    /// The same problem with advice, if there is any.
    pub fn help(mut self, help: Option<String>) -> Problem {
        self.help = help;
        self
    }
}

impl Problems {
    /// Adds a problem, unless [`PROBLEMS_MAX`] were reported.
    pub fn push(&mut self, problem: Problem) {
        if self.list.len() < PROBLEMS_MAX {
            self.list.push(problem);
        }
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds all problems of another run.
    pub fn append(&mut self, other: Problems) {
        other.list.into_iter().for_each(|problem| self.push(problem));
    }

    /// [`suggestion`] for the next problem, unless that one will not be kept or the searches of this run have
    /// compared as much as they may.
    pub(crate) fn suggestion<'a>(
        &mut self,
        word: &str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Option<String> {
        if self.list.len() >= PROBLEMS_MAX {
            return None;
        }
        let known = known.into_iter().take_while(|candidate| {
            self.compared += (word.len() + 1) * (candidate.len() + 1);
            self.compared < COMPARED_MAX
        });
        suggestion(word, known)
    }

    /// How many problems were kept.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// File by file, each from its beginning to its end.
    fn in_order(&self) -> Vec<&Problem> {
        let first = |problem: &Problem| {
            self.list.iter().position(|other| Arc::ptr_eq(&other.source, &problem.source))
        };
        let mut list: Vec<&Problem> = self.list.iter().collect();
        list.sort_by_key(|problem| (first(problem), problem.place.start));
        list
    }

    /// The report as people read it, each problem with its line underlined. Colours only on request.
    pub fn render(&self, style: Style) -> String {
        let theme = match style {
            Style::Plain => GraphicalTheme::unicode_nocolor(),
            Style::Coloured => GraphicalTheme::unicode(),
        };
        let handler = GraphicalReportHandler::new_themed(theme).with_width(100).with_links(false);
        let mut text = String::new();
        for problem in self.in_order() {
            // Writing to a String does not fail, and a source that cannot be read is impossible: it is in memory.
            let _ = handler.render_report(&mut text, problem);
        }
        let plural = if self.list.len() == 1 { "" } else { "s" };
        text + &format!("{} error{plural}\n", self.list.len())
    }
}

/// How a report looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Style {
    /// For files and pipes.
    Plain,
    /// For a terminal.
    Coloured,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&*self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Range { start, end } = self.place;
        // As much of a long place as a report shows.
        let end = self.source.text.floor_char_boundary(end.min(start + SHOWN_BESIDE_MAX)).max(start);
        let label = LabeledSpan::new_with_span(Some(self.label.clone()), start..end);
        Some(Box::new(std::iter::once(label)))
    }
}

/// Only the line of the problem, and of that only the surroundings of the place: a line may have a megabyte.
impl SourceCode for Source {
    fn read_span<'a>(
        &'a self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let contents = self.text.read_span(span, before, after)?;
        let whole = contents.span();
        if whole.len() <= 4 * SHOWN_BESIDE_MAX {
            return Ok(Box::new(miette::MietteSpanContents::new_named(
                self.name.clone(),
                contents.data(),
                *whole,
                contents.line(),
                contents.column(),
                contents.line_count(),
            )));
        }
        // Long lines: only the part of the place's line around the place.
        let text = self.text.as_str();
        let line_start = text[..span.offset()].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[span.offset()..].find('\n').map_or(text.len(), |at| span.offset() + at);
        let start = text.ceil_char_boundary(span.offset().saturating_sub(SHOWN_BESIDE_MAX)).max(line_start);
        let end = text.floor_char_boundary(span.offset() + span.len() + SHOWN_BESIDE_MAX).min(line_end);
        let line = text[..start].bytes().filter(|byte| *byte == b'\n').count();
        Ok(Box::new(miette::MietteSpanContents::new_named(
            self.name.clone(),
            &text.as_bytes()[start..end.max(start)],
            (start, end.max(start) - start).into(),
            line,
            start - line_start,
            1,
        )))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Style::Plain))
    }
}

impl fmt::Debug for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Problems {}

/// "did you mean ..?", when one of `known` is near enough to `word` to be what was meant.
pub fn suggestion<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    // A reach of a third of the word: `itn` finds `int`, `a` finds nothing.
    let reach = (word.chars().count() / 3).max(1) + usize::from(word.len() > 2);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(far, candidate)| *far <= reach && *far < candidate.len())
        .min()
        .map(|(_, candidate)| format!("did you mean `{candidate}`?"))
}

/// Insertions, deletions and replacements between two words, case ignored. Long words are never near:
/// the cost is bounded whatever the input.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `compile(..).unwrap()` in a build script prints `Debug`.
    #[test]
    fn a_rejected_file_is_readable_where_the_error_is_unwrapped() {
        let text = "interface A {\n    itn f();\n};\n".to_owned();
        let source = Arc::new(Source { name: "a.idl".into(), text });
        let mut problems = Problems::default();
        problems.push(Problem::new(&source, 18..21, "there is no type `itn`", "not known"));
        let shown = format!("{:?}", crate::Error::Rejected(problems));
        for words in ["there is no type `itn`", "a.idl:2:5", "itn f();", "1 error"] {
            assert!(shown.contains(words), "{shown}");
        }
    }

    #[test]
    fn a_misspelt_word_finds_its_neighbour_and_a_strange_one_none() {
        assert_eq!(suggestion("itn", ["int", "string"]).unwrap(), "did you mean `int`?");
        assert_eq!(suggestion("interfce", ["interface", "import"]).unwrap(), "did you mean `interface`?");
        assert_eq!(suggestion("quux", ["int", "string"]), None);
    }
}
