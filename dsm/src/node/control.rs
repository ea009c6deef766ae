//! What a node serves of itself: its status to whoever asks, the directory of servers, and at the
//! coordinator the few commands of an operator. `control.idl` is the list.
//!
//! Joins, views, regions, leaves and deaths stay messages of the membership core: the simulator sends
//! those, and they must travel when no thread of the node is free to run a call.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::collective::Refusal;
use super::control_stubs::{
    Cluster, ClusterClient, ClusterPublishError, ClusterRemoveRegionError, ClusterServer, Directory, Node,
    NodeCalls, NodeServer, Rank, RankServer, Refused, RegionPlace,
};
use super::directory::Servers;
use super::status::{cluster_status, whole_status};
use super::{Node as Handle, Runtime};
use crate::coherence::BarrierId;
use crate::config::rpc::{DIRECTORY_TELL_WAIT, DIRECTORY_WAIT};
use crate::error::{Error, Result};
use crate::fork;
use crate::machine::Machine;
use crate::membership::{COORDINATOR, Kind, Membership};
use crate::page::{GlobalAddr, PageId};
use crate::rpc::{self, Channel, Context, PeerId, Policy, Service, serve_meta};

/// The node behind its services. Weak: the node owns them.
struct Of(Weak<Runtime>);

impl Of {
    fn runtime(&self) -> std::result::Result<Arc<Runtime>, rpc::Error> {
        self.0.upgrade().ok_or_else(|| rpc::Error::remote("the node is leaving"))
    }

    /// Does something to the machine and sends what follows of it.
    fn command<T>(&self, command: impl FnOnce(&mut Machine) -> T) -> std::result::Result<T, rpc::Error> {
        Ok(self.runtime()?.command(command))
    }
}

impl Node for Of {
    fn status(&self, _: &Context<'_>) -> std::result::Result<String, rpc::Error> {
        let runtime = self.runtime()?;
        let status = whole_status(&runtime);
        serde_json::to_string(&status).map_err(rpc::Error::remote)
    }

    fn region(&self, _: &Context<'_>, name: &str) -> std::result::Result<Option<RegionPlace>, rpc::Error> {
        self.command(|machine| {
            let record = machine.membership()?.regions().find(|record| record.name == name)?;
            let GlobalAddr(addr) = record.info.start.start();
            let (name, len, element) = (record.name.clone(), record.bytes, record.element.size);
            Some(RegionPlace { name, addr, len, element })
        })
    }

    fn take_directory(
        &self,
        context: &Context<'_>,
        directory: Directory,
    ) -> std::result::Result<(), rpc::Error> {
        if context.peer().node != COORDINATOR {
            return Err(rpc::Error::remote("only the coordinator says who serves what"));
        }
        self.runtime()?.calls.directory.take(&directory);
        Ok(())
    }

    fn lock_queue(&self, _: &Context<'_>, page: u64) -> std::result::Result<Vec<u16>, rpc::Error> {
        Ok(self.runtime()?.lock_queue(PageId(page)).into_iter().map(|node| node.0).collect())
    }

    fn lock_held_ms(&self, _: &Context<'_>, page: u64) -> std::result::Result<Option<u64>, rpc::Error> {
        Ok(self.runtime()?.lock_held_for(PageId(page)).map(|held| held.0 / 1_000_000))
    }

    fn barrier_missing(
        &self,
        _: &Context<'_>,
        program: u64,
        index: u32,
    ) -> std::result::Result<Vec<u16>, rpc::Error> {
        let missing = self.runtime()?.barrier_missing(BarrierId { program, index });
        Ok(missing.iter().map(|node| node.0).collect())
    }

    fn waits_in(&self, _: &Context<'_>) -> std::result::Result<Vec<String>, rpc::Error> {
        Ok(self.runtime()?.waits_in())
    }
}

impl Rank for Of {
    fn bring(
        &self,
        context: &Context<'_>,
        number: u64,
        what: &str,
        value: &[u8],
    ) -> std::result::Result<(), rpc::Error> {
        self.runtime()?.take_letter(context.peer(), number, what, Ok(value))
    }

    fn refuse(&self, context: &Context<'_>, number: u64, why: &str) -> std::result::Result<(), rpc::Error> {
        let refusal = Refusal::Failed(why.to_owned());
        self.runtime()?.take_letter(context.peer(), number, "", Err(refusal))
    }

    fn lacks(&self, context: &Context<'_>, number: u64, rank: u32) -> std::result::Result<(), rpc::Error> {
        self.runtime()?.take_letter(context.peer(), number, "", Err(Refusal::Lacks(rank)))
    }

    fn leaves(&self, context: &Context<'_>) -> std::result::Result<(), rpc::Error> {
        self.runtime()?.take_leave_of(context.peer())
    }

    fn missing(&self, _: &Context<'_>, number: u64) -> std::result::Result<Vec<u32>, rpc::Error> {
        Ok(self.runtime()?.missing_ranks(number))
    }
}

impl Cluster for Of {
    fn status(&self, _: &Context<'_>) -> std::result::Result<String, rpc::Error> {
        let status = self.command(|machine| cluster_status(machine))?;
        serde_json::to_string(&status).map_err(rpc::Error::remote)
    }

    fn publish(&self, context: &Context<'_>, name: &str) -> std::result::Result<(), ClusterPublishError> {
        let peer = context.peer();
        let runtime = self.runtime()?;
        if runtime.with_machine(|machine| machine.peer(peer.node)) != Some(peer) {
            return Err(Refused { reason: "only a member can serve an interface".into() }.into());
        }
        runtime.calls.directory.publish(name, peer);
        runtime.tell_directory();
        Ok(())
    }

    fn directory(&self, _: &Context<'_>) -> std::result::Result<Directory, rpc::Error> {
        Ok(self.runtime()?.calls.directory.to_wire())
    }

    fn remove_region(
        &self,
        _: &Context<'_>,
        name: &str,
    ) -> std::result::Result<(), ClusterRemoveRegionError> {
        let removed = self.command(|machine| machine.membership_mut().map(|m| m.remove_now(name)))?;
        match removed {
            Some(Ok(())) => Ok(()),
            Some(Err(reason)) => Err(Refused { reason }.into()),
            None => Err(Refused { reason: "the node is no member yet".into() }.into()),
        }
    }

    fn shutdown(&self, _: &Context<'_>) -> std::result::Result<(), rpc::Error> {
        self.command(|machine| {
            if let Some(membership) = machine.membership_mut() {
                membership.shut_down("it was asked to");
            }
        })
    }
}

impl Runtime {
    /// Serves what every node serves, and the coordinator.
    pub(super) fn serve_control(self: &Arc<Self>, coordinates: bool) {
        let endpoint = &self.calls.endpoint;
        serve_meta(endpoint);
        endpoint.serve_system(NodeServer(Of(Arc::downgrade(self))));
        if matches!(self.kind, Kind::Rank { .. }) {
            endpoint.serve_system(RankServer(Of(Arc::downgrade(self))));
        }
        if coordinates {
            endpoint.serve_system(ClusterServer(Of(Arc::downgrade(self))));
        }
    }

    /// A new member learns who serves what.
    pub(super) fn fetch_directory(&self) -> Result<()> {
        let coordinator = self.with_machine(|machine| {
            let other = machine.membership().and_then(Membership::me) != Some(COORDINATOR);
            machine.peer(COORDINATOR).filter(|_| other)
        });
        let Some(coordinator) = coordinator else { return Ok(()) };
        let channel = Channel::to(&self.calls.endpoint, coordinator).with_deadline(DIRECTORY_WAIT);
        let directory = ClusterClient::new(channel).directory().map_err(refused)?;
        self.calls.directory.take(&directory);
        Ok(())
    }

    /// Tells every member who serves what. Who does not answer in time learns it a little later.
    fn tell_directory(&self) {
        let directory = self.calls.directory.to_wire();
        let others: Vec<PeerId> = self.with_machine(|machine| {
            let Some(membership) = machine.membership() else { return Vec::new() };
            let others = membership.view().members.iter().filter(|member| Some(member.id) != membership.me());
            others.map(PeerId::from).collect()
        });
        let told: Vec<_> = others
            .into_iter()
            .map(|peer| {
                let channel = Channel::to(&self.calls.endpoint, peer).with_deadline(DIRECTORY_TELL_WAIT);
                NodeCalls::new(channel).take_directory(&directory)
            })
            .collect();
        for call in told {
            if let Err(error) = call.wait() {
                tracing::debug!("telling who serves what: {error}");
            }
        }
    }
}

/// What programs do with calls.
impl Handle {
    /// Serves an interface, and tells all members; at most `calls_max` of its calls wait or run at one
    /// time. An error if the coordinator could not be told; the interface is served by address then.
    pub fn serve(&self, service: impl Service, calls_max: usize) -> Result<()> {
        fork::check()?;
        let name = service.interface().name;
        self.calls().serve(service, calls_max);
        let channel = self.channel_to(COORDINATOR)?.with_deadline(DIRECTORY_WAIT);
        ClusterClient::new(channel).publish(name).map_err(|error| match error {
            ClusterPublishError::Refused(refused) => Error::Refused(refused.reason),
            ClusterPublishError::Rpc(error) => self::refused(error),
        })
    }

    /// The way to whoever serves the interface of the client that is made with it.
    pub fn channel(&self, policy: Policy) -> Channel {
        Channel::named(self.calls(), Arc::new(Servers { node: Arc::downgrade(&self.runtime) }), policy)
    }

    /// Waits until some node serves the interface.
    pub fn wait_for_server(&self, name: &str, timeout: Duration) -> Result<()> {
        fork::check()?;
        // Who waits for longer than the clock can count waits for ever.
        if self.runtime.calls.directory.wait_for(name, Instant::now().checked_add(timeout)) {
            return Ok(());
        }
        if let Some(fatal) = self.runtime.with_machine(|machine| machine.lifecycle().why().cloned()) {
            return Err(super::to_error(&fatal));
        }
        Err(Error::Timeout { what: format!("a server of {name}"), after_ms: timeout.as_millis() as u64 })
    }
}

fn refused(error: rpc::Error) -> Error {
    Error::Refused(error.to_string())
}
