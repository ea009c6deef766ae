//! What a session may ask a node without being a member: status, and the few commands of an operator.
//! The session itself proves that the asker has the cluster's key.

use serde::{Deserialize, Serialize};

use super::status::{ClusterStatus, NodeStatus};

/// A question.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Query {
    /// How is this node?
    Status,
    /// Who is there, and which regions? Only the coordinator knows all.
    Cluster,
    /// Remove a region that nobody uses, or when nobody does. Only the coordinator does.
    RemoveRegion(String),
    /// Stop the cluster. Only the coordinator does.
    Shutdown,
}

/// The answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// To [`Query::Status`].
    Status(Box<NodeStatus>),
    /// To [`Query::Cluster`].
    Cluster(Box<ClusterStatus>),
    /// To the commands.
    Done(Result<(), String>),
}

/// First byte of a message that carries a [`Query`].
pub(crate) const QUERY_CHANNEL: u8 = 3;
