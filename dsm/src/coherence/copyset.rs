//! A set of nodes as bits: copysets, awaited acknowledgements, members of a barrier.

use std::fmt;

use crate::config::NODES_MAX;
use crate::page::NodeId;

/// A set of nodes. Iterates in ascending order, so that runs repeat exactly.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct NodeSet(u128);

const _: () = assert!(NODES_MAX <= u128::BITS as usize);

impl NodeSet {
    /// The set without members.
    pub const EMPTY: NodeSet = NodeSet(0);

    /// The set of one node.
    pub fn only(node: NodeId) -> Self {
        let mut set = NodeSet::EMPTY;
        set.insert(node);
        set
    }

    /// The set with these bits; bit `i` is node `i`.
    pub fn from_bits(bits: u128) -> Self {
        NodeSet(bits)
    }

    /// The set as bits; bit `i` is node `i`.
    pub fn bits(self) -> u128 {
        self.0
    }

    /// Adds a node.
    pub fn insert(&mut self, node: NodeId) {
        assert!((node.0 as usize) < NODES_MAX, "{node} is beyond the bound of the node table");
        self.0 |= 1 << node.0;
    }

    /// Removes a node; true if it was a member.
    pub fn remove(&mut self, node: NodeId) -> bool {
        let was = self.contains(node);
        if was {
            self.0 &= !(1 << node.0);
        }
        was
    }

    /// Whether the node is a member.
    pub fn contains(self, node: NodeId) -> bool {
        (node.0 as usize) < NODES_MAX && self.0 & (1 << node.0) != 0
    }

    /// The set without one node.
    pub fn without(mut self, node: NodeId) -> NodeSet {
        self.remove(node);
        self
    }

    /// The first node that is in both sets.
    pub fn first_of(self, other: NodeSet) -> Option<NodeId> {
        NodeSet(self.0 & other.0).iter().next()
    }

    /// Whether nobody is a member.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Number of members.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The members, ascending.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        let mut bits = self.0;
        std::iter::from_fn(move || {
            if bits == 0 {
                return None;
            }
            let node = NodeId(bits.trailing_zeros() as u16);
            bits &= bits - 1;
            Some(node)
        })
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = NodeSet::EMPTY;
        for node in nodes {
            set.insert(node);
        }
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
