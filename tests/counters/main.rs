//! What each operation costs: messages and datagrams on real nodes against the table in
//! `docs/protocol.md`. Messages are exact, in total over all nodes. Of datagrams the fewest of several
//! rounds count: an acknowledgement travels alone whenever a thread was late, which on a busy machine one is
//! in most rounds, so that there are more of them until each operation has once cost what it should. For the
//! same reason this is a program of its own, and its tests run one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pagemesh::coherence::LockId;
use pagemesh::membership::ElementType;
use pagemesh::{GlobalAddr, Node, NodeConfig, NodeId, Placement};

use parking_lot::{Mutex, MutexGuard};
use system_tests::rig::{self, Rig};

const RANKS: u32 = 4;
/// Operations of one round: few, since all of them must be in time once.
const PAGES: u64 = 8;
/// What of a round's last operation has nothing to ride on: INSTALLED and its acknowledgement, and one in each
/// direction between the home, the owner and who asked. On an idle machine two or three of them. One datagram
/// more an operation would show: it makes eight.
const LAST_MAX: u64 = 6;
const ROUNDS_MAX: u64 = 120;
/// From one page to the next: too far for a stream, so that each is a fault of its own.
const APART: u64 = 97;

/// One home, four ranks, and how many messages they must have exchanged.
struct Bench {
    _alone: MutexGuard<'static, ()>,
    home: Node,
    ranks: Vec<Arc<Node>>,
    start: GlobalAddr,
    expected: u64,
}

impl Bench {
    fn new() -> Bench {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock();
        let rig = Rig::with_daemons(1, RANKS).set("arena_size", "1GiB").set("memory_max", "512MiB");
        let home = rig.start_daemons().remove(0);
        let program = rig::new_program();
        let starts: Vec<_> = (0..RANKS)
            .map(|rank| {
                let mut config = NodeConfig::rank(rig.rank(program, rank, Some(home.local_addr())));
                config.arena_base = None;
                std::thread::spawn(move || Arc::new(Node::start(config).expect("joins")))
            })
            .collect();
        let ranks: Vec<Arc<Node>> = starts.into_iter().map(|start| start.join().expect("joins")).collect();
        let bytes = PAGES * (ROUNDS_MAX + 1) * APART * 4096;
        let alloc = |rank: &Arc<Node>| {
            rank.alloc("data", bytes, ElementType::untagged(8), Some(Placement::OnNode(NodeId(0)))).unwrap()
        };
        let records: Vec<_> = ranks.iter().map(alloc).collect();
        let start = records[0].info.start.start();
        let mut bench = Bench { _alone: alone, home, ranks, start, expected: 0 };
        bench.expected = bench.counts().0;
        bench
    }

    /// Messages sent, messages handled, datagrams sent and calls that sent them, of all nodes.
    fn counts(&self) -> (u64, u64, u64, u64) {
        let nodes = self.ranks.iter().map(|rank| rank.status()).chain([self.home.status()]);
        nodes.fold((0, 0, 0, 0), |(sent, handled, datagrams, calls), node| {
            let (coherence, socket) = (node.coherence, node.socket);
            (
                sent + coherence.messages_out,
                handled + coherence.messages_in,
                datagrams + socket.datagrams_out,
                calls + socket.send_calls,
            )
        })
    }

    fn word(&self, rank: usize, page: u64) -> &AtomicU64 {
        let addr = GlobalAddr(self.start.0 + page * APART * 4096);
        let word = self.ranks[rank].pointer(addr).expect("in the arena").cast();
        // SAFETY: an aligned word of the region, accessed atomically only.
        unsafe { AtomicU64::from_ptr(word) }
    }

    fn read(&self, rank: usize, pages: std::ops::Range<u64>) {
        pages.for_each(|page| drop(self.word(rank, page).load(Ordering::Relaxed).to_string()));
    }

    fn write(&self, rank: usize, pages: std::ops::Range<u64>) {
        pages.for_each(|page| self.word(rank, page).store(page + 1, Ordering::Relaxed));
    }

    /// Runs an operation `times` times that costs so many messages each; waits until all have been
    /// handled. Returns datagrams and calls.
    fn costs(&mut self, what: &str, times: u64, messages: u64, run: impl FnOnce(&Bench)) -> (u64, u64) {
        let before = self.counts();
        run(self);
        self.expected += times * messages;
        rig::until(&format!("{times} x {what} at {messages} messages are sent and handled"), || {
            let (sent, handled, ..) = self.counts();
            assert!(sent <= self.expected, "{what}: {sent} messages, not {}", self.expected);
            (sent, handled) == (self.expected, self.expected)
        });
        let after = self.counts();
        (after.2 - before.2, after.3 - before.3)
    }

    fn stop(self) {
        let leaves: Vec<_> = self
            .ranks
            .into_iter()
            .map(|rank| std::thread::spawn(move || rank.leave().expect("leaves")))
            .collect();
        leaves.into_iter().for_each(|leave| leave.join().expect("leaves"));
        rig::stop(vec![self.home]);
    }
}

#[test]
fn page_operations_cost_what_the_table_says() {
    let mut bench = Bench::new();
    let carrying = [3, 4, 2, 6, 4, 4, 4];
    let acknowledging = [0, 1, 0, 1, 2, 1, 1];
    let bounds: Vec<_> = carrying
        .into_iter()
        .zip(acknowledging)
        .map(|(carrying, acknowledging)| carrying * PAGES..=(carrying + acknowledging) * PAGES + LAST_MAX)
        .collect();
    let mut fewest = [u64::MAX; 7];
    for round in 0..ROUNDS_MAX {
        if fewest.iter().zip(&bounds).all(|(least, bounds)| least <= bounds.end()) {
            break;
        }
        let pages = round * PAGES..(round + 1) * PAGES;
        let each = |bench: &mut Bench, what: &str, messages, run: &dyn Fn(&Bench)| {
            let (datagrams, calls) = bench.costs(what, PAGES, messages, run);
            assert!(calls <= datagrams, "{what}: {calls} calls for {datagrams} datagrams");
            datagrams
        };
        let datagrams = [
            each(&mut bench, "write of a page nobody has", 3, &|bench| bench.write(0, pages.clone())),
            each(&mut bench, "dirty read", 5, &|bench| bench.read(1, pages.clone())),
            each(&mut bench, "clean read", 3, &|bench| bench.read(2, pages.clone())),
            each(&mut bench, "upgrade, 2 sharers", 7, &|bench| bench.write(0, pages.clone())),
            each(&mut bench, "write of a dirty page", 4, &|bench| bench.write(3, pages.clone())),
            each(&mut bench, "dirty read", 5, &|bench| bench.read(0, pages.clone())),
            each(&mut bench, "upgrade, 1 sharer", 5, &|bench| bench.write(0, pages.clone())),
        ];
        fewest.iter_mut().zip(datagrams).for_each(|(least, datagrams)| *least = (*least).min(datagrams));
        each(&mut bench, "dirty read", 5, &|bench| bench.read(1, pages.clone()));
        each(&mut bench, "clean read", 3, &|bench| bench.read(2, pages.clone()));
        each(&mut bench, "clean read", 3, &|bench| bench.read(3, pages.clone()));
        each(&mut bench, "upgrade, 3 sharers", 9, &|bench| bench.write(0, pages.clone()));
    }
    println!("fewest datagrams of {PAGES} operations: {fewest:?}");
    for (least, bounds) in fewest.iter().zip(&bounds) {
        assert!(bounds.contains(least), "{least} datagrams, {bounds:?}");
    }
    bench.stop();
}

#[test]
fn an_upgrade_without_sharers_costs_three_messages() {
    let mut bench = Bench::new();
    bench.costs("read of a page nobody has", PAGES, 3, |bench| bench.read(1, 0..PAGES));
    bench.costs("upgrade, 0 sharers", PAGES, 3, |bench| bench.write(1, 0..PAGES));
    bench.stop();
}

#[test]
fn locks_and_barriers_cost_what_the_table_says() {
    let mut bench = Bench::new();
    let lock = LockId(pagemesh::page::PageId::of(bench.start));
    let handles: Vec<_> = bench.ranks.iter().map(|rank| rank.lock_handle(lock)).collect();
    let take = |bench: &Bench, rank: usize| {
        bench.ranks[rank].lock(&handles[rank], None).expect("taken");
        bench.ranks[rank].unlock(&handles[rank]);
    };
    bench.costs("free lock", 1, 2, |bench| take(bench, 0));
    bench.costs("lock taken again", 100, 0, |bench| (0..100).for_each(|_| take(bench, 0)));
    bench.costs("lock handed on", 2 * PAGES, 3, |bench| {
        (0..2 * PAGES).for_each(|turn| take(bench, 1 - turn as usize % 2));
    });
    // Its home is the lowest of them.
    bench.costs("barrier of four", PAGES, 2 * u64::from(RANKS - 1), |bench| {
        std::thread::scope(|scope| {
            for rank in &bench.ranks {
                scope.spawn(|| (0..PAGES).for_each(|_| rank.barrier(None).expect("all come")));
            }
        });
    });
    bench.stop();
}
