//! Files as large as they may be are answered in a time that people wait for. The limits are processor time of
//! the test's thread, so that a busy machine does not count: linear work takes a tenth of it in an unoptimized
//! build, quadratic work takes several times as much.

use std::path::Path;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use pagemesh_rpcgen::diagnostic::{PROBLEMS_MAX, Problems, Style};
use pagemesh_rpcgen::lexer::SOURCE_LEN_MAX;
use pagemesh_rpcgen::schema::Schema;

/// Processor time of reading, laying out or comparing a file of 1 MiB.
const LIMIT: Duration = Duration::from_secs(2);
/// Processor time of generating its stubs, which are thirty times as long and are parsed and printed as Rust.
const STUBS_LIMIT: Duration = Duration::from_secs(60);

fn read(text: &str) -> Result<Schema, Problems> {
    pagemesh_rpcgen::check::check(Path::new("large.idl"), &mut |_| Ok(text.to_owned()))
}

fn within_the_limit<T>(step: &str, work: impl FnOnce() -> T) -> T {
    within(LIMIT, step, work)
}

/// Fails if `work` takes more than `limit`.
fn within<T>(limit: Duration, step: &str, work: impl FnOnce() -> T) -> T {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let start = now();
    let result = work();
    let taken = now() - start;
    println!("{step}: {taken:?}");
    assert!(taken < limit, "{step} took {taken:?} of processor time");
    result
}

/// A file of nearly 1 MiB: `head`, as many of `part(0)`, `part(1)`, .. as fit, and `tail`.
fn filled(head: &str, tail: &str, part: impl Fn(usize) -> String) -> String {
    let mut text = head.to_owned();
    for at in 0.. {
        let part = part(at);
        if text.len() + part.len() + tail.len() > SOURCE_LEN_MAX {
            break;
        }
        text.push_str(&part);
    }
    text + tail
}

fn accepted(step: &str, text: &str) -> Schema {
    within_the_limit(step, || read(text)).unwrap_or_else(|problems| panic!("{problems}"))
}

fn rejected(step: &str, text: &str) -> String {
    within_the_limit(step, || {
        let problems = read(text).expect_err("it has mistakes");
        assert_eq!(problems.len(), PROBLEMS_MAX);
        problems.render(Style::Plain)
    })
}

#[test]
fn an_enum_of_a_mebibyte_is_read_laid_out_and_compared() {
    let text = filled("enum E {\n", "};\n", |at| format!("V{at:x},\n"));
    let schema = accepted("reading", &text);
    let laid_out = within_the_limit("layout", || pagemesh_rpcgen::format_source("large.idl", &text));
    assert_eq!(laid_out.unwrap().len(), text.len() + 4 * text.matches(',').count());
    let older = accepted("reading", &text.replacen("V0,\n", "", 1));
    let changes = within_the_limit("comparison", || pagemesh_rpcgen::breaking_changes(&older, &schema));
    assert!(!changes.is_empty());
}

#[test]
fn structs_of_a_mebibyte_that_hold_each_other_are_read() {
    // The last of the chain holds nothing: no struct is endless, and each reaches all that follow it.
    let chain = filled("struct S0 { int x; };\n", "", |at| format!("struct S{} {{ S{at} s; }};\n", at + 1));
    accepted("a chain", &chain);
    let optional =
        filled("struct S0 { int x; };\n", "", |at| format!("struct S{} {{ optional<S{at}> s; }};\n", at + 1));
    let schema = accepted("a chain of optionals", &optional);
    within(STUBS_LIMIT, "stubs", || pagemesh_rpcgen::generate(&schema));
}

#[test]
fn interfaces_of_a_mebibyte_are_compared_by_name() {
    let methods = |at: usize| format!("interface I{at} {{ int f(int a); }};\n");
    let text = filled("", "", methods);
    let schema = accepted("reading", &text);
    let changes = within_the_limit("comparison", || pagemesh_rpcgen::breaking_changes(&schema, &schema));
    assert!(changes.is_empty());
}

#[test]
fn fields_of_a_mebibyte_are_refused_by_their_number() {
    let text = filled("struct S {\n", "};\n", |at| format!("    int f{at};\n"));
    let problems = within_the_limit("reading", || read(&text)).expect_err("too many fields");
    assert_eq!(problems.len(), 1, "{problems}");
}

#[test]
fn unknown_names_of_a_mebibyte_are_answered_with_a_bounded_search_for_suggestions() {
    let name = |kind: char, at: usize| format!("{kind}{at:060}");
    let text = filled("struct S {\n", "};\n", |at| {
        format!("@id(1) {} f{at};\n}};struct {} {{ int x;\n", name('u', at), name('t', at))
    });
    assert!(rejected("unknown types", &text).contains("there is no type"));
    let text = filled("", "", |at| {
        format!("const int {} = 1;\nconst int k{at} = {};\n", name('t', at), name('u', at))
    });
    assert!(rejected("unknown constants", &text).contains("this is not an integer"));
}

#[test]
fn repeated_annotations_of_a_mebibyte_are_searched_once() {
    let arguments = (0..40_000).map(|at| format!("int a{at}")).collect::<Vec<_>>().join(", ");
    let text = filled("interface I {\n", &format!("int f({arguments});\n}};\n"), |_| "@near(z)".to_owned());
    rejected("annotations", &text);
}

#[test]
fn mistakes_in_one_line_of_a_mebibyte_are_shown_without_the_whole_line() {
    let text = filled("", "", |_| "$ ".to_owned());
    let report = rejected("one long line", &text);
    assert!(report.len() < 200 << 10, "{} bytes of report", report.len());
}
