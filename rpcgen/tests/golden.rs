//! Whole files: what the generator writes for accepted input, and what it says about rejected input.
//! `UPDATE_GOLDEN=1 cargo test -p pagemesh-rpcgen` writes them anew; the difference is then reviewed as code.

use std::path::{Path, PathBuf};
use std::process::Command;

use pagemesh_rpcgen::diagnostic::Style;

fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

fn files(name: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory(name)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "idl")).collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

/// Compares with the golden file, or writes it.
fn compare(golden: &Path, now: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(golden, now).unwrap();
        return;
    }
    let before = std::fs::read_to_string(golden).unwrap_or_default();
    assert!(before == now, "{} differs; now:\n{now}", golden.display());
}

#[test]
fn accepted_files_give_the_golden_stubs() {
    for file in files("accepted") {
        let schema = pagemesh_rpcgen::read(&file).unwrap_or_else(|problems| panic!("{problems}"));
        compare(&file.with_extension("rs"), &pagemesh_rpcgen::generate(&schema));
    }
}

#[test]
fn the_runtimes_own_interfaces_have_their_stubs_checked_in() {
    for (file, stubs) in [("rpc/meta.idl", "meta_stubs.rs"), ("node/control.idl", "control_stubs.rs")] {
        let file = directory("../../dsm/src").join(file);
        let schema = pagemesh_rpcgen::read(&file).unwrap_or_else(|problems| panic!("{problems}"));
        compare(&file.with_file_name(stubs), &pagemesh_rpcgen::generate(&schema));
    }
}

#[test]
fn rejected_files_are_told_every_error_at_once() {
    std::env::set_current_dir(directory("rejected")).unwrap();
    for file in files("rejected") {
        let name = Path::new(file.file_name().unwrap());
        let Err(problems) = pagemesh_rpcgen::read(name) else { panic!("{} was accepted", name.display()) };
        compare(&file.with_extension("stderr"), &problems.render(Style::Plain));
    }
}

#[test]
fn the_examples_of_the_documentation_are_accepted() {
    let text = std::fs::read_to_string(directory("../../docs").join("idl.md")).unwrap();
    let examples: Vec<&str> =
        text.split("```idl\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect();
    assert!(examples.len() >= 3);
    let name = Path::new("functions.idl");
    for example in examples {
        let mut read = |_: &Path| Ok(example.to_owned());
        let schema =
            pagemesh_rpcgen::check::check(name, &mut read).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(pagemesh_rpcgen::generate(&schema).contains("pub trait "), "{example}");
    }
}

#[test]
fn rustfmt_leaves_the_stubs_alone() {
    for file in files("accepted") {
        let stubs = file.with_extension("rs");
        let outcome = Command::new("rustfmt")
            .args(["--edition", "2024", "--check", "--config-path", "/dev/null"])
            .arg(&stubs)
            .output();
        // A machine without rustfmt can still build and test the rest.
        let Ok(outcome) = outcome else { return };
        assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stdout));
    }
}

#[test]
fn formatting_keeps_the_meaning_and_settles_at_once() {
    for file in files("accepted") {
        let text = std::fs::read_to_string(&file).unwrap();
        let once = pagemesh_rpcgen::format_source("x.idl", &text).unwrap();
        assert_eq!(once, text, "{} is laid out as fmt does it", file.display());
        let squeezed =
            text.split_inclusive('\n').map(|line| line.trim_start_matches(' ')).collect::<String>();
        let again = pagemesh_rpcgen::format_source("x.idl", &squeezed).unwrap();
        assert_eq!(again, text, "{} without its indentation", file.display());
    }
}

#[test]
fn formatting_keeps_comments_and_mends_spaces() {
    let text =
        "interface X:1{// why\nint f( int a,int b );/* after */\n\n\n\n/// doc\nstream   int g( );}\n// end";
    let expected = "interface X : 1 { // why\n    int f(int a, int b); /* after */\n\n    /// doc\n    stream int g();\n}\n// end\n";
    let once = pagemesh_rpcgen::format_source("x.idl", text).unwrap();
    assert_eq!(once, expected);
    assert_eq!(pagemesh_rpcgen::format_source("x.idl", &once).unwrap(), once);
}

/// The descriptions that stubs carry: the text in the braces of `description: "..",`.
fn descriptions(stubs: &str) -> Vec<String> {
    let file: syn::File = syn::parse_file(stubs).unwrap();
    let mut found = Vec::new();
    for item in file.items {
        let syn::Item::Static(item) = item else { continue };
        let syn::Expr::Struct(value) = *item.expr else { continue };
        for field in value.fields {
            if let (syn::Member::Named(name), syn::Expr::Lit(literal)) = (field.member, field.expr)
                && let (true, syn::Lit::Str(text)) = (name == "description", literal.lit)
            {
                found.push(text.value());
            }
        }
    }
    found
}

#[test]
fn a_description_gives_an_interface_file_that_describes_itself_alike() {
    let mut count = 0;
    let own =
        ["rpc/meta_stubs.rs", "node/control_stubs.rs"].map(|name| directory("../../dsm/src").join(name));
    let accepted = files("accepted").into_iter().map(|file| file.with_extension("rs"));
    for stubs in accepted.chain(own) {
        for description in descriptions(&std::fs::read_to_string(stubs).unwrap()) {
            let text = pagemesh_rpcgen::interface_file(&description).unwrap();
            let mut read = |_: &Path| Ok(text.clone());
            let schema = pagemesh_rpcgen::check::check(Path::new("again.idl"), &mut read)
                .unwrap_or_else(|problems| panic!("{problems}"));
            assert_eq!(descriptions(&pagemesh_rpcgen::generate(&schema)), [description.as_str()], "{text}");
            assert_eq!(pagemesh_rpcgen::format_source("x.idl", &text).unwrap(), text);
            count += 1;
        }
    }
    assert!(count >= 5, "{count} interfaces");
}

#[test]
fn a_description_that_no_interface_file_gives_is_refused() {
    let good = r#"{"name":"A","version":1,"methods":[],"types":{}}"#;
    assert_eq!(pagemesh_rpcgen::interface_file(good).unwrap(), "interface A {};\n");
    let named = |name: &str| good.replace("\"A\"", &serde_json::to_string(name).unwrap());
    let bad = [named("A {}; interface B"), named("A\u{1b}[2J"), named("A/* */"), named(""), "{}".to_owned()];
    for bad in bad {
        assert!(pagemesh_rpcgen::interface_file(&bad).is_err(), "{bad}");
    }
}
