//! A member that breaks the protocol: beside what its core says, it sends sound messages about pages, locks and
//! barriers in which it has no say. Nobody may be harmed by them. (It may always spoil what it can write itself, or
//! keep what it has: such lies are not told here.)

use fastrand::Rng;
use pagemesh::coherence::{
    Answer, Attempt, BarrierId, BarrierMessage, Body, LockId, LockMessage, Message, NodeSet, Req, ToHome,
    ToNode, Txn,
};
use pagemesh::page::{Access, NodeId, PageBuf, PageId, Span};

use crate::trace::What;
use crate::world::{BARRIER, World};

/// Write-backs of one page by a node that does not have it: more than any queue may hold.
const FLOOD: usize = 40;

/// A version that no page has.
const FORGED: Txn = Txn(1 << 40);

/// A liar's own dice: runs without lies are those of before.
pub(crate) struct Liar {
    pub(crate) node: NodeId,
    /// Once in so many events at it.
    pub(crate) one_in: u32,
    /// Lies that it still tells: its peers' answers give it an occasion for more.
    pub(crate) left: u32,
    pub(crate) rng: Rng,
    /// Pages that it has asked to write: the home may await something about them from it.
    pub(crate) wanted: Vec<PageId>,
}

impl World {
    /// Has the liar lie, if it is at that node and it comes to its mind.
    pub(crate) fn lie(&mut self, node: NodeId) {
        let Some(mut liar) = self.liar.take_if(|liar| liar.node == node) else { return };
        if liar.left > 0 && liar.rng.u32(..liar.one_in) == 0 {
            liar.left -= 1;
            self.tell_lies(&mut liar);
        }
        self.liar = Some(liar);
    }

    fn tell_lies(&mut self, liar: &mut Liar) {
        let others: Vec<NodeId> = self.up().iter().filter(|other| *other != liar.node).collect();
        if others.is_empty() {
            return;
        }
        let rng = &mut liar.rng;
        let to = others[rng.usize(..others.len())];
        let pages = &self.shared.plan.pages;
        let page = pages[rng.usize(..pages.len())];
        let messages = match rng.u32(..4) {
            0 => self.lie_about_page(liar, to, page),
            1 => self.lie_about_lock(liar, to, page),
            // Who keeps the barriers may say anything about them.
            2 if self.shared.plan.members.iter().next() == Some(liar.node) => Vec::new(),
            2 => lie_about_barrier(rng, liar.node, self.is_stranger(liar.node, to)),
            _ => self.flood(liar, to, page),
        };
        for message in messages {
            let bytes = message.carries_page().then(|| PageBuf::copy_of(&[0xa5; pagemesh::page::PAGE_SIZE]));
            self.record(liar.node, What::Send { to, message });
            let incarnation = self.node(to).incarnation;
            self.post_message(liar.node, (to, incarnation), message, bytes);
        }
    }

    fn home_of(&self, page: PageId) -> Option<NodeId> {
        self.nodes.iter().find_map(|node| node.core.home(page))
    }

    /// A request number that the node may have used.
    fn some_req(&self, rng: &mut Rng, of: NodeId) -> Req {
        Req((self.nodes[of.0 as usize].joined.0 << 40) + rng.u64(1..30))
    }

    fn lie_about_page(&mut self, liar: &mut Liar, to: NodeId, page: PageId) -> Vec<Message> {
        let home = self.home_of(page);
        let knows_home = self.node(to).core.home(page).is_some();
        let (req, txn) = (self.some_req(&mut liar.rng, to), Txn(liar.rng.u64(1..20)));
        let rng = &mut liar.rng;
        let version = Txn(rng.u64(..20));
        let access = if rng.bool() { Access::Read } else { Access::Write };
        let body = if rng.bool() { Body::Page } else { Body::Zero };
        // What only the home may say, and what only a home may be told.
        let of_home: [Message; 6] = [
            ToNode::Forward { page, txn, version, requester: liar.node, req, access }.into(),
            ToNode::Grant { page, req, txn, answer: Answer::AtOnce }.into(),
            ToNode::Inv { page, txn }.into(),
            ToNode::Hurry { page, txn }.into(),
            ToNode::WriteBackAck { page, version }.into(),
            ToNode::Lost { page, req, dead: to }.into(),
        ];
        let own = Req(u64::MAX / 2 + rng.u64(..1 << 20));
        let to_home: [Message; 3] = [
            ToHome::GetM { page, req: own, have: None }.into(),
            ToHome::GetS { page, req: own }.into(),
            ToHome::Installed { page, txn }.into(),
        ];
        match home {
            Some(home) if home == to && !liar.wanted.contains(&page) => {
                // To the home's own threads, which may wait for the page with any of these numbers.
                let forged = |req| ToNode::Data { page, req, txn, version: FORGED, access, body }.into();
                (req.0 & !0x3f..req.0 | 0x3f).map(|req| forged(Req(req))).collect()
            }
            Some(home) if home != to && knows_home && rng.bool() => to_home.to_vec(),
            Some(home) if home != liar.node => vec![of_home[rng.usize(..of_home.len())]],
            Some(_) | None => Vec::new(),
        }
    }

    /// A forged page that arrives when the liar may be asked to send that page: now it is believed.
    pub(crate) fn is_true_by_now(&self, from: NodeId, message: &Message) -> bool {
        match (message, &self.liar) {
            (Message::ToNode(ToNode::Data { page, version: FORGED, .. }), Some(liar)) => {
                liar.node == from && liar.wanted.contains(page)
            }
            _ => false,
        }
    }

    fn flood(&mut self, liar: &mut Liar, to: NodeId, page: PageId) -> Vec<Message> {
        if self.home_of(page) != Some(to) || liar.wanted.contains(&page) {
            return Vec::new();
        }
        // Older than its own, which it may send meanwhile.
        let write_back = ToHome::WriteBack { page, version: Txn(0), body: Body::Zero };
        vec![write_back.into(); FLOOD]
    }

    fn lie_about_lock(&mut self, liar: &mut Liar, to: NodeId, page: PageId) -> Vec<Message> {
        let lock = LockId(page);
        let manager = self.node(to).core.lock_home(lock);
        let req = self.some_req(&mut liar.rng, to);
        let (rng, attempt) = (&mut liar.rng, Attempt::Wait);
        let token = if rng.bool() { 0 } else { u64::MAX };
        let own = Req(u64::MAX / 2 + rng.u64(..1 << 20));
        let broken = rng.bool();
        let of_manager: [LockMessage; 3] = [
            LockMessage::Forward { lock, tenure: req, next: liar.node, next_req: own, attempt },
            LockMessage::ReturnAck { lock, req },
            LockMessage::Broken { lock, req, dead: to },
        ];
        let message = if manager == Some(to) {
            LockMessage::Return { lock, req: own, token: u64::MAX, broken }
        } else if rng.bool() {
            LockMessage::Grant { lock, req, token, kept: Span(rng.u64(..)) }
        } else if manager != Some(liar.node) {
            of_manager[rng.usize(..of_manager.len())]
        } else {
            return Vec::new();
        };
        // Without that token it is believed, and must not break the lock all the same.
        let unheld = LockMessage::Return { lock, req: own, token: 1, broken: true };
        let more = (manager == Some(to)).then_some(unheld);
        std::iter::once(message).chain(more).map(Message::from).collect()
    }

    /// Whether the liar has no business at the barriers of the run, or asks somebody who does not keep them.
    fn is_stranger(&self, liar: NodeId, to: NodeId) -> bool {
        let plan = &self.shared.plan;
        let is_fresh = self.nodes[liar.0 as usize].incarnation > u32::from(plan.nodes);
        plan.members.iter().next() != Some(to) || is_fresh || !plan.members.contains(liar)
    }
}

fn lie_about_barrier(rng: &mut Rng, liar: NodeId, is_stranger: bool) -> Vec<Message> {
    let program = if is_stranger && rng.u32(..4) > 0 { BARRIER.program } else { 7 };
    let barrier = BarrierId { program, index: BARRIER.index };
    let (generation, arrival) = (rng.u64(..3), rng.u32(1..3));
    let members: NodeSet = (0..rng.u16(1..9)).map(NodeId).chain([liar]).collect();
    let dead = NodeId(rng.u16(..4));
    let lies = [
        BarrierMessage::Arrive { barrier, generation, arrival, members },
        BarrierMessage::Quit { barrier },
        BarrierMessage::Withdraw { barrier, generation, arrival },
        BarrierMessage::Release { barrier, generation },
        BarrierMessage::Broken { barrier, generation, dead },
        BarrierMessage::Withdrawn { barrier, generation, arrival },
    ];
    vec![lies[rng.usize(..lies.len())].into()]
}
