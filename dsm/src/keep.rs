//! The memory of a node outlives its process: other processes of its host, its *keepers*, hold the
//! descriptors of its memory files.
//!
//! A node offers two files, the arena's and the record's, to processes of the same user on the same host,
//! through a socket of the file system. A keeper looks at the offer, never at the files' bytes, and holds the
//! descriptors until the node says that it needs them no longer; the bytes stay as long as anybody holds them,
//! whatever ends the node's process, and at whichever instruction. Which process then goes on with the node is
//! decided elsewhere: this module moves descriptors and says what is wrong with an offer.
//!
//! A connection is one exchange and then idles: its end tells the keeper nothing (a forked child may hold it open,
//! and `exec` may close it), so the keeper also has a descriptor of the process itself.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::error::{Error, Result};
use crate::page::{Incarnation, NodeId, Span, Time};

mod channel;
mod checks;
mod directory;
mod message;
#[cfg(test)]
mod tests;

pub(crate) use directory::KeepDirectory;

use channel::Channel;
use message::{Answer, Offer, Request};

/// Connections that were accepted and have sent nothing yet. Above, the oldest is closed.
const UNREAD_MAX: usize = 64;
/// An offer without an answer for so long has failed. A keeper answers from its progress thread.
const ANSWER_MAX: Span = Span::from_ms(5_000);

/// What a node hands to its keepers: its name and its two files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Estate<'a> {
    /// The node.
    pub(crate) node: NodeId,
    /// Which of its starts.
    pub(crate) incarnation: Incarnation,
    /// The file of its pages.
    pub(crate) arena: BorrowedFd<'a>,
    /// The file that tells which version of each page lies there.
    pub(crate) record: BorrowedFd<'a>,
}

/// A node whose files this process holds.
#[derive(Debug)]
pub(crate) struct Kept {
    /// The node.
    pub(crate) node: NodeId,
    /// Which of its starts.
    pub(crate) incarnation: Incarnation,
    /// The file of its pages.
    pub(crate) arena: File,
    /// The file that tells which version of each page lies there.
    pub(crate) record: File,
    /// Readable when the process that offered the files has ended.
    pub(crate) process: OwnedFd,
    /// None once the other end has closed it.
    connection: Option<Channel>,
}

/// What has become of offers, of this process's and of others'.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// The files of another process's node are held here from now on; none of this incarnation were before.
    Holds(Incarnation),
    /// Another process's node needs its files no longer; they are closed.
    Forgot(Incarnation),
    /// An offer of another process was refused.
    Refused(String),
    /// A keeper holds the files of a node that this process has offered.
    KeptBy {
        /// The node's start.
        of: Incarnation,
        /// The keeper's.
        keeper: Incarnation,
    },
    /// An offer of this process has failed.
    OfferFailed {
        /// The node's start.
        of: Incarnation,
        /// The start of the node that was to keep it.
        keeper: Incarnation,
        /// Why.
        why: String,
    },
}

/// An offer of this process, to one keeper.
#[derive(Debug)]
struct Offered {
    of: Incarnation,
    keeper: Incarnation,
    connection: Channel,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    Asked { until: Time },
    Kept,
}

/// The keeper of one process, and its node's keepers elsewhere. No call waits for another process.
#[derive(Debug)]
pub(crate) struct Keeping {
    directory: KeepDirectory,
    listener: OwnedFd,
    socket: PathBuf,
    /// Readable when [`Keeping::progress`] has something to do: watches the listener and all connections.
    readable: Epoll,
    unread: Vec<Channel>,
    kept: Vec<Kept>,
    /// Nodes held at most: each costs four descriptors.
    kept_max: usize,
    offered: Vec<Offered>,
}

impl AsFd for Keeping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.0.as_fd()
    }
}

impl Keeping {
    /// Listens in `directory` under the name of an incarnation.
    pub(crate) fn listen(directory: KeepDirectory, me: Incarnation, kept_max: usize) -> Result<Keeping> {
        let fail = |errno: Errno| Error::os("watching the keepers' sockets", errno);
        let socket = directory.socket_of(me);
        let listener = directory.listen(me)?;
        let readable = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fail)?;
        readable.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, 0)).map_err(fail)?;
        let (unread, kept, offered) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Keeping { directory, listener, socket, readable, unread, kept, kept_max, offered })
    }

    /// The nodes of other processes whose files are held here.
    pub(crate) fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Takes the files of a node out, to go on with it or to close them.
    pub(crate) fn take(&mut self, incarnation: Incarnation) -> Option<Kept> {
        let at = self.kept.iter().position(|kept| kept.incarnation == incarnation)?;
        Some(self.kept.swap_remove(at))
    }

    /// Who keeps a node of this process, and who has been asked to.
    pub(crate) fn keepers_of(&self, of: Incarnation) -> impl Iterator<Item = (Incarnation, bool)> {
        self.offered
            .iter()
            .filter(move |offered| offered.of == of)
            .map(|offered| (offered.keeper, offered.stage == Stage::Kept))
    }

    /// Offers a node's files to the process of another node; [`Keeping::progress`] tells what becomes of it. The files
    /// are handed over before this returns. An error: there is nobody, or it is another user's process.
    pub(crate) fn offer(&mut self, now: Time, to: Incarnation, estate: &Estate<'_>) -> Result<()> {
        let fail = |errno: Errno| Error::os("offering this node's memory to another process", errno);
        let connection = self.directory.connect(to)?;
        // The other side checks this process; files of a node go to nobody else's process either.
        connection.peer_process().map_err(Error::Refused)?;
        let offer = Offer {
            node: estate.node,
            incarnation: estate.incarnation,
            arena_len: checks::len(estate.arena).map_err(fail)?,
            record_len: checks::len(estate.record).map_err(fail)?,
        };
        connection.send(&Request::Offer(offer), &[estate.arena, estate.record]).map_err(fail)?;
        self.watch(&connection).map_err(fail)?;
        let stage = Stage::Asked { until: now + ANSWER_MAX };
        self.offered.push(Offered { of: estate.incarnation, keeper: to, connection, stage });
        Ok(())
    }

    /// A node of this process has ended, and nothing of it is needed: its keepers close its files. A keeper that does
    /// not hear it finds out by the next view.
    pub(crate) fn release(&mut self, of: Incarnation) {
        for offered in self.offered.extract_if(.., |offered| offered.of == of) {
            let _ = offered.connection.send(&Request::Forget, &[]);
        }
    }

    /// A process that was to keep a node of this one has ended, or is no member any more.
    pub(crate) fn drop_keeper(&mut self, keeper: Incarnation) {
        self.offered.retain(|offered| offered.keeper != keeper);
    }

    /// When an offer of this process fails for want of an answer.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let until = |offered: &Offered| match offered.stage {
            Stage::Asked { until } => Some(until),
            Stage::Kept => None,
        };
        self.offered.iter().filter_map(until).min()
    }

    /// Accepts connections, reads requests and answers, and answers them. `admits` says whether a node of this name may
    /// be kept here, or why not.
    pub(crate) fn progress(
        &mut self,
        now: Time,
        admits: impl Fn(NodeId, Incarnation) -> std::result::Result<(), String>,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        self.read_answers(now, &mut changes);
        self.read_requests_of_kept(&mut changes);
        while let Ok(Some(connection)) = Channel::accept(&self.listener) {
            if self.unread.len() == UNREAD_MAX {
                self.unread.remove(0);
            }
            // One that cannot be watched would wait for ever; its closing tells the other end.
            if self.watch(&connection).is_ok() {
                self.unread.push(connection);
            }
        }
        for connection in std::mem::take(&mut self.unread) {
            match connection.receive() {
                Err(Errno::EAGAIN) => self.unread.push(connection),
                // Closed, or a message that no node sends: there is nobody to answer.
                Err(_) | Ok((Request::Forget, _)) => {}
                Ok((Request::Offer(offer), files)) => {
                    changes.push(self.hold(&offer, files, connection, &admits));
                }
            }
        }
        changes
    }

    fn watch(&self, connection: &Channel) -> std::result::Result<(), Errno> {
        // Closing a descriptor takes it off the list.
        self.readable.add(connection, EpollEvent::new(EpollFlags::EPOLLIN, 0))
    }

    fn read_answers(&mut self, now: Time, changes: &mut Vec<Change>) {
        self.offered.retain_mut(|offered| {
            let (of, keeper) = (offered.of, offered.keeper);
            let mut failed = |why: String| {
                changes.push(Change::OfferFailed { of, keeper, why });
                false
            };
            match (offered.stage, offered.connection.receive_answer()) {
                (Stage::Asked { until }, Err(Errno::EAGAIN)) if now < until => true,
                (Stage::Asked { .. }, Err(Errno::EAGAIN)) => failed("no answer".to_owned()),
                (Stage::Asked { .. }, Ok(Answer::Kept)) => {
                    offered.stage = Stage::Kept;
                    changes.push(Change::KeptBy { of, keeper });
                    true
                }
                (Stage::Kept, Err(Errno::EAGAIN)) => true,
                (_, Ok(Answer::No(why))) => failed(why),
                (_, Err(errno)) => failed(errno.to_string()),
                (Stage::Kept, Ok(Answer::Kept)) => failed("it answers twice".to_owned()),
            }
        });
    }

    fn read_requests_of_kept(&mut self, changes: &mut Vec<Change>) {
        self.kept.retain_mut(|kept| match kept.connection.as_ref().map(Channel::receive) {
            None | Some(Err(Errno::EAGAIN)) => true,
            Some(Ok((Request::Forget, _))) => {
                changes.push(Change::Forgot(kept.incarnation));
                false
            }
            // Its process may live and have closed it; what it has handed over stays here.
            Some(Err(_) | Ok((Request::Offer(_), _))) => {
                kept.connection = None;
                true
            }
        });
    }

    /// Answers an offer.
    fn hold(
        &mut self,
        offer: &Offer,
        files: Vec<OwnedFd>,
        connection: Channel,
        admits: &impl Fn(NodeId, Incarnation) -> std::result::Result<(), String>,
    ) -> Change {
        let &Offer { node, incarnation, .. } = offer;
        let refused = |why: &dyn std::fmt::Display| Change::Refused(format!("{node}: {why}"));
        match self.examine(offer, files, &connection, admits) {
            Err(why) => {
                // If it does not hear the answer, it hears the end of the connection.
                let _ = connection.answer(&Answer::No(why.clone()));
                refused(&why)
            }
            Ok((arena, record, process)) => match connection.answer(&Answer::Kept) {
                // It does not know that it is kept, so it is not.
                Err(errno) => refused(&errno),
                Ok(()) => {
                    let connection = Some(connection);
                    self.kept.push(Kept { node, incarnation, arena, record, process, connection });
                    Change::Holds(incarnation)
                }
            },
        }
    }

    fn examine(
        &self,
        offer: &Offer,
        files: Vec<OwnedFd>,
        connection: &Channel,
        admits: &impl Fn(NodeId, Incarnation) -> std::result::Result<(), String>,
    ) -> std::result::Result<(File, File, OwnedFd), String> {
        let process = connection.peer_process()?;
        if self.kept.len() >= self.kept_max {
            return Err(format!("{} nodes are kept here already, and no more can be", self.kept.len()));
        }
        if self.kept.iter().any(|kept| kept.incarnation == offer.incarnation) {
            return Err("its files are kept here already".to_owned());
        }
        admits(offer.node, offer.incarnation)?;
        let mut files = files.into_iter().map(File::from);
        let (Some(arena), Some(record), None) = (files.next(), files.next(), files.next()) else {
            return Err("an offer comes with two descriptors".to_owned());
        };
        checks::sealed(&arena, offer.arena_len).map_err(|why| format!("its arena {why}"))?;
        checks::sealed(&record, offer.record_len).map_err(|why| format!("its record {why}"))?;
        Ok((arena, record, process))
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        // Others find nobody there; if it is gone already, so do they.
        let _ = std::fs::remove_file(&self.socket);
    }
}
