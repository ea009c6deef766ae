//! Every order of steps of a small node: two threads that wait, two workers, the progress thread, a thread that
//! calls its own node and sets a timer. The steps call [`Reception`] as the runtime does, and from every state that
//! can be reached all must be able to end: operations, jobs, datagrams and timers.
//!
//! A sleeping thread is woken by what the table says and by nothing else: a word that changes unseen does not
//! count. Clocks count only where the table relies on them.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};

use super::*;

/// What may lie in the socket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Item {
    /// The answer to the operation of this thread.
    Reply(usize),
    /// A call.
    Call,
}

const ITEMS: [Item; 3] = [Item::Reply(0), Item::Reply(1), Item::Call];

/// Where a thread is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum At {
    /// Runs the program, or has run jobs and is about to lead.
    Out,
    /// Was woken for jobs.
    Woken,
    /// Has a job.
    Job,
    /// Has begun to lead, or is idle, and looks at the queue.
    Check(Role),
    /// Without the lock, at the socket.
    Search,
    /// On its way to the lock, with what it has found.
    Found(Option<Item>),
    /// Has queued a job, and is about to tell.
    Tell,
    /// Parked, idle, or in the poller.
    Asleep,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Op {
    None,
    Open,
    Done,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Thread {
    at: At,
    op: Op,
    has_begun: bool,
    /// It was woken, or its search must end.
    woken: bool,
}

#[derive(Clone, Hash, Debug)]
struct World {
    reception: Reception,
    waiters: [Thread; 2],
    workers: [Thread; 2],
    progress: Thread,
    caller: Thread,
    armed: bool,
    /// How many of each item are on their way, and lie in the socket.
    coming: [u8; 3],
    unread: [u8; 3],
    jobs: u8,
    timer_set: bool,
    timer_due: bool,
}

/// One node, and what may happen to it.
#[derive(Clone, Copy)]
struct Setting {
    /// The progress thread comes every millisecond.
    traffic: bool,
    /// The first thread that waits never runs again once it searches.
    frozen: bool,
    /// The progress thread never runs again once it searches or sleeps, and another thread watches the receiver.
    held: bool,
    /// The second worker runs a method that never returns.
    stuck: bool,
    /// Threads that wait, at most two.
    waiters: usize,
    /// Calls that come from peers.
    calls: u8,
    /// A thread of the program calls its own node.
    own_call: bool,
    /// A thread of the program sets a timer.
    timer: bool,
    broken: Option<Rule>,
}

const QUIET: Setting = Setting {
    traffic: false,
    frozen: false,
    held: false,
    stuck: false,
    waiters: 2,
    calls: 2,
    own_call: false,
    timer: false,
    broken: None,
};

/// More states than any setting here has.
const STATES_MAX: usize = 2_000_000;

type Step = (&'static str, usize);

impl World {
    fn new(setting: Setting) -> World {
        let traffic_until = if setting.traffic { Time(u64::MAX) } else { Time(0) };
        let out = Thread { at: At::Out, op: Op::None, has_begun: false, woken: false };
        let progress = Thread { at: At::Asleep, ..out };
        let mut reception = Reception { traffic_until, broken: setting.broken, ..Reception::default() };
        let Look::Receive(until) = reception.look(NOW, false, FAR) else { unreachable!("it receives") };
        reception.search(Receiver::Progress, until);
        let waiter = |number| Thread { has_begun: number >= setting.waiters, ..out };
        let idle = Thread { at: At::Asleep, ..out };
        let workers = [idle, if setting.stuck { Thread { at: At::Job, ..out } } else { idle }];
        for worker in (0..2).filter(|worker| workers[*worker].at == At::Asleep) {
            assert_eq!(reception.rest(worker), Role::Park);
        }
        World {
            reception,
            waiters: [waiter(0), waiter(1)],
            workers,
            progress,
            caller: Thread { has_begun: !setting.own_call, ..out },
            armed: true,
            coming: [0, 0, setting.calls],
            unread: [0; 3],
            jobs: 0,
            timer_set: !setting.timer,
            timer_due: false,
        }
    }

    fn due(&self) -> Time {
        if self.timer_due { NOW } else { FAR }
    }

    /// Does what the table says, as the runtime does at the end of a section.
    fn act(&mut self) {
        for action in self.reception.take_actions() {
            match action {
                Action::Arm => self.armed = true,
                Action::Disarm => (self.armed, self.progress.woken) = (false, true),
                Action::Unpark(op) => self.waiters[op.0 as usize].woken = true,
                Action::WakeWorker(worker) => self.workers[worker].woken = true,
                Action::Summon(Receiver::Progress) => self.progress.woken = true,
                Action::Summon(Receiver::Waiter(op)) => self.waiters[op.0 as usize].woken = true,
                Action::Summon(Receiver::Worker(worker)) => self.workers[worker].woken = true,
                Action::Summon(Receiver::Nobody { .. }) => unreachable!("no thread"),
            }
        }
        // Only whether a time is near, far or past matters from here on.
        let reception = &mut self.reception;
        if let Some(at) = &mut reception.wakes_at {
            *at = if *at > NOW + ACTIVE_TICK { FAR } else { (*at).max(NOW) };
        }
    }

    /// Lets time pass until the progress thread wakes by its clock.
    fn pass(&mut self) {
        let reception = &mut self.reception;
        let mut until = reception.progress_wakes_at;
        if let Some(since) = reception.unread_since {
            // It may also wake late.
            until = until.max(since + UNREAD_MAX);
        }
        let passed = until.since(NOW).0;
        let back = |at: &mut Time, at_least: u64| at.0 = at.0.saturating_sub(passed).max(at_least);
        back(&mut reception.progress_wakes_at, 0);
        if let Some(at) = &mut reception.wakes_at {
            back(at, 0);
        }
        if let Some(at) = &mut reception.unread_since {
            back(at, NOW.0 - UNREAD_MAX.0);
        }
        if let Receiver::Nobody { since } = &mut reception.receiver {
            back(since, NOW.0 - ABSENCE_MAX.0);
        }
    }

    /// A thread that has searched is at the lock: it takes in what it has found, and looks at the timers.
    fn take_in(&mut self, thread: Receiver, found: Option<Item>) {
        self.reception.visit(thread);
        self.timer_due = false;
        match found {
            Some(Item::Reply(waiter)) if self.waiters[waiter].op == Op::Open => {
                self.waiters[waiter].op = Op::Done;
                self.reception.done(OpId(waiter as u64));
            }
            Some(Item::Call) => self.jobs += 1,
            Some(Item::Reply(_)) | None => {}
        }
    }

    fn steps(&self, setting: Setting) -> Vec<(Step, World)> {
        let mut steps = Vec::new();
        for waiter in 0..2 {
            self.waiter_steps(waiter, setting, &mut steps);
        }
        for worker in 0..2 {
            self.worker_steps(worker, setting, &mut steps);
        }
        self.progress_steps(setting, &mut steps);
        self.caller_steps(&mut steps);
        self.watch_steps(setting, &mut steps);
        for item in 0..ITEMS.len() {
            if self.coming[item] > 0 {
                let mut next = self.clone();
                next.coming[item] -= 1;
                next.unread[item] += 1;
                steps.push((("the network delivers", item), next));
            }
        }
        for (_, next) in &mut steps {
            next.act();
        }
        steps
    }

    /// Each datagram that a searching thread may take.
    fn taken(&self) -> impl Iterator<Item = (Item, World)> {
        let items = (0..ITEMS.len()).filter(|item| self.unread[*item] > 0);
        items.map(|item| {
            let mut next = self.clone();
            next.unread[item] -= 1;
            (ITEMS[item], next)
        })
    }

    /// A receiver that sleeps until a timer that is due.
    fn wakes_by_clock(&self, thread: Receiver) -> bool {
        let Reception { receiver, wakes_at, .. } = self.reception;
        receiver == thread && wakes_at.is_some_and(|at| at <= NOW + ACTIVE_TICK)
    }

    fn waiter_steps(&self, waiter: usize, setting: Setting, steps: &mut Vec<(Step, World)>) {
        let Thread { at, has_begun, woken, .. } = self.waiters[waiter];
        let this = Receiver::Waiter(OpId(waiter as u64));
        match at {
            At::Out if !has_begun => {
                let mut next = self.clone();
                next.waiters[waiter] = Thread { at, op: Op::Open, has_begun: true, woken: false };
                next.coming[waiter] += 1;
                next.wait(waiter, &mut |world| steps.push((("a thread begins to wait", waiter), world)));
            }
            At::Search if setting.frozen && waiter == 0 => {}
            At::Search => {
                for (item, mut next) in self.taken() {
                    next.waiters[waiter].at = At::Found(Some(item));
                    steps.push((("a waiting thread takes a datagram", waiter), next));
                }
                if woken || self.wakes_by_clock(this) {
                    let mut next = self.clone();
                    next.waiters[waiter].at = At::Found(None);
                    steps.push((("a search ends", waiter), next));
                }
            }
            At::Asleep if woken => {
                let next = self.clone();
                next.wait(waiter, &mut |world| steps.push((("a parked thread wakes", waiter), world)));
            }
            At::Found(found) => {
                let mut next = self.clone();
                next.take_in(this, found);
                if found == Some(Item::Call) {
                    next.waiters[waiter].at = At::Tell;
                    steps.push((("a waiting thread queues a call", waiter), next));
                } else {
                    next.wait(waiter, &mut |world| steps.push((("at the lock", waiter), world)));
                }
            }
            At::Tell => {
                let mut next = self.clone();
                next.reception.jobs(1);
                if next.waiters[waiter].op == Op::Open && next.reception.receiver() == this {
                    let mut long = next.clone();
                    let due = long.due();
                    long.waiters[waiter].woken = false;
                    long.reception.long(OpId(waiter as u64), due);
                    long.waiters[waiter].at = At::Asleep;
                    steps.push((("has waited long", waiter), long));
                }
                next.wait(waiter, &mut |world| steps.push((("at the lock", waiter), world)));
            }
            At::Out | At::Woken | At::Job | At::Check(_) | At::Asleep => {}
        }
    }

    /// The head of the loop of a thread that waits, at the lock.
    fn wait(mut self, waiter: usize, then: &mut impl FnMut(World)) {
        let (op, due) = (OpId(waiter as u64), self.due());
        let thread = &mut self.waiters[waiter];
        if thread.op == Op::Done {
            (thread.at, thread.op) = (At::Out, Op::None);
            for back_soon in [false, true] {
                let mut next = self.clone();
                next.reception.end(op, NOW, back_soon, due);
                then(next);
            }
            return;
        }
        thread.woken = false;
        match self.reception.begin(op) {
            Role::Receive => {
                self.reception.search(Receiver::Waiter(op), due);
                self.waiters[waiter].at = At::Search;
            }
            Role::Park => self.waiters[waiter].at = At::Asleep,
        }
        then(self);
    }

    fn worker_steps(&self, worker: usize, setting: Setting, steps: &mut Vec<(Step, World)>) {
        let Thread { at, woken, .. } = self.workers[worker];
        let this = Receiver::Worker(worker);
        let mut next = self.clone();
        match at {
            At::Out | At::Woken if self.jobs > 0 => {
                next.jobs -= 1;
                next.workers[worker].at = At::Job;
                steps.push((("a worker takes a job", worker), next));
            }
            At::Out => {
                next.go_on(worker, Reception::lead);
                steps.push((("a worker leads", worker), next));
            }
            At::Woken => {
                next.go_on(worker, Reception::rest);
                steps.push((("a worker was woken in vain", worker), next));
            }
            At::Job if setting.stuck && worker == 1 => {}
            At::Job => {
                next.workers[worker].at = At::Out;
                steps.push((("a job ends", worker), next));
            }
            At::Check(_) if self.jobs > 0 => {
                next.workers[worker].at = At::Out;
                for quick in [false, true] {
                    let mut next = next.clone();
                    let due = next.due();
                    next.reception.run(worker, NOW, quick, due);
                    steps.push((("a worker runs jobs", worker), next));
                }
            }
            At::Check(Role::Receive) => {
                let due = next.due();
                next.reception.search(this, due);
                next.workers[worker].at = At::Search;
                steps.push((("a worker searches", worker), next));
            }
            At::Check(Role::Park) => {
                next.workers[worker].at = At::Asleep;
                steps.push((("a worker sleeps", worker), next));
            }
            At::Search => {
                for (item, mut next) in self.taken() {
                    next.workers[worker].at = At::Found(Some(item));
                    steps.push((("a worker takes a datagram", worker), next));
                }
                if woken || self.wakes_by_clock(this) {
                    next.workers[worker].at = At::Found(None);
                    steps.push((("a worker's search ends", worker), next));
                }
            }
            At::Found(found) => {
                next.take_in(this, found);
                next.go_on(worker, Reception::rest);
                steps.push((("a worker is at the lock", worker), next));
            }
            At::Asleep if woken => {
                next.workers[worker].at = At::Woken;
                steps.push((("a worker wakes", worker), next));
            }
            At::Asleep | At::Tell => {}
        }
    }

    /// The head of the loop of a worker, at the lock.
    fn go_on(&mut self, worker: usize, step: fn(&mut Reception, usize) -> Role) {
        self.workers[worker].woken = false;
        self.workers[worker].at = At::Check(step(&mut self.reception, worker));
    }

    fn progress_steps(&self, setting: Setting, steps: &mut Vec<(Step, World)>) {
        let has_unread = self.unread != [0; 3];
        let mut next = self.clone();
        match self.progress.at {
            At::Asleep | At::Search if setting.held => {}
            At::Asleep => {
                let clock = self.reception.progress_wakes_at <= NOW + ACTIVE_TICK || setting.frozen;
                if self.progress.woken || (self.armed && has_unread) {
                    next.progress.at = At::Found(None);
                    steps.push((("the progress thread is woken", 0), next));
                } else if clock {
                    next.pass();
                    next.progress.at = At::Found(None);
                    steps.push((("the progress thread wakes by its clock", 0), next));
                }
            }
            At::Out => {
                next.progress.woken = false;
                let unread = has_unread && next.reception.is_watched();
                match next.reception.look(NOW, unread, self.due()) {
                    Look::Receive(until) => {
                        next.reception.search(Receiver::Progress, until);
                        next.progress.at = At::Search;
                    }
                    Look::Sleep(_) => next.progress.at = At::Asleep,
                }
                steps.push((("the progress thread looks", 0), next));
            }
            At::Search => {
                for (item, mut next) in self.taken() {
                    next.progress.at = At::Found(Some(item));
                    steps.push((("the progress thread takes a datagram", 0), next));
                }
                if self.progress.woken {
                    next.progress.at = At::Found(None);
                    steps.push((("the progress thread's search ends", 0), next));
                } else if !has_unread {
                    next.progress.at = At::Asleep;
                    steps.push((("the progress thread sleeps", 0), next));
                }
            }
            At::Found(found) => {
                next.take_in(Receiver::Progress, found);
                next.progress.at = if found == Some(Item::Call) { At::Tell } else { At::Out };
                steps.push((("the progress thread is at the lock", 0), next));
            }
            At::Tell => {
                next.reception.jobs(1);
                next.progress.at = At::Out;
                steps.push((("the progress thread wakes workers", 0), next));
            }
            At::Woken | At::Job | At::Check(_) => {}
        }
    }

    /// A thread of the program calls a service of its own node, and another one of its calls sets a timer.
    fn caller_steps(&self, steps: &mut Vec<(Step, World)>) {
        let mut next = self.clone();
        match self.caller.at {
            At::Out if !self.caller.has_begun => {
                (next.caller.at, next.caller.has_begun, next.jobs) = (At::Tell, true, self.jobs + 1);
                steps.push((("a call to the own node is queued", 0), next));
            }
            At::Tell => {
                next.reception.jobs(1);
                next.caller.at = At::Out;
                steps.push((("workers are woken for it", 0), next));
            }
            At::Out | At::Woken | At::Job | At::Check(_) | At::Search | At::Found(_) | At::Asleep => {}
        }
        if !self.timer_set {
            let mut next = self.clone();
            (next.timer_set, next.timer_due) = (true, true);
            next.reception.due(NOW);
            steps.push((("a timer is set that is due", 0), next));
        }
    }

    /// The thread that serves the system looks, at any time.
    fn watch_steps(&self, setting: Setting, steps: &mut Vec<(Step, World)>) {
        if setting.held {
            let mut next = self.clone();
            // What sleeps until far sleeps for longer.
            if let Some(since) = &mut next.reception.unread_since {
                *since = Time(NOW.0 - UNREAD_MAX.0);
            }
            next.reception.watch(NOW, self.timer_due || self.unread != [0; 3]);
            steps.push((("the watching thread looks", 0), next));
        }
    }

    /// What must hold in every state.
    fn error(&self, setting: Setting) -> Option<&'static str> {
        let Reception { receiver, wakes_at, progress_wakes_at, .. } = self.reception;
        if self.armed != (receiver == Receiver::Progress) {
            return Some("armed differs from the receiver");
        }
        match receiver {
            Receiver::Waiter(op) => {
                let Thread { at, woken, .. } = self.waiters[op.0 as usize];
                if at == At::Asleep && !woken {
                    return Some("the receiver is parked");
                }
                if at == At::Out {
                    return Some("the receiver runs the program");
                }
            }
            Receiver::Worker(worker) => {
                let Thread { at, woken, .. } = self.workers[worker];
                if at == At::Asleep && !woken {
                    return Some("the receiver is idle");
                }
                // One that takes the place of the progress thread runs what it finds first.
                if matches!(at, At::Asleep | At::Woken | At::Job | At::Out) && !setting.held {
                    return Some("the receiver is a worker that does not receive");
                }
            }
            Receiver::Nobody { .. } if progress_wakes_at > NOW + ACTIVE_TICK => {
                return Some("nobody receives, and the progress thread sleeps");
            }
            Receiver::Progress | Receiver::Nobody { .. } => {}
        }
        let late = self.timer_due && wakes_at.is_some_and(|at| at > NOW + ACTIVE_TICK);
        late.then_some("the receiver sleeps past a timer")
    }

    /// Whether all has ended that can.
    fn is_settled(&self, setting: Setting) -> bool {
        let rest = usize::from(setting.frozen);
        let ended = self.waiters[rest..].iter().all(|waiter| waiter.op == Op::None && waiter.has_begun);
        let [caller, timer] = [self.caller.has_begun && self.caller.at == At::Out, self.timer_set];
        ended
            && caller
            && timer
            && self.coming == [0; 3]
            && self.unread == [0; 3]
            && self.jobs == 0
            && !self.timer_due
    }

    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// Searches all states. How many there are, or how one is reached that breaks an assertion or can never settle.
fn explore(setting: Setting) -> Result<usize, String> {
    let first = World::new(setting);
    let mut known = HashMap::from([(first.fingerprint(), 0_u32)]);
    let mut from: Vec<(u32, Step)> = vec![(0, ("begin", 0))];
    let mut before: Vec<Vec<u32>> = vec![Vec::new()];
    let (mut settled, mut queue) = (Vec::new(), VecDeque::from([(0_u32, first)]));
    let path = |from: &[(u32, Step)], mut at: u32| {
        let mut steps = Vec::new();
        while at > 0 {
            let (earlier, (what, which)) = from[at as usize];
            steps.push(format!("{what} ({which})"));
            at = earlier;
        }
        steps.reverse();
        steps.join("\n")
    };
    while let Some((number, world)) = queue.pop_front() {
        if let Some(error) = world.error(setting) {
            return Err(format!("{error}:\n{}", path(&from, number)));
        }
        if world.is_settled(setting) {
            settled.push(number);
        }
        for (step, next) in world.steps(setting) {
            let fresh = from.len() as u32;
            let next_number = *known.entry(next.fingerprint()).or_insert(fresh);
            assert!(from.len() < STATES_MAX, "too many states");
            if next_number == fresh {
                from.push((number, step));
                before.push(Vec::new());
                queue.push_back((fresh, next));
            }
            before[next_number as usize].push(number);
        }
    }
    let mut can_settle = vec![false; from.len()];
    while let Some(number) = settled.pop() {
        if !std::mem::replace(&mut can_settle[number as usize], true) {
            settled.extend(&before[number as usize]);
        }
    }
    match can_settle.iter().position(|can| !can) {
        Some(lost) => Err(format!("cannot settle any more:\n{}", path(&from, lost as u32))),
        None => Ok(from.len()),
    }
}

fn finds(setting: Setting, expected: &str) {
    let found = explore(setting).expect_err("a rule is left out");
    assert!(found.starts_with(expected), "{found}");
}

fn settles(setting: Setting) {
    let states = explore(setting).unwrap_or_else(|error| panic!("{error}"));
    println!("{states} states");
    assert!(states >= 100_000, "{states}");
}

/// A worker is held up by a method, and the other one alone runs what peers and the own program call.
const ONE_WORKER: Setting = Setting { stuck: true, calls: 1, own_call: true, ..QUIET };
const TRAFFIC: Setting = Setting { traffic: true, calls: 1, ..QUIET };
const FROZEN: Setting = Setting { frozen: true, ..QUIET };
const TIMER: Setting = Setting { timer: true, calls: 1, ..QUIET };
const HELD: Setting = Setting { held: true, calls: 1, ..QUIET };

#[test]
fn every_state_can_settle() {
    settles(QUIET);
}

#[test]
fn every_state_can_settle_with_calls_to_the_own_node() {
    settles(ONE_WORKER);
}

#[test]
fn every_state_can_settle_while_the_progress_thread_looks_often() {
    settles(TRAFFIC);
}

#[test]
fn every_state_can_settle_with_a_receiver_that_never_runs_again() {
    settles(FROZEN);
}

#[test]
fn every_state_can_settle_with_a_progress_thread_that_never_runs_again() {
    settles(HELD);
}

#[test]
fn every_state_can_settle_with_timers_of_a_progress_thread_that_never_runs_again() {
    settles(Setting { timer: true, waiters: 1, ..HELD });
}

#[test]
fn every_state_can_settle_with_a_timer_that_another_thread_sets() {
    settles(TIMER);
}

#[test]
fn an_ended_operation_that_wakes_no_thread_is_found() {
    finds(Setting { broken: Some(Rule::EndedOperationIsWoken), ..QUIET }, "cannot settle");
}

#[test]
fn a_promoted_receiver_that_sleeps_on_is_found() {
    finds(Setting { broken: Some(Rule::PromotedReceiverIsWoken), ..QUIET }, "the receiver is parked");
}

#[test]
fn a_relieved_worker_that_searches_on_is_found() {
    finds(Setting { broken: Some(Rule::RelievedWorkerIsSummoned), ..ONE_WORKER }, "cannot settle");
}

#[test]
fn a_leader_that_does_not_hear_of_jobs_is_found() {
    finds(Setting { broken: Some(Rule::LeaderIsSummoned), ..ONE_WORKER }, "cannot settle");
}

#[test]
fn a_socket_that_stays_with_nobody_is_found() {
    finds(Setting { broken: Some(Rule::NobodyIsReplaced), ..TRAFFIC }, "cannot settle");
}

#[test]
fn a_starved_receiver_that_keeps_the_socket_is_found() {
    finds(Setting { broken: Some(Rule::StarvedReceiverIsReplaced), ..FROZEN }, "cannot settle");
}

#[test]
fn a_starved_progress_thread_that_keeps_the_socket_is_found() {
    finds(Setting { broken: Some(Rule::StarvedProgressIsReplaced), ..HELD }, "cannot settle");
}

#[test]
fn a_sleeper_that_does_not_hear_of_a_timer_is_found() {
    finds(Setting { broken: Some(Rule::SleeperHearsOfTimers), ..TIMER }, "the receiver sleeps past a timer");
}
