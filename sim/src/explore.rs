//! Every order of delivery, for few nodes, one page and few operations: an explicit-state search over
//! clones of the shipped cores. Where the seeds sample schedules, this one leaves none out, within its
//! bounds; the tables of the protocol were found by a search of the same kind over a model.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;

use pagemesh::coherence::{Coherence, Fault, Input, Message, OpId, Output, Placement, RegionInfo, Version};
use pagemesh::page::{
    Access, Contents, EXTENT_PAGES, Epoch, Lent, LockWords, Memory, NodeId, PageBuf, PageId, Time,
};
use rustc_hash::{FxHashSet, FxHasher};
use smallvec::SmallVec;

/// The page that everybody wants, and its home.
const PAGE: PageId = PageId(3);
const HOME: NodeId = NodeId(0);

/// What is searched.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Nodes besides the home, each with one thread.
    pub clients: u16,
    /// Operations of each client: any sequence of loads and stores of this length.
    pub operations: u8,
    /// Operations of the home's own thread.
    pub home_operations: u8,
    /// Evictions at each client, at any time.
    pub evictions: u8,
    /// Messages that are delivered twice, any of them, the second time at any later time.
    pub duplicates: u8,
    /// Whether clients leave when they are done.
    pub leave: bool,
    /// Holds that may end by time before their instruction has run, at each node.
    pub early_timers: u8,
}

/// What a search has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Explored {
    /// Distinct states.
    pub states: u64,
    /// Transitions between them.
    pub transitions: u64,
    /// States in which everybody had finished.
    pub endings: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Step {
    Load(NodeId),
    Store(NodeId),
    Retry(NodeId),
    Deliver(u8),
    DeliverTwice(u8),
    Evict(NodeId),
    Timer(NodeId),
    Leave(NodeId),
}

/// What a client's thread is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Thread {
    Free,
    Waiting(Access),
    Woken(Access),
    Leaving,
    Left,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Frame {
    value: u8,
    access: Access,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parcel {
    to: NodeId,
    from: NodeId,
    /// The message as bytes: messages have an order of their own only there.
    bytes: Rc<[u8]>,
    value: Option<u8>,
}

#[derive(Clone)]
struct Node {
    core: Coherence,
    frame: Frame,
    thread: Thread,
    operations: u8,
    evictions: u8,
    early_timers: u8,
    now: Time,
    seen: Version,
    /// Hashes of all of the above, if nothing has changed since they were made.
    fingerprint: Option<(u64, u64)>,
}

#[derive(Clone)]
struct State {
    /// Shared with the states before and after: a step changes one node, and only that one is copied.
    nodes: Vec<Rc<Node>>,
    parcels: Vec<Parcel>,
    duplicates: u8,
    /// The last value stored.
    truth: u8,
    path: Option<Rc<Path>>,
}

struct Path {
    step: Step,
    what: Option<Message>,
    before: Option<Rc<Path>>,
}

/// Searches everything within `bounds`. The error is a rule that was broken, with the steps to it.
pub fn explore(bounds: Bounds) -> Result<Explored, String> {
    let mut explored = Explored::default();
    let mut seen = FxHashSet::default();
    let mut first = State::new(bounds);
    seen.insert(first.fingerprint());
    let mut stack = vec![first];
    while let Some(state) = stack.pop() {
        explored.states += 1;
        let steps = state.steps(bounds);
        if !steps.iter().any(|step| step.is_progress()) {
            state.check_ending(bounds).map_err(|why| state.tell(&why))?;
            explored.endings += 1;
        }
        for step in steps {
            explored.transitions += 1;
            let mut next = state.clone();
            next.take(step).map_err(|why| next.tell(&why))?;
            next.check().map_err(|why| next.tell(&why))?;
            if seen.insert(next.fingerprint()) {
                stack.push(next);
            }
        }
    }
    Ok(explored)
}

impl Step {
    /// Whether something must happen if this is all that can.
    fn is_progress(&self) -> bool {
        match self {
            Step::Load(_)
            | Step::Store(_)
            | Step::Retry(_)
            | Step::Deliver(_)
            | Step::Timer(_)
            | Step::Leave(_) => true,
            Step::DeliverTwice(_) | Step::Evict(_) => false,
        }
    }
}

impl State {
    fn new(bounds: Bounds) -> State {
        let region = RegionInfo {
            start: PageId(0),
            pages: EXTENT_PAGES,
            used: EXTENT_PAGES,
            placement: Placement::OnNode(HOME),
            homes: vec![HOME],
            quotas: Vec::new(),
        };
        let node = |id: u16| {
            let mut core = Coherence::new(NodeId(id), Epoch(1), HOME);
            let mut frame = Frame { value: 0, access: Access::None };
            core.handle(Time(0), Input::Region(region.clone()), &mut frame);
            Node {
                core,
                frame,
                thread: Thread::Free,
                operations: if id == HOME.0 { bounds.home_operations } else { bounds.operations },
                evictions: bounds.evictions,
                early_timers: bounds.early_timers,
                now: Time(0),
                seen: Version::default(),
                fingerprint: None,
            }
        };
        State {
            nodes: (0..=bounds.clients).map(|id| Rc::new(node(id))).collect(),
            parcels: Vec::new(),
            duplicates: bounds.duplicates,
            truth: 0,
            path: None,
        }
    }

    /// Everything that can happen next.
    fn steps(&self, bounds: Bounds) -> Vec<Step> {
        let mut steps = Vec::new();
        for (id, node) in self.nodes.iter().enumerate() {
            let id = NodeId(id as u16);
            match node.thread {
                Thread::Free if node.operations > 0 => steps.extend([Step::Load(id), Step::Store(id)]),
                Thread::Free if bounds.leave && id != HOME => steps.push(Step::Leave(id)),
                Thread::Woken(_) => steps.push(Step::Retry(id)),
                Thread::Free | Thread::Waiting(_) | Thread::Leaving | Thread::Left => {}
            }
            let present = node.thread != Thread::Left;
            if node.evictions > 0 && present && node.frame.access != Access::None {
                steps.push(Step::Evict(id));
            }
            // A hold outlasts its instruction, unless it may end early.
            let early = matches!(node.thread, Thread::Woken(_));
            if node.core.poll_timeout().is_some() && present && (!early || node.early_timers > 0) {
                steps.push(Step::Timer(id));
            }
        }
        for (at, parcel) in self.parcels.iter().enumerate() {
            if at == 0 || self.parcels[at - 1] != *parcel {
                steps.push(Step::Deliver(at as u8));
                if self.duplicates > 0 {
                    steps.push(Step::DeliverTwice(at as u8));
                }
            }
        }
        steps
    }

    fn take(&mut self, step: Step) -> Result<(), String> {
        let what = match step {
            Step::Deliver(at) | Step::DeliverTwice(at) => Some(self.parcels[at as usize].message()),
            Step::Load(_)
            | Step::Store(_)
            | Step::Retry(_)
            | Step::Evict(_)
            | Step::Timer(_)
            | Step::Leave(_) => None,
        };
        self.path = Some(Rc::new(Path { step, what, before: self.path.take() }));
        match step {
            Step::Load(id) => self.begin(id, Access::Read),
            Step::Store(id) => self.begin(id, Access::Write),
            Step::Retry(id) => match self.nodes[id.0 as usize].thread {
                Thread::Woken(access) => {
                    self.feed(id, Input::Resumed { thread: 1, page: PAGE, access })?;
                    self.run(id, access)
                }
                Thread::Free | Thread::Waiting(_) | Thread::Leaving | Thread::Left => Ok(()),
            },
            Step::Deliver(at) => {
                let parcel = self.parcels.remove(at as usize);
                self.deliver(&parcel)
            }
            Step::DeliverTwice(at) => {
                self.duplicates -= 1;
                let parcel = self.parcels[at as usize].clone();
                self.deliver(&parcel)
            }
            Step::Evict(id) => {
                self.node(id).evictions -= 1;
                self.feed(id, Input::Evict { page: PAGE })
            }
            Step::Timer(id) => {
                let node = self.node(id);
                node.early_timers -= u8::from(matches!(node.thread, Thread::Woken(_)));
                node.now = node.core.poll_timeout().unwrap_or(node.now);
                self.feed(id, Input::Timer)
            }
            Step::Leave(id) => {
                self.node(id).thread = Thread::Leaving;
                self.feed(id, Input::Leave { op: OpId(2) })
            }
        }
    }

    fn begin(&mut self, id: NodeId, access: Access) -> Result<(), String> {
        self.node(id).operations -= 1;
        self.run(id, access)
    }

    /// Runs the instruction, or faults.
    fn run(&mut self, id: NodeId, access: Access) -> Result<(), String> {
        let truth = self.truth;
        let node = self.node(id);
        if node.frame.access < access {
            node.thread = Thread::Waiting(access);
            let fault = Fault { op: OpId(1), thread: 1, instruction: 16 + access as u64, page: PAGE, access };
            return self.feed(id, Input::Fault(fault));
        }
        node.thread = Thread::Free;
        if node.frame.value != truth {
            return Err(format!("{id} sees {}, not {truth}", node.frame.value));
        }
        if access == Access::Write {
            node.frame.value = truth + 1;
            self.truth += 1;
        }
        Ok(())
    }

    fn deliver(&mut self, parcel: &Parcel) -> Result<(), String> {
        if self.nodes[parcel.to.0 as usize].thread == Thread::Left {
            return Ok(());
        }
        let page = parcel.value.map(page_of);
        let bytes = page.as_ref().map_or(&[][..], PageBuf::as_slice);
        self.feed(
            parcel.to,
            Input::Message { from: parcel.from, epoch: Epoch(1), message: parcel.message(), page: bytes },
        )
    }

    fn feed(&mut self, id: NodeId, input: Input<'_>) -> Result<(), String> {
        let Node { core, frame, now, .. } = self.node(id);
        core.handle(*now, input, frame);
        while let Some(output) = self.node(id).core.poll_output() {
            match output {
                Output::Send { to, message, page } => self.send(id, to, message, page),
                Output::Done { op, result } => {
                    let node = self.node(id);
                    node.thread = match (node.thread, op, result) {
                        (Thread::Waiting(access), OpId(1), Ok(_)) => Thread::Woken(access),
                        (Thread::Leaving, OpId(2), Ok(_)) => Thread::Left,
                        other => return Err(format!("{id} is told {other:?}")),
                    };
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: Message, page: Option<PageBuf>) {
        let mut bytes = Vec::new();
        message.encode(&mut bytes);
        let parcel = Parcel { to, from, bytes: bytes.into(), value: page.map(|page| page.as_slice()[0]) };
        let at = self.parcels.partition_point(|other| *other < parcel);
        self.parcels.insert(at, parcel);
    }

    /// One writer or many readers, all copies current, versions growing, nothing impossible.
    fn check(&mut self) -> Result<(), String> {
        let truth = self.truth;
        let (mut readers, mut writers) = (0, 0);
        for node in &mut self.nodes {
            match node.frame.access {
                Access::None => {}
                Access::Read => readers += 1,
                Access::Write => writers += 1,
            }
            if node.frame.access != Access::None && node.frame.value != truth {
                return Err(format!("a mapped copy has {}, not {truth}", node.frame.value));
            }
            if node.frame.access != node.core.mapped(PAGE) || node.frame.access > node.core.access(PAGE) {
                return Err("a mapping is not what the core believes".to_owned());
            }
            if node.core.counters().violations > 0 {
                return Err("a message arrived that cannot".to_owned());
            }
            if let Some(version) = node.core.copy_version(PAGE) {
                if version < node.seen {
                    return Err(format!("a copy went back from {:?} to {version:?}", node.seen));
                }
                if version != node.seen {
                    let node = Rc::make_mut(node);
                    (node.seen, node.fingerprint) = (version, None);
                }
            }
        }
        if writers > 1 || (writers == 1 && readers > 0) {
            return Err(format!("{writers} writers beside {readers} readers"));
        }
        Ok(())
    }

    /// Nothing more will happen: everybody has finished, and the home knows what is mapped.
    fn check_ending(&self, bounds: Bounds) -> Result<(), String> {
        for (id, node) in self.nodes.iter().enumerate() {
            let is_client = id != HOME.0 as usize;
            let last = if bounds.leave && is_client { Thread::Left } else { Thread::Free };
            if node.thread != last || node.operations > 0 || !node.core.is_idle() {
                return Err(format!("deadlock: node {id} {:?}, idle {}", node.thread, node.core.is_idle()));
            }
        }
        let Some((owner, copyset, _)) = self.nodes[0].core.directory_entry(PAGE) else { return Ok(()) };
        for (id, node) in self.nodes.iter().enumerate() {
            let id = NodeId(id as u16);
            let known = match node.core.access(PAGE) {
                Access::None => owner != Some(id),
                Access::Read => copyset.contains(id) && owner.is_none(),
                Access::Write => owner == Some(id),
            };
            if !known {
                return Err(format!("the directory is wrong about {id}: {owner:?} {copyset:?}"));
            }
        }
        let holder = owner.unwrap_or(HOME);
        let value = self.nodes[holder.0 as usize].frame.value;
        if value != self.truth {
            return Err(format!("the latest bytes are lost: {value}, not {}", self.truth));
        }
        Ok(())
    }

    /// The node, which is about to change.
    fn node(&mut self, id: NodeId) -> &mut Node {
        let node = Rc::make_mut(&mut self.nodes[id.0 as usize]);
        node.fingerprint = None;
        node
    }

    /// Two hashes of 64 bits: a search of millions of states meets no collision.
    fn fingerprint(&mut self) -> (u64, u64) {
        let nodes: SmallVec<[(u64, u64); 4]> = self.nodes.iter_mut().map(fingerprint).collect();
        hash_twice(|both| (nodes, &self.parcels, self.duplicates, self.truth).hash(both))
    }

    /// The rule that was broken and the steps that lead there.
    fn tell(&self, why: &str) -> String {
        let mut lines = Vec::new();
        let mut at = self.path.as_ref();
        while let Some(path) = at {
            lines.push(format!(
                "{:?} {}",
                path.step,
                path.what.map_or(String::new(), |what| format!("{what:?}"))
            ));
            at = path.before.as_ref();
        }
        lines.reverse();
        format!("{why}\n{}", lines.join("\n"))
    }
}

/// The fingerprint of a node, made anew only if the node has changed.
fn fingerprint(node: &mut Rc<Node>) -> (u64, u64) {
    if let Some(known) = node.fingerprint {
        return known;
    }
    let made = hash_twice(|both| {
        node.core.fingerprint(node.now, both);
        (node.frame, node.thread, node.operations, node.evictions).hash(both);
        (node.early_timers, node.seen).hash(both);
    });
    Rc::make_mut(node).fingerprint = Some(made);
    made
}

fn hash_twice(feed: impl FnOnce(&mut Both<'_>)) -> (u64, u64) {
    let (mut quick, mut strong) = (FxHasher::default(), DefaultHasher::new());
    feed(&mut Both(&mut quick, &mut strong));
    (quick.finish(), strong.finish())
}

impl Parcel {
    fn message(&self) -> Message {
        let mut reader = pagemesh::codec::Reader::new(&self.bytes);
        Message::decode(&mut reader).expect("it was encoded here")
    }
}

impl Memory for Frame {
    fn protect(&mut self, page: PageId, access: Access) {
        assert_eq!(page, PAGE);
        self.access = access;
    }

    fn protect_range(&mut self, first: PageId, pages: u64, access: Access) {
        assert_eq!(pages, 1);
        self.protect(first, access);
    }

    fn read(&mut self, page: PageId) -> PageBuf {
        assert_eq!(page, PAGE);
        page_of(self.value)
    }

    fn set_version(&mut self, _page: PageId, _version: Version) {}

    fn install(&mut self, page: PageId, contents: Contents<'_>, access: Access, _version: Version) {
        assert_eq!(page, PAGE);
        match contents {
            Contents::Zero => self.value = 0,
            Contents::Bytes(bytes) => self.value = bytes[0],
            Contents::InPlace => {}
        }
        self.access = access;
    }

    fn discard(&mut self, page: PageId) {
        assert_eq!((page, self.access), (PAGE, Access::None));
        self.value = 0;
    }

    fn revoke_all(&mut self) {
        unreachable!("the coherence core does not end the node");
    }
}

impl LockWords for Frame {
    fn lend_lock(&mut self, _page: PageId, _token: u64) -> bool {
        false // no thread here takes locks
    }

    fn recall_lock(&mut self, page: PageId) -> Lent {
        unreachable!("the lock of {page:?} was not lent")
    }
}

fn page_of(value: u8) -> PageBuf {
    let mut page = PageBuf::zeroed();
    page.as_mut_slice()[0] = value;
    page
}

struct Both<'a>(&'a mut FxHasher, &'a mut DefaultHasher);

impl Hasher for Both<'_> {
    fn finish(&self) -> u64 {
        self.1.finish()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
        self.1.write(bytes);
    }
}
