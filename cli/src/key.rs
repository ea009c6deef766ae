//! `key`: the file that lets nodes into a cluster.

use std::path::Path;

use pagemesh::net::ClusterKey;

use crate::args::KeyCommand;
use crate::out;
use crate::trouble::Trouble;

/// Runs one of the commands on keys.
pub(crate) fn run(command: &KeyCommand) -> Result<i32, Trouble> {
    match command {
        KeyCommand::New { file } => new(file),
        KeyCommand::Fingerprint { file } => {
            out::line(ClusterKey::load(file)?.fingerprint())?;
            Ok(0)
        }
    }
}

/// Writes a new key to a file that does not exist yet.
fn new(file: &Path) -> Result<i32, Trouble> {
    // The library does not follow a link there either. A look before it would be a race.
    if let Err(error) = ClusterKey::generate(file) {
        let exists = std::fs::symlink_metadata(file).is_ok();
        return Err(if exists {
            Trouble::start(format!(
                "{}: exists, and a key is never overwritten; name another file",
                file.display()
            ))
        } else {
            error.into()
        });
    }
    out::line(format_args!("new key in {}, readable by its owner only", file.display()))?;
    Ok(0)
}
