//! What a keeper checks of a file before it holds it: that it is memory, as long as the node says, and that
//! nobody can make it shorter, so that a mapping of it never ends in a bus error.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::stat::{SFlag, fstat};

use crate::fault::LENGTH_SEALS;

/// Bytes of a file.
pub(super) fn len(file: impl AsFd) -> Result<u64, Errno> {
    Ok(u64::try_from(fstat(file)?.st_size).unwrap_or(0))
}

/// Says what is wrong with a file that should be sealed memory of `len` bytes.
pub(super) fn sealed(file: &OwnedFd, len_told: u64) -> Result<(), String> {
    let stat = fstat(file).map_err(|errno| format!("cannot be looked at: {errno}"))?;
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return Err("is no file".to_owned());
    }
    let len = u64::try_from(stat.st_size).unwrap_or(0);
    if len != len_told {
        return Err(format!("has {len} bytes, and the node says {len_told}"));
    }
    // Only memory files have seals.
    let found =
        fcntl(file.as_fd(), FcntlArg::F_GET_SEALS).map_err(|errno| format!("has no seals: {errno}"))?;
    let found = SealFlag::from_bits_retain(found);
    if !found.contains(LENGTH_SEALS) {
        return Err("can be made shorter by others: it is not sealed".to_owned());
    }
    if found.intersects(SealFlag::F_SEAL_WRITE) {
        return Err("cannot be written: it is sealed against it".to_owned());
    }
    // Seals do not tell a descriptor that was opened for reading.
    let flags =
        fcntl(file.as_fd(), FcntlArg::F_GETFL).map_err(|errno| format!("cannot be looked at: {errno}"))?;
    if flags & libc::O_ACCMODE != libc::O_RDWR {
        return Err(format!("is open for reading only (descriptor {})", file.as_raw_fd()));
    }
    Ok(())
}
