//! Joins and leaves while others compute, in every order.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::sys::signal::Signal;
use pagemesh::membership::ElementType;
use pagemesh::{Error, Node, Settings};

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig, until};

/// Pages that change their owner while the first one leaves: more than the transport sends to a node that does
/// not answer, and fewer than a node requests ahead of need.
const GIVEN_AWAY: usize = 400;
/// Elements of a page.
const PER_PAGE: usize = 512;

/// Owns pages, and leaves when told to.
pub(crate) fn giver(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("given away", GIVEN_AWAY * PER_PAGE).unwrap();
    (0..GIVEN_AWAY).for_each(|page| data.set(page * PER_PAGE, page as u64 + 1));
    say("owns");
    listen();
    dsm.leave().unwrap();
    say("left");
    listen();
}

/// Requests these pages for writing when told to, and sums them up when told to.
pub(crate) fn taker(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("given away", GIVEN_AWAY * PER_PAGE).unwrap();
    say("ready");
    listen();
    data.prefetch_mut(0..data.len());
    say("asked");
    listen();
    let sum: u64 = (0..GIVEN_AWAY).map(|page| data.get(page * PER_PAGE)).sum();
    say(&sum.to_string());
    listen();
}

/// The requester does not run while the owner leaves: what it was given lies in the owner's queue.
#[test]
fn a_node_leaves_when_the_pages_that_it_gave_away_have_arrived() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, Some(daemons[0].local_addr()));
    let mut giver = Child::start("giver", &rig.rank(program, 1, join));
    let mut taker = Child::start("taker", &rig.rank(program, 0, join));
    giver.expect("owns");
    taker.expect("ready");
    giver.stop();
    let before = daemons[0].status().faults_served;
    taker.tell("ask");
    taker.expect("asked");
    let all = before + GIVEN_AWAY as u64;
    until("the home has forwarded all requests", || daemons[0].status().faults_served >= all);
    taker.stop();
    giver.signal(Signal::SIGCONT);
    giver.tell("leave");
    // Longer than any clock in the way of leaving once was.
    giver.says_nothing_for(Duration::from_millis(2_500));
    taker.signal(Signal::SIGCONT);
    giver.expect("left");
    taker.tell("sum");
    let sum = (1..=GIVEN_AWAY as u64).sum::<u64>();
    taker.expect(&sum.to_string());
    rig::stop(daemons);
}

#[test]
fn programs_come_and_go_while_another_computes() {
    let rig = Rig::with_daemons(2, 2);
    let daemons = rig.start_daemons();
    let join = daemons.first().map(Node::local_addr);
    let visitors = std::thread::spawn({
        let rig = rig.clone();
        move || {
            for visit in 0..6u64 {
                rig.run_program(join, move |dsm| {
                    let data = dsm.alloc::<u64>("visitors", 2000).unwrap();
                    assert_eq!(data.get(dsm.rank() as usize), visit);
                    data.set(dsm.rank() as usize, visit + 1);
                    // Without a last barrier: ranks leave when they have done.
                    dsm.leave().unwrap();
                });
            }
        }
    });
    rig.run_program(join, |dsm| {
        let data = dsm.alloc::<u64>("data", 2000).unwrap();
        for round in 1..=40u64 {
            for index in dsm.my_block(data.len()) {
                data.set(index, round);
            }
            dsm.barrier().unwrap();
            assert!((0..data.len()).all(|index| data.get(index) == round));
            dsm.barrier().unwrap();
        }
        dsm.leave().unwrap();
    });
    visitors.join().expect("the visitors end well");
    rig::stop(daemons);
}

#[test]
fn ranks_may_be_more_or_fewer_than_daemons() {
    for (daemons, ranks) in [(1, 1), (3, 1), (4, 2), (1, 5), (3, 8)] {
        Rig::with_daemons(daemons, ranks).run(|dsm| {
            let data = dsm.alloc::<u64>("data", 512 * 40).unwrap();
            for index in dsm.my_block(data.len()) {
                data.set(index, index as u64);
            }
            dsm.barrier().unwrap();
            assert!((0..data.len()).step_by(31).all(|index| data.get(index) == index as u64));
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn a_rank_that_leaves_writes_back_what_the_others_read_later() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let data = dsm.alloc::<u64>("data", 512 * 100).unwrap();
        if dsm.rank() == 1 {
            for index in 0..data.len() {
                data.set(index, index as u64 + 3);
            }
            dsm.barrier().unwrap();
            return dsm.leave().unwrap();
        }
        dsm.barrier().unwrap();
        assert!((0..data.len()).all(|index| data.get(index) == index as u64 + 3));
        dsm.leave().unwrap();
    });
}

#[test]
fn dropping_the_handles_leaves_like_leave_does() {
    for rig in [Rig::with_daemons(1, 3), Rig::without_daemons(3)] {
        rig.run(|dsm| {
            let data = dsm.alloc::<u64>("data", 512 * 8).unwrap();
            for index in dsm.my_block(data.len()) {
                data.set(index, 1);
            }
            dsm.barrier().unwrap();
            assert!((0..data.len()).all(|index| data.get(index) == 1));
        });
    }
}

#[test]
fn a_lock_that_its_holder_took_along_is_broken_for_the_others() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let mutex = dsm.mutex::<u64>("mutex").unwrap();
        if dsm.rank() == 1 {
            let guard = mutex.lock().unwrap();
            dsm.barrier().unwrap();
            std::mem::forget(guard);
            return dsm.leave().unwrap();
        }
        dsm.barrier().unwrap();
        match mutex.lock() {
            Err(Error::NodeLeft { name, .. }) => {
                assert!(name.contains("rank 1 of") && name.contains("lock"), "{name}");
            }
            Err(error) => panic!("{error}"),
            Ok(_) => panic!("the lock was given back"),
        }
        dsm.leave().unwrap();
    });
}

#[test]
fn a_lock_that_a_rank_had_and_gave_back_outlives_it() {
    Rig::with_daemons(2, 4).run(|dsm| {
        let mutex = dsm.mutex::<u64>("mutex").unwrap();
        for _ in 0..20 {
            *mutex.lock().unwrap() += 1;
        }
        if dsm.rank() > 0 {
            dsm.barrier().unwrap();
            return dsm.leave().unwrap();
        }
        dsm.barrier().unwrap();
        assert_eq!(*mutex.lock().unwrap(), 80);
        dsm.leave().unwrap();
    });
}

#[test]
fn a_barrier_that_a_rank_left_before_anybody_came_is_broken() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program(), daemons.first().map(Node::local_addr));
    let leaves = std::thread::spawn({
        let settings = rig.rank(program, 1, join);
        move || rig::join(settings).leave().unwrap()
    });
    let dsm = rig::join(rig.rank(program, 0, join));
    leaves.join().expect("leaves");
    // Whether this rank has heard of it or not.
    assert!(matches!(dsm.barrier(), Err(Error::NodeLeft { .. })));
    assert!(matches!(dsm.barrier(), Err(Error::NodeLeft { .. })));
    dsm.leave().unwrap();
    rig::stop(daemons);
}

#[test]
fn a_rank_that_waits_at_a_barrier_hears_that_another_has_left() {
    Rig::with_daemons(1, 2).run(|dsm| {
        if dsm.rank() == 1 {
            return dsm.leave().unwrap();
        }
        let error = dsm.barrier().unwrap_err().to_string();
        assert!(error.starts_with("rank 1 of ") && error.contains("has left"), "{error}");
        dsm.leave().unwrap();
    });
}

/// What a rank was told when another one left: which it was.
fn expect_left(error: &Error, leaver: u32) {
    assert!(matches!(error, Error::NodeLeft { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("rank {leaver} of ")), "{error}");
}

/// The leaving rank serves its memory until all leave: it waits for those that wait for it.
#[test]
fn ranks_that_hold_the_memory_and_wait_at_a_barrier_hear_that_another_leaves() {
    for leaver in [0, 1] {
        Rig::without_daemons(3).run(move |dsm| {
            let data = dsm.alloc::<u64>("data", 512 * 8).unwrap();
            for index in dsm.my_block(data.len()) {
                data.set(index, index as u64);
            }
            dsm.barrier().unwrap();
            if dsm.rank() != leaver {
                for _ in 0..2 {
                    expect_left(&dsm.barrier().unwrap_err(), leaver);
                }
                assert!((0..data.len()).all(|index| data.get(index) == index as u64), "its memory is there");
            }
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn ranks_that_hold_the_memory_and_are_in_a_collective_operation_hear_that_another_leaves() {
    for leaver in [0, 1] {
        Rig::without_daemons(3).run(move |dsm| {
            assert_eq!(dsm.all_reduce(1_u8, |a, b| a + b).unwrap(), 3);
            if dsm.rank() != leaver {
                expect_left(&dsm.all_reduce(1_u8, |a, b| a + b).unwrap_err(), leaver);
            }
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn ranks_that_hold_the_memory_and_wait_for_a_lock_hear_that_its_holder_leaves() {
    for leaver in [0, 1] {
        Rig::without_daemons(3).run(move |dsm| {
            let mutex = dsm.mutex::<u64>("mutex").unwrap();
            let free = dsm.mutex::<u64>("free").unwrap();
            if dsm.rank() == leaver {
                *free.lock().unwrap() = 7;
                let guard = mutex.lock().unwrap();
                dsm.barrier().unwrap();
                std::mem::forget(guard);
                return dsm.leave().unwrap();
            }
            dsm.barrier().unwrap();
            let error = mutex.lock().map(|_| ()).unwrap_err();
            expect_left(&error, leaver);
            assert!(error.to_string().contains("which had the lock"), "{error}");
            assert_eq!(*free.lock().unwrap(), 7, "it gave this one back");
            dsm.leave().unwrap();
        });
    }
}

#[test]
fn a_panicking_rank_gives_its_pages_back() {
    let rig = Rig::with_daemons(1, 2);
    let daemons = rig.start_daemons();
    let program = rig::new_program() + 1_000_000;
    let join = daemons.first().map(Node::local_addr);
    let mut child = Child::start("panicker", &rig.rank(program, 1, join));
    let dsm = rig::join(rig.rank(program, 0, join));
    let data = dsm.alloc::<u64>("data", 512 * 4).unwrap();
    child.expect("wrote");
    child.tell("panic");
    let (status, errors) = child.end_within(std::time::Duration::from_secs(10));
    assert_eq!(status.code(), Some(101), "{errors}");
    assert!((0..data.len()).all(|index| data.get(index) == 8));
    assert!(dsm.barrier().is_err());
    dsm.leave().unwrap();
    rig::stop(daemons);
}

#[test]
fn a_panicking_rank_that_held_the_memory_is_named() {
    let rig = Rig::without_daemons(2);
    let program = rig::new_program() + 1_000_000;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let root = socket.local_addr().expect("an address");
    let mut settings = rig.rank(program, 0, None);
    settings.socket = Some(socket.into());
    let mut child = Child::start("panicker", &rig.rank(program, 1, Some(root)));
    let dsm = rig::join(settings);
    child.expect("wrote");
    child.tell("panic");
    let died = |result: Result<(), Error>| match result {
        Err(Error::NodeDied { name, .. }) => name.contains("rank 1"),
        Err(error) => panic!("{error}"),
        Ok(()) => false,
    };
    assert!(died(dsm.barrier()));
    assert!(died(dsm.mutex::<u64>("mutex").map(drop)));
    let (status, errors) = child.end_within(std::time::Duration::from_secs(10));
    assert_eq!(status.code(), Some(101), "{errors}");
}

/// Writes, then panics.
pub(crate) fn panicker(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", 512 * 4).unwrap();
    for index in 0..data.len() {
        data.set(index, 8);
    }
    say("wrote");
    listen();
    panic!("as told");
}

#[test]
fn a_node_that_has_left_says_so_instead_of_waiting() {
    let rig = Rig::with_daemons(1, 1);
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program(), daemons.first().map(Node::local_addr));
    let node = Node::start(pagemesh::NodeConfig::rank(rig.rank(program, 0, join))).expect("joins");
    node.leave().expect("leaves");
    assert!(matches!(node.alloc("late", 4096, ElementType::untagged(8), None), Err(Error::Left)));
    assert!(matches!(node.barrier(None), Err(Error::Left)));
    assert!(node.wait_for_shutdown().is_ok());
    drop(node);
    rig::stop(daemons);
}

fn left<T>(result: pagemesh::Result<T>) {
    assert!(matches!(result, Err(Error::Left)), "{:?}", result.err());
}

#[test]
fn handles_that_are_used_after_leave_give_an_error_where_they_can() {
    for rig in [Rig::with_daemons(1, 2), Rig::without_daemons(2)] {
        rig.run(|dsm| {
            let data = dsm.alloc::<u64>("data", 2 * PER_PAGE).unwrap();
            let mutex = dsm.mutex::<u64>(&format!("of rank {}", dsm.rank())).unwrap();
            let (globals, reference) = (dsm.globals(), data.global());
            data.slice(dsm.my_block(data.len())).fill(1);
            *mutex.lock().unwrap() += 1;
            let guard = mutex.lock().unwrap();
            dsm.leave().unwrap();
            left(data.copy_in(0, &[2; 9]));
            left(data.copy_out(0, &mut [0; 9]));
            left(globals.open(reference));
            left(mutex.lock().map(drop));
            left(mutex.lock_timeout(Duration::from_secs(60)).map(drop));
            left(mutex.try_lock().map(drop));
            data.prefetch_mut(0..data.len());
            // It was not changed, so nothing is lost.
            drop(guard);
            left(mutex.lock().map(drop));
        });
    }
}

/// Leaves, and then uses the memory in the way that it is told.
pub(crate) fn use_memory_after_leaving(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("some data", 2 * PER_PAGE).unwrap();
    let mutex = dsm.mutex::<u64>("lock").unwrap();
    data.set(1, 1);
    // This page is only read before the end.
    data.get(PER_PAGE);
    let how = listen();
    let guard = (how == "a guard").then(|| {
        let mut guard = mutex.lock().unwrap();
        *guard += 1;
        guard
    });
    dsm.leave().unwrap();
    say("left");
    match how.as_str() {
        "a store" => data.set(1, 2),
        "a store after a hint" => {
            data.prefetch_mut(PER_PAGE..2 * PER_PAGE);
            data.set(PER_PAGE, 2);
        }
        "a copy" => data.copy_from_slice(&[2; 2 * PER_PAGE]),
        "a sum" => data.fill(data.fetch_add(1, 1)),
        "a load" => say(&data.get(1).to_string()),
        "a guard" => drop(guard),
        other => panic!("no such use: {other}"),
    }
    say("nothing has happened");
}

/// Whether the pages have their homes in a daemon or in the rank itself, which has all access to them.
#[test]
fn a_process_that_uses_memory_after_leave_ends_with_a_line_that_says_so() {
    let mut backends = vec!["signal", "mprotect"];
    if crate::backends::thread_backend_works() {
        backends.push("thread");
    }
    for (daemons, backend) in backends.iter().flat_map(|backend| [(0, backend), (1, backend)]) {
        let rig = Rig::with_daemons(daemons, 1).set("fault", backend);
        let nodes = rig.start_daemons();
        let join = nodes.first().map(Node::local_addr);
        for (how, access, region) in [
            ("a store", "a store, which would be lost,", "some data"),
            ("a store after a hint", "a store, which would be lost,", "some data"),
            ("a copy", "a store, which would be lost,", "some data"),
            ("a sum", "a store, which would be lost,", "some data"),
            ("a load", "a load", "some data"),
            ("a guard", "a store, which would be lost,", "mutex lock"),
        ] {
            let settings = rig.rank(rig::new_program() + 1_000_000, 0, join);
            let mut child = Child::start("uses memory after leaving", &settings);
            child.tell(how);
            child.expect("left");
            let (status, errors) = child.end_within(Duration::from_secs(20));
            // Not the code of a process whose memory went with another one.
            assert_eq!(status.signal(), Some(Signal::SIGABRT as i32), "{backend}, {how}: {errors}");
            let said: Vec<&str> = errors.lines().filter(|line| line.starts_with("pagemesh: ")).collect();
            let why = format!("used after this process left the cluster: {access} in region `{region}`");
            assert!(said.len() == 1 && said[0].contains(&why), "{backend}, {how}: {errors}");
        }
        rig::stop(nodes);
    }
}
