//! The table of reception: each state under each step, as a snapshot, and the search of all states.

mod explore;

use super::*;
use crate::page::Span;

/// The present of all tests.
const NOW: Time = Time(1_000_000_000);
const FAR: Time = Time(NOW.0 + 200_000_000);
const V: OpId = OpId(1);
const W: OpId = OpId(2);

/// A thread receives, and sleeps until far; the progress thread sleeps until soon or far.
fn state(receiver: Receiver, parked: &[OpId], idle: &[usize], progress_wakes_at: Time) -> Reception {
    let wakes_at = match receiver {
        Receiver::Progress => Some(progress_wakes_at),
        Receiver::Waiter(_) | Receiver::Worker(_) => Some(FAR),
        Receiver::Nobody { .. } => None,
    };
    let (parked, idle) = (SmallVec::from_slice(parked), SmallVec::from_slice(idle));
    Reception { receiver, wakes_at, progress_wakes_at, parked, idle, ..Reception::default() }
}

fn show_op(op: OpId) -> &'static str {
    if op == V { "v" } else { "w" }
}

fn show_receiver(receiver: Receiver) -> String {
    match receiver {
        Receiver::Progress => "P".into(),
        Receiver::Waiter(op) => format!("W({})", show_op(op)),
        Receiver::Worker(worker) => format!("K({worker})"),
        Receiver::Nobody { .. } => "N".into(),
    }
}

fn show(action: Action) -> String {
    match action {
        Action::Arm => "arm".into(),
        Action::Disarm => "disarm".into(),
        Action::Unpark(op) => format!("wake {}", show_op(op)),
        Action::WakeWorker(worker) => format!("wake worker {worker}"),
        Action::Summon(Receiver::Progress) => "wake progress".into(),
        Action::Summon(thread) => format!("summon {}", show_receiver(thread)),
    }
}

/// What a step makes of a state: who receives then, which threads sleep, and what the runtime does.
fn reaction<T: std::fmt::Debug>(state: &Reception, step: impl FnOnce(&mut Reception) -> T) -> String {
    let mut after = state.clone();
    let result = format!("{:?}", step(&mut after)).replace('"', "");
    let actions: Vec<String> = after.take_actions().into_iter().map(show).collect();
    let parked: Vec<&str> = after.parked.iter().map(|op| show_op(*op)).collect();
    let mut line = show_receiver(after.receiver);
    if after.parked != state.parked {
        line += &format!(", parked {parked:?}");
    }
    if after.idle != state.idle {
        line += &format!(", idle {:?}", &after.idle[..]);
    }
    if result != "()" {
        line += &format!(", {result}");
    }
    if actions.is_empty() { line } else { format!("{line}: {}", actions.join(", ")) }
}

/// The progress thread's look at a time after the present, in microseconds, with what it does for how long.
fn look(state: &mut Reception, us: u64, unread: bool) -> String {
    let now = NOW + Span::from_us(us);
    let (what, until) = match state.look(now, unread, FAR) {
        Look::Receive(until) => ("receives", until),
        Look::Sleep(until) => ("sleeps", until),
    };
    format!("{what} {} us", until.since(now).0 / 1_000)
}

/// The look of a thread that never receives.
fn watch(state: &mut Reception, overdue: bool) -> String {
    format!("again in {} us", state.watch(NOW, overdue).since(NOW).0 / 1_000)
}

/// Every row and every column of the table.
#[test]
fn each_state_reacts_to_each_step_as_the_table_says() {
    let (soon, old) = (NOW + ACTIVE_TICK, Time(NOW.0 - UNREAD_MAX.0));
    let mut lines = Vec::new();
    let columns = [
        ("P", Receiver::Progress),
        ("W(v)", Receiver::Waiter(V)),
        ("K(0)", Receiver::Worker(0)),
        ("N", Receiver::Nobody { since: NOW }),
    ];
    for (name, receiver) in columns {
        for (crowd, parked, idle) in [("", &[][..], &[][..]), (" w parked, 1 idle", &[W][..], &[1][..])] {
            let base = state(receiver, parked, idle, soon);
            let late = state(receiver, parked, idle, FAR);
            let unread = Reception { unread_since: Some(old), ..base.clone() };
            let mut line = |step: &str, reaction: String| {
                lines.push(format!("{name}{crowd} | {step} | {reaction}"));
            };
            line("begin(w)", reaction(&base, |state| state.begin(W)));
            line("begin(v)", reaction(&base, |state| state.begin(V)));
            line("long(v)", reaction(&base, |state| state.long(V, FAR)));
            line("end(v), back soon", reaction(&base, |state| state.end(V, NOW, true, FAR)));
            line("end(v), away", reaction(&base, |state| state.end(V, NOW, false, FAR)));
            line("end(v), back soon, progress late", reaction(&late, |state| state.end(V, NOW, true, FAR)));
            line("end(v), away, timer due", reaction(&late, |state| state.end(V, NOW, false, NOW)));
            line("end(w)", reaction(&base, |state| state.end(W, NOW, false, FAR)));
            line("done(v)", reaction(&base, |state| state.done(V)));
            line("done(w)", reaction(&base, |state| state.done(W)));
            line("lead(0)", reaction(&base, |state| state.lead(0)));
            line("lead(1)", reaction(&base, |state| state.lead(1)));
            line("rest(0)", reaction(&base, |state| state.rest(0)));
            line("rest(1)", reaction(&base, |state| state.rest(1)));
            line("run(0), quick", reaction(&base, |state| state.run(0, NOW, true, FAR)));
            line("run(0), slow", reaction(&base, |state| state.run(0, NOW, false, FAR)));
            line("run(0), quick, progress late", reaction(&late, |state| state.run(0, NOW, true, FAR)));
            line("jobs(1)", reaction(&base, |state| state.jobs(1)));
            line("jobs(2)", reaction(&base, |state| state.jobs(2)));
            line("due now", reaction(&late, |state| state.due(NOW)));
            line("due later", reaction(&late, |state| state.due(FAR)));
            line("look, nothing unread", reaction(&base, |state| look(state, 0, false)));
            line("look, unread", reaction(&base, |state| look(state, 0, true)));
            line("look, unread twice", reaction(&unread, |state| look(state, 0, true)));
            line("watch, unread", reaction(&base, |state| watch(state, true)));
            line("watch, nothing unread", reaction(&unread, |state| watch(state, false)));
            line("watch, unread twice", reaction(&unread, |state| watch(state, true)));
            line("look 100 us later", reaction(&base, |state| look(state, 100, false)));
        }
    }
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_visit_of_the_receiver_is_taken_for_a_sign_of_life_and_no_other_thread_s() {
    let mut reception = state(Receiver::Waiter(V), &[], &[], FAR);
    let unread = |reception: &mut Reception, now| reception.look(now, true, FAR);
    assert_eq!(unread(&mut reception, NOW), Look::Sleep(NOW + UNREAD_MAX));
    let half = NOW + Span(UNREAD_MAX.0 / 2);
    reception.visit(Receiver::Waiter(V));
    assert_eq!(unread(&mut reception, half), Look::Sleep(half + UNREAD_MAX), "it has been at the lock");
    reception.visit(Receiver::Waiter(W));
    assert_eq!(
        unread(&mut reception, half + UNREAD_MAX),
        Look::Receive(FAR),
        "a thread that was relieved before"
    );
    assert_eq!(reception.receiver(), Receiver::Progress);
}

#[test]
fn a_progress_thread_that_does_not_come_loses_the_socket_to_a_thread_that_can_receive() {
    let late = NOW + UNREAD_MAX;
    let mut reception = state(Receiver::Progress, &[], &[0, 1], FAR);
    assert_eq!(reception.watch(NOW, true), late);
    reception.visit(Receiver::Progress);
    assert_eq!(reception.watch(late, true), late + UNREAD_MAX, "it has been at the lock");
    assert_eq!(reception.watch(late + UNREAD_MAX, true), late + UNREAD_MAX + SLEEP_MAX);
    assert_eq!(reception.take_actions()[..], [Action::WakeWorker(1), Action::Disarm]);
    assert_eq!(reception.rest(1), Role::Receive);
    let mut reception = state(Receiver::Progress, &[V, W], &[0], FAR);
    let _ = (reception.watch(NOW, true), reception.watch(late, true));
    assert_eq!(reception.take_actions()[..], [Action::Unpark(V), Action::Disarm]);
    assert_eq!(reception.receiver(), Receiver::Waiter(V));
    let mut reception = state(Receiver::Progress, &[], &[], FAR);
    let _ = (reception.watch(NOW, true), reception.watch(late, true));
    assert_eq!(reception.receiver(), Receiver::Progress, "no other thread can receive");
}

#[test]
fn the_progress_thread_looks_every_millisecond_while_there_is_traffic() {
    let mut reception = state(Receiver::Waiter(V), &[], &[], FAR);
    assert_eq!(reception.look(NOW, false, FAR), Look::Sleep(NOW + SLEEP_MAX));
    reception.traffic(NOW + ACTIVE_TICK);
    assert_eq!(reception.look(NOW, false, FAR), Look::Sleep(NOW + ACTIVE_TICK));
    let later = NOW + ACTIVE_TICK;
    assert_eq!(reception.look(later, false, FAR), Look::Sleep(later + SLEEP_MAX));
}
