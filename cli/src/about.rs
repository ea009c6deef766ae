//! What the command says of itself: its version, completions for shells, man pages. All are made from the
//! command line's own description, so they cannot differ from what it accepts.

use std::path::Path;
use std::sync::LazyLock;

use clap::CommandFactory;
use clap_complete::Shell;
use pagemesh::net::Version;

use crate::args::Arguments;
use crate::out;
use crate::trouble::Trouble;

/// The commit that this was built from, or "unknown".
pub(crate) const COMMIT: &str = env!("BUILT_COMMIT");

/// The release, the protocol that its nodes speak, and the commit it was built from.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let protocol = Version::ours().protocol;
    format!("{} (protocol {protocol}, commit {})", env!("CARGO_PKG_VERSION"), COMMIT)
});

/// The version, as `--version` and `version` print it after the command's name.
pub(crate) fn version() -> &'static str {
    &VERSION
}

/// Prints completions for a shell.
pub(crate) fn completions(shell: Shell) -> Result<i32, Trouble> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut without_hidden(), "pagemesh", &mut script);
    out::text(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Prints the command's man page, or writes that page and one for each command into a directory.
pub(crate) fn man(dir: Option<&Path>) -> Result<i32, Trouble> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        let rendered = clap_mangen::Man::new(without_hidden()).render(&mut page);
        rendered.map_err(|error| Trouble::os("man page", error))?;
        out::text(&String::from_utf8_lossy(&page))?;
        return Ok(0);
    };
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(without_hidden(), dir))
        .map_err(|error| Trouble::os(format_args!("man pages in {}", dir.display()), error))?;
    Ok(0)
}

/// The command line as people see it. Completion scripts would offer hidden commands too.
fn without_hidden() -> clap::Command {
    let all = Arguments::command();
    let seen: Vec<clap::Command> = all.get_subcommands().filter(|c| !c.is_hide_set()).cloned().collect();
    let mut shown = clap::Command::new("pagemesh").version(version()).args(all.get_arguments().cloned());
    if let Some(about) = all.get_about() {
        shown = shown.about(about.clone());
    }
    if let Some(after) = all.get_after_help() {
        shown = shown.after_help(after.clone());
    }
    shown.subcommands(seen)
}
