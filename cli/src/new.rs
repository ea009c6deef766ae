//! `new`: a crate that builds and runs, made of the files in `cli/templates`.

use std::fs::DirBuilder;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::args::New;
use crate::out;
use crate::process::this_executable;
use crate::trouble::Trouble;

/// The crate's files by their path in it.
const FILES: [(&str, &str); 6] = [
    ("Cargo.toml", include_str!("../templates/Cargo.toml")),
    ("build.rs", include_str!("../templates/build.rs")),
    ("idl/greeter.idl", include_str!("../templates/idl/greeter.idl")),
    ("src/main.rs", include_str!("../templates/src/main.rs")),
    ("tests/two_ranks.rs", include_str!("../templates/tests/two_ranks.rs")),
    (".gitignore", include_str!("../templates/gitignore")),
];

/// Words of the language, which name no crate.
const KEYWORDS: [&str; 52] = [
    "Self", "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "crate", "do",
    "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop",
    "macro", "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "self", "static",
    "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual",
    "where", "while", "yield",
];
/// Crates that every program has already, and folders that cargo makes beside a program.
const TAKEN: [&str; 13] = [
    "alloc",
    "build",
    "core",
    "deps",
    "examples",
    "incremental",
    "pagemesh",
    "pagemesh-rpcgen",
    "proc-macro",
    "proc_macro",
    "std",
    "test",
    "pagemesh_rpcgen",
];

/// Where the crate finds the library.
enum Source {
    /// A checkout.
    Checkout(PathBuf),
    /// A version of the registry.
    Version(String),
}

/// Makes the crate and says how to go on.
pub(crate) fn make(new: &New) -> Result<i32, Trouble> {
    let name = crate_name(&new.path)?;
    let source = Source::find(new.pagemesh.as_deref())?;
    write(&new.path, name, &source)?;
    let (dir, this) = (new.path.display(), this_executable()?);
    out::line(format_args!(
        "made {dir}: a program, an interface, a test; pagemesh comes from {}",
        source.place()
    ))?;
    out::line(format_args!("  cd {dir} && cargo build"))?;
    out::line(format_args!("  {} run --ranks 4 target/debug/{name}", this.display()))?;
    out::line(format_args!("  PAGEMESH_BIN={} cargo test", this.display()))?;
    Ok(0)
}

/// The last part of the path, if a crate may be called so.
fn crate_name(path: &Path) -> Result<&str, Trouble> {
    let shown = path.display().to_string();
    // Quoted: it would break the line, or move the cursor of a terminal.
    let shown = if shown.contains(char::is_control) { format!("{shown:?}") } else { shown };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let bad = |why: &str| Err(Trouble::start(format!("new {shown}: a crate cannot have this name: {why}")));
    let odd = |c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if path.to_string_lossy().contains(char::is_control) {
        return bad("there are control characters in the path");
    }
    if name.is_empty() {
        return bad("it is empty, or the path does not end with a name");
    }
    if name.contains(odd) {
        return bad("use ASCII letters, digits, `-` and `_`");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return bad("begin with a letter");
    }
    if KEYWORDS.contains(&name) {
        return bad("it is a word of the Rust language");
    }
    if TAKEN.contains(&name) {
        return bad("it is taken by a crate of the language or of pagemesh, or by a folder of cargo");
    }
    Ok(name)
}

impl Source {
    fn find(asked: Option<&str>) -> Result<Source, Trouble> {
        let Some(asked) = asked else {
            let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"));
            return match checkout(built_from) {
                Some(dir) => Ok(Source::Checkout(dir)),
                None => Err(Trouble::start(format!(
                    "the checkout that this command was built from is gone ({}); say --pagemesh PATH or VERSION",
                    built_from.display()
                ))),
            };
        };
        if is_version(asked) {
            return Ok(Source::Version(asked.to_owned()));
        }
        match checkout(Path::new(asked)) {
            Some(dir) => Ok(Source::Checkout(dir)),
            None => Err(Trouble::start(format!(
                "--pagemesh {asked}: neither a version like 0.1 nor a checkout of pagemesh, which has dsm/Cargo.toml"
            ))),
        }
    }

    /// A value of a dependency in `Cargo.toml`.
    fn dependency(&self, folder: &str, features: &str) -> Result<String, Trouble> {
        let (key, value) = match self {
            Source::Checkout(dir) => {
                let path = dir.join(folder);
                let text = path.to_str().ok_or_else(|| {
                    Trouble::start(format!("--pagemesh {}: the path is not UTF-8 text", path.display()))
                })?;
                ("path", text.to_owned())
            }
            Source::Version(version) => ("version", version.clone()),
        };
        // A text of JSON is a text of TOML.
        let value = serde_json::to_string(&value).map_err(|e| Trouble::failed(e.to_string()))?;
        Ok(format!("{{ {key} = {value}{features} }}"))
    }

    fn place(&self) -> String {
        match self {
            Source::Checkout(dir) => dir.display().to_string(),
            Source::Version(version) => format!("the registry, version {version}"),
        }
    }
}

/// The directory without links, if it holds the library and the stub generator.
fn checkout(dir: &Path) -> Option<PathBuf> {
    let has = |folder: &str| dir.join(folder).join("Cargo.toml").is_file();
    if has("dsm") && has("rpcgen") { dir.canonicalize().ok() } else { None }
}

/// Whether it is a requirement as cargo takes them: numbers with dots, perhaps behind an operator.
fn is_version(text: &str) -> bool {
    text.split(',').all(|part| {
        let part = part.trim().trim_start_matches(['^', '~', '=', '<', '>']).trim_start();
        let (numbers, suffix) = part.split_once(['-', '+']).unwrap_or((part, "0"));
        let is_number = |number: &str| number == "*" || number.parse::<u64>().is_ok();
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-+".contains(c);
        (1..=3).contains(&numbers.split('.').count())
            && numbers.split('.').all(is_number)
            && !suffix.is_empty()
            && suffix.chars().all(plain)
    })
}

/// Writes all files, or leaves nothing.
fn write(dir: &Path, name: &str, source: &Source) -> Result<(), Trouble> {
    let pagemesh = source.dependency("dsm", "")?;
    let rpcgen = source.dependency("rpcgen", ", default-features = false")?;
    DirBuilder::new().create(dir).map_err(|error| {
        if error.kind() == ErrorKind::AlreadyExists {
            return Trouble::start(format!("new {}: it exists already; choose another name", dir.display()));
        }
        Trouble::os(format_args!("new {}: make the directory", dir.display()), error)
    })?;
    let fill = |(path, template): &(&str, &str)| {
        let file = dir.join(path);
        let text =
            template.replace("@NAME@", name).replace("@PAGEMESH@", &pagemesh).replace("@RPCGEN@", &rpcgen);
        std::fs::create_dir_all(file.parent().unwrap_or(dir))
            .and_then(|()| std::fs::write(&file, text))
            .map_err(|e| Trouble::os(format_args!("new {}: write {path}", dir.display()), e))
    };
    FILES.iter().try_for_each(fill).inspect_err(|_| {
        // It was made above, so all that is in it is ours.
        let _ = std::fs::remove_dir_all(dir);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that goes away with the value.
    struct Place(PathBuf);

    impl Place {
        fn new(name: &str) -> Place {
            let dir = std::env::temp_dir().join(format!("pagemesh-new-{}-{name}", std::process::id()));
            std::fs::create_dir(&dir).expect("a directory of the test");
            Place(dir)
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn names_that_no_crate_can_have_are_refused() {
        for name in
            ["", "/", "..", "1st", "-x", "_", "fn", "self", "a.b", "größe", "test", "pagemesh", "a/deps"]
        {
            let line = crate_name(Path::new(name)).expect_err(name).to_string();
            assert!(line.starts_with(&format!("new {name}: ")) && line.lines().count() == 1, "{line}");
        }
        for name in ["a", "my-program", "My_Program2", "some/where/heat"] {
            assert!(crate_name(Path::new(name)).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_name_with_control_characters_is_refused_in_one_line_that_shows_them() {
        for (name, shown) in [
            ("two\nlines", r#""two\nlines""#),
            ("two\nlines/heat", r#""two\nlines/heat""#),
            ("\u{1b}[2Jheat", r#""\u{1b}[2Jheat""#),
        ] {
            let line = crate_name(Path::new(name)).expect_err(name).to_string();
            assert!(line.starts_with(&format!("new {shown}: ")), "{line}");
            assert!(!line.contains(char::is_control), "{line:?}");
        }
    }

    #[test]
    fn versions_are_told_from_paths() {
        for version in ["1", "0.1", "^0.1.2", "=1.2.3-beta.1", ">=0.1, <0.3", "0.*"] {
            assert!(is_version(version), "{version}");
        }
        for other in ["", ".", "..", "1/2", "./1", "a", "1.2.3.4", "0.1-", "1 2"] {
            assert!(!is_version(other), "{other}");
        }
        let line = Source::find(Some("no-such-folder")).err().map(|e| e.to_string()).unwrap_or_default();
        assert!(line.starts_with("--pagemesh no-such-folder: neither a version"), "{line}");
    }

    #[test]
    fn a_crate_names_the_checkout_that_the_command_was_built_from() {
        let place = Place::new("checkout");
        let source = Source::find(None).unwrap_or_else(|e| panic!("{e}"));
        write(&place.0.join("heat"), "heat", &source).unwrap_or_else(|e| panic!("{e}"));
        let manifest = std::fs::read_to_string(place.0.join("heat/Cargo.toml")).expect("a manifest");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .expect("a workspace")
            .canonicalize()
            .expect("here");
        assert!(manifest.contains("name = \"heat\""), "{manifest}");
        assert!(
            manifest.contains(&format!("pagemesh = {{ path = \"{}/dsm\" }}", root.display())),
            "{manifest}"
        );
        for (path, _) in FILES {
            let text = std::fs::read_to_string(place.0.join("heat").join(path)).expect("a file");
            assert!(
                !text.is_empty() && !text.contains("@NAME@") && !text.contains("@PAGEMESH@"),
                "{path}: {text}"
            );
        }
    }

    #[test]
    fn a_version_stands_in_place_of_a_path() {
        let place = Place::new("version");
        let source = Source::find(Some("0.1")).unwrap_or_else(|e| panic!("{e}"));
        write(&place.0.join("heat"), "heat", &source).unwrap_or_else(|e| panic!("{e}"));
        let manifest = std::fs::read_to_string(place.0.join("heat/Cargo.toml")).expect("a manifest");
        assert!(manifest.contains("pagemesh = { version = \"0.1\" }"), "{manifest}");
        assert!(
            manifest.contains("pagemesh-rpcgen = { version = \"0.1\", default-features = false }"),
            "{manifest}"
        );
    }

    #[test]
    fn what_is_there_stays_as_it_is() {
        let place = Place::new("exists");
        let dir = place.0.join("heat");
        std::fs::create_dir(&dir).expect("made");
        std::fs::write(dir.join("Cargo.toml"), "mine").expect("written");
        let error = write(&dir, "heat", &Source::Version("1".into())).expect_err("it exists");
        assert!(error.to_string().contains("it exists already"), "{error}");
        assert_eq!(std::fs::read_to_string(dir.join("Cargo.toml")).expect("there"), "mine");
        assert_eq!(std::fs::read_dir(&dir).expect("a directory").count(), 1);
    }

    #[test]
    fn a_crate_that_cannot_be_written_leaves_nothing() {
        let place = Place::new("parent");
        std::fs::write(place.0.join("file"), "").expect("written");
        for path in ["file/heat", "no/such/parent"] {
            let error = write(&place.0.join(path), "heat", &Source::Version("1".into())).expect_err(path);
            assert!(error.to_string().contains("make the directory"), "{error}");
        }
        assert_eq!(std::fs::read_dir(&place.0).expect("a directory").count(), 1);
    }
}
