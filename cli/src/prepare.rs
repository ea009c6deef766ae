//! The other host's side of `--hosts`: makes the state directory there, puts the key into it, and opens logs.
//!
//! Another user of that host may have put something at these paths before: a directory that they can enter, a
//! symbolic link, a file. So each part below the state directory's parent is opened once, relative to the part
//! before it and never through a link, and what is checked is checked on the open descriptor. The key comes on
//! standard input, because a command line can be seen by every user of the host.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Uid, UnlinkatFlags, unlinkat};

use crate::args::PrepareHost;
use crate::trouble::Trouble;

/// Longest key file, in bytes.
const KEY_LEN_MAX: u64 = 4096;
/// The key file's name until it is complete.
const NEW_KEY: &str = "key.new";

/// Makes `dir` and the directory for logs below it, and writes the key that comes on standard input.
pub(crate) fn prepare_host(setup: &PrepareHost) -> Result<i32, Trouble> {
    let mut key = Vec::new();
    let read = std::io::stdin().take(KEY_LEN_MAX).read_to_end(&mut key);
    read.map_err(|error| Trouble::os("the key on standard input", error))?;
    let below = setup.logs.strip_prefix(&setup.dir);
    let below = below.map_err(|_| Trouble::start("the logs lie below the state directory"))?;
    let dir = open_state(&setup.dir)?;
    let (mut logs, mut path) = (None, setup.dir.clone());
    for part in below.components() {
        let Component::Normal(name) = part else {
            return Err(Trouble::start(format!("{}: not a plain path", setup.logs.display())));
        };
        path.push(name);
        logs = Some(open_private(logs.as_ref().unwrap_or(&dir), name, &path)?);
    }
    write_key(&dir, &key).map_err(|error| Trouble::os(setup.dir.join("key").display(), error))?;
    Ok(0)
}

/// The state directory, which is this user's alone.
fn open_state(dir: &Path) -> Result<OwnedFd, Trouble> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(Trouble::start(format!("{}: not a state directory", dir.display())));
    };
    let made = DirBuilder::new().recursive(true).mode(0o700).create(parent);
    made.map_err(|error| Trouble::os(parent.display(), error))?;
    let parent = File::open(parent).map_err(|error| Trouble::os(parent.display(), error))?;
    open_private(&parent.into(), name, dir)
}

/// A directory, made if it is not there. An error if it is a link, or another user could enter it.
fn open_private(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, Trouble> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(errno) => return Err(Trouble::os(path.display(), errno)),
    }
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = openat(parent, name, flags, Mode::empty()).map_err(|errno| {
        if matches!(errno, Errno::ENOTDIR | Errno::ELOOP) {
            let what = "a file or a symbolic link is there, not a directory";
            return Trouble::start(format!("{}: {what}", path.display()));
        }
        Trouble::os(path.display(), errno)
    })?;
    let dir = File::from(opened);
    let found = dir.metadata().map_err(|error| Trouble::os(path.display(), error))?;
    check_owner(found.uid(), path)?;
    if found.mode() & 0o077 != 0 {
        return Err(Trouble::start(format!(
            "{}: other users can enter it (mode {:o}); remove it, or give another --state-dir",
            path.display(),
            found.mode() & 0o777
        )));
    }
    Ok(dir.into())
}

fn check_owner(owner: u32, path: &Path) -> Result<(), Trouble> {
    let me = Uid::effective().as_raw();
    if owner == me {
        return Ok(());
    }
    Err(Trouble::start(format!("{}: it belongs to user {owner}, not to {me}", path.display())))
}

/// Writes the key beside its place and moves it there: whatever was there is replaced, not written to.
fn write_key(dir: &OwnedFd, key: &[u8]) -> std::io::Result<()> {
    match unlinkat(dir, NEW_KEY, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno.into()),
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(dir, NEW_KEY, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    File::from(file).write_all(key)?;
    Ok(renameat(dir, NEW_KEY, dir, "key")?)
}

/// Opens a log to append to it, made if it is not there. An error if it is a link, no plain file, or another user's.
pub(crate) fn open_log(path: &Path) -> Result<File, Trouble> {
    let flags = log_flags();
    let opened = OpenOptions::new().create(true).append(true).mode(0o600).custom_flags(flags).open(path);
    let log = opened.map_err(|error| match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ELOOP) => {
            Trouble::start(format!("{}: a symbolic link is there, not a log", path.display()))
        }
        Some(_) | None => Trouble::os(path.display(), error),
    })?;
    let found = log.metadata().map_err(|error| Trouble::os(path.display(), error))?;
    if !found.is_file() {
        return Err(Trouble::start(format!("{}: not a plain file", path.display())));
    }
    check_owner(found.uid(), path)?;
    Ok(log)
}

/// Neither through a link, nor waiting for the reader of a pipe.
fn log_flags() -> i32 {
    (OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits()
}
