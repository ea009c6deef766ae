//! Which members are silent. Silence is counted in *listened* time: the time in which this node took
//! in what came for it. A node that gets no core does not listen, so the signs of life that lie in its
//! socket meanwhile are nobody's silence. (φ and timeout detectors assume a judge that runs; see
//! Hayashibara et al., SRDS 2004, for these.)

use std::collections::BTreeMap;

use super::View;
use super::mutation::Rules;
use crate::config::membership::{HEARTBEAT, INSPECT_AFTER, LISTENED_MAX, SILENCE_MAX, SILENCE_MAX_WATCHED};
use crate::page::{Incarnation, Span, Time};

/// The last sign of life of every other member, and the time that this node has listened.
#[derive(Clone, Default)]
pub(crate) struct Detector {
    listened: Span,
    drained_at: Option<Time>,
    peers: BTreeMap<Incarnation, Peer>,
    /// Silence that is too long in any case.
    silence_max: Option<Span>,
}

#[derive(Clone)]
struct Peer {
    /// The last sign of life.
    heard_at: Time,
    /// Listened time at that moment.
    heard: Span,
    /// The kernel of this host reports the end of its process.
    is_watched: bool,
    /// Listened time at which the suspicion was last told.
    suspected: Option<Span>,
    /// Listened time of the last question to the system about the process.
    inspected: Span,
}

/// A change in what this node knows of a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Finding {
    /// It has been silent for longer than a node may be. Told again from time to time while that lasts.
    Silent { of: Incarnation, silent: Span },
    /// Its process runs on this host and is silent: somebody may have stopped it for a look.
    Inspect { of: Incarnation },
}

impl Detector {
    /// Suspects members that have been silent for so long, also where the usual limits are longer.
    pub(super) fn limit_silence(&mut self, longest: Span) {
        self.silence_max = Some(longest);
    }

    /// Time that this node has listened.
    pub(super) fn listened(&self) -> Span {
        self.listened
    }

    /// Follows the members of a view; `me` is never watched.
    pub(super) fn follow(&mut self, view: &View, me: Incarnation) {
        self.peers.retain(|incarnation, _| view.running_at(*incarnation).is_some());
        let others = view.running().filter(|member| member.intro.incarnation != me);
        others.for_each(|member| self.follow_peer(member.intro.incarnation));
    }

    /// Follows one peer more: a server of a client, which has no view.
    pub(crate) fn follow_peer(&mut self, of: Incarnation) {
        let heard = self.listened;
        self.peers.entry(of).or_insert(Peer {
            heard_at: Time(0),
            heard,
            is_watched: false,
            suspected: None,
            inspected: heard,
        });
    }

    /// Follows this peer no longer.
    pub(crate) fn forget_peer(&mut self, of: Incarnation) {
        self.peers.remove(&of);
    }

    /// From here on silence counts: until now this node could not hear everybody.
    pub(super) fn restart(&mut self) {
        for peer in self.peers.values_mut() {
            peer.heard = self.listened;
            peer.suspected = None;
        }
    }

    /// A sign of life at `at`; true if the member was suspected.
    pub(crate) fn heard(&mut self, of: Incarnation, at: Time) -> bool {
        let Some(peer) = self.peers.get_mut(&of) else { return false };
        if at <= peer.heard_at {
            return false;
        }
        peer.heard_at = at;
        // At most so much was listened since.
        let since = self.drained_at.map_or(Span(0), |drained| drained.since(at)).min(LISTENED_MAX);
        peer.heard = peer.heard.max(Span(self.listened.0.saturating_sub(since.0)));
        peer.suspected.take().is_some()
    }

    /// Whether the kernel reports the end of a member's process from now on.
    pub(super) fn watched(&mut self, of: Incarnation, is_watched: bool) {
        if let Some(peer) = self.peers.get_mut(&of) {
            peer.is_watched = is_watched;
        }
    }

    /// Somebody has stopped a member's process on this host to look at it: it is waited for.
    pub(super) fn traced(&mut self, of: Incarnation) {
        if let Some(peer) = self.peers.get_mut(&of) {
            peer.heard = self.listened;
        }
    }

    /// The socket was empty at `at`: what had come until then has been handled. The one place where silence
    /// is judged.
    pub(crate) fn drained(&mut self, at: Time, rules: Rules) -> Vec<Finding> {
        let gap = at.since(self.drained_at.unwrap_or(at));
        self.drained_at = Some(self.drained_at.unwrap_or(at).max(at));
        let counted = if rules.counts_listened_time_only() { gap.min(LISTENED_MAX) } else { gap };
        if rules.listened_time_goes_on() {
            self.listened.0 += counted.0;
        }
        let mut findings = Vec::new();
        for (&of, peer) in &mut self.peers {
            let silent = Span(self.listened.0.saturating_sub(peer.heard.0));
            if peer.is_watched
                && silent > INSPECT_AFTER
                && self.listened.0 > peer.inspected.0 + 4 * HEARTBEAT.0
            {
                peer.inspected = self.listened;
                findings.push(Finding::Inspect { of });
            }
            let told = peer.suspected.is_some_and(|told| self.listened.0 < told.0 + SILENCE_MAX.0);
            if silent > peer.silence_max(self.silence_max) && !told {
                peer.suspected = Some(self.listened);
                findings.push(Finding::Silent { of, silent });
            }
        }
        findings
    }

    /// How long a member has been silent.
    pub(super) fn silence(&self, of: Incarnation) -> Option<Span> {
        let peer = self.peers.get(&of)?;
        Some(Span(self.listened.0.saturating_sub(peer.heard.0)))
    }

    /// Whether a member has been silent here for longer than it may be and `more`.
    pub(super) fn is_silent_for(&self, of: Incarnation, more: Span) -> bool {
        let silent = self.silence(of);
        let longer = |(peer, silent): (&Peer, Span)| silent.0 > peer.silence_max(self.silence_max).0 + more.0;
        self.peers.get(&of).zip(silent).is_some_and(longer)
    }

    /// Members that have been silent here for longer than they may be.
    pub(super) fn suspected(&self) -> impl Iterator<Item = Incarnation> {
        self.peers.iter().filter(|(_, peer)| peer.suspected.is_some()).map(|(&of, _)| of)
    }

    /// Whether the kernel of this host reports the end of a member's process.
    pub(super) fn is_watched(&self, of: Incarnation) -> bool {
        self.peers.get(&of).is_some_and(|peer| peer.is_watched)
    }
}

impl Peer {
    fn silence_max(&self, limit: Option<Span>) -> Span {
        let usual = if self.is_watched { SILENCE_MAX_WATCHED } else { SILENCE_MAX };
        usual.min(limit.unwrap_or(usual))
    }
}
