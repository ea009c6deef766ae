//! The messages of the coherence protocol and their bytes. Layouts are drawn in `docs/protocol.md`;
//! a change here changes that page too.
//!
//! Messages between the same two nodes that are ready at the same time share one *batch*: the epoch,
//! the messages one behind the other, then the pages that they carry, in the same order.

use crate::codec::{DecodeError, Reader, Writer};
use crate::config::NODES_MAX;
use crate::mutation::decoders_keep;
use crate::page::{Access, Epoch, ExtentId, NodeId, PAGE_SIZE, PageId, Span};

use super::copyset::NodeSet;

pub use crate::page::{Txn, Version};

/// A node's request number; it grows with every request of that node's incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Req(pub u64);

/// A lock, named by the page that it guards.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LockId(pub PageId);

/// A barrier: the program's number and the barrier's number in it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BarrierId {
    /// The program whose ranks meet here.
    pub program: u64,
    /// Which of the program's barriers.
    pub index: u32,
}

/// Where the bytes of a page-carrying message are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Body {
    /// The page was never written: all zero, nothing is sent.
    Zero,
    /// [`PAGE_SIZE`] bytes travel with the message.
    Page,
    /// Sender and receiver are the same node; the bytes are in its memory. Never on the wire.
    InPlace,
}

/// What nodes say to each other, by who reacts to it. The fields' meaning is one table in
/// `docs/protocol.md`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Message {
    /// For the home's side of the page protocol.
    ToHome(ToHome),
    /// For the requester's (or owner's, or sharer's) side.
    ToNode(ToNode),
    /// About a lock.
    Lock(LockMessage),
    /// About a barrier. Alone it is not void in a later round.
    Barrier(BarrierMessage),
    /// At the beginning of a round: what a member holds.
    Report(Report),
}

/// Messages to a page's home, or to an extent's manager.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // Fields: docs/protocol.md.
pub enum ToHome {
    /// A readable copy, please.
    GetS { page: PageId, req: Req },
    /// Write access, please; `have` is the version of a copy that stays until the answer.
    GetM { page: PageId, req: Req, have: Option<Version> },
    /// From the owner: the downgraded page.
    DataHome { page: PageId, txn: Txn, body: Body },
    /// No copy older than `txn` is mapped here.
    InvAck { page: PageId, txn: Txn },
    /// Mapped; the next conflicting transaction may start.
    Installed { page: PageId, txn: Txn },
    /// From the owner: the page, given back.
    WriteBack { page: PageId, version: Version, body: Body },
    /// From who wrote this version last: may its bytes go?
    Drop { page: PageId, version: Version },
    /// The answer to FETCH.
    Copy { page: PageId, version: Version, body: Body },
    /// Nothing of yours is here any more.
    Leave,
    /// Which node is this extent's home? The first question decides: `nearest`.
    Locate { extent: ExtentId, nearest: NodeId },
}

/// When a requester must say INSTALLED.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// Somebody may wait for it.
    AtOnce,
    /// With the next message to the same home, or when it is asked for, or after a while.
    Riding,
}

/// Messages to a node that wants, has or had a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // Fields: docs/protocol.md.
pub enum ToNode {
    /// Home to owner: downgrade (`Read`, FWD_S) or invalidate (`Write`, FWD_M), and answer `requester`.
    Forward { page: PageId, txn: Txn, version: Version, requester: NodeId, req: Req, access: Access },
    /// Home or owner to requester: the page with access.
    Data { page: PageId, req: Req, txn: Txn, version: Version, access: Access, body: Body },
    /// Write access to the copy that is there.
    Grant { page: PageId, req: Req, txn: Txn, answer: Answer },
    /// Drop copies older than `txn`.
    Inv { page: PageId, txn: Txn },
    /// Somebody waits for your INSTALLED of this transaction: send it now, if you have not.
    Hurry { page: PageId, txn: Txn },
    /// The bytes of this version are elsewhere: they need not be kept any longer.
    WriteBackAck { page: PageId, version: Version },
    /// The page's last bytes died with `dead`.
    Lost { page: PageId, req: Req, dead: NodeId },
    /// After a round: the home has an older version than this node, and somebody asks for the page.
    Fetch { page: PageId, version: Version },
    /// No message about a page of this home will come any more.
    LeaveAck,
    /// Manager's answer, for ever.
    Located { extent: ExtentId, home: NodeId },
}

/// Whether a request for a lock stays when the lock is not free.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Attempt {
    /// A thread waits for the lock.
    Wait,
    /// A thread takes it only if that is possible at once, and wants to hear if it is not.
    Try,
}

/// Messages about a lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // Fields: docs/protocol.md.
pub enum LockMessage {
    /// Node to home: queue me.
    Request { lock: LockId, req: Req, attempt: Attempt },
    /// Home to the node at the queue's end: hand the lock to `next` after your tenure `tenure`.
    Forward { lock: LockId, tenure: Req, next: NodeId, next_req: Req, attempt: Attempt },
    /// Home or last holder to waiter: yours, with a fencing token that only grows. The last holder has known for
    /// `kept` that this node waits.
    Grant { lock: LockId, req: Req, token: u64, kept: Span },
    /// Leaving node to home: I hold the lock idle (or, `broken`, in the middle of a critical section).
    Return { lock: LockId, req: Req, token: u64, broken: bool },
    /// Home to leaving node: taken back.
    ReturnAck { lock: LockId, req: Req },
    /// Home to queued nodes: the lock was lost with `dead`.
    Broken { lock: LockId, req: Req, dead: NodeId },
    /// The last node of the queue to the next one, which only tries: the lock is not free now. Its place stands.
    Busy { lock: LockId, req: Req },
}

/// A member's report to a home.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // Fields: docs/protocol.md.
pub enum Report {
    Part {
        /// From zero on; parts overtake each other.
        number: u32,
        part: ReportPart,
    },
    /// The report has so many parts.
    Total { parts: u32 },
}

/// A part of a report.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // Fields: docs/protocol.md.
pub enum ReportPart {
    Pages { first: PageId, pages: u32, state: Held, version: Version },
    Lock { lock: LockId, held: HeldLock },
}

/// What a member has of a page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Held {
    /// Its bytes, unmapped.
    Bytes,
    /// A readable copy.
    Shared,
    /// The only copy, writable.
    Modified,
}

/// What a member has of a lock.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum HeldLock {
    /// The lock, in this tenure.
    Here(Req),
    /// Nothing: it waits since the request of this number.
    WaitsSince(Req),
}

/// Messages about a barrier.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)] // Fields: docs/protocol.md.
pub enum BarrierMessage {
    /// Member to home. `arrival` counts the member's arrivals in this generation.
    Arrive { barrier: BarrierId, generation: u64, arrival: u32, members: NodeSet },
    /// Home to every member: all have arrived.
    Release { barrier: BarrierId, generation: u64 },
    /// Home to every member that has arrived: `dead` never will.
    Broken { barrier: BarrierId, generation: u64, dead: NodeId },
    /// Member to home: it comes no more.
    Quit { barrier: BarrierId },
    /// Member to home: this arrival no longer counts, unless the generation has ended.
    Withdraw { barrier: BarrierId, generation: u64, arrival: u32 },
    /// The answer: it does not.
    Withdrawn { barrier: BarrierId, generation: u64, arrival: u32 },
}

impl Message {
    /// Whether [`PAGE_SIZE`] bytes travel with the message.
    pub fn carries_page(&self) -> bool {
        matches!(
            self,
            Message::ToNode(ToNode::Data { body: Body::Page, .. })
                | Message::ToHome(ToHome::DataHome { body: Body::Page, .. })
                | Message::ToHome(ToHome::WriteBack { body: Body::Page, .. })
                | Message::ToHome(ToHome::Copy { body: Body::Page, .. })
        )
    }

    /// Appends the message's bytes, without its page.
    pub fn encode(&self, w: &mut impl Writer) {
        match self {
            Message::ToHome(message) => message.encode(w),
            Message::ToNode(message) => message.encode(w),
            Message::Lock(message) => message.encode(w),
            Message::Barrier(message) => message.encode(w),
            Message::Report(message) => message.encode(w),
        }
    }

    /// Reads one message, without its page.
    pub fn decode(r: &mut Reader<'_>) -> Result<Message, DecodeError> {
        let kind = r.u8()?;
        match kind {
            kind::GET_S..=kind::DROP => ToHome::decode(kind, r).map(Message::ToHome),
            kind::FWD_S..=kind::FETCH => ToNode::decode(kind, r).map(Message::ToNode),
            kind::LOCK_REQUEST..=kind::LOCK_BUSY => LockMessage::decode(kind, r).map(Message::Lock),
            kind::BARRIER_ARRIVE..=kind::BARRIER_WITHDRAWN => {
                BarrierMessage::decode(kind, r).map(Message::Barrier)
            }
            kind::REPORT_PAGES..=kind::REPORT_TOTAL => Report::decode(kind, r).map(Message::Report),
            _ => Err(BAD_KIND),
        }
    }
}

impl From<ToHome> for Message {
    fn from(message: ToHome) -> Message {
        Message::ToHome(message)
    }
}

impl From<ToNode> for Message {
    fn from(message: ToNode) -> Message {
        Message::ToNode(message)
    }
}

impl From<LockMessage> for Message {
    fn from(message: LockMessage) -> Message {
        Message::Lock(message)
    }
}

impl From<BarrierMessage> for Message {
    fn from(message: BarrierMessage) -> Message {
        Message::Barrier(message)
    }
}

impl From<Report> for Message {
    fn from(message: Report) -> Message {
        Message::Report(message)
    }
}

/// The first byte of each message.
mod kind {
    pub(super) const GET_S: u8 = 1;
    pub(super) const GET_M: u8 = 2;
    pub(super) const DATA_HOME: u8 = 3;
    pub(super) const INV_ACK: u8 = 4;
    pub(super) const INSTALLED: u8 = 5;
    pub(super) const WRITE_BACK: u8 = 6;
    pub(super) const COPY: u8 = 7;
    pub(super) const LEAVE: u8 = 8;
    pub(super) const LOCATE: u8 = 9;
    pub(super) const DROP: u8 = 10;
    pub(super) const FWD_S: u8 = 16;
    pub(super) const FWD_M: u8 = 17;
    pub(super) const DATA: u8 = 18;
    pub(super) const GRANT: u8 = 19;
    pub(super) const INV: u8 = 20;
    pub(super) const WRITE_BACK_ACK: u8 = 21;
    pub(super) const LOST: u8 = 22;
    pub(super) const LEAVE_ACK: u8 = 23;
    pub(super) const HURRY: u8 = 24;
    pub(super) const LOCATED: u8 = 25;
    pub(super) const FETCH: u8 = 26;
    pub(super) const LOCK_REQUEST: u8 = 32;
    pub(super) const LOCK_FORWARD: u8 = 33;
    pub(super) const LOCK_GRANT: u8 = 34;
    pub(super) const LOCK_RETURN: u8 = 35;
    pub(super) const LOCK_RETURN_ACK: u8 = 36;
    pub(super) const LOCK_BROKEN: u8 = 39;
    pub(super) const LOCK_BUSY: u8 = 40;
    pub(super) const BARRIER_ARRIVE: u8 = 48;
    pub(super) const BARRIER_RELEASE: u8 = 49;
    pub(super) const BARRIER_BROKEN: u8 = 50;
    pub(super) const BARRIER_QUIT: u8 = 51;
    pub(super) const BARRIER_WITHDRAW: u8 = 52;
    pub(super) const BARRIER_WITHDRAWN: u8 = 53;
    pub(super) const REPORT_PAGES: u8 = 64;
    pub(super) const REPORT_LOCK: u8 = 65;
    pub(super) const REPORT_TOTAL: u8 = 66;
}

const BAD_KIND: DecodeError = DecodeError::Bad("message kind");

/// On the wire: "no copy". No page reaches this version.
const NO_VERSION: u64 = u64::MAX;

impl ToHome {
    fn encode(&self, w: &mut impl Writer) {
        match *self {
            ToHome::GetS { page, req } => put(w, kind::GET_S, &[page.0, req.0]),
            ToHome::GetM { page, req, have } => {
                put(w, kind::GET_M, &[page.0, req.0, have.map_or(NO_VERSION, |version| version.0)]);
            }
            ToHome::DataHome { page, txn, body } => {
                put(w, kind::DATA_HOME, &[page.0, txn.0]);
                w.put_u8(body_byte(body));
            }
            ToHome::InvAck { page, txn } => put(w, kind::INV_ACK, &[page.0, txn.0]),
            ToHome::Installed { page, txn } => put(w, kind::INSTALLED, &[page.0, txn.0]),
            ToHome::WriteBack { page, version, body } => {
                put(w, kind::WRITE_BACK, &[page.0, version.0]);
                w.put_u8(body_byte(body));
            }
            ToHome::Drop { page, version } => put(w, kind::DROP, &[page.0, version.0]),
            ToHome::Copy { page, version, body } => {
                put(w, kind::COPY, &[page.0, version.0]);
                w.put_u8(body_byte(body));
            }
            ToHome::Leave => put(w, kind::LEAVE, &[]),
            ToHome::Locate { extent, nearest } => {
                put(w, kind::LOCATE, &[extent.0]);
                w.put_u16(nearest.0);
            }
        }
    }

    fn decode(kind: u8, r: &mut Reader<'_>) -> Result<ToHome, DecodeError> {
        if kind == kind::LEAVE {
            return Ok(ToHome::Leave);
        }
        let page = PageId(r.u64()?);
        Ok(match kind {
            kind::GET_S => ToHome::GetS { page, req: Req(r.u64()?) },
            kind::GET_M => {
                let req = Req(r.u64()?);
                let have = Some(r.u64()?).filter(|&version| version != NO_VERSION).map(Txn);
                ToHome::GetM { page, req, have }
            }
            kind::DATA_HOME => ToHome::DataHome { page, txn: Txn(r.u64()?), body: decode_body(r)? },
            kind::INV_ACK => ToHome::InvAck { page, txn: Txn(r.u64()?) },
            kind::INSTALLED => ToHome::Installed { page, txn: Txn(r.u64()?) },
            kind::WRITE_BACK => ToHome::WriteBack { page, version: Txn(r.u64()?), body: decode_body(r)? },
            kind::DROP => ToHome::Drop { page, version: Txn(r.u64()?) },
            kind::COPY => ToHome::Copy { page, version: Txn(r.u64()?), body: decode_body(r)? },
            kind::LOCATE => ToHome::Locate { extent: ExtentId(page.0), nearest: decode_node(r)? },
            _ => return Err(BAD_KIND),
        })
    }
}

impl ToNode {
    fn encode(&self, w: &mut impl Writer) {
        match *self {
            ToNode::Forward { page, txn, version, requester, req, access } => {
                let kind = if access == Access::Write { kind::FWD_M } else { kind::FWD_S };
                put(w, kind, &[page.0, txn.0, version.0, req.0]);
                w.put_u16(requester.0);
            }
            ToNode::Data { page, req, txn, version, access, body } => {
                put(w, kind::DATA, &[page.0, req.0, txn.0, version.0]);
                w.put_u8(u8::from(access == Access::Write));
                w.put_u8(body_byte(body));
            }
            ToNode::Grant { page, req, txn, answer } => {
                put(w, kind::GRANT, &[page.0, req.0, txn.0]);
                w.put_u8(u8::from(answer == Answer::Riding));
            }
            ToNode::Inv { page, txn } => put(w, kind::INV, &[page.0, txn.0]),
            ToNode::Hurry { page, txn } => put(w, kind::HURRY, &[page.0, txn.0]),
            ToNode::WriteBackAck { page, version } => put(w, kind::WRITE_BACK_ACK, &[page.0, version.0]),
            ToNode::Lost { page, req, dead } => {
                put(w, kind::LOST, &[page.0, req.0]);
                w.put_u16(dead.0);
            }
            ToNode::Fetch { page, version } => put(w, kind::FETCH, &[page.0, version.0]),
            ToNode::LeaveAck => put(w, kind::LEAVE_ACK, &[]),
            ToNode::Located { extent, home } => {
                put(w, kind::LOCATED, &[extent.0]);
                w.put_u16(home.0);
            }
        }
    }

    fn decode(kind: u8, r: &mut Reader<'_>) -> Result<ToNode, DecodeError> {
        if kind == kind::LEAVE_ACK {
            return Ok(ToNode::LeaveAck);
        }
        let page = PageId(r.u64()?);
        Ok(match kind {
            kind::FWD_S | kind::FWD_M => {
                let (txn, version, req) = (Txn(r.u64()?), Txn(r.u64()?), Req(r.u64()?));
                let access = if kind == kind::FWD_M { Access::Write } else { Access::Read };
                ToNode::Forward { page, txn, version, requester: decode_node(r)?, req, access }
            }
            kind::DATA => {
                let (req, txn, version) = (Req(r.u64()?), Txn(r.u64()?), Txn(r.u64()?));
                let access = if decode_flag(r)? { Access::Write } else { Access::Read };
                ToNode::Data { page, req, txn, version, access, body: decode_body(r)? }
            }
            kind::GRANT => {
                let (req, txn) = (Req(r.u64()?), Txn(r.u64()?));
                let answer = if decode_flag(r)? { Answer::Riding } else { Answer::AtOnce };
                ToNode::Grant { page, req, txn, answer }
            }
            kind::INV => ToNode::Inv { page, txn: Txn(r.u64()?) },
            kind::HURRY => ToNode::Hurry { page, txn: Txn(r.u64()?) },
            kind::WRITE_BACK_ACK => ToNode::WriteBackAck { page, version: Txn(r.u64()?) },
            kind::LOST => ToNode::Lost { page, req: Req(r.u64()?), dead: decode_node(r)? },
            kind::FETCH => ToNode::Fetch { page, version: Txn(r.u64()?) },
            kind::LOCATED => ToNode::Located { extent: ExtentId(page.0), home: decode_node(r)? },
            _ => return Err(BAD_KIND),
        })
    }
}

impl LockMessage {
    /// The lock that the message is about.
    pub fn lock(&self) -> LockId {
        match *self {
            LockMessage::Request { lock, .. }
            | LockMessage::Forward { lock, .. }
            | LockMessage::Grant { lock, .. }
            | LockMessage::Return { lock, .. }
            | LockMessage::ReturnAck { lock, .. }
            | LockMessage::Broken { lock, .. }
            | LockMessage::Busy { lock, .. } => lock,
        }
    }

    fn encode(&self, w: &mut impl Writer) {
        match *self {
            LockMessage::Request { lock, req, attempt } => {
                put(w, kind::LOCK_REQUEST, &[lock.0.0, req.0]);
                w.put_u8(u8::from(attempt == Attempt::Try));
            }
            LockMessage::Forward { lock, tenure, next, next_req, attempt } => {
                put(w, kind::LOCK_FORWARD, &[lock.0.0, tenure.0, next_req.0]);
                w.put_u16(next.0);
                w.put_u8(u8::from(attempt == Attempt::Try));
            }
            LockMessage::Grant { lock, req, token, kept } => {
                put(w, kind::LOCK_GRANT, &[lock.0.0, req.0, token, kept.0]);
            }
            LockMessage::Return { lock, req, token, broken } => {
                put(w, kind::LOCK_RETURN, &[lock.0.0, req.0, token]);
                w.put_u8(u8::from(broken));
            }
            LockMessage::ReturnAck { lock, req } => put(w, kind::LOCK_RETURN_ACK, &[lock.0.0, req.0]),
            LockMessage::Broken { lock, req, dead } => {
                put(w, kind::LOCK_BROKEN, &[lock.0.0, req.0]);
                w.put_u16(dead.0);
            }
            LockMessage::Busy { lock, req } => put(w, kind::LOCK_BUSY, &[lock.0.0, req.0]),
        }
    }

    fn decode(kind: u8, r: &mut Reader<'_>) -> Result<LockMessage, DecodeError> {
        let (lock, req) = (LockId(PageId(r.u64()?)), Req(r.u64()?));
        Ok(match kind {
            kind::LOCK_REQUEST => LockMessage::Request { lock, req, attempt: decode_attempt(r)? },
            kind::LOCK_FORWARD => {
                let next_req = Req(r.u64()?);
                let next = decode_node(r)?;
                LockMessage::Forward { lock, tenure: req, next, next_req, attempt: decode_attempt(r)? }
            }
            kind::LOCK_GRANT => LockMessage::Grant { lock, req, token: r.u64()?, kept: Span(r.u64()?) },
            kind::LOCK_RETURN => LockMessage::Return { lock, req, token: r.u64()?, broken: decode_flag(r)? },
            kind::LOCK_RETURN_ACK => LockMessage::ReturnAck { lock, req },
            kind::LOCK_BROKEN => LockMessage::Broken { lock, req, dead: decode_node(r)? },
            kind::LOCK_BUSY => LockMessage::Busy { lock, req },
            _ => return Err(BAD_KIND),
        })
    }
}

impl BarrierMessage {
    fn encode(&self, w: &mut impl Writer) {
        let (kind, barrier, generation) = match *self {
            BarrierMessage::Quit { barrier } => {
                put(w, kind::BARRIER_QUIT, &[barrier.program]);
                return w.put_u32(barrier.index);
            }
            BarrierMessage::Arrive { barrier, generation, .. } => (kind::BARRIER_ARRIVE, barrier, generation),
            BarrierMessage::Release { barrier, generation } => (kind::BARRIER_RELEASE, barrier, generation),
            BarrierMessage::Broken { barrier, generation, .. } => (kind::BARRIER_BROKEN, barrier, generation),
            BarrierMessage::Withdraw { barrier, generation, .. } => {
                (kind::BARRIER_WITHDRAW, barrier, generation)
            }
            BarrierMessage::Withdrawn { barrier, generation, .. } => {
                (kind::BARRIER_WITHDRAWN, barrier, generation)
            }
        };
        put(w, kind, &[barrier.program, generation]);
        w.put_u32(barrier.index);
        match *self {
            BarrierMessage::Arrive { arrival, members, .. } => {
                w.put_u32(arrival);
                w.put_u128(members.bits());
            }
            BarrierMessage::Release { .. } | BarrierMessage::Quit { .. } => {}
            BarrierMessage::Broken { dead, .. } => w.put_u16(dead.0),
            BarrierMessage::Withdraw { arrival, .. } | BarrierMessage::Withdrawn { arrival, .. } => {
                w.put_u32(arrival);
            }
        }
    }

    fn decode(kind: u8, r: &mut Reader<'_>) -> Result<BarrierMessage, DecodeError> {
        let program = r.u64()?;
        if kind == kind::BARRIER_QUIT {
            return Ok(BarrierMessage::Quit { barrier: BarrierId { program, index: r.u32()? } });
        }
        let generation = r.u64()?;
        let barrier = BarrierId { program, index: r.u32()? };
        Ok(match kind {
            kind::BARRIER_ARRIVE => {
                let arrival = r.u32()?;
                let members = NodeSet::from_bits(r.u128()?);
                BarrierMessage::Arrive { barrier, generation, arrival, members }
            }
            kind::BARRIER_RELEASE => BarrierMessage::Release { barrier, generation },
            kind::BARRIER_BROKEN => BarrierMessage::Broken { barrier, generation, dead: decode_node(r)? },
            kind::BARRIER_WITHDRAW => BarrierMessage::Withdraw { barrier, generation, arrival: r.u32()? },
            kind::BARRIER_WITHDRAWN => BarrierMessage::Withdrawn { barrier, generation, arrival: r.u32()? },
            _ => return Err(BAD_KIND),
        })
    }
}

impl Report {
    fn encode(&self, w: &mut impl Writer) {
        match *self {
            Report::Part { number, part: ReportPart::Pages { first, pages, state, version } } => {
                put(w, kind::REPORT_PAGES, &[first.0, version.0]);
                w.put_u32(number);
                w.put_u32(pages);
                w.put_u8(match state {
                    Held::Bytes => 0,
                    Held::Shared => 1,
                    Held::Modified => 2,
                });
            }
            Report::Part { number, part: ReportPart::Lock { lock, held } } => {
                let (is_here, req) = match held {
                    HeldLock::Here(req) => (true, req),
                    HeldLock::WaitsSince(req) => (false, req),
                };
                put(w, kind::REPORT_LOCK, &[lock.0.0, req.0]);
                w.put_u32(number);
                w.put_u8(u8::from(is_here));
            }
            Report::Total { parts } => {
                put(w, kind::REPORT_TOTAL, &[]);
                w.put_u32(parts);
            }
        }
    }

    fn decode(kind: u8, r: &mut Reader<'_>) -> Result<Report, DecodeError> {
        let part = match kind {
            kind::REPORT_PAGES => {
                let (first, version, number, pages) = (PageId(r.u64()?), Txn(r.u64()?), r.u32()?, r.u32()?);
                let state = match r.u8()? {
                    0 => Held::Bytes,
                    1 => Held::Shared,
                    2 => Held::Modified,
                    _ => return Err(DecodeError::Bad("state")),
                };
                if pages > REPORT_RUN_MAX {
                    return Err(DecodeError::Bad("pages"));
                }
                (number, ReportPart::Pages { first, pages, state, version })
            }
            kind::REPORT_LOCK => {
                let (lock, req, number) = (LockId(PageId(r.u64()?)), Req(r.u64()?), r.u32()?);
                let held = if decode_flag(r)? { HeldLock::Here(req) } else { HeldLock::WaitsSince(req) };
                (number, ReportPart::Lock { lock, held })
            }
            _ => return Ok(Report::Total { parts: r.u32()? }),
        };
        let (number, part) = part;
        Ok(Report::Part { number, part })
    }
}

/// Pages in one part of a report.
pub(super) const REPORT_RUN_MAX: u32 = 4096;

fn put(w: &mut impl Writer, kind: u8, fields: &[u64]) {
    w.put_u8(kind);
    for &field in fields {
        w.put_u64(field);
    }
}

fn body_byte(body: Body) -> u8 {
    match body {
        Body::Zero => 0,
        Body::Page => 1,
        Body::InPlace => unreachable!("bytes in place are never sent"),
    }
}

fn decode_node(r: &mut Reader<'_>) -> Result<NodeId, DecodeError> {
    let node = r.u16()?;
    if (node as usize) < NODES_MAX { Ok(NodeId(node)) } else { Err(DecodeError::Bad("node")) }
}

fn decode_attempt(r: &mut Reader<'_>) -> Result<Attempt, DecodeError> {
    Ok(if decode_flag(r)? { Attempt::Try } else { Attempt::Wait })
}

fn decode_flag(r: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::Bad("flag")),
    }
}

fn decode_body(r: &mut Reader<'_>) -> Result<Body, DecodeError> {
    Ok(if decode_flag(r)? { Body::Page } else { Body::Zero })
}

/// Messages in one batch.
pub const BATCH_MESSAGES_MAX: usize = 255;

/// Writes the front of a batch: sender's epoch and message count. The messages follow, then their pages.
pub fn encode_batch_head(w: &mut impl Writer, epoch: Epoch, messages: usize) {
    assert!((1..=BATCH_MESSAGES_MAX).contains(&messages), "a batch of {messages} messages");
    w.put_u64(epoch.0);
    w.put_u8(messages as u8);
}

/// A received batch, checked as a whole before any of it is handled.
pub struct Batch<'a> {
    /// The sender's epoch when it sent the batch.
    pub epoch: Epoch,
    messages: smallvec::SmallVec<[Message; 16]>,
    pages: &'a [u8],
}

impl<'a> Batch<'a> {
    /// Decodes a whole batch; every byte must have its place.
    pub fn decode(bytes: &'a [u8]) -> Result<Batch<'a>, DecodeError> {
        let mut r = Reader::new(bytes);
        let epoch = Epoch(r.u64()?);
        let count = r.u8()? as usize;
        if !(1..=BATCH_MESSAGES_MAX).contains(&count) {
            return Err(DecodeError::Bad("message count"));
        }
        let mut messages = smallvec::SmallVec::<[Message; 16]>::new();
        for _ in 0..count {
            messages.push(Message::decode(&mut r)?);
        }
        let carried = messages.iter().filter(|message| message.carries_page()).count();
        if r.rest().len() != carried * PAGE_SIZE && decoders_keep("PagesFillTheirBatch") {
            return Err(DecodeError::Bad("page count"));
        }
        Ok(Batch { epoch, messages, pages: r.rest() })
    }

    /// The messages with the bytes that each carries (empty, or one page).
    pub fn iter(&self) -> impl Iterator<Item = (Message, &'a [u8])> + '_ {
        let mut pages = self.pages.chunks_exact(PAGE_SIZE);
        self.messages.iter().map(move |&message| {
            let page: &[u8] = if message.carries_page() { pages.next().unwrap_or(&[]) } else { &[] };
            (message, page)
        })
    }
}
