//! An operator's view of a running cluster: a client that asks the nodes' own interfaces.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::membership::COORDINATOR;
use crate::net::ClusterKey;
use crate::node::control_stubs::{ClusterClient, ClusterRemoveRegionError, NodeClient};
use crate::page::NodeId;
use crate::rpc::{self, Channel};

pub use crate::node::status::{
    ClusterStatus, HostMemory, KeepStatus, MemberStatus, NodeStatus, PeerStatus, RegionPages, RegionStatus,
    RunOnStatus, WaitTimes, Waits,
};

/// A session with a cluster's coordinator, and with its other nodes as they are asked.
pub struct Admin {
    client: Client,
    coordinator: Channel,
    timeout: Duration,
}

impl Admin {
    /// Connects to the coordinator. Each call waits `timeout` at most.
    pub fn connect(coordinator: SocketAddr, key_file: &Path, timeout: Duration) -> Result<Admin> {
        let key = ClusterKey::load_to_join(key_file, coordinator)?;
        let mut bind = coordinator;
        bind.set_port(0);
        let client = Client::new(key, bind, None)?;
        let peer = client.connect(COORDINATOR, coordinator, timeout)?;
        let coordinator = client.channel_to(peer).with_deadline(timeout);
        Ok(Admin { client, coordinator, timeout })
    }

    /// The whole cluster: the coordinator's knowledge, and every member's own status where it answers.
    pub fn cluster(&self) -> Result<ClusterStatus> {
        let mut cluster: ClusterStatus = parse(&self.cluster_client().status().map_err(failed)?)?;
        // All at one time: members that do not answer are waited for together.
        std::thread::scope(|scope| {
            let running = |member: &&mut MemberStatus| member.runner.is_none();
            for member in cluster.members.iter_mut().filter(running) {
                scope.spawn(|| member.status = self.status_of(member.id, member.addr).ok());
            }
        });
        Ok(cluster)
    }

    /// A member's own status. A member that does not answer is listed without one.
    fn status_of(&self, node: NodeId, addr: SocketAddr) -> Result<NodeStatus> {
        parse(&NodeClient::new(self.channel_to(node, addr)?).status().map_err(failed)?)
    }

    /// The members and regions, as the coordinator knows them.
    pub fn members(&self) -> Result<Vec<MemberStatus>> {
        let cluster: ClusterStatus = parse(&self.cluster_client().status().map_err(failed)?)?;
        Ok(cluster.members)
    }

    /// Who serves an interface, by ascending node.
    pub fn servers(&self, interface: &str) -> Result<Vec<NodeId>> {
        let directory = self.cluster_client().directory().map_err(failed)?;
        let served = directory.services.iter().find(|served| served.name == interface);
        Ok(served
            .map_or_else(Vec::new, |served| served.servers.iter().map(|start| NodeId(start.node)).collect()))
    }

    /// The way to the interfaces of one member.
    pub fn channel_to(&self, node: NodeId, addr: SocketAddr) -> Result<Channel> {
        let peer = self.client.connect(node, addr, self.timeout)?;
        Ok(self.client.channel_to(peer).with_deadline(self.timeout))
    }

    /// Removes a region, when its last user goes.
    pub fn remove_region(&self, name: &str) -> Result<()> {
        self.cluster_client().remove_region(name).map_err(|error| match error {
            ClusterRemoveRegionError::Refused(refused) => Error::Refused(refused.reason),
            ClusterRemoveRegionError::Rpc(error) => failed(error),
        })
    }

    /// Stops the cluster.
    pub fn shutdown(&self) -> Result<()> {
        self.cluster_client().shutdown().map_err(failed)
    }

    fn cluster_client(&self) -> ClusterClient {
        ClusterClient::new(self.coordinator.clone())
    }
}

fn failed(error: rpc::Error) -> Error {
    Error::Refused(error.to_string())
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    let other = |error| Error::Refused(format!("a status of another version of the library: {error}"));
    serde_json::from_str(text).map_err(other)
}
