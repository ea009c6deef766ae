//! Writing a file so that its old content is lost only when the new one is complete: the text goes into a
//! file beside it, which then takes its name.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::Path;

/// Replaces the content of `path`, or makes the file. A link is followed; permissions stay, and so does the
/// owner where the system allows it. What is no regular file, `/dev/stdout` for one, is written directly.
///
/// # Errors
/// The system's. The old content is untouched then.
pub(crate) fn replace(path: &Path, text: &str) -> io::Result<()> {
    let before = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => return fs::write(path, text),
        Ok(metadata) => Some(metadata),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    // A link keeps pointing to its file.
    let target = if before.is_some() { fs::canonicalize(path)? } else { path.to_owned() };
    let name = target.file_name().ok_or_else(|| io::Error::other("not the name of a file"))?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}.new", std::process::id()));
    let beside = target.with_file_name(beside);
    if before.as_ref().is_some_and(|metadata| metadata.permissions().readonly()) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is read-only"));
    }
    let done = write_new(&beside, text, before.as_ref()).and_then(|()| fs::rename(&beside, &target));
    if done.is_err() {
        // It may not have been made.
        let _ = fs::remove_file(&beside);
    }
    done
}

fn write_new(path: &Path, text: &str, before: Option<&fs::Metadata>) -> io::Result<()> {
    // As `open` of the shell would make it; an existing file's permissions follow below.
    let mode = if before.is_some() { 0o600 } else { 0o666 };
    let mut file = File::options().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    if let Some(before) = before {
        // Only root may give a file away; for others it is theirs already, or becomes so.
        let _ = fchown(&file, Some(before.uid()), Some(before.gid()));
        file.set_permissions(Permissions::from_mode(before.mode() & 0o7777))?;
    }
    // The rename must not reach the disk before the content.
    file.sync_all()
}
