//! What must hold when nothing is under way any more: everybody has finished, what the home knows is
//! what is mapped, the latest bytes are where the directory says, and the run has done its work.

use pagemesh::page::{Access, NodeId};

use crate::program::State;
use crate::world::{Node, Phase, World};

impl World {
    /// The checks at the end of a run; nothing if a rule was broken before.
    pub(crate) fn check_quiet(&mut self) {
        if self.shared.oracle.broken.is_some() {
            return;
        }
        self.check_finished();
        self.shared.oracle.check_sums();
        self.check_nothing_is_lost();
        for page in 0..self.pages().len() {
            self.check_page(page);
        }
        self.check_work();
    }

    /// No store of anybody is lost, whoever has ended at whatever moment: the bytes of the highest version that any
    /// record has are the latest ones.
    pub(crate) fn check_nothing_is_lost(&mut self) {
        if !self.deaths.is_empty() && !self.shared.plan.runs_on {
            // What lay there alone is lost, and so is what only a dead home could have given.
            return;
        }
        for page in 0..self.shared.plan.pages.len() {
            let truth = self.shared.oracle.cells(page);
            for node in self.shared.oracle.newest(page) {
                let is_recorded = self.shared.oracle.has_version(node, page);
                let bytes = if is_recorded {
                    self.nodes[node.0 as usize].local.cells(page)
                } else {
                    Default::default()
                };
                if bytes != truth {
                    self.shared.oracle.fail(|| {
                        format!("no store is lost: page {page} is {bytes:?} at {node}, not {truth:?}")
                    });
                }
            }
        }
    }

    fn check_finished(&mut self) {
        for (at, node) in self.nodes.iter().enumerate() {
            let oracle = &mut self.shared.oracle;
            match node.phase {
                Phase::Gone => {}
                Phase::Ended => oracle.fail(|| format!("nobody waits for ever: node {at} is not run on")),
                Phase::RunOn => {
                    if !node.core.is_idle() {
                        oracle.fail(|| format!("nothing is left over: node {at} is not idle"));
                    }
                }
                Phase::Leaving | Phase::Left => {
                    oracle.fail(|| format!("nobody waits for ever: node {at} never left"));
                }
                Phase::Up => {
                    let waits = |state| state != State::Finished;
                    if let Some(thread) = node.local.threads.iter().find(|thread| waits(thread.state)) {
                        let (state, step) = (thread.state, thread.steps.front().copied());
                        oracle.fail(|| format!("nobody waits for ever: node {at} {state:?} {step:?}"));
                    }
                    if !node.core.is_idle() {
                        oracle.fail(|| format!("nothing is left over: node {at} is not idle"));
                    }
                }
            }
        }
    }

    /// The home's entry of a page against what the nodes have mapped, and against the truth.
    fn check_page(&mut self, page: usize) {
        let id = self.shared.plan.pages[page];
        let is_up = |node: &&Node| node.takes_part();
        let Some(home) = self.nodes.iter().filter(is_up).find_map(|node| node.core.home(id)) else { return };
        let at_home = &self.nodes[home.0 as usize];
        if !at_home.takes_part() || at_home.core.home(id) != Some(home) {
            return;
        }
        let Some((owner, copyset, _)) = at_home.core.directory_entry(id) else { return };
        let is_lost = at_home.core.lost_pages().iter().any(|&(lost, _)| lost == id);
        let source = at_home.core.page_source(id);
        let oracle = &mut self.shared.oracle;
        if is_lost {
            oracle.lost(page);
        }
        for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.takes_part()) {
            let at = NodeId(at as u16);
            let access = node.core.access(id);
            let known = match access {
                // An owner may have taken a page from its application's view, to see if it is missed.
                Access::None => owner != Some(at) || node.core.copy_version(id).is_some(),
                Access::Read => copyset.contains(at) && owner.is_none(),
                Access::Write => owner == Some(at) && copyset.is_empty(),
            };
            if !known && !is_lost {
                oracle.fail(|| {
                    format!("the directory equals the mapping: {id:?} {at} {access:?}, {owner:?} {copyset:?}")
                });
            }
        }
        let holder = owner.or(source).unwrap_or(home);
        let (bytes, truth) = (self.nodes[holder.0 as usize].local.cells(page), oracle.cells(page));
        if bytes != truth && !is_lost {
            oracle.fail(|| format!("the latest bytes are at {holder}: {id:?} {bytes:?}, not {truth:?}"));
        }
        if !is_lost && !oracle.holds_newest(holder, page) {
            oracle.fail(|| format!("the records say where the latest bytes are: {id:?} is at {holder}"));
        }
    }

    /// A run that does nothing proves nothing.
    fn check_work(&mut self) {
        let plan = &self.shared.plan;
        if !plan.departures.is_empty() {
            // Who leaves or crashes early does nothing, and may be all that there is to talk to.
            return;
        }
        let threads: u64 = self.nodes.iter().map(|node| node.local.threads.len() as u64).sum();
        // Waiting for a lock may be given up, so not every operation has an instruction.
        let floor = threads * u64::from(*plan.operations.start()) / 4;
        let (did, messages) = (self.shared.oracle.instructions, self.work.messages);
        if did < floor || messages < 2 {
            self.shared.oracle.fail(|| format!("a run does its work: {did} of {floor}, {messages} messages"));
        }
    }
}
