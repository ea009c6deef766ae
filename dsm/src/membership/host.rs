//! Which members share a machine: where the number of a process means the same process, and where a
//! loopback address leads to the same socket. Reads nothing itself; the node's shell fills it in.

use serde::{Deserialize, Serialize};

use super::{Introduction, Membership};
use crate::config::membership::HOST_LEN_MAX;

/// What a node knows about its surroundings. An empty text says that the node could not find it out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HostId {
    /// The kernel's boot and the namespace of process ids.
    pub processes: String,
    /// The kernel's boot and the network namespace.
    pub network: String,
}

impl HostId {
    /// Whether both nodes know that a process id means the same process to them. Not if one of them does not
    /// know where it runs: that node is treated as if it ran on a host of its own.
    pub fn shares_processes(&self, other: &HostId) -> bool {
        !self.processes.is_empty() && self.processes == other.processes
    }

    /// Whether both nodes know that they have different loopback interfaces. Containers of one machine may
    /// share the interface, though not their process ids.
    fn has_other_loopback(&self, other: &HostId) -> bool {
        !self.network.is_empty() && !other.network.is_empty() && self.network != other.network
    }

    pub(super) fn is_sound(&self) -> bool {
        self.processes.len() <= HOST_LEN_MAX && self.network.len() <= HOST_LEN_MAX
    }
}

/// Why a member could not send to a newcomer at the address that the newcomer names, or the newcomer to a
/// member.
pub(super) fn unreachable(shared: &Membership, intro: &Introduction) -> Option<String> {
    let addr = intro.addr;
    if addr.ip().is_unspecified() {
        return Some(format!(
            "it listens at {addr}, to which nobody can send: bind it to an address of its host"
        ));
    }
    let elsewhere = |host: &HostId| host.has_other_loopback(&intro.host);
    for member in shared.view.running().filter(|member| elsewhere(&member.intro.host)) {
        let described = member.describe();
        if addr.ip().is_loopback() {
            return Some(format!(
                "it listens at {addr}, to which {described} on another host cannot send: bind it to an address of its host"
            ));
        }
        if member.intro.addr.ip().is_loopback() {
            return Some(format!(
                "{described} listens at a loopback address, to which another host cannot send: start the cluster with addresses of its hosts"
            ));
        }
    }
    None
}
