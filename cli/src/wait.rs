//! Waiting for whichever of several descriptors is ready first, up to a deadline.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::trouble::Trouble;

/// What to wait for on one descriptor.
pub(crate) enum Interest {
    /// Bytes to read, an end of file, or (of a pidfd) the end of the process.
    Read,
    /// Room to write, or nobody there to read it.
    Write,
}

/// Waits until some are ready and gives their keys; none when the deadline has come.
pub(crate) fn wait<K: Copy>(
    sources: &[(K, BorrowedFd<'_>, Interest)],
    deadline: Option<Instant>,
) -> Result<Vec<K>, Trouble> {
    let mut fds: Vec<PollFd> = sources
        .iter()
        .map(|(_, fd, interest)| {
            let flags = match interest {
                Interest::Read => PollFlags::POLLIN,
                Interest::Write => PollFlags::POLLOUT,
            };
            PollFd::new(*fd, flags)
        })
        .collect();
    loop {
        match poll(&mut fds, timeout(deadline)) {
            Ok(_) => break,
            Err(Errno::EINTR) => {}
            Err(error) => return Err(Trouble::os("wait for events", error)),
        }
    }
    let ready = |fd: &PollFd| fd.revents().is_some_and(|events| !events.is_empty());
    Ok(fds.iter().zip(sources).filter(|(fd, _)| ready(fd)).map(|(_, (key, _, _))| *key).collect())
}

/// The time until the deadline, in whole milliseconds, rounded up so that the deadline has come on return.
fn timeout(deadline: Option<Instant>) -> PollTimeout {
    let Some(deadline) = deadline else { return PollTimeout::NONE };
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
