//! Any bytes as an interface file: an answer, never a panic, never a wait without end.

use std::path::Path;

use pagemesh_rpcgen::schema::Schema;
use proptest::prelude::*;

fn read_text(text: &str) -> Result<Schema, pagemesh_rpcgen::diagnostic::Problems> {
    pagemesh_rpcgen::check::check(Path::new("hostile.idl"), &mut |_| Ok(text.to_owned()))
}

/// Reads, and does with the result what the command line would do.
fn survive(text: &str) {
    match read_text(text) {
        Ok(schema) => {
            pagemesh_rpcgen::generate(&schema);
            assert!(pagemesh_rpcgen::breaking_changes(&schema, &schema).is_empty());
            let once =
                pagemesh_rpcgen::format_source("hostile.idl", text).expect("what compiles can be laid out");
            assert_eq!(pagemesh_rpcgen::format_source("hostile.idl", &once).unwrap(), once, "settled");
            assert!(read_text(&once).is_ok(), "laid out, it still compiles:\n{once}");
        }
        Err(problems) => assert!(!problems.render(pagemesh_rpcgen::diagnostic::Style::Plain).is_empty()),
    }
}

const WORDS: [&str; 40] = [
    "interface",
    "struct",
    "enum",
    "union",
    "const",
    "import",
    "stream",
    "oneway",
    "throws",
    "int",
    "unsigned",
    "long",
    "list",
    "map",
    "optional",
    "global",
    "string",
    "void",
    "A",
    "b",
    "@",
    "deadline",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    "<",
    ">",
    ",",
    ";",
    ":",
    "=",
    "-",
    "500ms",
    "0x1F",
    "\"text\"",
    "/// doc\n",
    "/* c */",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        survive(&text);
    }

    #[test]
    fn any_row_of_words_is_answered(words in proptest::collection::vec(proptest::sample::select(&WORDS[..]), 0..120)) {
        survive(&words.join(" "));
    }

    #[test]
    fn a_good_file_with_one_byte_changed_is_answered(at in 0usize..2600, byte in 0u8..128) {
        let mut text = include_str!("accepted/calculator.idl").replace("import \"geometry.idl\";", "").into_bytes();
        let at = at % text.len();
        text[at] = byte;
        survive(&String::from_utf8_lossy(&text));
    }
}

/// What the fuzz target does, for a bounded time and always the same: mutations of the accepted files.
#[test]
fn mutations_of_good_files_are_answered() {
    let geometry = include_str!("accepted/geometry.idl");
    let calculator = include_str!("accepted/calculator.idl").replace("import \"geometry.idl\";", geometry);
    let seeds = [calculator.as_str(), include_str!("accepted/functions.idl"), geometry]
        .map(|text| text.as_bytes().to_vec());
    survive(&calculator);
    let mut random = fastrand::Rng::with_seed(0x1d1);
    for _ in 0..3_000 {
        let mut bytes = seeds[random.usize(..seeds.len())].clone();
        for _ in 0..random.usize(1..8) {
            mutate(&mut bytes, &seeds, &mut random);
        }
        survive(&String::from_utf8_lossy(&bytes));
    }
}

/// Flips, drops, doubles or moves a piece, or puts one of another file in.
fn mutate(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut fastrand::Rng) {
    let start = random.usize(..bytes.len().max(1)).min(bytes.len());
    let end = (start + random.usize(..40)).min(bytes.len());
    match random.u8(..5) {
        0 if start < end => bytes[start] ^= 1 << random.u8(..8),
        0 | 1 => drop(bytes.drain(start..end)),
        2 => {
            let piece = bytes[start..end].repeat(random.usize(1..20));
            bytes.splice(start..start, piece);
        }
        3 => {
            let piece: Vec<u8> = bytes.drain(start..end).collect();
            let to = random.usize(..=bytes.len());
            bytes.splice(to..to, piece);
        }
        _ => {
            let other = &seeds[random.usize(..seeds.len())];
            let from = random.usize(..other.len());
            let until = (from + random.usize(..60)).min(other.len());
            bytes.splice(start..end, other[from..until].iter().copied());
        }
    }
}

#[test]
fn depth_and_length_are_bounded() {
    survive(&"list<".repeat(100_000));
    survive(&format!("struct S {{ int{} x; }};", "[]".repeat(100_000)));
    survive(&"{".repeat(500_000));
    survive(&"interface {".repeat(50_000));
    survive(&"\"".repeat(1 << 19));
    survive(&"x".repeat((1 << 20) + 1));
}

#[test]
fn a_file_of_nothing_but_mistakes_reports_a_bounded_number() {
    let problems = read_text(&"$ ".repeat(400_000)).unwrap_err();
    assert_eq!(problems.len(), pagemesh_rpcgen::diagnostic::PROBLEMS_MAX);
}
