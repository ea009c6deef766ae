//! Who serves which interface: every node has a copy of the coordinator's directory, so that a call
//! finds its server without asking anybody.
//!
//! The coordinator numbers the changes and tells everybody (`control.rs`). Departures need no telling:
//! each node takes a member out when its own view says that it has gone.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Weak;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

use super::Runtime;
use super::control_stubs as wire;
use crate::config::rpc::DEPARTED_MAX;
use crate::fork;
use crate::page::{GlobalAddr, Incarnation, NodeId, PageId};
use crate::rpc::{PeerId, Registry};

/// A node's copy of the directory; at the coordinator, the directory itself.
#[derive(Default)]
pub(super) struct Directory {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    number: u64,
    services: BTreeMap<String, Vec<PeerId>>,
    /// Who has gone lately: a directory on its way may still name them.
    departed: VecDeque<Incarnation>,
    /// This node goes on no longer: nothing new comes.
    ended: bool,
}

impl Directory {
    /// At the coordinator: one more server of an interface.
    pub(super) fn publish(&self, name: &str, peer: PeerId) {
        let mut state = self.state.lock();
        if state.departed.contains(&peer.incarnation) {
            return;
        }
        let servers = state.services.entry(name.to_owned()).or_default();
        if let Err(at) = servers.binary_search(&peer) {
            servers.insert(at, peer);
            state.number += 1;
            self.changed.notify_all();
        }
    }

    /// Takes a newer directory; an older one arrived late and says nothing new.
    pub(super) fn take(&self, newer: &wire::Directory) {
        let mut state = self.state.lock();
        if newer.number <= state.number {
            return;
        }
        state.number = newer.number;
        let mut services = BTreeMap::new();
        for served in &newer.services {
            let present = |peer: &PeerId| !state.departed.contains(&peer.incarnation);
            let servers = served.servers.iter().map(PeerId::from).filter(present).collect();
            services.insert(served.name.clone(), servers);
        }
        state.services = services;
        self.changed.notify_all();
    }

    /// A member has gone.
    pub(super) fn forget(&self, peer: PeerId) {
        let mut state = self.state.lock();
        state.services.values_mut().for_each(|servers| servers.retain(|server| *server != peer));
        state.departed.push_back(peer.incarnation);
        if state.departed.len() > DEPARTED_MAX {
            state.departed.pop_front();
        }
    }

    /// The whole, to be sent.
    pub(super) fn to_wire(&self) -> wire::Directory {
        let state = self.state.lock();
        let start = |peer: &PeerId| wire::Start { node: peer.node.0, incarnation: peer.incarnation.0 };
        let served = |(name, servers): (&String, &Vec<PeerId>)| wire::Served {
            name: name.clone(),
            servers: servers.iter().map(start).collect(),
        };
        wire::Directory { number: state.number, services: state.services.iter().map(served).collect() }
    }

    /// The servers of an interface, by ascending node.
    pub(super) fn servers(&self, name: &str) -> Vec<PeerId> {
        self.state.lock().services.get(name).cloned().unwrap_or_default()
    }

    /// This node goes on no longer.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until somebody serves the interface; false if nobody did in time, or before the end.
    pub(super) fn wait_for(&self, name: &str, until: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        let missing = |state: &State| state.services.get(name).is_none_or(Vec::is_empty);
        while missing(&state) && !state.ended {
            match until {
                None => self.changed.wait(&mut state),
                Some(until) => {
                    if self.changed.wait_until(&mut state, until).timed_out() {
                        break;
                    }
                }
            }
        }
        !missing(&state)
    }
}

impl From<&wire::Start> for PeerId {
    fn from(start: &wire::Start) -> PeerId {
        PeerId { node: NodeId(start.node), incarnation: Incarnation(start.incarnation) }
    }
}

/// The directory as channels look into it.
pub(super) struct Servers {
    pub(super) node: Weak<Runtime>,
}

impl Registry for Servers {
    fn servers(&self, interface: &str) -> Vec<PeerId> {
        // A forked child finds no server: the directory may be locked by a thread of its parent.
        let node = self.node.upgrade().filter(|_| !fork::is_child());
        node.map(|runtime| runtime.calls.directory.servers(interface)).unwrap_or_default()
    }

    fn home(&self, addr: GlobalAddr) -> Option<NodeId> {
        let runtime = self.node.upgrade()?;
        runtime.with_machine(|machine| machine.coherence()?.home(PageId::of(addr)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(node: u16) -> PeerId {
        PeerId { node: NodeId(node), incarnation: Incarnation(u64::from(node) + 100) }
    }

    #[test]
    fn servers_are_published_once_and_in_the_order_of_their_nodes() {
        let directory = Directory::default();
        [3, 1, 3, 2].into_iter().for_each(|node| directory.publish("Echo", peer(node)));
        assert_eq!(directory.servers("Echo"), [peer(1), peer(2), peer(3)]);
        assert_eq!(directory.to_wire().number, 3);
        assert_eq!(directory.servers("Nobody"), []);
    }

    #[test]
    fn an_older_directory_that_arrives_late_changes_nothing() {
        let (coordinator, copy) = (Directory::default(), Directory::default());
        coordinator.publish("Echo", peer(1));
        let older = coordinator.to_wire();
        coordinator.publish("Echo", peer(2));
        copy.take(&coordinator.to_wire());
        copy.take(&older);
        assert_eq!(copy.servers("Echo"), [peer(1), peer(2)]);
    }

    #[test]
    fn a_directory_on_its_way_brings_nobody_back_who_has_gone() {
        let (coordinator, copy) = (Directory::default(), Directory::default());
        [1, 2].into_iter().for_each(|node| coordinator.publish("Echo", peer(node)));
        copy.forget(peer(1));
        copy.take(&coordinator.to_wire());
        assert_eq!(copy.servers("Echo"), [peer(2)]);
        coordinator.forget(peer(1));
        coordinator.publish("Echo", peer(1));
        assert_eq!(coordinator.servers("Echo"), [peer(2)]);
    }
}
