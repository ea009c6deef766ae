//! The coordinator: gives out ids, and keeps the directory of regions. A node that asks for a new region is
//! answered when the region's homes have mapped it: no page of it can be asked for before. The other members
//! are told at the same time and are not waited for, so that one that does not answer holds up nobody. A
//! removal is told when all were told of the region, and its addresses are free when all have unmapped it.

use std::collections::BTreeMap;

use super::host;
use super::regions::{Directory, Home, Removal};
use super::runners::Refusals;
use super::{
    Action, COORDINATOR, Control, Introduction, Kind, LinkId, Member, Membership, RegionRecord, Want, bounded,
};
use crate::codec::encode_control;
use crate::coherence::NodeSet;
use crate::config::NODES_MAX;
use crate::config::membership::{ASKERS_MAX, EPOCHS_MAX, HOW_LEN_MAX, REGIONS_LEN_MAX};
use crate::page::{Incarnation, NodeId, PageId};

/// State that only the coordinator has.
#[derive(Clone, Default)]
pub(super) struct Coordinator {
    directory: Directory,
    /// The coordinator itself wants to leave.
    pub(super) leaving: bool,
    /// Regions that some members have yet to map or unmap.
    changing: BTreeMap<PageId, Change>,
    pub(super) refusals: Refusals,
}

/// A region on its way in or out.
#[derive(Clone)]
struct Change {
    record: RegionRecord,
    /// Members whose acknowledgement is due.
    due: NodeSet,
    /// Members that wait for the region, each with its request; none for a removal.
    askers: Vec<(NodeId, Request)>,
    way: Way,
}

/// A request that ends when the homes of its region have mapped it, by the asker's number for it.
#[derive(Clone, Copy)]
enum Request {
    Alloc(u64),
    Use(u64),
}

/// Whether a request waits for the homes of its region.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Yes,
    No,
    /// Too many of its member wait.
    Refused,
}

/// How it is told that a node is run by another process than before.
const RUNNER_ENDED: &str = "the process that ran it has ended";

/// What a member is told that asks more often than its threads can.
const TOO_MANY: &str = "too many requests of this node wait for regions: try again when some have ended";

/// Which way a region is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    /// On its way in, and to go as soon as all have it: who has not would take its removal for late news.
    InThenOut,
    Out,
}

impl Change {
    fn is_of(&self, generation: u64) -> bool {
        self.record.generation == generation
    }

    /// Whether a home of the region has not mapped it.
    fn waits_for_homes(&self) -> bool {
        self.record.info.homes.iter().any(|home| self.due.contains(*home))
    }
}

impl Coordinator {
    /// The coordinator of a new cluster.
    pub(super) fn of(founder: Incarnation) -> Coordinator {
        Coordinator { directory: Directory::of(founder), ..Coordinator::default() }
    }

    /// The generation of the last region that was made.
    pub(super) fn last_region(&self) -> u64 {
        self.directory.last_generation()
    }

    pub(super) fn users(&self, start: PageId) -> NodeSet {
        self.directory.users(start)
    }

    pub(super) fn handle(
        &mut self,
        shared: &mut Membership,
        link: LinkId,
        from: Option<NodeId>,
        control: Control,
    ) {
        match (control, from) {
            (Control::Join(intro), None) => self.on_join(shared, link, intro),
            (Control::Alloc { op, name, want }, Some(from)) => self.on_alloc(shared, from, op, name, want),
            (Control::Remove { op, name }, Some(from)) => {
                let result = self.remove(shared, &name);
                self.reply(shared, from, op, result.map(|()| None));
            }
            (Control::Use { op, page, generation }, Some(from)) => {
                let result = self.directory.open(page, generation, from);
                let start = result.as_ref().ok().map(|record| record.info.start);
                match start.map_or(Wait::No, |start| self.wait_for_homes(start, from, Request::Use(op))) {
                    Wait::Yes => {}
                    Wait::No => self.reply_use(shared, from, op, result),
                    Wait::Refused => self.reply_use(shared, from, op, Err(TOO_MANY.into())),
                }
            }
            (Control::Unuse(returned), Some(from)) => {
                for returned in returned {
                    if let Some(start) = self.directory.close(&returned, from) {
                        self.start_removal(shared, start);
                    }
                }
            }
            (Control::RegionMapped { start, generation }, Some(from)) => {
                let change = self.changing.get(&start).filter(|change| change.is_of(generation));
                if change.is_some_and(|change| change.way != Way::Out) {
                    self.settle_change(shared, from, start);
                }
            }
            (Control::RegionUnmapped { start, generation }, Some(from)) => {
                let change = self.changing.get(&start).filter(|change| change.is_of(generation));
                if change.is_some_and(|change| change.way == Way::Out) {
                    self.settle_change(shared, from, start);
                }
            }
            (Control::CannotRun { of }, Some(from)) => self.on_cannot_run(shared, from, of),
            (Control::Drained { of }, Some(from)) => self.on_drained(shared, from, of),
            (Control::Leave, Some(from)) => self.on_leave(shared, from),
            // A member that joins again, or a stranger that asks for what only members may.
            (
                Control::Join(_)
                | Control::Alloc { .. }
                | Control::Remove { .. }
                | Control::Use { .. }
                | Control::Unuse(_)
                | Control::RegionMapped { .. }
                | Control::RegionUnmapped { .. }
                | Control::CannotRun { .. }
                | Control::Drained { .. }
                | Control::Leave
                | Control::Met
                | Control::Suspect { .. }
                | Control::Unsuspect { .. }
                | Control::ProcessEnded { .. }
                | Control::Probe { .. }
                | Control::Alive { .. }
                | Control::Joined { .. }
                | Control::Regions(_)
                | Control::JoinRefused(_)
                | Control::View(_)
                | Control::AllocReply { .. }
                | Control::RemoveReply { .. }
                | Control::UseReply { .. }
                | Control::RegionAdded(_)
                | Control::RegionGone { .. }
                | Control::LeaveAck
                | Control::Shutdown { .. },
                _,
            ) => {}
        }
    }

    fn on_join(&mut self, shared: &mut Membership, link: LinkId, intro: Introduction) {
        let id = match self.admit(shared, &intro) {
            Ok(id) => id,
            Err(reason) => {
                let control = Control::JoinRefused(reason);
                return shared.actions.push_back(Action::SendLink { link, control });
            }
        };
        let at = shared.view.members.partition_point(|member| member.id < id);
        let member = Member { id, intro };
        shared.view.members.insert(at, member.clone());
        shared.view.epoch.0 += 1;
        shared.follow_view();
        // A region on its way in must be mapped by the newcomer too; on its way out it is gone for it.
        let removed = |start: &PageId| self.changing.get(start).is_some_and(|change| change.way == Way::Out);
        let regions = shared.regions.iter().filter(|(start, _)| !removed(start));
        let regions: Vec<RegionRecord> = regions.map(|(_, known)| known.record.clone()).collect();
        let control = Control::Joined { id, view: shared.view.clone(), regions: regions.len() as u64 };
        shared.actions.push_back(Action::SendLink { link, control });
        self.publish(shared, Some(id));
        shared.actions.push_back(Action::ViewChanged {
            joined: vec![member],
            left: Vec::new(),
            died: Vec::new(),
        });
        // Now its session is a member's, with a queue for what has no room yet.
        for part in in_parts(regions) {
            shared.actions.push_back(Action::Send { to: id, control: Control::Regions(part) });
        }
    }

    fn admit(&self, shared: &Membership, intro: &Introduction) -> Result<NodeId, String> {
        let own = &shared.intro;
        if shared.view.epoch.0 >= EPOCHS_MAX - 2 * NODES_MAX as u64 {
            return Err("the cluster has had as many joins and departures as it can: start a new one".into());
        }
        if (intro.arena_base, intro.arena_size) != (own.arena_base, own.arena_size) {
            return Err(format!(
                "the cluster's arena is {:#x} bytes at {:#x}, not {:#x} at {:#x}: use the same arena_base and arena_size everywhere",
                own.arena_size, own.arena_base, intro.arena_size, intro.arena_base,
            ));
        }
        let is_known = shared.view.incarnation(intro.incarnation).is_some()
            || shared
                .view
                .deaths
                .iter()
                .any(|(_, death)| death.member.intro.incarnation == intro.incarnation);
        if is_known {
            return Err("this start of the node has joined before: start it anew".into());
        }
        if let Some(reason) = host::unreachable(shared, intro) {
            return Err(reason);
        }
        if let Kind::Rank { program, rank, ranks } = intro.kind {
            if rank >= ranks {
                return Err(format!("rank {rank} of {ranks} ranks: ranks count from 0"));
            }
            for other in shared.view.ranks(program) {
                let Kind::Rank { rank: taken, ranks: total, .. } = other.intro.kind else { continue };
                if total != ranks {
                    return Err(format!(
                        "{} says the program has {total} ranks, not {ranks}",
                        other.describe()
                    ));
                }
                if taken == rank {
                    return Err(format!("{} is there already", other.describe()));
                }
            }
        }
        // Regions name their homes by their ids: nobody else is to be asked for those pages.
        let homes: NodeSet = shared.regions().flat_map(|record| record.info.homes.iter().copied()).collect();
        let free = |id: &NodeId| shared.view.member(*id).is_none() && !homes.contains(*id);
        match (intro.kind, intro.index) {
            (Kind::Daemon, Some(index)) => {
                let id = NodeId(index);
                let usable = (index as usize) < NODES_MAX && free(&id);
                let is_lost = shared.view.member(id).is_none() && homes.contains(id);
                usable.then_some(id).ok_or_else(|| match is_lost {
                    true => format!("regions have pages that were lost with the last daemon {index}"),
                    false => format!("there is a daemon {index} already"),
                })
            }
            (Kind::Daemon, None) | (Kind::Rank { .. }, _) => (0..NODES_MAX as u16)
                .map(NodeId)
                .find(free)
                .ok_or_else(|| format!("the cluster is full: it has {NODES_MAX} nodes")),
        }
    }

    /// Tells everybody the view, except a newcomer that has it already.
    pub(super) fn publish(&mut self, shared: &mut Membership, except: Option<NodeId>) {
        let control = Control::View(shared.view.clone());
        for member in shared.view.running() {
            if Some(member.id) != except && member.id != COORDINATOR {
                shared.actions.push_back(Action::Send { to: member.id, control: control.clone() });
            }
        }
    }

    fn on_leave(&mut self, shared: &mut Membership, from: NodeId) {
        shared.actions.push_back(Action::Send { to: from, control: Control::LeaveAck });
        let orphans = Coordinator::run_by(shared, from);
        if let Some(member) = self.take_out(shared, from) {
            let died = self.runner_has_left(shared, orphans);
            self.tell_deaths(shared, vec![member.clone()], died);
            self.after_departure(shared, &member);
        }
    }

    /// A member is dead, or out for good.
    pub(super) fn on_died(&mut self, shared: &mut Membership, of: Incarnation, how: String) {
        // The end of the process of a node that is run on has been told before.
        let Some(member) = shared.view.running_at(of).cloned() else { return };
        if member.id == COORDINATOR {
            return;
        }
        if !shared.rules.deaths_stay() {
            shared.view.deaths.clear();
        }
        shared.view.epoch.0 += 1;
        let mut ended = vec![(member.clone(), bounded(how, HOW_LEN_MAX))];
        ended.extend(
            Coordinator::run_by(shared, member.id).into_iter().map(|node| (node, RUNNER_ENDED.into())),
        );
        let died = self.name_runners(shared, ended);
        shared.follow_view();
        self.tell_deaths(shared, Vec::new(), died);
        self.after_departure(shared, &member);
    }

    pub(super) fn take_out(&mut self, shared: &mut Membership, node: NodeId) -> Option<Member> {
        let at = shared.view.members.iter().position(|member| member.id == node)?;
        shared.view.epoch.0 += 1;
        let member = shared.view.members.remove(at);
        shared.view.runners.remove(&node);
        shared.follow_view();
        Some(member)
    }

    fn after_departure(&mut self, shared: &mut Membership, member: &Member) {
        for start in self.changing.keys().copied().collect::<Vec<_>>() {
            // A newcomer may get the slot, and has asked for nothing.
            if let Some(change) = self.changing.get_mut(&start) {
                change.askers.retain(|(asker, _)| *asker != member.id);
            }
            self.settle_change(shared, member.id, start);
        }
        for start in self.directory.user_gone(member.id) {
            self.start_removal(shared, start);
        }
        if self.leaving {
            shared.leave_if_last();
        }
        if let Kind::Rank { program, .. } = member.intro.kind
            && shared.view.ranks(program).next().is_none()
        {
            shared.actions.push_back(Action::ProgramEnded { program });
        }
    }

    fn on_alloc(&mut self, shared: &mut Membership, from: NodeId, op: u64, name: String, want: Want) {
        let program = match shared.view.member(from).map(|member| member.intro.kind) {
            Some(Kind::Rank { program, .. }) => program,
            Some(Kind::Daemon) | None => 0,
        };
        let ids = shared.homes();
        let members = shared.view.members.iter().filter(|member| ids.contains(&member.id));
        let homes: Vec<Home> =
            members.map(|m| Home { node: m.id, extents: m.intro.home_extents() }).collect();
        let arena = shared.intro.arena_size;
        match self.directory.alloc(&name, want, (from, program), &homes, arena) {
            Err(reason) => self.reply(shared, from, op, Err(reason)),
            Ok((record, false)) => match self.wait_for_homes(record.info.start, from, Request::Alloc(op)) {
                Wait::Yes => {}
                Wait::No => self.reply(shared, from, op, Ok(Some(record))),
                Wait::Refused => self.reply(shared, from, op, Err(TOO_MANY.into())),
            },
            Ok((record, true)) => {
                let askers = vec![(from, Request::Alloc(op))];
                let due = shared.view.running().map(|member| member.id).collect();
                let start = record.info.start;
                shared.view.last_region = record.generation;
                self.changing.insert(start, Change { record: record.clone(), due, askers, way: Way::In });
                shared.broadcast(&Control::RegionAdded(record.clone()));
                shared.tell_region(&record);
                if !shared.rules.homes_have_it_first() {
                    self.answer_askers(shared, start);
                }
            }
        }
    }

    /// Keeps a request for a region that its homes have not mapped yet.
    fn wait_for_homes(&mut self, start: PageId, from: NodeId, request: Request) -> Wait {
        if !self.changing.get(&start).is_some_and(Change::waits_for_homes) {
            return Wait::No;
        }
        let askers = self.changing.values().flat_map(|change| &change.askers);
        if askers.filter(|(asker, _)| *asker == from).count() >= ASKERS_MAX {
            return Wait::Refused;
        }
        if let Some(change) = self.changing.get_mut(&start) {
            change.askers.push((from, request));
        }
        Wait::Yes
    }

    pub(super) fn remove(&mut self, shared: &mut Membership, name: &str) -> Result<(), String> {
        match self.directory.remove(name)? {
            Removal::WhenUnused => {}
            Removal::Now(start) => self.start_removal(shared, start),
        }
        Ok(())
    }

    fn start_removal(&mut self, shared: &mut Membership, start: PageId) {
        let Some(record) = shared.regions.get(&start).map(|known| known.record.clone()) else { return };
        if let Some(change) = self.changing.get_mut(&start).filter(|change| change.way != Way::Out) {
            change.way = Way::InThenOut;
            return;
        }
        let due = shared.view.running().map(|member| member.id).collect();
        self.changing.insert(start, Change { record, due, askers: Vec::new(), way: Way::Out });
        shared.broadcast(&Control::RegionGone { start });
        shared.drop_region(start);
    }

    /// A member has done its part of a change, or has gone.
    fn settle_change(&mut self, shared: &mut Membership, from: NodeId, start: PageId) {
        let Some(change) = self.changing.get_mut(&start) else { return };
        change.due.remove(from);
        if change.waits_for_homes() {
            return;
        }
        self.answer_askers(shared, start);
        if !self.changing.get(&start).is_some_and(|change| change.due.is_empty()) {
            return;
        }
        let Some(change) = self.changing.remove(&start) else { return };
        match change.way {
            Way::In => {}
            Way::InThenOut => self.start_removal(shared, start),
            Way::Out => self.directory.forget(start),
        }
    }

    fn answer_askers(&mut self, shared: &mut Membership, start: PageId) {
        let Some(change) = self.changing.get_mut(&start) else { return };
        let (askers, record) = (std::mem::take(&mut change.askers), change.record.clone());
        for (asker, request) in askers {
            match request {
                Request::Alloc(op) => self.reply(shared, asker, op, Ok(Some(record.clone()))),
                Request::Use(op) => self.reply_use(shared, asker, op, Ok(record.clone())),
            }
        }
    }

    fn reply(
        &mut self,
        shared: &mut Membership,
        to: NodeId,
        op: u64,
        result: Result<Option<RegionRecord>, String>,
    ) {
        if to == COORDINATOR {
            if let Ok(Some(record)) = &result {
                shared.uses.keep(record);
            }
            return shared.actions.push_back(Action::Done { op, result });
        }
        if shared.view.member(to).is_none() {
            return;
        }
        let control = match result {
            Ok(Some(record)) => Control::AllocReply { op, result: Ok(record) },
            Ok(None) => Control::RemoveReply { op, result: Ok(()) },
            Err(reason) => Control::AllocReply { op, result: Err(reason) },
        };
        shared.actions.push_back(Action::Send { to, control });
    }

    fn reply_use(
        &mut self,
        shared: &mut Membership,
        to: NodeId,
        op: u64,
        result: Result<RegionRecord, String>,
    ) {
        if to == COORDINATOR {
            return shared.on_use_reply(op, result);
        }
        if shared.view.member(to).is_some() {
            shared.actions.push_back(Action::Send { to, control: Control::UseReply { op, result } });
        }
    }
}

/// The regions in parts that fit messages to a newcomer.
fn in_parts(regions: Vec<RegionRecord>) -> Vec<Vec<RegionRecord>> {
    let mut parts: Vec<Vec<RegionRecord>> = Vec::new();
    let mut room = 0;
    for record in regions {
        let len = encode_control(&record).len();
        match parts.last_mut().filter(|_| len <= room) {
            Some(part) => part.push(record),
            None => {
                parts.push(vec![record]);
                // Their number stands in front of them.
                room = REGIONS_LEN_MAX - 16;
            }
        }
        room = room.saturating_sub(len);
    }
    parts
}
