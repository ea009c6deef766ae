//! Every reaction of both tables, as snapshots: a state is reached by messages, one input is given, and
//! what the core did with memory, said and counted is a line. A change of the protocol changes a line.

use super::rig::{A, B, Bytes, C, H, P, region};
use crate::coherence::{
    Answer, Body, Coherence, Counters, Fault, Input, LockId, Message, OpId, Output, Placement, Report, Req,
    ToHome, ToNode, Txn,
};
use crate::page::{Access, Epoch, NodeId, PAGE_SIZE, Span, Time};

const PAGE: [u8; PAGE_SIZE] = [1; PAGE_SIZE];

/// A core between two messages of a conversation whose other side the test plays.
#[derive(Clone)]
struct Bench {
    core: Coherence,
    memory: Bytes,
    now: Time,
}

impl Bench {
    fn new(me: NodeId) -> Bench {
        let mut bench =
            Bench { core: Coherence::new(me, Epoch(0), H), memory: Bytes::default(), now: Time(0) };
        bench.feed(Input::Region(region(Placement::OnNode(H), vec![H])));
        bench
    }

    /// What the core said.
    fn feed(&mut self, input: Input<'_>) -> Vec<String> {
        self.core.handle(self.now, input, &mut self.memory);
        let mut said = Vec::new();
        while let Some(output) = self.core.poll_output() {
            said.push(match output {
                Output::Send { to, message, .. } => format!("{to:?} {}", short(&message)),
                Output::Done { op, result } => format!("done {} {result:?}", op.0),
            });
        }
        said
    }

    fn hear(&mut self, from: NodeId, message: impl Into<Message>) -> Vec<String> {
        let message = message.into();
        let page = if message.carries_page() { &PAGE[..] } else { &[] };
        self.feed(Input::Message { from, epoch: Epoch(1), message, page })
    }

    fn fault(&mut self, access: Access) -> Vec<String> {
        let fault = Fault { op: OpId(9), thread: 1, instruction: 0x1000, page: P, access };
        self.feed(Input::Fault(fault))
    }

    /// Lets every hold run out.
    fn later(mut self) -> Bench {
        self.now = self.now + Span::from_ms(20);
        self
    }

    /// One line: memory calls, messages, and which counter of trouble moved.
    fn reaction(&self, state: &str, name: &str, input: impl FnOnce(&mut Bench) -> Vec<String>) -> String {
        let mut bench = self.clone();
        bench.memory.log.clear();
        let before = bench.core.counters();
        let said = input(&mut bench);
        let memory = bench.memory.log.join(", ");
        let trouble = trouble(before, bench.core.counters());
        let access = bench.core.access(P);
        let line = format!("{state:<14} {name:<22} {access:<5?} [{memory}] [{}] {trouble}", said.join(", "));
        line.trim_end().to_owned()
    }
}

fn trouble(before: Counters, after: Counters) -> &'static str {
    match (after.stale_messages > before.stale_messages, after.violations > before.violations) {
        (true, _) => "dropped",
        (_, true) => "VIOLATION",
        (false, false) => "",
    }
}

/// A message without its page number.
fn short(message: &Message) -> String {
    let text = match message {
        Message::ToHome(message) => format!("{message:?}"),
        Message::ToNode(message) => format!("{message:?}"),
        Message::Lock(message) => format!("{message:?}"),
        Message::Barrier(message) => format!("{message:?}"),
        Message::Report(message) => format!("{message:?}"),
    };
    text.replace("page: p3, ", "").replace("Txn(", "(").replace("Req(", "(")
}

/// One of the four nodes has died.
fn death(node: NodeId) -> Input<'static> {
    let members = [H, A, B, C].into_iter().filter(|&member| member != node).collect();
    Input::Round {
        epoch: Epoch(1),
        members,
        died: [node].into_iter().collect(),
        run_on: crate::coherence::NodeSet::EMPTY,
    }
}

/// The others report that they have nothing.
fn all_report(bench: &mut Bench, nodes: &[NodeId]) {
    for &node in nodes {
        bench.hear(node, Report::Total { parts: 0 });
    }
}

fn data(access: Access, req: u64, txn: u64, version: u64) -> ToNode {
    ToNode::Data { page: P, req: Req(req), txn: Txn(txn), version: Txn(version), access, body: Body::Page }
}

fn forward(access: Access, txn: u64, version: u64) -> ToNode {
    ToNode::Forward { page: P, txn: Txn(txn), version: Txn(version), requester: B, req: Req(70), access }
}

/// The states of the node's table, each with version 4 of the page where it has one.
fn node_states() -> Vec<(&'static str, Bench)> {
    let invalid = Bench::new(A);
    let after = |bench: &Bench, step: &dyn Fn(&mut Bench) -> Vec<String>| {
        let mut bench = bench.clone();
        step(&mut bench);
        bench
    };
    let reads = after(&invalid, &|bench| bench.fault(Access::Read));
    let writes = after(&invalid, &|bench| bench.fault(Access::Write));
    let shared_held = after(&reads, &|bench| bench.hear(H, data(Access::Read, 1, 5, 4)));
    let shared = shared_held.clone().later();
    let upgrades = after(&shared, &|bench| bench.fault(Access::Write));
    let modified_held = after(&writes, &|bench| bench.hear(H, data(Access::Write, 1, 4, 4)));
    let modified = modified_held.clone().later();
    let writing_back = after(&modified, &|bench| bench.feed(Input::Evict { page: P }));
    let given_away = after(&writing_back, &|bench| bench.hear(H, forward(Access::Write, 6, 4)));
    let shared_bound = after(&modified, &|bench| bench.hear(H, forward(Access::Read, 6, 4))).later();
    let dropping = after(&shared_bound, &|bench| bench.feed(Input::Evict { page: P }));
    vec![
        ("I", invalid),
        ("I+r", reads),
        ("I+w", writes),
        ("S", shared),
        ("S held", shared_held),
        ("S+w", upgrades),
        ("M", modified),
        ("M held", modified_held),
        ("W", writing_back),
        ("W-", given_away),
        ("S bound", shared_bound),
        ("D", dropping),
    ]
}

#[test]
fn the_node_s_reactions() {
    let mut lines = Vec::new();
    for (state, bench) in node_states() {
        let outstanding = if state == "S+w" { 2 } else { 1 };
        let grant = |req, answer| ToNode::Grant { page: P, req: Req(req), txn: Txn(7), answer };
        let messages: [(&str, ToNode); 15] = [
            ("INV newer", ToNode::Inv { page: P, txn: Txn(6) }),
            ("INV older", ToNode::Inv { page: P, txn: Txn(3) }),
            ("HURRY", ToNode::Hurry { page: P, txn: Txn(5) }),
            ("FWD_S of v", forward(Access::Read, 6, 4)),
            ("FWD_S of another v", forward(Access::Read, 6, 3)),
            ("FWD_M of v", forward(Access::Write, 6, 4)),
            ("FWD_M of another v", forward(Access::Write, 6, 3)),
            ("DATA(S), req equal", data(Access::Read, outstanding, 7, 6)),
            ("DATA(M), req equal", data(Access::Write, outstanding, 7, 7)),
            ("DATA, other req", data(Access::Read, 99, 7, 6)),
            ("GRANT, req equal", grant(outstanding, Answer::AtOnce)),
            ("GRANT that may ride, req equal", grant(outstanding, Answer::Riding)),
            ("GRANT, other req", grant(99, Answer::AtOnce)),
            ("WB_ACK of v", ToNode::WriteBackAck { page: P, version: Txn(4) }),
            ("WB_ACK of another v", ToNode::WriteBackAck { page: P, version: Txn(3) }),
        ];
        for (name, message) in messages {
            // A message that the tables mark as impossible is counted, and changes nothing.
            lines.push(bench.reaction(state, name, |bench| bench.hear(H, message)));
        }
        let lost = ToNode::Lost { page: P, req: Req(outstanding), dead: C };
        lines.push(bench.reaction(state, "LOST, req equal", |bench| bench.hear(H, lost)));
        lines.push(bench.reaction(state, "read fault", |bench| bench.fault(Access::Read)));
        lines.push(bench.reaction(state, "write fault", |bench| bench.fault(Access::Write)));
        lines.push(bench.reaction(state, "evict", |bench| bench.feed(Input::Evict { page: P })));
        let prefetch = Input::Prefetch { first: P, pages: 1, access: Access::Read };
        lines.push(bench.reaction(state, "prefetch to read", |bench| bench.feed(prefetch)));
        lines.push(bench.reaction(state, "leave", |bench| bench.feed(Input::Leave { op: OpId(50) })));
        lines.push(bench.reaction(state, "home died", |bench| bench.feed(death(H))));
    }
    insta::assert_snapshot!(lines.join("\n"));
}

/// The states of the home's table. Owner is A, sharers are A and B, the requester of an open
/// transaction is B.
fn home_states() -> Vec<(&'static str, Bench)> {
    let get_s = |req| ToHome::GetS { page: P, req: Req(req) };
    let get_m = |req| ToHome::GetM { page: P, req: Req(req), have: None };
    let installed = |txn| ToHome::Installed { page: P, txn: Txn(txn) };
    let after = |bench: &Bench, steps: &[(NodeId, ToHome)]| {
        let mut bench = bench.clone();
        for &(from, message) in steps {
            bench.hear(from, message);
        }
        bench
    };
    let fresh = Bench::new(H);
    let owned = after(&fresh, &[(A, get_m(1)), (A, installed(1))]);
    let shared = after(
        &owned,
        &[(B, get_s(1)), (A, ToHome::DataHome { page: P, txn: Txn(2), body: Body::Page }), (B, installed(2))],
    );
    let mut lost = owned.clone();
    lost.feed(death(A));
    all_report(&mut lost, &[B, C]);
    vec![
        ("never touched", fresh.clone()),
        ("owner", owned.clone()),
        ("shared", shared.clone()),
        ("reading", after(&fresh, &[(B, get_s(1))])),
        ("recalling", after(&owned, &[(B, get_s(1))])),
        ("writing", after(&fresh, &[(B, get_m(1))])),
        ("handing on", after(&owned, &[(B, get_m(1))])),
        ("invalidating", after(&shared, &[(B, get_m(2))])),
        ("lost", lost),
    ]
}

#[test]
fn the_home_s_reactions() {
    let mut lines = Vec::new();
    for (state, bench) in home_states() {
        let txn = match state {
            "recalling" | "handing on" => 2,
            "invalidating" => 3,
            _ => 1,
        };
        let messages: [(&str, NodeId, ToHome); 15] = [
            ("GET_S of C", C, ToHome::GetS { page: P, req: Req(1) }),
            ("GET_M of C", C, ToHome::GetM { page: P, req: Req(1), have: None }),
            ("GET_S of B again", B, ToHome::GetS { page: P, req: Req(1) }),
            ("GET_M of B, copy", B, ToHome::GetM { page: P, req: Req(9), have: Some(Txn(1)) }),
            ("GET_M of B, old copy", B, ToHome::GetM { page: P, req: Req(9), have: Some(Txn(0)) }),
            ("INV_ACK of A", A, ToHome::InvAck { page: P, txn: Txn(txn) }),
            ("INV_ACK, old txn", A, ToHome::InvAck { page: P, txn: Txn(0) }),
            ("DATA_HOME of A", A, ToHome::DataHome { page: P, txn: Txn(txn), body: Body::Page }),
            ("DATA_HOME, old txn", A, ToHome::DataHome { page: P, txn: Txn(0), body: Body::Page }),
            ("INSTALLED of B", B, ToHome::Installed { page: P, txn: Txn(txn) }),
            ("INSTALLED, old txn", B, ToHome::Installed { page: P, txn: Txn(0) }),
            ("WB of A, version 1", A, ToHome::WriteBack { page: P, version: Txn(1), body: Body::Page }),
            ("WB of A, old version", A, ToHome::WriteBack { page: P, version: Txn(0), body: Body::Page }),
            ("DROP of A, version 1", A, ToHome::Drop { page: P, version: Txn(1) }),
            ("LEAVE of A", A, ToHome::Leave),
        ];
        for (name, from, message) in messages {
            lines.push(bench.home_reaction(state, name, |bench| bench.hear(from, message)));
        }
        lines.push(bench.home_reaction(state, "own read fault", |bench| bench.fault(Access::Read)));
        lines.push(bench.home_reaction(state, "own write fault", |bench| bench.fault(Access::Write)));
        lines.push(bench.home_reaction(state, "A died", |bench| bench.feed(death(A))));
        lines.push(bench.home_reaction(state, "B died", |bench| bench.feed(death(B))));
    }
    insta::assert_snapshot!(lines.join("\n"));
}

impl Bench {
    fn home_reaction(
        &self,
        state: &str,
        name: &str,
        input: impl FnOnce(&mut Bench) -> Vec<String>,
    ) -> String {
        let mut bench = self.clone();
        bench.memory.log.clear();
        let before = bench.core.counters();
        let said = input(&mut bench);
        let memory = bench.memory.log.join(", ");
        let (owner, copyset, version) = bench.core.directory_entry(P).unwrap_or_default();
        let trouble = trouble(before, bench.core.counters());
        let entry = format!("{owner:?} {copyset:?} v{}", version.0);
        let busy = if bench.core.is_idle() { "" } else { "busy" };
        let line = format!(
            "{state:<14} {name:<22} {entry:<22} {busy:<4} [{memory}] [{}] {trouble}",
            said.join(", ")
        );
        line.trim_end().to_owned()
    }
}

#[test]
fn a_message_about_a_page_of_no_region_is_a_violation() {
    let mut bench = Bench::new(H);
    let outside = crate::page::PageId(1 << 20);
    bench.hear(A, ToHome::GetS { page: outside, req: Req(1) });
    let (lock, attempt) = (LockId(outside), crate::coherence::Attempt::Wait);
    bench.hear(A, crate::coherence::LockMessage::Request { lock, req: Req(1), attempt });
    assert_eq!(bench.core.counters().violations, 2);
}
