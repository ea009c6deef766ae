//! How soon a silent member is called dead.

use super::*;
use crate::config::membership::HEARTBEAT;
use crate::page::Span;

/// Lets a coordinator look every `apart` at members that say nothing; when each was called dead.
fn deaths(members: u64, apart: Span) -> Vec<Span> {
    let mut coordinator = with_silent_ranks(members);
    let mut deaths = Vec::new();
    let mut now = Time(0);
    while now < Time(Span::from_ms(20_000).0) {
        coordinator.observe(now, Observation::Drained(now));
        for action in std::iter::from_fn(|| coordinator.poll_action()) {
            if let Action::ViewChanged { died, .. } = action {
                deaths.extend(died.iter().map(|_| now.since(Time(0))));
            }
        }
        now = now + apart;
    }
    deaths
}

/// 3 s of silence, 2 s to answer, and the looks that find both over.
#[test]
fn a_silent_member_is_called_dead_as_soon_where_each_look_is_late() {
    for late_ms in [1, 50, 150] {
        let apart = Span(HEARTBEAT.0 + Span::from_ms(late_ms).0);
        let found = deaths(1, apart);
        let limit = Span(Span::from_ms(5_000).0 + 2 * apart.0);
        assert!(found.len() == 1 && found[0] <= limit, "{late_ms} ms late: {found:?}");
    }
}

#[test]
fn the_members_of_a_host_that_stops_are_called_dead_at_one_look() {
    let found = deaths(3, HEARTBEAT);
    assert!(found.len() == 3 && found.iter().all(|death| *death == found[0]), "{found:?}");
}
