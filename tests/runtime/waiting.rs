//! Waits for other ranks: with a deadline, for ever, and in vain.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use pagemesh::{Dsm, Error, Node, Settings};

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig, until};

/// No wait of a test that is to fail needs longer.
const SOON: Duration = Duration::from_millis(30);
/// No wait of a test that is to succeed takes longer.
const LONG: Duration = Duration::from_secs(30);

#[test]
fn a_thread_that_takes_its_own_lock_again_hears_so_at_once_and_another_thread_waits() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let mutex = dsm.mutex::<u64>("twice").unwrap();
        for _ in 0..3 {
            let mut guard = mutex.lock().unwrap();
            // First up to a deadline: a wait for itself would end there, with another error.
            let again = mutex.lock_timeout(LONG).map(|_| ()).unwrap_err();
            assert!(matches!(again, Error::Invalid(_)), "{again}");
            let again = mutex.lock().map(|_| ()).unwrap_err().to_string();
            assert!(again.contains(&format!("rank {}", dsm.rank())) && again.contains("`twice`"), "{again}");
            // By another handle too.
            let other = dsm.mutex::<u64>("twice").unwrap();
            assert!(matches!(other.lock(), Err(Error::Invalid(_))));
            assert!(other.try_lock().unwrap().is_none());
            *guard += 1;
            std::thread::scope(|scope| {
                let (has_begun, began) = mpsc::channel();
                let waits = scope.spawn(move || {
                    has_begun.send(()).unwrap();
                    *other.lock().unwrap() += 1;
                });
                began.recv().unwrap();
                drop(guard);
                waits.join().expect("it has waited");
            });
        }
        dsm.barrier().unwrap();
        assert_eq!(*mutex.lock().unwrap(), 12);
        dsm.leave().unwrap();
    });
}

#[test]
fn a_lock_that_another_rank_has_is_tried_in_vain_and_waited_for_up_to_a_deadline() {
    for daemons in [0, 1] {
        Rig::with_daemons(daemons, 3).run(|dsm| {
            let mutex = dsm.mutex::<u64>("held").unwrap();
            if dsm.is_root() {
                let guard = mutex.lock().unwrap();
                dsm.barrier().unwrap();
                // The others try.
                dsm.barrier().unwrap();
                drop(guard);
            } else {
                dsm.barrier().unwrap();
                for _ in 0..3 {
                    assert!(mutex.try_lock().unwrap().is_none());
                }
                // The question for the holder takes no longer than the wait did: a busy machine needs more.
                let mut timeout = SOON;
                loop {
                    let error = mutex.lock_timeout(timeout).map(|_| ()).unwrap_err();
                    assert!(matches!(error, Error::Timeout { .. }), "{error}");
                    let error = error.to_string();
                    if error.contains("`held`, held by rank 0 of") {
                        break;
                    }
                    assert!(timeout < LONG, "{error}");
                    timeout *= 2;
                }
                let late = mutex.lock_deadline(Instant::now() + SOON).map(|_| ()).unwrap_err();
                assert!(matches!(late, Error::Timeout { .. }), "{late}");
                dsm.barrier().unwrap();
            }
            // Nobody is in the way of those that wait now.
            *mutex.lock_deadline(Instant::now() + LONG).unwrap() += 1;
            dsm.barrier().unwrap();
            assert_eq!(*mutex.lock().unwrap(), 3);
            dsm.barrier().unwrap();
            if dsm.rank() == 2 {
                *mutex.try_lock().unwrap().expect("it lies idle somewhere") += 1;
            }
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn a_rank_whose_deadline_has_passed_is_waited_for_at_the_barrier() {
    for daemons in [0, 1] {
        let (sender, receiver) = mpsc::channel::<()>();
        let receiver = std::sync::Mutex::new(receiver);
        let sender = std::sync::Mutex::new(Some(sender));
        Rig::with_daemons(daemons, 3).run(move |dsm| {
            let data = dsm.alloc::<u64>("data", 3).unwrap();
            match dsm.rank() {
                // It comes when rank 1 has given up once.
                2 => drop(receiver.lock().unwrap().recv()),
                1 => {
                    let error = dsm.barrier_timeout(SOON).unwrap_err();
                    assert!(matches!(error, Error::Timeout { .. }), "{error}");
                    assert!(error.to_string().contains("missing"), "{error}");
                    let error = dsm.barrier_deadline(Instant::now() + SOON).unwrap_err();
                    assert!(matches!(error, Error::Timeout { .. }), "{error}");
                    drop(sender.lock().unwrap().take());
                }
                _ => {}
            }
            data.set(dsm.rank() as usize, 1);
            dsm.barrier_deadline(Instant::now() + LONG).unwrap();
            let all: Vec<u64> = (0..3).map(|rank| data.get(rank)).collect();
            assert_eq!(all, [1, 1, 1], "nobody has gone on without rank {}", dsm.rank());
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn a_rank_that_stops_waiting_at_a_barrier_names_the_ranks_that_have_not_come_and_not_itself() {
    for daemons in [0, 1] {
        let (apart, late) = (std::sync::Barrier::new(3), std::sync::Barrier::new(2));
        Rig::with_daemons(daemons, 3).run(move |dsm| {
            let given_up = |words: &str| {
                // The question for the missing ranks takes no longer than the wait did: a busy machine needs more.
                let mut timeout = SOON;
                loop {
                    let error = dsm.barrier_timeout(timeout).unwrap_err().to_string();
                    assert!(!error.contains("all ranks have come"), "{error}");
                    assert!(!error.contains(&format!("[{}", dsm.rank())), "{error}");
                    if error.contains(words) {
                        return;
                    }
                    assert!(timeout < LONG, "{error}");
                    timeout *= 2;
                }
            };
            // First this rank alone comes, then ranks 0 and 1 do.
            if dsm.rank() == 0 {
                given_up("where ranks [1, 2] of 3 are missing");
            }
            apart.wait();
            match dsm.rank() {
                0 => dsm.barrier().unwrap(),
                1 => given_up("where rank 2 of "),
                _ => {}
            }
            if dsm.rank() > 0 {
                late.wait();
                dsm.barrier().unwrap();
            }
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn a_wait_ends_at_the_instant_that_is_its_deadline() {
    let apart = std::sync::Barrier::new(2);
    Rig::with_daemons(1, 2).run(move |dsm| {
        let later = || Instant::now() + LONG;
        let mutex = dsm.mutex::<u64>("held").unwrap();
        let guard = dsm.is_root().then(|| mutex.lock().unwrap());
        dsm.barrier().unwrap();
        if !dsm.is_root() {
            let error = mutex.lock_deadline(Instant::now()).map(drop).unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
            let error = dsm.barrier_deadline(Instant::now()).unwrap_err();
            assert!(matches!(error, Error::Timeout { .. }), "{error}");
        }
        // Rank 0 comes to the barrier when rank 1 has given up.
        apart.wait();
        drop(guard);
        dsm.barrier_deadline(later()).unwrap();
        *mutex.lock_deadline(later()).unwrap() += 1;
        dsm.barrier_deadline(later()).unwrap();
        assert_eq!(*mutex.lock().unwrap(), 2);
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

/// A lock, a barrier and a collective operation, each in a thread of its own; what they wait for is this process.
#[test]
fn after_five_seconds_one_line_says_which_rank_is_waited_for() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 2_000_000, daemons.first().map(Node::local_addr));
    let mut child = Child::start("waits", &rig.rank(program, 1, join));
    let dsm = rig::join(rig.rank(program, 0, join));
    let mutex = dsm.mutex::<u64>("held").unwrap();
    let guard = mutex.lock().unwrap();
    child.expect("there");
    child.tell("wait");
    let waits = [
        &["rank 1 of", "waited for 5 s for the lock `held`, held by rank 0 of"][..],
        &["rank 1 of", "waited for 5 s for barrier 1, where rank 0 of", "is missing"],
        &["rank 1 of", "waited for 5 s for all_reduce of u64, where rank 0 of", "is missing"],
    ];
    for words in waits {
        until("a line on standard error", || !child.lines_with(words).is_empty());
    }
    drop(guard);
    assert_eq!(dsm.all_reduce(5_u64, |a, b| a + b).unwrap(), 11);
    dsm.barrier().unwrap();
    dsm.leave().unwrap();
    let (status, errors) = child.end_within(LONG);
    assert!(status.success(), "{errors}");
    for words in waits {
        assert_eq!(child.lines_with(words).len(), 1, "once a wait: {errors}");
    }
    rig::stop(daemons);
}

pub(crate) fn waits(settings: Settings) {
    let dsm = child::join(settings);
    let mutex = dsm.mutex::<u64>("held").unwrap();
    say("there");
    listen();
    std::thread::scope(|scope| {
        scope.spawn(|| *mutex.lock().unwrap() += 1);
        scope.spawn(|| dsm.barrier().unwrap());
        scope.spawn(|| assert_eq!(dsm.all_reduce(6_u64, |a, b| a + b).unwrap(), 11));
    });
    dsm.leave().unwrap();
}

/// A mistake of the program: they wait for ever.
#[test]
fn a_rank_at_a_barrier_and_one_in_a_broadcast_say_after_five_seconds_where_the_other_waits() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 4_000_000, daemons.first().map(Node::local_addr));
    let [first, second] = [("waits at a barrier", 0), ("broadcasts", 1)]
        .map(|(role, rank)| Child::start(role, &rig.rank(program, rank, join)));
    let lines = [
        (
            &first,
            [
                "rank 0 of",
                "waited for 5 s for barrier 2, where rank 1 of",
                "rank 1 waits in broadcast from rank 0 of u64",
            ],
        ),
        (
            &second,
            [
                "rank 1 of",
                "waited for 5 s for broadcast from rank 0 of u64, where rank 0 of",
                "rank 0 waits in barrier 2",
            ],
        ),
    ];
    for (child, words) in lines {
        until("a line on standard error", || !child.lines_with(&words).is_empty());
    }
    drop([first, second]);
    rig::stop(daemons);
}

pub(crate) fn waits_at_a_barrier(settings: Settings) {
    let dsm = child::join(settings);
    dsm.barrier().unwrap();
    let _ = dsm.barrier();
}

pub(crate) fn broadcasts(settings: Settings) {
    let dsm = child::join(settings);
    dsm.barrier().unwrap();
    let _ = dsm.broadcast(0, 1_u64);
}

/// As a `main` that returns an error does.
#[test]
fn a_rank_that_ends_with_an_error_is_named_to_the_ranks_that_wait_for_it() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 5_000_000, daemons.first().map(Node::local_addr));
    let mut child = Child::start("ends with an error", &rig.rank(program, 1, join));
    let pid = child.pid();
    let dsm = rig::join(rig.rank(program, 0, join));
    let error = dsm.barrier().unwrap_err().to_string();
    assert!(error.starts_with("rank 1 of ") && error.contains(&format!("process {pid} ")), "{error}");
    assert!(error.contains("has left") && !error.contains("node"), "{error}");
    let (status, errors) = child.end_within(LONG);
    assert_eq!(status.code(), Some(1), "{errors}");
    dsm.leave().unwrap();
    rig::stop(daemons);
}

pub(crate) fn end_with_an_error(settings: Settings) {
    let _dsm = child::join(settings);
    std::process::exit(1);
}

#[test]
fn values_of_all_ranks_are_combined_in_the_order_of_the_ranks_and_leave_no_region() {
    for (daemons, ranks) in [(1, 1), (0, 1), (0, 2), (1, 3), (2, 5)] {
        let rig = Rig::with_daemons(daemons, ranks);
        let nodes = rig.start_daemons();
        rig.run_program(nodes.first().map(Node::local_addr), |dsm| {
            let (rank, ranks) = (dsm.rank(), dsm.ranks());
            let place = |name| dsm.alloc::<u64>(name, 1).unwrap().addr().0;
            let (first, second) = (place("first"), place("second"));
            // Neither commutes: the first and the last value, and how many there were.
            let ends = |a: [u32; 3], b: [u32; 3]| [a[0], b[1], a[2] + b[2]];
            for round in 0..50 {
                let all = dsm.all_reduce([rank + round, rank + round, 1], ends).unwrap();
                assert_eq!(all, [round, ranks - 1 + round, ranks]);
                let at_root = dsm.reduce([rank + round, rank + round, 1], ends).unwrap();
                assert_eq!(at_root, dsm.is_root().then_some(all));
                let from = round % ranks;
                assert_eq!(
                    dsm.broadcast(from, u64::from(rank * 100 + round)).unwrap(),
                    u64::from(from * 100 + round)
                );
            }
            let large = [[rank as u8; 1024]; 32];
            let large = dsm.all_reduce(large, |a, b| if a > b { a } else { b }).unwrap();
            assert_eq!(large, [[ranks as u8 - 1; 1024]; 32]);
            let too_large = dsm.all_reduce([[0_u8; 1024]; 64], |a, _| a).map(|_| ()).unwrap_err();
            assert!(matches!(too_large, Error::Invalid(_)), "{too_large}");
            assert!(matches!(dsm.broadcast(ranks, 1_u8), Err(Error::Invalid(_))));
            // Regions lie behind each other: none has been made since.
            assert_eq!(place("third") - second, second - first);
            dsm.leave().unwrap();
        });
        rig::stop(nodes);
    }
}

#[test]
fn ranks_that_call_different_operations_are_told_which() {
    for daemons in [0, 1] {
        Rig::with_daemons(daemons, 3).run(|dsm| {
            let error = match dsm.rank() {
                1 => dsm.all_reduce(1.0_f32, |a, b| a + b).map(|_| ()),
                _ => dsm.all_reduce(1_u64, |a, b| a + b).map(|_| ()),
            };
            let error = error.unwrap_err().to_string();
            assert_eq!(error, "rank 1 calls all_reduce of f32, and rank 0 calls all_reduce of u64");
            // It concerned that one operation.
            assert_eq!(dsm.all_reduce(1_u8, |a, b| a + b).unwrap(), 3);
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn a_closure_that_panics_on_rank_0_fails_the_operation_on_every_rank() {
    for daemons in [0, 1] {
        Rig::with_daemons(daemons, 3).run(|dsm| {
            for _ in 0..2 {
                let panics = |a: u64, _: u64| if dsm.is_root() { panic!("as told") } else { a };
                let call = std::panic::AssertUnwindSafe(|| dsm.all_reduce(1_u64, panics));
                match std::panic::catch_unwind(call) {
                    Err(panic) => {
                        assert!(dsm.is_root());
                        assert_eq!(panic.downcast_ref::<&str>(), Some(&"as told"));
                    }
                    Ok(result) => {
                        assert!(!dsm.is_root());
                        let error = result.unwrap_err().to_string();
                        assert!(
                            error.contains("all_reduce of u64: the closure panicked on rank 0"),
                            "{error}"
                        );
                    }
                }
                // It concerned that one operation.
                assert_eq!(dsm.all_reduce(1_u8, |a, b| a + b).unwrap(), 3);
            }
            dsm.leave().unwrap();
        });
    }
}

/// Rank 0 hears that rank 1 has left, and leaves with that error before rank 2 hears anything else.
#[test]
fn every_rank_in_a_collective_operation_is_told_which_rank_has_left() {
    Rig::with_daemons(1, 3).run(|dsm| {
        if dsm.rank() != 1 {
            let error = dsm.all_reduce(1_u8, |a, b| a + b).unwrap_err();
            assert!(matches!(error, Error::NodeLeft { .. }), "{error}");
            assert!(error.to_string().starts_with("rank 1 of "), "rank {}: {error}", dsm.rank());
        }
        dsm.leave().unwrap();
    });
}

/// The next program's second rank gets the node id of a rank that has left since its first one joined.
#[test]
fn a_rank_with_the_node_id_of_one_that_has_left_takes_part_in_collective_operations() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let join = daemons.first().map(Node::local_addr);
    let earlier = rig::join(Rig::with_daemons(1, 1).rank(rig::new_program(), 0, join));
    let id = earlier.node_id();
    let program = rig::new_program();
    let [first, second] = [0, 1].map(|rank| rig.rank(program, rank, join));
    let sum = |dsm: Dsm| {
        let sum = dsm.all_reduce(u64::from(dsm.rank()) + 1, |a, b| a + b).unwrap();
        dsm.leave().unwrap();
        sum
    };
    std::thread::scope(|scope| {
        let first = scope.spawn(move || sum(rig::join(first)));
        until("the first rank is a member", || daemons[0].status().peers.len() == 2);
        earlier.leave().unwrap();
        let second = rig::join(second);
        assert_eq!(second.node_id(), id);
        assert_eq!((sum(second), first.join().expect("it has not failed")), (3, 3));
    });
    rig::stop(daemons);
}

#[test]
fn a_collective_operation_without_a_rank_that_has_left_or_died_fails() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let join = daemons.first().map(Node::local_addr);
    // The rank that gathers, and one that brings.
    for stays in [0, 1] {
        rig.run_program(join, move |dsm: Dsm| {
            if dsm.rank() != stays {
                return dsm.leave().unwrap();
            }
            let error = dsm.all_reduce(1_u8, |a, b| a + b).unwrap_err();
            assert!(matches!(error, Error::NodeLeft { .. }), "{error}");
            let error = error.to_string();
            assert!(error.starts_with(&format!("rank {} of ", 1 - stays)), "{error}");
            assert!(error.contains("has left") && !error.contains("died"), "{error}");
            dsm.leave().unwrap();
        });
    }
    let program = rig::new_program() + 3_000_000;
    let child = Child::start("waits", &rig.rank(program, 1, join));
    let dsm = rig::join(rig.rank(program, 0, join));
    child.expect("there");
    drop(child);
    let error = dsm.all_reduce(1_u64, |a, b| a + b).unwrap_err();
    assert!(matches!(error, Error::NodeDied { .. }), "{error}");
    drop(dsm);
    rig::stop(daemons);
}
