//! Nodes whose process has ended: another process of the host runs each of them on, with its memory, under its id.
//! The view names that process. It is the first member that can keep the node's memory (`keepers`); when it ends, the
//! next one follows, with the view that tells its end, and never between two views. A node that nobody keeps is a
//! member no more.

use std::collections::BTreeSet;

use super::coordinator::Coordinator;
use super::{Action, Control, Death, Member, Membership, Runner, View, keepers};
use crate::page::{Incarnation, NodeId, PeerId};

/// Nodes, and members that have said that they cannot run them.
pub(super) type Refusals = BTreeSet<(Incarnation, Incarnation)>;

/// How it is told that a node is run by another process than before.
const RUNNER_CANNOT: &str = "the process that was to run it does not have its memory";
const RUNNER_LEFT: &str = "the process that ran it has left";

impl View {
    /// Who runs a node whose own process has ended.
    pub fn runner(&self, node: NodeId) -> Option<NodeId> {
        Some(self.runners.get(&node)?.at)
    }

    /// The members whose own process runs, by ascending id.
    pub fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| self.runner(member.id).is_none())
    }

    /// The member with this incarnation, if its own process runs.
    pub fn running_at(&self, incarnation: Incarnation) -> Option<&Member> {
        self.incarnation(incarnation).filter(|member| self.runner(member.id).is_none())
    }

    pub(super) fn has_sound_runners(&self) -> bool {
        let runs = |node: &NodeId| self.member(*node).is_some() && self.runner(*node).is_none();
        self.runners.iter().all(|(node, runner)| self.member(*node).is_some() && runs(&runner.at))
    }
}

impl Membership {
    /// The same value, which names another process that runs a node on when the node's own one has ended.
    pub fn with_runners(mut self, names: bool) -> Self {
        self.names_runners = names;
        self
    }

    /// This process does not have the memory of a node that it is to run.
    pub fn cannot_run(&mut self, node: Incarnation) {
        self.ask(Control::CannotRun { of: node });
    }

    /// Nothing of the cluster depends any more on a node that this process runs on.
    pub fn drained(&mut self, node: Incarnation) {
        self.ask(Control::Drained { of: node });
    }

    fn candidate(&self, of: &Member, refusals: &Refusals) -> Option<PeerId> {
        let refuses = |member: &Member| refusals.contains(&(of.intro.incarnation, member.intro.incarnation));
        let mut candidates = keepers::candidates(self.view.running(), of).filter(|_| self.names_runners);
        candidates.find(|member| member.id != of.id && !refuses(member)).map(PeerId::from)
    }
}

impl Coordinator {
    /// The processes of these members have ended, of one or of nodes that it ran: names who runs each of them on. A
    /// node that nobody can run on is taken out. Returns what the view tells of them.
    pub(super) fn name_runners(
        &mut self,
        shared: &mut Membership,
        ended: Vec<(Member, String)>,
    ) -> Vec<Death> {
        // Whose process has ended runs nobody, whatever the order in which they are looked at.
        for (member, _) in &ended {
            let last_region = shared.view.last_region;
            let runner = shared.view.runners.entry(member.id);
            runner.or_insert(Runner { at: member.id, last_region }).at = member.id;
        }
        let mut deaths = Vec::new();
        for (member, how) in ended {
            let runner = shared.candidate(&member, &self.refusals);
            deaths.push((member, how, runner));
        }
        for (member, _, runner) in &deaths {
            match (*runner, shared.view.runners.get_mut(&member.id)) {
                (Some(runner), Some(named)) => named.at = runner.node,
                (None, _) | (_, None) => {
                    shared.view.runners.remove(&member.id);
                    shared.view.members.retain(|other| other.id != member.id);
                    let of = member.intro.incarnation;
                    self.refusals.retain(|(node, other)| *node != of && *other != of);
                }
            }
        }
        deaths.into_iter().map(|(member, how, runner)| Death { member, how, runner }).collect()
    }

    /// The nodes that a member runs on.
    pub(super) fn run_by(shared: &Membership, runner: NodeId) -> Vec<Member> {
        let view = &shared.view;
        view.members.iter().filter(|member| view.runner(member.id) == Some(runner)).cloned().collect()
    }

    /// A member has left that ran these nodes.
    pub(super) fn runner_has_left(&mut self, shared: &mut Membership, nodes: Vec<Member>) -> Vec<Death> {
        let ended = nodes.into_iter().map(|member| (member, RUNNER_LEFT.to_owned())).collect();
        self.name_runners(shared, ended)
    }

    /// A member says that it does not have the memory of a node that it is to run.
    pub(super) fn on_cannot_run(&mut self, shared: &mut Membership, from: NodeId, of: Incarnation) {
        let Some(member) = shared.view.incarnation(of).cloned() else { return };
        let runner = shared.view.member(from).map(|member| member.intro.incarnation);
        let Some(runner) = runner.filter(|_| shared.view.runner(member.id) == Some(from)) else { return };
        self.refusals.insert((of, runner));
        shared.view.epoch.0 += 1;
        let died = self.name_runners(shared, vec![(member, RUNNER_CANNOT.to_owned())]);
        shared.follow_view();
        self.tell_deaths(shared, Vec::new(), died);
    }

    /// A member says that nothing depends any more on a node that it runs on.
    pub(super) fn on_drained(&mut self, shared: &mut Membership, from: NodeId, of: Incarnation) {
        let node = shared.view.incarnation(of).map(|member| member.id);
        let node = node.filter(|&node| shared.view.runner(node) == Some(from));
        if let Some(member) = node.and_then(|node| self.take_out(shared, node)) {
            self.refusals.retain(|(node, _)| *node != of);
            self.tell_deaths(shared, vec![member], Vec::new());
        }
    }

    /// Publishes a view that tells deaths.
    pub(super) fn tell_deaths(&mut self, shared: &mut Membership, left: Vec<Member>, died: Vec<Death>) {
        for death in &died {
            shared.view.deaths.push_back((shared.view.epoch, death.clone()));
            if shared.view.deaths.len() > super::DEATHS_MAX {
                shared.view.deaths.pop_front();
            }
        }
        self.publish(shared, None);
        shared.actions.push_back(Action::ViewChanged { joined: Vec::new(), left, died });
    }
}
