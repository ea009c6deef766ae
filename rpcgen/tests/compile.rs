//! What a build script calls: where stubs go, and what it says when they cannot.

use std::fs;
use std::path::{Path, PathBuf};

use pagemesh_rpcgen::{Error, compile_into};

/// A fresh directory of one test.
fn scratch(test: &str) -> PathBuf {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(directory.join("a")).unwrap();
    fs::create_dir_all(directory.join("b")).unwrap();
    directory
}

fn file(directory: &Path, name: &str, text: &str) -> PathBuf {
    let path = directory.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn compile(directory: &Path, files: &[&PathBuf]) -> Result<(), Error> {
    compile_into(directory, files.iter().map(|file| file.as_path()), &mut |_| {})
}

const ONE: &str = "interface One { int f(); };\n";
const TWO: &str = "interface Two { int g(); };\n";

#[test]
fn two_files_of_one_name_are_refused_with_both_paths() {
    let directory = scratch("stems");
    // The second one differs in its text, and gives the same module.
    for (first, second) in [("a/calc.idl", "b/calc.idl"), ("a/some_name.idl", "b/someName.idl")] {
        let (one, two) = (file(&directory, first, ONE), file(&directory, second, TWO));
        let error = compile(&directory, &[&one, &two]).unwrap_err();
        assert!(matches!(error, Error::SameModule { .. }), "{error}");
        let message = error.to_string();
        assert!(message.contains(first) && message.contains(second), "{message}");
        let stubs =
            fs::read_dir(&directory).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_file());
        assert_eq!(stubs.count(), 0, "nothing is written");
    }
}

#[test]
fn two_calls_of_one_process_do_not_overwrite_each_other() {
    let directory = scratch("calls");
    let (one, two) = (file(&directory, "a/calc.idl", ONE), file(&directory, "b/calc.idl", TWO));
    compile(&directory, &[&one, &one]).unwrap();
    compile(&directory, &[&directory.join("b/../a/calc.idl")]).unwrap();
    let message = compile(&directory, &[&two]).unwrap_err().to_string();
    assert!(message.contains("a/calc.idl") && message.contains("b/calc.idl"), "{message}");
    assert!(fs::read_to_string(directory.join("calc.rs")).unwrap().contains("pub trait One"));
}

#[test]
fn an_import_whose_stubs_would_be_the_same_module_is_refused() {
    let directory = scratch("imports");
    file(&directory, "b/calc.idl", "struct S { int x; };\n");
    let one = file(&directory, "a/calc.idl", "import \"../b/calc.idl\";\ninterface One { S f(); };\n");
    let message = compile(&directory, &[&one]).unwrap_err().to_string();
    assert!(message.contains("would be the same module, `calc`"), "{message}");
    assert!(message.contains("a/calc.idl") && message.contains("b/calc.idl"), "{message}");
}

#[test]
fn the_mistakes_of_all_files_are_in_one_report_and_nothing_is_written() {
    let directory = scratch("mistakes");
    let one = file(&directory, "a/one.idl", "interface { itn f(); };\n");
    let two = file(&directory, "a/two.idl", "interface { strng f(); };\n");
    let good = file(&directory, "a/good.idl", ONE);
    let message = compile(&directory, &[&one, &good, &two]).unwrap_err().to_string();
    assert!(message.contains("no type `itn`") && message.contains("no type `strng`"), "{message}");
    assert!(!directory.join("good.rs").exists());
}

#[test]
fn what_unwrap_prints_is_the_report_for_people() {
    let directory = scratch("unwrap");
    let one = file(&directory, "a/one.idl", "interface { itn f(); };\n");
    let error = compile(&directory, &[&one]).unwrap_err();
    assert_eq!(format!("{error:?}"), error.to_string());
    assert!(format!("{error:?}").contains("did you mean `int`?"));
    let problems = pagemesh_rpcgen::read(&one).unwrap_err();
    assert_eq!(format!("{problems:?}"), problems.to_string());
}

#[test]
fn ids_of_fields_end_at_their_limit_with_a_diagnostic() {
    let directory = scratch("ids");
    for (kind, count) in [("struct", 2048), ("union", 5000)] {
        let fields: String = (0..count).map(|at| format!("int f{at}; ")).collect();
        let many = file(&directory, "a/many.idl", &format!("{kind} Many {{ {fields} }};"));
        let message = compile(&directory, &[&many]).unwrap_err().to_string();
        assert!(message.contains("`f2047` would have the id 2048"), "{message}");
        assert!(message.contains("between 1 and 2047") && message.contains("1 error\n"), "{message}");
    }
    let most: String = (0..2047).map(|at| format!("int f{at}; ")).collect();
    let most = file(&directory, "a/most.idl", &format!("struct Most {{ {most} }};"));
    compile(&directory, &[&most]).unwrap();
    let next = file(&directory, "a/next.idl", "struct Next { @id(2047) int a; int b; };");
    assert!(compile(&directory, &[&next]).unwrap_err().to_string().contains("`b` would have the id 2048"));
}
