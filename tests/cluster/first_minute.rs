//! What a new user types first: the demo, and a crate of one's own.

use crate::bed::Bed;

#[test]
fn the_demo_checks_what_it_shows() {
    let bed = Bed::new();
    let done = bed.pagemesh("demo").ok();
    for words in [
        &["4 processes, one memory"][..],
        &["1. a counter", "4 x 1000 = 4000", "us each", " ok"],
        &["2. a linked list", "built by 0, walked by 3", "0x2000", " ok"],
        &["3. C = A x B", "verified, bit for bit", " ok"],
        &["rank 3", "#"],
        &["a remote page fault: ", "us p50", "UDP round trip here: "],
        &["pages came ahead of their fault"],
        // Either the gain or, on a busy machine, why there is none.
        &["     2 processes"],
        &["Next:", " new my-program"],
    ] {
        assert!(
            done.out.lines().any(|line| words.iter().all(|word| line.contains(word))),
            "no line with {words:?} in {done:#?}"
        );
    }
    // A pipe gets text: nothing that moves a terminal's cursor.
    assert!(!done.out.contains('\u{1b}') && !done.err.contains('\u{1b}'), "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn a_rank_of_the_demo_does_not_run_alone() {
    let bed = Bed::new();
    bed.pagemesh("demo-rank").refused(&["one of 4 ranks that `pagemesh demo` starts"]);
}

#[test]
fn a_crate_that_cannot_be_made_is_one_line_and_leaves_nothing() {
    let bed = Bed::new();
    std::fs::create_dir(bed.dir().join("there")).expect("made");
    for (line, words) in [
        ("new", ["not provided", "<PATH>"]),
        ("new there", ["new there", "it exists already"]),
        ("new fn", ["new fn", "a word of the Rust language"]),
        ("new 1st", ["new 1st", "begin with a letter"]),
        ("new a.b", ["new a.b", "use ASCII letters"]),
        ("new test", ["new test", "it is taken"]),
        ("new heat --pagemesh nowhere", ["--pagemesh nowhere", "neither a version"]),
        ("new no/such/heat", ["no/such/heat", "No such file"]),
        // Nobody makes a directory there, whatever the user may do elsewhere.
        ("new /proc/heat", ["/proc/heat", "make the directory"]),
    ] {
        bed.pagemesh(line).refused(&words);
    }
    let entries = std::fs::read_dir(bed.dir()).expect("the test's directory").flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["there"]);
}

#[test]
fn a_new_crate_depends_on_what_it_was_told() {
    let bed = Bed::new();
    let done = bed.pagemesh("new heat --pagemesh 0.1").ok();
    done.says(&["made heat", "the registry, version 0.1"]);
    let manifest = std::fs::read_to_string(bed.dir().join("heat/Cargo.toml")).expect("a manifest");
    assert!(manifest.contains("pagemesh = { version = \"0.1\" }"), "{manifest}");
    assert!(bed.dir().join("heat/idl/greeter.idl").is_file());
}
