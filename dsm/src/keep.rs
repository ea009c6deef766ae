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
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use crate::config::keep::{ACCEPT_AGAIN, ANSWER_MAX, UNDECIDED_MAX};
use crate::error::{Error, Result};
use crate::page::{Incarnation, NodeId, Time};

mod channel;
mod checks;
mod descriptors;
mod directory;
mod end;
mod message;
#[cfg(test)]
mod tests;

pub(crate) use descriptors::raise_limit;
pub(crate) use directory::KeepDirectory;
pub(crate) use end::{has_ended, kill};

use channel::{Channel, Peer};
use directory::Listener;
use message::{Answer, Offer, Request};

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
    /// Its number, which it has until then.
    pub(crate) pid: u32,
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

/// Which process offers which node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Claim {
    /// The node.
    pub(crate) node: NodeId,
    /// Which of its starts.
    pub(crate) incarnation: Incarnation,
    /// The process that offers it, as the kernel says.
    pub(crate) pid: u32,
}

/// Whether a node may be kept here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Admission {
    /// It may.
    Granted,
    /// It may not, because; but perhaps soon may, after a view that others have already.
    NotYet(String),
    /// It may not, because.
    Refused(String),
}

/// A connection whose offer is not answered.
#[derive(Debug)]
struct Undecided {
    connection: Channel,
    /// An offer of a node that is not known here.
    offer: Option<(Offer, Vec<OwnedFd>)>,
    /// When it is refused.
    until: Time,
}

/// The keeper of one process, and its node's keepers elsewhere. No call waits for another process.
#[derive(Debug)]
pub(crate) struct Keeping {
    /// None: nothing is kept here.
    listener: Option<Listener>,
    /// Since then there is no descriptor for connections that wait, until this time.
    accepts_again: Option<Time>,
    /// Readable when [`Keeping::progress`] has something to do: watches the listener and all connections.
    readable: Epoll,
    undecided: Vec<Undecided>,
    kept: Vec<Kept>,
    offered: Vec<Offered>,
}

impl AsFd for Keeping {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.readable.0.as_fd()
    }
}

impl Keeping {
    /// Keeps nothing, and offers.
    pub(crate) fn new() -> Result<Keeping> {
        let fail = |errno: Errno| Error::os("watching the keepers' sockets", errno);
        let readable = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(fail)?;
        let (undecided, kept, offered) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Keeping { listener: None, accepts_again: None, readable, undecided, kept, offered })
    }

    /// Listens in `directory` under the name of an incarnation.
    pub(crate) fn listen(&mut self, directory: KeepDirectory, me: Incarnation) -> Result<()> {
        directory.remove_stale();
        let listener = directory.listen(me)?;
        let added = self.readable.add(&listener.socket, EpollEvent::new(EpollFlags::EPOLLIN, 0));
        added.map_err(|errno| Error::os("watching a keeper's socket", errno))?;
        self.listener = Some(listener);
        Ok(())
    }

    /// Where other processes find the socket, if this one listens.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.listener.as_ref().map(Listener::path)
    }

    /// The nodes of other processes whose files are held here.
    pub(crate) fn kept(&self) -> &[Kept] {
        &self.kept
    }

    /// Ends all of it.
    pub(crate) fn end(&mut self) {
        self.listener = None;
        self.accepts_again = None;
        self.undecided.clear();
        self.kept.clear();
        self.offered.clear();
    }

    /// Forgets keepers elsewhere that are not to keep anything any longer: they have ended.
    pub(crate) fn retain_keepers(&mut self, is_keeper: impl Fn(Incarnation) -> bool) {
        self.offered.retain(|offered| is_keeper(offered.keeper));
    }

    /// Closes the files of the nodes that are not to be kept any longer, because they are no members. One that was
    /// killed has left its socket's name.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(Incarnation) -> bool) {
        for kept in self.kept.extract_if(.., |kept| !is_kept(kept.incarnation)) {
            if let Some(listener) = &self.listener {
                listener.remove_name_of(kept.incarnation);
            }
        }
    }

    /// The files of a node that are held here.
    pub(crate) fn find(&self, incarnation: Incarnation) -> Option<&Kept> {
        self.kept.iter().find(|kept| kept.incarnation == incarnation)
    }

    /// Takes the files of a node out, to go on with it. Its process has ended and has left its socket's name.
    pub(crate) fn take(&mut self, incarnation: Incarnation) -> Option<Kept> {
        let at = self.kept.iter().position(|kept| kept.incarnation == incarnation)?;
        if let Some(listener) = &self.listener {
            listener.remove_name_of(incarnation);
        }
        Some(self.kept.swap_remove(at))
    }

    /// Who keeps a node of this process, and who has been asked to.
    pub(crate) fn keepers_of(&self, of: Incarnation) -> impl Iterator<Item = (Incarnation, bool)> {
        self.offered
            .iter()
            .filter(move |offered| offered.of == of)
            .map(|offered| (offered.keeper, offered.stage == Stage::Kept))
    }

    /// Offers a node's files to the process of another node, which listens at `socket`; [`Keeping::progress`] tells what
    /// becomes of it. The files are handed over before this returns. An error: there is nobody, or it is another user's
    /// process.
    pub(crate) fn offer(
        &mut self,
        now: Time,
        (to, socket): (Incarnation, &Path),
        estate: &Estate<'_>,
    ) -> Result<()> {
        let fail = |errno: Errno| Error::os("offering this node's memory to another process", errno);
        let connection = directory::connect_to(socket)?;
        // The other side checks this process; files of a node go to nobody else's process either.
        connection.peer().map_err(Error::Refused)?;
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

    /// Some keepers of a node of this process are needed no longer: they close its files. One that does not hear it
    /// finds out when the node is no member any more.
    pub(crate) fn release(&mut self, of: Incarnation, needless: impl Fn(Incarnation) -> bool) {
        let is_needless = |offered: &mut Offered| offered.of == of && needless(offered.keeper);
        for offered in self.offered.extract_if(.., is_needless) {
            let _ = offered.connection.send(&Request::Forget, &[]);
        }
    }

    /// When time alone makes a difference.
    pub(crate) fn deadline(&self) -> Option<Time> {
        let until = |offered: &Offered| match offered.stage {
            Stage::Asked { until } => Some(until),
            Stage::Kept => None,
        };
        let undecided = self.undecided.iter().filter(|undecided| undecided.offer.is_some());
        let offered = self.offered.iter().filter_map(until);
        offered.chain(undecided.map(|undecided| undecided.until)).chain(self.accepts_again).min()
    }

    /// Accepts connections, reads requests and answers, and answers them. `admits` says whether a node may be kept
    /// here beside those that are.
    pub(crate) fn progress(
        &mut self,
        now: Time,
        admits: impl Fn(&Claim, &[Kept]) -> Admission,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        self.read_answers(now, &mut changes);
        self.read_requests_of_kept(&mut changes);
        self.accept(now);
        for Undecided { connection, offer, until } in std::mem::take(&mut self.undecided) {
            let received = match offer {
                // It has gone, or says what nobody asks for.
                Some(_) if connection.is_readable() => Err(Errno::EBADMSG),
                Some(offer) => Ok(offer),
                None => match connection.receive() {
                    Ok((Request::Offer(offer), files)) => Ok((offer, files)),
                    Ok((Request::Forget, _)) => Err(Errno::EBADMSG),
                    Err(errno) => Err(errno),
                },
            };
            match received {
                Ok((offer, files)) => match self.decide(&offer, &files, &connection, (now, until), &admits) {
                    Some(verdict) => changes.push(self.answer(&offer, files, connection, verdict)),
                    None => self.undecided.push(Undecided { connection, offer: Some((offer, files)), until }),
                },
                Err(Errno::EAGAIN) => self.undecided.push(Undecided { connection, offer: None, until }),
                // Closed, or a message that no node sends: there is nobody to answer.
                Err(_) => {}
            }
        }
        changes
    }

    fn accept(&mut self, now: Time) {
        let Some(listener) = &self.listener else { return };
        if self.accepts_again.is_some_and(|again| now < again) {
            return;
        }
        if self.accepts_again.take().is_some() {
            self.listen_for(EpollFlags::EPOLLIN);
        }
        loop {
            match listener.accept() {
                Ok(Some(connection)) => {
                    if self.undecided.len() == UNDECIDED_MAX {
                        self.undecided.remove(0);
                    }
                    // One that cannot be watched would wait for ever; its closing tells the other end.
                    if self.watch(&connection).is_ok() {
                        let until = now + ANSWER_MAX;
                        self.undecided.push(Undecided { connection, offer: None, until });
                    }
                }
                Ok(None) => return,
                Err(Errno::ECONNABORTED | Errno::EINTR) => {}
                // No descriptor, or no memory. What waits would wake for ever.
                Err(_) => {
                    self.accepts_again = Some(now + ACCEPT_AGAIN);
                    return self.listen_for(EpollFlags::empty());
                }
            }
        }
    }

    fn listen_for(&self, events: EpollFlags) {
        let Some(listener) = &self.listener else { return };
        let modified = self.readable.modify(&listener.socket, &mut EpollEvent::new(events, 0));
        modified.expect("the socket is on the list, and the list exists");
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

    /// The verdict on an offer; none if it must wait.
    fn decide(
        &self,
        offer: &Offer,
        files: &[OwnedFd],
        connection: &Channel,
        (now, until): (Time, Time),
        admits: &impl Fn(&Claim, &[Kept]) -> Admission,
    ) -> Option<std::result::Result<Peer, String>> {
        let peer = match connection.peer() {
            Ok(peer) => peer,
            Err(why) => return Some(Err(why)),
        };
        // Of an ended process, only another one that runs its node on offers the files again.
        let is_kept = |kept: &Kept| {
            kept.incarnation == offer.incarnation && kept.connection.is_some() && !kept.has_ended()
        };
        if self.kept.iter().any(is_kept) {
            return Some(Err("its files are kept here already".to_owned()));
        }
        // Before what takes longer.
        if let Err(why) = check_files(offer, files) {
            return Some(Err(why));
        }
        let claim = Claim { node: offer.node, incarnation: offer.incarnation, pid: peer.pid };
        match admits(&claim, &self.kept) {
            Admission::Granted => Some(descriptors::room().map(|()| peer)),
            Admission::NotYet(_) if now < until => None,
            Admission::NotYet(why) | Admission::Refused(why) => Some(Err(why)),
        }
    }

    fn answer(
        &mut self,
        offer: &Offer,
        files: Vec<OwnedFd>,
        connection: Channel,
        verdict: std::result::Result<Peer, String>,
    ) -> Change {
        let &Offer { node, incarnation, .. } = offer;
        let refused = |why: &dyn std::fmt::Display| Change::Refused(format!("{node}: {why}"));
        let mut files = files.into_iter().map(File::from);
        let (Peer { pid, process }, arena, record) = match (verdict, files.next(), files.next()) {
            (Ok(peer), Some(arena), Some(record)) => (peer, arena, record),
            (Ok(_), _, _) => unreachable!("the files of a granted offer were counted"),
            (Err(why), ..) => {
                // If it does not hear the answer, it hears the end of the connection.
                let _ = connection.answer(&Answer::No(why.clone()));
                return refused(&why);
            }
        };
        match connection.answer(&Answer::Kept) {
            // It does not know that it is kept, so it is not.
            Err(errno) => refused(&errno),
            Ok(()) => {
                let connection = Some(connection);
                self.kept.retain(|kept| kept.incarnation != incarnation);
                self.kept.push(Kept { node, incarnation, arena, record, process, pid, connection });
                Change::Holds(incarnation)
            }
        }
    }
}

fn check_files(offer: &Offer, files: &[OwnedFd]) -> std::result::Result<(), String> {
    let [arena, record] = files else {
        return Err("an offer comes with two descriptors".to_owned());
    };
    checks::sealed(arena, offer.arena_len).map_err(|why| format!("its arena {why}"))?;
    checks::sealed(record, offer.record_len).map_err(|why| format!("its record {why}"))
}
