//! A node that has ended: none of its process's threads goes on with the pages that it had mapped, though none of
//! them asks the library for anything. It makes no difference how the node ended, and how it protects its pages.

use std::time::Duration;

use nix::sys::signal::Signal;
use pagemesh::Settings;

use crate::child::{self, Child, listen, say};
use system_tests::rig::{self, Rig, until};

/// Exit code of a process whose memory is gone.
const MEMORY_GONE: i32 = 70;
/// Elements of a page.
const PER_PAGE: usize = 512;
/// Long enough for a verdict, which takes 6 s after the silence that is set here.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

/// Has a page that it may write and one that it may only read, and loads from one of them for ever.
pub(crate) fn loads_for_ever(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", 2 * PER_PAGE).unwrap();
    data.set(0, 5);
    data.get(PER_PAGE);
    say("mapped");
    let index = if listen() == "written" { 0 } else { PER_PAGE };
    let value = data.get(index);
    say("loads");
    while data.get(index) == value {
        std::hint::spin_loop();
    }
    say("the value has changed");
}

/// Has a page that it may write, goes on after the error of a call, and stores into it.
pub(crate) fn stores_after_an_error(settings: Settings) {
    let dsm = child::join(settings);
    let data = dsm.alloc::<u64>("data", PER_PAGE).unwrap();
    data.set(0, 5);
    say("mapped");
    listen();
    say("loads");
    say(&dsm.barrier().unwrap_err().to_string());
    data.set(0, 6);
    say("has stored");
}

/// How the node of a child ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The cluster is told to stop.
    ClusterStops,
    /// Another rank of its program is killed.
    RankDies,
    /// It was silent too long, and is taken out of the cluster.
    Eviction,
}

/// A child that has pages mapped, and is told `page`, ends with its node and names the cause in its last line.
fn ends_with_its_node(role: &str, page: &str, end: End, backend: &str) {
    let mut rig = Rig::with_daemons(1, 2).set("fault", backend);
    if matches!(end, End::Eviction) {
        // Who keeps its memory would kill it, as it may be on its way to its next store.
        rig = rig.set("silence_max_ms", "500").set("keep_max", "0");
    }
    let daemons = rig.start_daemons();
    let (program, join) = (rig::new_program() + 1_000_000, Some(daemons[0].local_addr()));
    let other = Child::start("joiner", &rig.rank(program, 0, join));
    let mut child = Child::start(role, &rig.rank(program, 1, join));
    other.expect("joins");
    other.expect("joined");
    child.expect("mapped");
    child.tell(page);
    child.expect("loads");
    let cause = match end {
        End::ClusterStops => {
            daemons[0].request_shutdown();
            "the cluster stops"
        }
        End::RankDies => {
            other.signal(Signal::SIGKILL);
            "rank 0 of"
        }
        End::Eviction => {
            child.stop();
            until("the child is taken out", || daemons[0].status().peers.len() == 1);
            child.signal(Signal::SIGCONT);
            "taken out of the cluster"
        }
    };
    let (status, errors) = child.end_within(ENDS_WITHIN);
    assert_eq!(status.code(), Some(MEMORY_GONE), "{role}, {page}, {end:?}, {backend}: {errors}");
    let last = errors.lines().rfind(|line| line.starts_with("pagemesh: ")).unwrap_or_default();
    let told = last.contains("a page fault at") && last.contains(cause);
    assert!(told, "{role}, {page}, {end:?}, {backend}: {errors}");
    rig::stop(daemons);
}

fn on_each_backend(test: impl Fn(&str)) {
    test("signal");
    test("mprotect");
    if crate::backends::thread_backend_works() {
        test("thread");
    }
}

#[test]
fn a_rank_that_only_loads_ends_with_its_cluster() {
    on_each_backend(|backend| {
        for page in ["written", "read"] {
            ends_with_its_node("loads for ever", page, End::ClusterStops, backend);
        }
    });
}

#[test]
fn a_rank_that_only_loads_ends_when_another_rank_dies() {
    on_each_backend(|backend| ends_with_its_node("loads for ever", "written", End::RankDies, backend));
}

#[test]
fn a_rank_that_only_loads_ends_when_it_is_taken_out() {
    on_each_backend(|backend| ends_with_its_node("loads for ever", "read", End::Eviction, backend));
}

#[test]
fn a_rank_that_stores_into_a_page_of_its_ended_node_ends() {
    on_each_backend(|backend| {
        ends_with_its_node("stores after an error", "go on", End::ClusterStops, backend);
        ends_with_its_node("stores after an error", "go on", End::RankDies, backend);
    });
}
