//! Several cores and a network that delivers what the test says, when the test says it.

use std::collections::BTreeMap;

use crate::coherence::{
    Batch, Coherence, Failure, Fault, Input, Message, NodeSet, OpId, Output, Placement, RegionInfo, ToHome,
    ToNode, encode_batch_head,
};
use crate::page::{
    Access, Contents, EXTENT_PAGES, Epoch, Lent, LockWords, Memory, NodeId, PageBuf, PageId, Span, Time,
    Version,
};

/// The page that most tests are about.
pub(super) const P: PageId = PageId(3);
/// Another page of the same home.
pub(super) const Q: PageId = PageId(4);
/// The home, and the other nodes.
pub(super) const H: NodeId = NodeId(0);
pub(super) const A: NodeId = NodeId(1);
pub(super) const B: NodeId = NodeId(2);
pub(super) const C: NodeId = NodeId(3);

/// A node's memory: one byte a page, and what was done to it.
#[derive(Clone, Default)]
pub(super) struct Bytes {
    pages: BTreeMap<PageId, (u8, Option<Access>)>,
    pub(super) log: Vec<String>,
    /// Locks that this node's threads have among themselves.
    pub(super) lent: BTreeMap<PageId, Lent>,
}

/// A message under way.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) from: NodeId,
    pub(super) to: NodeId,
    /// Of the sender's view.
    pub(super) epoch: Epoch,
    pub(super) message: Message,
    pub(super) page: Option<PageBuf>,
}

pub(super) struct Rig {
    pub(super) now: Time,
    pub(super) cores: Vec<Coherence>,
    pub(super) memories: Vec<Bytes>,
    /// Under way, in the order of sending.
    pub(super) network: Vec<Parcel>,
    done: BTreeMap<OpId, Result<u64, Failure>>,
    next_op: u64,
    /// The newest view, which all know.
    pub(super) epoch: Epoch,
    members: NodeSet,
}

impl Rig {
    /// `nodes` nodes and one region; node 0 is the home of everything.
    pub(super) fn new(nodes: u16) -> Rig {
        let mut rig = Rig::empty(nodes);
        for id in 0..nodes {
            rig.feed(NodeId(id), Input::Region(region(Placement::OnNode(H), vec![H])));
        }
        rig
    }

    /// `nodes` nodes that know no region.
    pub(super) fn empty(nodes: u16) -> Rig {
        let core = |id| Coherence::new(NodeId(id), Epoch(0), H);
        Rig {
            now: Time(0),
            cores: (0..nodes).map(core).collect(),
            memories: (0..nodes).map(|_| Bytes::default()).collect(),
            network: Vec::new(),
            done: BTreeMap::new(),
            next_op: 0,
            epoch: Epoch(0),
            members: (0..nodes).map(NodeId).collect(),
        }
    }

    /// A fresh incarnation in a node's slot, known to everybody.
    pub(super) fn replace(&mut self, node: NodeId, joined: Epoch) {
        self.epoch = joined.max(Epoch(self.epoch.0 + 1));
        self.members.insert(node);
        self.cores[node.0 as usize] = Coherence::new(node, self.epoch, H);
        self.memories[node.0 as usize] = Bytes::default();
        self.feed(node, Input::Region(region(Placement::OnNode(H), vec![H])));
        for other in 0..self.cores.len() as u16 {
            self.feed(NodeId(other), Input::NodeJoined(node));
        }
    }

    pub(super) fn feed(&mut self, node: NodeId, input: Input<'_>) {
        let at = node.0 as usize;
        self.cores[at].handle(self.now, input, &mut self.memories[at]);
        self.drain(node);
    }

    /// Delivers all that is under way from one node to another, as one batch.
    pub(super) fn deliver_together(&mut self, from: NodeId, to: NodeId) {
        let goes = |parcel: &Parcel| (parcel.from, parcel.to) == (from, to);
        let (parcels, rest): (Vec<_>, Vec<_>) = self.network.drain(..).partition(goes);
        self.network = rest;
        let mut bytes = Vec::new();
        encode_batch_head(&mut bytes, self.epoch, parcels.len());
        parcels.iter().for_each(|parcel| parcel.message.encode(&mut bytes));
        let pages = parcels.iter().filter_map(|parcel| parcel.page.as_ref());
        pages.for_each(|page| bytes.extend_from_slice(page.as_slice()));
        let batch = Batch::decode(&bytes).expect("it was encoded here");
        let at = to.0 as usize;
        self.cores[at].handle_batch(self.now, from, &batch, &mut self.memories[at]);
        self.drain(to);
    }

    fn drain(&mut self, node: NodeId) {
        let at = node.0 as usize;
        while let Some(output) = self.cores[at].poll_output() {
            match output {
                Output::Send { to, message, page } => {
                    assert_ne!(to, node, "nobody sends to itself");
                    self.network.push(Parcel { from: node, to, epoch: self.epoch, message, page });
                }
                Output::Done { op, result } => {
                    assert!(self.done.insert(op, result).is_none(), "{op:?} ended twice");
                }
            }
        }
        assert_eq!(self.cores[at].counters().violations, 0, "{node} saw what cannot be");
    }

    pub(super) fn op(&mut self) -> OpId {
        self.next_op += 1;
        OpId(self.next_op)
    }

    /// A fault by the node's only thread.
    pub(super) fn fault(&mut self, node: NodeId, page: PageId, access: Access) -> OpId {
        self.fault_at(node, 1, 0x1000, page, access)
    }

    pub(super) fn fault_at(
        &mut self,
        node: NodeId,
        thread: u64,
        instruction: u64,
        page: PageId,
        access: Access,
    ) -> OpId {
        let op = self.op();
        self.feed(node, Input::Fault(Fault { op, thread, instruction, page, access }));
        op
    }

    /// How an operation ended, if it has.
    pub(super) fn result(&self, op: OpId) -> Option<Result<u64, Failure>> {
        self.done.get(&op).copied()
    }

    /// Takes the first message from one node to another off the network. Panics if there is none.
    pub(super) fn take(&mut self, from: NodeId, to: NodeId) -> Parcel {
        let at = self.network.iter().position(|parcel| (parcel.from, parcel.to) == (from, to));
        self.network.remove(at.unwrap_or_else(|| panic!("nothing from {from} to {to}: {:?}", self.network)))
    }

    pub(super) fn give(&mut self, parcel: &Parcel) {
        let page = parcel.page.as_ref().map_or(&[][..], PageBuf::as_slice);
        self.feed(
            parcel.to,
            Input::Message { from: parcel.from, epoch: parcel.epoch, message: parcel.message, page },
        );
    }

    /// Delivers the first message from one node to another.
    pub(super) fn deliver(&mut self, from: NodeId, to: NodeId) -> Parcel {
        let parcel = self.take(from, to);
        self.give(&parcel);
        parcel
    }

    /// Delivers everything in the order of sending, and what follows of it; time stands still.
    pub(super) fn deliver_all(&mut self) {
        while !self.network.is_empty() {
            let parcel = self.network.remove(0);
            self.give(&parcel);
        }
    }

    /// Delivers everything in the order of sending, holds included, until nothing is under way.
    pub(super) fn settle(&mut self) {
        loop {
            self.deliver_all();
            let Some(due) = self.cores.iter().filter_map(Coherence::poll_timeout).min() else { return };
            self.now = self.now.max(due);
            for node in 0..self.cores.len() as u16 {
                self.feed(NodeId(node), Input::Timer);
            }
        }
    }

    /// Faults until the access is there, then stores if it is a write.
    pub(super) fn access(&mut self, node: NodeId, page: PageId, access: Access) {
        if self.mapped(node, page) < access {
            let op = self.fault(node, page, access);
            self.settle();
            assert_eq!(self.result(op), Some(Ok(0)));
        }
        // The instruction has run: nothing is held any more.
        self.now = self.now + Span::from_ms(20);
    }

    pub(super) fn read(&mut self, node: NodeId, page: PageId) -> u8 {
        self.access(node, page, Access::Read);
        self.byte(node, page)
    }

    pub(super) fn write(&mut self, node: NodeId, page: PageId, value: u8) {
        self.access(node, page, Access::Write);
        self.store(node, page, value);
    }

    /// A store by a thread that has the page mapped.
    pub(super) fn store(&mut self, node: NodeId, page: PageId, value: u8) {
        assert_eq!(self.mapped(node, page), Access::Write, "{node} cannot store");
        self.memories[node.0 as usize].pages.entry(page).or_default().0 = value;
    }

    pub(super) fn byte(&self, node: NodeId, page: PageId) -> u8 {
        self.memories[node.0 as usize].pages.get(&page).map_or(0, |page| page.0)
    }

    pub(super) fn mapped(&self, node: NodeId, page: PageId) -> Access {
        let known = self.memories[node.0 as usize].pages.get(&page).and_then(|page| page.1);
        let mapped = known.unwrap_or(Access::None);
        assert_eq!(mapped, self.cores[node.0 as usize].mapped(page), "{node} believes what is mapped");
        mapped
    }

    pub(super) fn stale(&self, node: NodeId) -> u64 {
        self.cores[node.0 as usize].counters().stale_messages
    }

    pub(super) fn die(&mut self, node: NodeId) {
        self.network.retain(|parcel| parcel.from != node && parcel.to != node);
        self.members.remove(node);
        self.epoch.0 += 1;
        for other in self.members.iter() {
            self.hear_of_death(other, node);
        }
    }

    /// Takes reports off the network, in tests that are not about pages.
    pub(super) fn forget_reports(&mut self) {
        self.network.retain(|parcel| !matches!(parcel.message, Message::Report(_)));
    }

    /// A view without the dead comes to one node.
    pub(super) fn hear_of_death(&mut self, node: NodeId, dead: NodeId) {
        let (mut members, epoch) = (self.members, self.epoch);
        members.remove(dead);
        self.feed(
            node,
            Input::Round { epoch, members, died: NodeSet::from_iter([dead]), run_on: NodeSet::EMPTY },
        );
    }
}

pub(super) fn region(placement: Placement, homes: Vec<NodeId>) -> RegionInfo {
    let quotas = Vec::new();
    RegionInfo { start: PageId(0), pages: EXTENT_PAGES, used: EXTENT_PAGES - 1, placement, homes, quotas }
}

impl Parcel {
    pub(super) fn to_home(&self) -> ToHome {
        match self.message {
            Message::ToHome(message) => message,
            Message::ToNode(_) | Message::Lock(_) | Message::Barrier(_) | Message::Report(_) => {
                panic!("{:?}", self.message)
            }
        }
    }

    pub(super) fn to_node(&self) -> ToNode {
        match self.message {
            Message::ToNode(message) => message,
            Message::ToHome(_) | Message::Lock(_) | Message::Barrier(_) | Message::Report(_) => {
                panic!("{:?}", self.message)
            }
        }
    }
}

impl Memory for Bytes {
    fn protect(&mut self, page: PageId, access: Access) {
        self.log.push(format!("protect {access:?}"));
        self.pages.entry(page).or_default().1 = Some(access);
    }

    fn protect_range(&mut self, first: PageId, pages: u64, access: Access) {
        let times = if pages > 1 { format!(" x {pages}") } else { String::new() };
        self.log.push(format!("protect {access:?}{times}"));
        for page in first.0..first.0 + pages {
            self.pages.entry(PageId(page)).or_default().1 = Some(access);
        }
    }

    fn read(&mut self, page: PageId) -> PageBuf {
        self.log.push("read".to_owned());
        let mut buffer = PageBuf::zeroed();
        buffer.as_mut_slice()[0] = self.pages.get(&page).map_or(0, |page| page.0);
        buffer
    }

    fn set_version(&mut self, _page: PageId, _version: Version) {}

    fn install(&mut self, page: PageId, contents: Contents<'_>, access: Access, _version: Version) {
        let entry = self.pages.entry(page).or_default();
        let kind = match contents {
            Contents::Zero => {
                entry.0 = 0;
                "zero"
            }
            Contents::Bytes(bytes) => {
                entry.0 = bytes[0];
                "bytes"
            }
            Contents::InPlace => "in place",
        };
        entry.1 = Some(access);
        self.log.push(format!("install {kind} {access:?}"));
    }

    fn discard(&mut self, page: PageId) {
        self.log.push("discard".to_owned());
        let entry = self.pages.entry(page).or_default();
        assert_eq!(entry.1.unwrap_or(Access::None), Access::None, "mapped memory is not given back");
        entry.0 = 0;
    }

    fn revoke_all(&mut self) {
        unreachable!("the coherence core does not end the node");
    }
}

impl LockWords for Bytes {
    fn lend_lock(&mut self, page: PageId, token: u64) -> bool {
        assert_eq!(self.lent.insert(page, Lent::Free { token }), None, "a lock is lent once");
        true
    }

    fn recall_lock(&mut self, page: PageId) -> Lent {
        self.lent.remove(&page).expect("only lent locks are recalled")
    }
}
