//! Where the sockets of the nodes of one user on one host lie.

use std::fs::{DirBuilder, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::Uid;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::channel::Channel;
use crate::error::{Error, Result};
use crate::page::Incarnation;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 64;

/// A directory that only this user can change. The sockets in it are reached by the open directory, so that
/// neither a long path (an address of a socket has 108 bytes) nor a directory that is replaced meanwhile matters.
#[derive(Debug)]
pub(crate) struct KeepDirectory {
    path: PathBuf,
    open: File,
}

impl KeepDirectory {
    /// Opens the directory, and makes it if it is missing. It must be this user's and closed to others.
    pub(crate) fn open(path: &Path) -> Result<KeepDirectory> {
        let fail = |error| Error::os(format!("directory {} of the keepers' sockets", path.display()), error);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fail)?;
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

    /// For messages; the socket is reached by the open directory.
    pub(super) fn socket_of(&self, of: Incarnation) -> PathBuf {
        self.path.join(name(of))
    }

    /// A socket, and the address under which the node is reached by it.
    fn socket(&self, of: Incarnation) -> rustix::io::Result<(OwnedFd, SocketAddrUnix)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        let path = format!("/proc/self/fd/{}/{}", self.open.as_raw_fd(), name(of));
        Ok((socket, SocketAddrUnix::new(path)?))
    }

    pub(super) fn listen(&self, me: Incarnation) -> Result<OwnedFd> {
        let open = || {
            let (listener, address) = self.socket(me)?;
            bind(&listener, &address)?;
            listen(&listener, BACKLOG)?;
            Ok(listener)
        };
        open().map_err(|errno: rustix::io::Errno| self.error(me, errno))
    }

    /// Fails at once if nobody listens, or if too many connections wait there.
    pub(super) fn connect(&self, to: Incarnation) -> Result<Channel> {
        let open = || {
            let (socket, address) = self.socket(to)?;
            connect(&socket, &address)?;
            Ok(Channel::new(socket))
        };
        open().map_err(|errno: rustix::io::Errno| self.error(to, errno))
    }

    fn error(&self, of: Incarnation, errno: rustix::io::Errno) -> Error {
        Error::os(format!("socket {}", self.socket_of(of).display()), errno)
    }
}

fn name(of: Incarnation) -> String {
    format!("{:016x}.keep", of.0)
}
