//! Nodes whose processes have ended and that this process runs on: a further coherence core for each, over the memory
//! and the record that the process has left. The view names who runs a node; all others send to that process what is
//! for the node, and take from it what the node says.
//!
//! A node begins when its memory is open here and when this process was told of every region of which the node can
//! have pages. It is drained when no region has homes at it: its pages go back to their homes, and when all members
//! have what it has said, it is a member no more.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use super::gate::{Hearing, Source};
use super::{Cores, Host, Machine, Output, Send, channel};
use crate::coherence::{Batch, Coherence, Input, Legacy, Message, NodeSet, OpId, Output as CoreOutput};
use crate::membership::{Death, Member, Membership};
use crate::net::{Priority, SessionHandle};
use crate::page::{EXTENT_PAGES, Epoch, Memory, NodeId, PageBuf, PageId, PeerId, Time};

/// The departure of a further core: no thread waits for it.
const DRAINED: OpId = OpId(0);

/// The nodes that this process runs on, and who runs the others.
#[derive(Default)]
pub(super) struct Further {
    nodes: BTreeMap<NodeId, Node>,
    named: BTreeMap<NodeId, Named>,
    round: Option<LastRound>,
    /// What cores of this process say to nodes that are run on, and what those that are run on here say.
    carried: Vec<Carried>,
}

/// A node that this process is to run on.
struct Node {
    peer: PeerId,
    /// It has no pages of later regions.
    last_region: u64,
    /// What its record says, until it begins.
    legacy: Option<Legacy>,
    core: Option<Coherence>,
    /// What cores of this process have said to it before it began.
    waiting: Vec<Carried>,
    drain: Drain,
}

/// How far a node is on its way out of the cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Drain {
    NotYet,
    /// Its pages go back to their homes.
    WritingBack,
    /// These members may not have all that it has said.
    Flushing(NodeSet),
    /// The coordinator was asked to let it go.
    Asked,
}

/// Who runs an ended node on, and who did before.
struct Named {
    node: PeerId,
    runner: PeerId,
    before: PeerId,
}

/// The round in which nodes begin that begin now: members have left it since.
#[derive(Clone, Copy)]
struct LastRound {
    epoch: Epoch,
    members: NodeSet,
    run_on: NodeSet,
}

/// A message from or to a node that is run on, as its sender's core has put it out.
struct Carried {
    from: NodeId,
    to: NodeId,
    epoch: Epoch,
    message: Message,
    page: Option<PageBuf>,
}

impl Further {
    pub(super) fn poll_timeout(&self) -> Option<Time> {
        self.nodes.values().filter_map(|node| node.core.as_ref()?.poll_timeout()).min()
    }

    /// The most messages that wait for one node to begin.
    pub(super) fn longest(&self) -> usize {
        self.nodes.values().map(|node| node.waiting.len()).max().unwrap_or(0)
    }

    /// Whether this start of a node was told to have ended, and is run on.
    pub(super) fn is_run_on(&self, peer: PeerId) -> bool {
        self.named.get(&peer.node).is_some_and(|named| named.node == peer)
    }

    pub(super) fn note_round(&mut self, epoch: Epoch, members: NodeSet, run_on: NodeSet) {
        self.round = Some(LastRound { epoch, members, run_on });
    }

    /// A member has left. Before it did, it let go what it ran on.
    pub(super) fn note_left(&mut self, member: PeerId) {
        self.named.remove(&member.node);
        for named in self.named.values_mut().filter(|named| named.runner == member) {
            named.runner = named.node;
        }
        if let Some(round) = &mut self.round {
            round.members.remove(member.node);
            round.run_on.remove(member.node);
        }
    }

    /// A member is new, perhaps in the slot of one that was run on.
    pub(super) fn note_joined(&mut self, node: NodeId) {
        if let Some(round) = &mut self.round {
            round.run_on.remove(node);
        }
    }

    /// A view tells the end of a process that ran a node, and who runs that node now.
    pub(super) fn note_death(&mut self, death: &Death) {
        let node = PeerId::from(&death.member);
        let before = self.named.remove(&node.node).filter(|named| named.node == node);
        if let Some(runner) = death.runner {
            let before = before.map_or(node, |named| named.runner);
            self.named.insert(node.node, Named { node, runner, before });
        }
    }

    /// This node has joined, when these were run on already.
    pub(super) fn note_view(&mut self, membership: &Membership) {
        let view = membership.view();
        for (&id, runner) in &view.runners {
            let (Some(node), Some(runner)) = (view.member(id), view.member(runner.at)) else { continue };
            let (node, runner) = (PeerId::from(node), PeerId::from(runner));
            self.named.insert(id, Named { node, runner, before: runner });
        }
    }
}

impl Node {
    /// Gives it what somebody says to it, if it has begun.
    fn hear<H: Host>(&mut self, now: Time, carried: Carried, host: &mut H) {
        let (Some(core), Some(mut memory)) = (&mut self.core, host.kept(self.peer)) else {
            return self.waiting.push(carried);
        };
        let Carried { from, epoch, message, page, .. } = carried;
        let page = page.as_ref().map_or(&[][..], PageBuf::as_slice);
        core.handle(now, Input::Message { from, epoch, message, page }, &mut memory);
    }
}

impl Cores {
    /// Gives an event that concerns all nodes to every coherence core of this process.
    pub(super) fn input_all<H: Host>(&mut self, now: Time, input: Input<'static>, host: &mut H) {
        let told = self.further.nodes.values_mut().filter(|_| self.rules.tells_further_cores());
        for node in told {
            if let (Some(core), Some(mut memory)) = (&mut node.core, host.kept(node.peer)) {
                core.handle(now, input.clone(), &mut memory);
            }
        }
        self.input(now, input, host);
    }

    pub(super) fn is_run_on(&self, node: NodeId) -> bool {
        self.membership.as_ref().is_some_and(|membership| membership.view().runner(node).is_some())
    }

    /// The own core says something to a node that is run on.
    pub(super) fn carry(&mut self, to: NodeId, message: Message, page: Option<PageBuf>) {
        let Some(membership) = &self.membership else { return };
        if let Some(from) = membership.me() {
            let epoch = membership.view().epoch;
            self.further.carried.push(Carried { from, to, epoch, message, page });
        }
    }

    /// Runs the timers of the further cores.
    pub(super) fn tick_further<H: Host>(&mut self, now: Time, host: &mut H) {
        for node in self.further.nodes.values_mut() {
            if let (Some(core), Some(mut memory)) = (&mut node.core, host.kept(node.peer))
                && core.poll_timeout().is_some_and(|due| due <= now)
            {
                core.handle(now, Input::Timer, &mut memory);
            }
        }
    }

    /// Orders what the view names this process for, and nothing else.
    pub(super) fn follow_runners(&mut self) {
        let Some(membership) = &self.membership else { return };
        if self.has_asked_to_leave() {
            return;
        }
        let (view, me) = (membership.view(), membership.me());
        let is_ours = |peer: PeerId| {
            view.incarnation(peer.incarnation).is_some() && me.is_some() && view.runner(peer.node) == me
        };
        let pending = &mut self.pending;
        self.further.nodes.retain(|_, node| {
            let stays = is_ours(node.peer);
            if !stays {
                pending.push_back(Output::Forget(node.peer));
            }
            stays
        });
        for (&id, runner) in view.runners.iter().filter(|(_, runner)| Some(runner.at) == me) {
            let Some(peer) = view.member(id).map(PeerId::from) else { continue };
            if self.further.nodes.contains_key(&id) {
                continue;
            }
            let named = self.further.named.get(&id);
            let ran_at = named.map_or(peer, |named| named.before);
            let (legacy, core, waiting) = (None, None, Vec::new());
            let last_region = runner.last_region;
            let node = Node { peer, last_region, legacy, core, waiting, drain: Drain::NotYet };
            self.further.nodes.insert(id, node);
            self.pending.push_back(Output::RunOn { node: peer, ran_at });
        }
    }

    /// This process is about to leave: whoever is named next for the nodes that it runs on has them alone.
    pub(super) fn forget_further(&mut self) {
        for (_, node) in std::mem::take(&mut self.further.nodes) {
            self.pending.push_back(Output::Forget(node.peer));
        }
    }

    /// The memory of an ended node is open here.
    pub(super) fn on_run_on(&mut self, node: PeerId, legacy: Legacy) {
        if let Some(node) = self.further.nodes.get_mut(&node.node).filter(|other| other.peer == node) {
            node.legacy = Some(legacy);
        }
    }

    pub(super) fn on_cannot_run(&mut self, node: PeerId) {
        if let Some(membership) = &mut self.membership {
            membership.cannot_run(node.incarnation);
        }
    }

    /// Begins nodes of which everything is here and known; true if there was one.
    pub(super) fn begin_further<H: Host>(&mut self, now: Time, host: &mut H) -> bool {
        let Some(membership) = &self.membership else { return false };
        let mut any = false;
        for (&id, node) in &mut self.further.nodes {
            if !membership.was_told_regions_until(node.last_region) {
                continue;
            }
            let Some(mut memory) = host.kept(node.peer) else { continue };
            let Some(legacy) = node.legacy.take() else { continue };
            let (legacy, strays) = sort(legacy, membership, node.last_region);
            strays.into_iter().for_each(|page| memory.discard(page));
            let lost = lost_since(membership, legacy.opened);
            let mut core = Coherence::heir(id, legacy, lost);
            for record in membership.regions() {
                core.handle(now, Input::Region(record.info.clone()), &mut memory);
            }
            if let Some(LastRound { epoch, members, run_on }) = self.further.round {
                let died = NodeSet::EMPTY;
                core.handle(now, Input::Round { epoch, members, died, run_on }, &mut memory);
            }
            drop(memory);
            node.core = Some(core);
            for carried in std::mem::take(&mut node.waiting) {
                node.hear(now, carried, host);
            }
            // What others have said to it was kept until now.
            self.has_new_view = true;
            any = true;
        }
        any
    }

    /// A batch of messages from or to a node that is run on.
    pub(super) fn deliver_carried<H: Host>(
        &mut self,
        now: Time,
        (session, source): (SessionHandle, Source),
        bytes: &[u8],
        rest: &[u8],
        host: &mut H,
    ) -> Hearing {
        let Some((&[a, b, c, d], rest)) = rest.split_first_chunk() else { return Hearing::Unsound };
        let [from, to] = [[a, b], [c, d]].map(|id| NodeId(u16::from_le_bytes(id)));
        let Ok(batch) = Batch::decode(rest) else { return Hearing::Unsound };
        let (Some(sender), Some(membership), true) =
            (self.routes.node(session), &self.membership, batch.epoch <= self.installed)
        else {
            return self.keep_early(session, bytes, source);
        };
        // Of a process that ran the node before: the round in which it did is over.
        if from != sender && membership.view().runner(from) != Some(sender) {
            return Hearing::Heard;
        }
        if membership.me() == Some(to) {
            return self.hear_batch(now, from, &batch, host);
        }
        let Some(node) = self.further.nodes.get_mut(&to) else { return Hearing::Heard };
        match (&mut node.core, host.kept(node.peer)) {
            (Some(core), Some(mut memory)) => core.handle_batch(now, from, &batch, &mut memory),
            _ if self.rules.keeps_messages_until_nodes_begin() => {
                return self.keep_early(session, bytes, source);
            }
            _ => {}
        }
        Hearing::Heard
    }
}

impl Machine {
    /// Takes around what concerns nodes that are run on; true if there was something.
    pub(super) fn carry<H: Host>(&mut self, now: Time, host: &mut H) -> bool {
        let Some(membership) = &self.cores.membership else { return false };
        let (view, me) = (membership.view(), membership.me());
        if view.runners.is_empty() && self.cores.further.carried.is_empty() {
            return false;
        }
        let epoch = view.epoch;
        for (&from, node) in &mut self.cores.further.nodes {
            while let Some(output) = node.core.as_mut().and_then(Coherence::poll_output) {
                match output {
                    CoreOutput::Send { to, message, page } => {
                        self.cores.further.carried.push(Carried { from, to, epoch, message, page });
                    }
                    CoreOutput::Done { .. } => node.drain = Drain::Flushing(others(membership)),
                }
            }
        }
        let carried = std::mem::take(&mut self.cores.further.carried);
        let any = !carried.is_empty();
        let mut away: BTreeMap<(NodeId, NodeId, NodeId), Vec<Send>> = BTreeMap::new();
        for carried in carried {
            let view = self.cores.membership.as_ref().map(Membership::view);
            let at = view.and_then(|view| view.runner(carried.to)).unwrap_or(carried.to);
            if Some(at) != me {
                let Carried { from, to, message, page, .. } = carried;
                away.entry((at, from, to)).or_default().push((to, message, page));
            } else if let Some(node) = self.cores.further.nodes.get_mut(&carried.to) {
                node.hear(now, carried, host);
            } else if Some(carried.to) == me {
                let Carried { from, epoch, message, page, .. } = carried;
                let page = page.as_ref().map_or(&[][..], PageBuf::as_slice);
                self.cores.input(now, Input::Message { from, epoch, message, page }, host);
            }
        }
        for ((at, from, to), mut sends) in away {
            let mut head: SmallVec<[u8; 5]> = SmallVec::from_slice(&[channel::CARRIED]);
            head.extend_from_slice(&from.0.to_le_bytes());
            head.extend_from_slice(&to.0.to_le_bytes());
            while !sends.is_empty() {
                let batch = self.take_batch(&head, to, &mut sends);
                let priority = if batch.pages.is_empty() { Priority::Control } else { Priority::Bulk };
                self.send(now, at, batch, priority);
            }
        }
        any
    }

    /// Takes nodes that nothing needs any more out of the cluster; true if there was a step.
    pub(super) fn drain_further<H: Host>(&mut self, now: Time, host: &mut H) -> bool {
        let Some(membership) = &self.cores.membership else { return false };
        let ids: SmallVec<[NodeId; 4]> = self.cores.further.nodes.keys().copied().collect();
        let has_homes = |id: NodeId| membership.regions().any(|record| record.info.homes.contains(&id));
        let homeless: SmallVec<[NodeId; 4]> = ids.iter().copied().filter(|&id| !has_homes(id)).collect();
        let mut any = false;
        for id in ids {
            let Some(drain) = self.cores.further.nodes.get(&id).map(|node| node.drain) else { continue };
            let next = match drain {
                Drain::NotYet if homeless.contains(&id) => self.write_back(now, id, host),
                Drain::Flushing(members) => Some(self.flushed(members)),
                Drain::NotYet | Drain::WritingBack | Drain::Asked => None,
            };
            let Some(next) = next.filter(|next| *next != drain) else { continue };
            any = true;
            let Some(node) = self.cores.further.nodes.get_mut(&id) else { continue };
            node.drain = next;
            let peer = node.peer;
            if let (Drain::Asked, Some(membership)) = (next, &mut self.cores.membership) {
                membership.drained(peer.incarnation);
            }
        }
        any
    }

    fn write_back<H: Host>(&mut self, now: Time, id: NodeId, host: &mut H) -> Option<Drain> {
        let node = self.cores.further.nodes.get_mut(&id)?;
        let core = node.core.as_mut()?;
        core.handle(now, Input::Leave { op: DRAINED }, &mut host.kept(node.peer)?);
        Some(Drain::WritingBack)
    }

    /// What is left when all have what those members have that wait for nothing more.
    fn flushed(&self, members: NodeSet) -> Drain {
        let Some(membership) = &self.cores.membership else { return Drain::Flushing(members) };
        let view = membership.view();
        let runs = |id: NodeId| view.member(id).is_some() && view.runner(id).is_none();
        let owes = |id: &NodeId| self.owes(*id) && runs(*id) && self.cores.rules.flushes_drained_nodes();
        let left: NodeSet = members.iter().filter(owes).collect();
        if left.is_empty() { Drain::Asked } else { Drain::Flushing(left) }
    }
}

/// The members that can have been told something.
fn others(membership: &Membership) -> NodeSet {
    let running = membership.view().running().map(|member: &Member| member.id);
    running.filter(|&id| Some(id) != membership.me()).collect()
}

/// A node that nobody runs on, and whose end a later view has told.
fn lost_since(membership: &Membership, opened: Epoch) -> Option<NodeId> {
    let deaths = membership.view().deaths.iter();
    let mut lost = deaths.filter(|(epoch, death)| *epoch > opened && death.runner.is_none());
    lost.next_back().map(|(_, death)| death.member.id)
}

/// The part of a record that is about regions that are here, and the pages that are not of these.
fn sort(legacy: Legacy, membership: &Membership, last_region: u64) -> (Legacy, Vec<PageId>) {
    let is_own = |page: PageId| {
        let region = membership.region_of(page);
        region.is_some_and(|record| record.generation <= last_region)
    };
    let Legacy { pages, mut homes, mut locks, opened } = legacy;
    homes.retain(|(extent, _)| is_own(PageId(extent.0 * EXTENT_PAGES)));
    locks.retain(|lock| is_own(lock.0));
    let (own, strays): (Vec<_>, Vec<_>) = pages.into_iter().partition(|&(page, _)| is_own(page));
    (Legacy { pages: own, homes, locks, opened }, strays.into_iter().map(|(page, _)| page).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tests::{Nothing, joined};
    use super::*;
    use crate::coherence::{LockId, Placement, RegionInfo, ToNode, encode_batch_head};
    use crate::membership::{COORDINATOR, Control, ElementType, LinkId, RegionRecord, Runner, View};
    use crate::page::Incarnation;

    fn region(start: u64, generation: u64) -> RegionRecord {
        let (start, homes) = (PageId(start), vec![COORDINATOR]);
        let (pages, placement) = (EXTENT_PAGES, Placement::Block);
        let info = RegionInfo { start, pages, used: pages, placement, homes, quotas: Vec::new() };
        let element = ElementType::untagged(8);
        RegionRecord { name: format!("r{start:?}"), bytes: 8, element, info, program: 1, generation }
    }

    #[test]
    fn what_a_record_says_of_regions_that_came_later_or_are_gone_is_not_about_those_that_are_here() {
        let mut machine = joined();
        let membership = machine.cores.membership.as_mut().expect("joined");
        for record in [region(64, 5), region(128, 6)] {
            membership.handle(Time(0), LinkId(7), Some(COORDINATOR), Control::RegionAdded(record));
        }
        let pages = [PageId(64), PageId(129), PageId(192)];
        let legacy = Legacy {
            pages: pages.map(|page| (page, crate::page::Txn(1))).into(),
            homes: pages.map(|page| (page.extent(), NodeId(1))).into(),
            locks: pages.map(LockId).into(),
            opened: Epoch(3),
        };
        let (own, strays) = sort(legacy, membership, 5);
        assert_eq!(strays, pages[1..]);
        assert_eq!(own.pages, [(pages[0], crate::page::Txn(1))]);
        assert_eq!(own.homes, [(pages[0].extent(), NodeId(1))]);
        assert_eq!((own.locks, own.opened), (vec![LockId(pages[0])], Epoch(3)));
    }

    #[test]
    fn a_process_speaks_for_the_nodes_that_the_view_names_it_for_and_for_no_others() {
        let mut machine = joined();
        machine.cores.coherence = Some(Coherence::new(NodeId(1), Epoch(1), NodeId(1)));
        let view = machine.cores.membership.as_ref().expect("joined").view();
        let members = (0..4).map(|id| {
            let intro = crate::membership::Introduction {
                incarnation: Incarnation(id),
                ..view.members[0].intro.clone()
            };
            Member { id: NodeId(id as u16), intro }
        });
        let runners =
            [(2, 0), (3, 1)].map(|(node, at)| (NodeId(node), Runner { at: NodeId(at), last_region: 0 }));
        let (members, runners) = (members.collect(), BTreeMap::from(runners));
        let view = View { epoch: Epoch(3), members, runners, ..View::default() };
        let membership = machine.cores.membership.as_mut().expect("joined");
        membership.handle(Time(0), LinkId(7), Some(COORDINATOR), Control::View(view));
        let session = SessionHandle::from_bits(1);
        machine.cores.routes.connected(session, Incarnation(0));
        machine.cores.routes.is_coordinator(session);
        machine.cores.installed = Epoch(3);
        let mut says = |from: u16| {
            let mut bytes = vec![channel::CARRIED];
            bytes.extend([from.to_le_bytes(), 1_u16.to_le_bytes()].concat());
            encode_batch_head(&mut bytes, Epoch(3), 1);
            Message::from(ToNode::LeaveAck).encode(&mut bytes);
            let heard = machine.cores.deliver(Time(0), session, &bytes, Source::Socket, &mut Nothing);
            assert_eq!(heard, Hearing::Heard);
            machine.cores.coherence.as_ref().map(|core| core.counters().messages_in)
        };
        assert_eq!([0, 2, 3, 1].map(&mut says), [Some(1), Some(2), Some(2), Some(2)]);
        let cut =
            machine.cores.deliver(Time(0), session, &[channel::CARRIED, 0, 0], Source::Socket, &mut Nothing);
        assert_eq!(cut, Hearing::Unsound);
    }
}
