//! Where the sockets of the nodes of one user on one host lie.

use std::fs::{DirBuilder, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::channel::Channel;
use crate::config::keep::{BACKLOG, SOCKETS_MAX};
use crate::error::{Error, Result};
use crate::page::Incarnation;

/// Ends the name of a socket that a node listens at.
const SUFFIX: &str = ".keep";

/// A directory that only this user can change. The sockets in it are reached by the open directory, so that
/// neither a long path (an address of a socket has 108 bytes) nor a directory that is replaced meanwhile matters.
#[derive(Debug)]
pub(crate) struct KeepDirectory {
    path: PathBuf,
    open: File,
}

/// A socket at which a node listens. Dropping it removes its name.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) socket: OwnedFd,
    directory: KeepDirectory,
    name: String,
}

impl KeepDirectory {
    /// Opens the directory, and makes it if it is missing. It must be this user's and closed to others.
    pub(crate) fn open(path: &Path) -> Result<KeepDirectory> {
        let fail = |error| Error::os(format!("directory {} of the keepers' sockets", path.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
        KeepDirectory::find(path)
    }

    /// The first of the places for it that can be used: the one that is set, or those of the system for files of
    /// processes that run. The error is that of the last place.
    pub(crate) fn of_settings(set: Option<&Path>) -> Result<KeepDirectory> {
        if let Some(path) = set {
            return KeepDirectory::open(path);
        }
        let user = Uid::effective();
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let runtime = runtime.filter(|path| path.is_absolute() && path.is_dir());
        let own = format!("pagemesh-{user}");
        let places = [Path::new("/run").join(&own), std::env::temp_dir().join(&own)];
        let mut places = runtime.map(|path| path.join("pagemesh")).into_iter().chain(places);
        let last = places.next_back().expect("two places at least");
        places
            .find_map(|place| KeepDirectory::open(&place.join("keep")).ok())
            .map_or_else(|| KeepDirectory::open(&last.join("keep")), Ok)
    }

    /// Opens a directory that exists.
    fn find(path: &Path) -> Result<KeepDirectory> {
        let fail = |error| Error::os(format!("directory {} of the keepers' sockets", path.display()), error);
        // Opened once: what is checked is what is used, whatever becomes of the path meanwhile.
        let open = File::open(path).map_err(fail)?;
        let found = open.metadata().map_err(fail)?;
        let me = Uid::effective().as_raw();
        if found.uid() != me || found.mode() & 0o077 != 0 {
            return Err(Error::Invalid(format!(
                "directory {} may be used by others than user {me} (owner {}, mode {:o}): chmod 700, or remove it",
                path.display(),
                found.uid(),
                found.mode() & 0o777
            )));
        }
        Ok(KeepDirectory { path: path.to_owned(), open })
    }

    /// Listens under the name of an incarnation. Its name is there only once it listens: one that is there and at which
    /// nobody listens is left over from a process that was killed.
    pub(super) fn listen(self, me: Incarnation) -> Result<Listener> {
        let name = name_of(me);
        let open = || {
            let new = format!("{name}.new");
            let (socket, address) = self.socket(&new)?;
            bind(&socket, &address)?;
            listen(&socket, BACKLOG)?;
            renameat(&self.open, &new, &self.open, &name)?;
            Ok(socket)
        };
        let socket = open().map_err(|errno: Errno| self.error(&name, errno))?;
        Ok(Listener { socket, directory: self, name })
    }

    /// Fails at once if nobody listens, or if too many connections wait there.
    fn connect(&self, name: &str) -> std::result::Result<Channel, Errno> {
        let (socket, address) = self.socket(name)?;
        connect(&socket, &address)?;
        Ok(Channel::new(socket))
    }

    /// A socket, and the address of a name here.
    fn socket(&self, name: &str) -> std::result::Result<(OwnedFd, SocketAddrUnix), Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let path = format!("/proc/self/fd/{}/{name}", self.open.as_raw_fd());
        Ok((socket, SocketAddrUnix::new(path)?))
    }

    /// Removes what killed processes have left, if it is much: each socket is tried for that.
    pub(super) fn remove_stale(&self) {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        let names: Vec<String> = entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.ends_with(SUFFIX))
            .collect();
        if names.len() <= SOCKETS_MAX {
            return;
        }
        for name in names {
            if matches!(self.connect(&name), Err(Errno::CONNREFUSED)) {
                // Another process may have removed it meanwhile.
                let _ = unlinkat(&self.open, &name, AtFlags::empty());
            }
        }
    }

    fn error(&self, name: &str, errno: Errno) -> Error {
        Error::os(format!("socket {}", self.path.join(name).display()), errno)
    }
}

fn name_of(incarnation: Incarnation) -> String {
    format!("{:016x}{SUFFIX}", incarnation.0)
}

/// Connects to the socket of another process.
pub(super) fn connect_to(socket: &Path) -> Result<Channel> {
    let bad = || Error::Invalid(format!("{} is no socket's path", socket.display()));
    let (directory, name) = socket.parent().zip(socket.file_name()).ok_or_else(bad)?;
    let (directory, name) = (KeepDirectory::find(directory)?, name.to_str().ok_or_else(bad)?);
    directory.connect(name).map_err(|errno| directory.error(name, errno))
}

impl Listener {
    /// Where others find it.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path.join(&self.name)
    }

    /// Removes the name of another process's socket here, if it has left it.
    pub(super) fn remove_name_of(&self, ended: Incarnation) {
        let _ = unlinkat(&self.directory.open, name_of(ended), AtFlags::empty());
    }

    /// The next connection that waits, if any.
    pub(super) fn accept(&self) -> std::result::Result<Option<Channel>, nix::errno::Errno> {
        Channel::accept(&self.socket)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Others find nobody there; if it is gone already, so do they.
        let _ = unlinkat(&self.directory.open, &self.name, AtFlags::empty());
    }
}
