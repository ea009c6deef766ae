//! What ends a process, or needs one of its own: each scenario runs in a child, which is this test
//! program started anew with the scenario's name in a variable.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Gid, Uid, alarm, fork, setgid, setuid};

use super::*;

const VARIABLE: &str = "PAGEMESH_TEST_FAULT_SCENARIO";
/// Printed when a scenario has run to its end.
const DONE: &str = "scenario done";

/// Not a test but the children's entry: does nothing unless the variable names a scenario.
#[test]
fn child() {
    let Ok(name) = std::env::var(VARIABLE) else {
        return;
    };
    let (scenario, backend) = name.split_once('/').expect("scenario/backend");
    let choice: BackendChoice = backend.parse().expect("a backend");
    let BackendChoice::Only(backend) = choice else {
        unreachable!("scenarios name a backend");
    };
    match scenario {
        "fork" => fork_and_touch(backend),
        "null" => null_dereference(backend),
        "killed" => raise_a_segmentation_signal(backend),
        "stray" => stray_pointer(backend),
        "jump" => jump_into_shared_memory(backend),
        "overflow" => overflow_the_stack(backend),
        "lock" => touch_while_locked(backend),
        "panic" => panic_in_the_sink(backend),
        "previous" => keep_the_previous_handler(backend),
        "deep" => resolve_with_a_deep_stack(backend),
        "nobody" => run_as_nobody(backend),
        "forced" => force_what_is_impossible(backend),
        "limit" => lower_the_address_space_limit(backend),
        "mappings" => use_up_the_mappings(backend),
        "revoked load" => touch_after_the_end(backend, |node| assert_eq!(node.load(), 1)),
        "revoked store" => touch_after_the_end(backend, |node| node.store(2)),
        "revoked wait" => wait_in_vain_until_the_end(backend),
        "revoked loop" => load_in_a_loop_to_the_end(backend),
        other => panic!("unknown scenario {other}"),
    }
    println!("{DONE}");
}

fn run(scenario: &str, backend: Backend) -> Output {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "fault::tests::children::child", "--nocapture", "--test-threads=1"])
        .env(VARIABLE, format!("{scenario}/{backend}"))
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap()
}

/// Runs a scenario on each in-thread backend; its end must be `signal` and its error output contain `text`.
#[track_caller]
fn dies(scenario: &str, backends: &[Backend], signal: Signal, text: &str) {
    for backend in backends {
        if !is_available(*backend) {
            continue;
        }
        let output = run(scenario, *backend);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(signal as i32), "{backend}: {said}");
        assert!(said.contains(text), "{backend}: {said}");
    }
}

#[track_caller]
fn succeeds(scenario: &str, backend: Backend) {
    let output = run(scenario, backend);
    let said = String::from_utf8_lossy(&output.stderr);
    let done = String::from_utf8_lossy(&output.stdout).contains(DONE);
    assert!(output.status.success() && done, "{backend}: {said}");
}

const ALL: [Backend; 3] = [Backend::Signal, Backend::Thread, Backend::Mprotect];
const IN_THREAD: [Backend; 2] = [Backend::Signal, Backend::Mprotect];

#[test]
fn a_forked_child_that_touches_a_region_dies_with_the_cause() {
    for backend in ALL {
        if !is_available(backend) {
            continue;
        }
        succeeds("fork", backend);
        let said = String::from_utf8_lossy(&run("fork", backend).stderr).into_owned();
        assert!(said.contains("shared memory does not survive fork"), "{said}");
    }
}

fn fork_and_touch(backend: Backend) {
    let rig = Rig::new(backend, 2);
    rig.store(0, 1);
    // SAFETY: the child only touches memory and exits, both of which are safe after a fork.
    match unsafe { fork() }.unwrap() {
        ForkResult::Child => {
            rig.load(0);
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            let status = waitpid(child, None).unwrap();
            assert!(matches!(status, WaitStatus::Signaled(_, Signal::SIGSEGV, _)), "{status:?}");
        }
    }
    assert_eq!(rig.load(0), 1);
}

#[test]
fn a_null_dereference_still_dies_as_a_segmentation_fault() {
    dies("null", &ALL, Signal::SIGSEGV, "");
}

fn null_dereference(backend: Backend) {
    let rig = Rig::new(backend, 2);
    rig.store(0, 1);
    let null = std::hint::black_box(8usize);
    // SAFETY: none; the child is meant to die here.
    unsafe { std::ptr::with_exposed_provenance::<u32>(null).read_volatile() };
}

#[test]
fn a_segmentation_signal_that_was_sent_still_kills() {
    dies("killed", &ALL, Signal::SIGSEGV, "");
}

fn raise_a_segmentation_signal(backend: Backend) {
    let rig = Rig::new(backend, 2);
    rig.store(0, 1);
    nix::sys::signal::raise(Signal::SIGSEGV).unwrap();
}

#[test]
fn a_stray_pointer_into_the_arena_dies_with_the_cause() {
    dies("stray", &ALL, Signal::SIGSEGV, "in no region");
}

fn stray_pointer(backend: Backend) {
    let rig = Rig::new(backend, 4);
    rig.locked(|memory| memory.unmap_region(PageId(2), 2)).unwrap();
    rig.store(1, 1);
    rig.store(3, 1);
}

#[test]
fn a_jump_into_shared_memory_dies_with_the_cause() {
    dies("jump", &ALL, Signal::SIGSEGV, "cannot be executed");
}

fn jump_into_shared_memory(backend: Backend) {
    let rig = Rig::new(backend, 2);
    rig.store(1, 0xc3);
    // SAFETY: none; the child is meant to die here.
    let function = unsafe { std::mem::transmute::<*mut u64, extern "C" fn()>(rig.word(1, 0)) };
    function();
}

#[test]
fn a_stack_overflow_is_still_reported() {
    dies("overflow", &ALL, Signal::SIGABRT, "has overflowed its stack");
}

fn overflow_the_stack(backend: Backend) {
    let rig = Rig::new(backend, 2);
    rig.store(0, 1);
    fn descend(depth: u64) -> u64 {
        let frame = std::hint::black_box([depth; 64]);
        if depth == u64::MAX { 0 } else { descend(depth + 1) + frame[(depth % 64) as usize] }
    }
    println!("{}", descend(0));
}

#[test]
fn touching_shared_memory_under_the_cores_lock_aborts_with_a_message() {
    dies("lock", &IN_THREAD, Signal::SIGABRT, "while it holds the lock");
}

fn touch_while_locked(backend: Backend) {
    let rig = Rig::new(backend, 2);
    rig.locked(|_| rig.load(1));
}

#[test]
fn a_panic_while_a_fault_is_resolved_aborts_with_its_message() {
    dies("panic", &ALL, Signal::SIGABRT, "panic while a page fault on p1 was being");
    dies("panic", &ALL, Signal::SIGABRT, "the sink's own words");
}

struct Panics;

impl FaultSink for Panics {
    fn resolve(&self, _: PageFault) {
        panic!("the sink's own words");
    }

    fn submit(&self, _: PageFault) {
        panic!("the sink's own words");
    }
}

fn panic_in_the_sink(backend: Backend) {
    let arena = Arena::reserve(&options(backend, 2)).unwrap();
    let sink = Arc::new(Panics);
    let weak: Weak<Panics> = Arc::downgrade(&sink);
    arena.deliver_to(weak);
    arena.map_region(PageId(0), 2).unwrap();
    let pointer = arena.pointer(PageId(1).start()).unwrap();
    // SAFETY: mapped shared memory; the child is meant to die here.
    unsafe { pointer.read_volatile() };
}

#[test]
fn the_handler_that_was_there_before_gets_what_is_not_ours() {
    for backend in ALL {
        if is_available(backend) {
            let output = run("previous", backend);
            assert_eq!(output.status.code(), Some(42), "{backend}: {output:?}");
        }
    }
}

extern "C" fn leave(_: i32) {
    // SAFETY: ends the child at once, which is allowed in a signal handler.
    unsafe { libc::_exit(42) }
}

fn keep_the_previous_handler(backend: Backend) {
    let action = SigAction::new(SigHandler::Handler(leave), SaFlags::SA_ONSTACK, SigSet::empty());
    // SAFETY: the handler only exits.
    unsafe { sigaction(Signal::SIGSEGV, &action) }.unwrap();
    null_dereference(backend);
}

#[test]
fn resolving_a_fault_has_a_deep_stack_on_every_thread() {
    for backend in IN_THREAD {
        if is_available(backend) {
            succeeds("deep", backend);
        }
    }
}

struct Deep(Arena);

impl FaultSink for Deep {
    fn resolve(&self, fault: PageFault) {
        // Far more than an alternate stack has.
        let frame = std::hint::black_box([fault.page.0; 8 << 10]);
        (&self.0).protect(PageId(frame[77]), fault.access);
    }

    fn submit(&self, fault: PageFault) {
        self.resolve(fault);
    }
}

fn resolve_with_a_deep_stack(backend: Backend) {
    let deep = Arc::new(Deep(Arena::reserve(&options(backend, 2)).unwrap()));
    let weak: Weak<Deep> = Arc::downgrade(&deep);
    deep.0.deliver_to(weak);
    deep.0.map_region(PageId(0), 2).unwrap();
    // On a thread that the library has never seen.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let pointer = deep.0.pointer(GlobalAddr(0)).unwrap();
            // SAFETY: mapped shared memory of this thread alone.
            unsafe { pointer.write_volatile(1) };
        });
    });
}

#[test]
fn the_default_backend_needs_no_privilege() {
    if !Uid::effective().is_root() {
        return eprintln!("SKIPPED: only root can become nobody; the other tests cover this user");
    }
    match BackendChoice::Auto.decide().unwrap() {
        Backend::Signal => succeeds("nobody", Backend::Signal),
        other @ (Backend::Thread | Backend::Mprotect | Backend::None) => {
            eprintln!("SKIPPED: the default here is {other}");
        }
    }
}

fn become_nobody() {
    setgid(Gid::from_raw(65534)).unwrap();
    setuid(Uid::from_raw(65534)).unwrap();
}

fn run_as_nobody(backend: Backend) {
    become_nobody();
    assert_eq!(BackendChoice::Auto.decide().unwrap(), backend);
    let rig = Rig::new(backend, 4);
    assert_eq!(rig.load(1), 0);
    rig.store(1, 5);
    rig.protect(1, Access::None);
    assert_eq!(rig.load(1), 5);
    assert_eq!(rig.faults(), [(1, Access::Read), (1, Access::Write), (1, Access::Read)]);
}

#[test]
fn a_forced_backend_that_is_impossible_is_an_error_with_a_mend() {
    if !Uid::effective().is_root() {
        return eprintln!("SKIPPED: only root can become nobody");
    }
    if std::fs::read_to_string("/proc/sys/vm/unprivileged_userfaultfd").is_ok_and(|v| v.trim() == "1") {
        return eprintln!("SKIPPED: every user may do everything here");
    }
    succeeds("forced", Backend::Thread);
}

fn force_what_is_impossible(backend: Backend) {
    become_nobody();
    let error = Arena::reserve(&options(backend, 2)).err().expect("a refusal").to_string();
    assert!(error.contains("'thread' does not work here") && error.contains("root"), "{error}");
    let checks = doctor(0x2000_0000_0000, 1 << 40);
    assert!(checks.iter().any(|check| check.health == Health::Note), "{checks:?}");
}

#[test]
fn an_address_space_limit_is_named() {
    succeeds("limit", Backend::Mprotect);
}

fn lower_the_address_space_limit(backend: Backend) {
    setrlimit(Resource::RLIMIT_AS, 8 << 30, 8 << 30).unwrap();
    for gib in [6, 10] {
        let error = Arena::reserve(&options(backend, gib << 18)).err().expect("a refusal").to_string();
        assert!(error.contains("RLIMIT_AS") && error.contains("ulimit"), "{error}");
    }
}

#[test]
fn a_process_at_the_kernels_limit_of_mappings_goes_on() {
    succeeds("mappings", Backend::Mprotect);
}

fn use_up_the_mappings(backend: Backend) {
    // No budget: the kernel itself says when it is enough.
    let options = ArenaOptions { mappings_max: Some(usize::MAX), ..options(backend, 66_000) };
    let rig = Rig::with(options);
    // On a machine with a higher limit the budget's own test has to do.
    limits::mix_states(&rig);
}

/// A node whose end is told to every fault from then on.
struct Mortal {
    local: Local,
    ended: AtomicBool,
    submitted: AtomicU64,
}

/// A page that no submitted fault gets.
const NEVER_GRANTED: PageId = PageId(1);

impl FaultSink for Mortal {
    fn resolve(&self, fault: PageFault) {
        if self.ended.load(Ordering::SeqCst) {
            handler::die(format_args!("the cause of the end"));
        }
        self.local.grant(fault);
    }

    fn submit(&self, fault: PageFault) {
        self.submitted.fetch_add(1, Ordering::SeqCst);
        if fault.page == NEVER_GRANTED {
            return;
        }
        self.resolve(fault);
    }
}

impl Mortal {
    /// As [`Rig`]: the first page is mapped for loads and stores.
    fn start(backend: Backend) -> Arc<Mortal> {
        let arena = Arena::reserve(&options(backend, 2)).expect("an arena");
        let local = Local { arena, core: Mutex::default() };
        let mortal = Arc::new(Mortal { local, ended: AtomicBool::new(false), submitted: AtomicU64::new(0) });
        let sink: Weak<Mortal> = Arc::downgrade(&mortal);
        mortal.local.arena.deliver_to(sink);
        mortal.local.arena.map_region(PageId(0), 2).expect("a region");
        mortal.store(1);
        mortal
    }

    fn word(&self) -> &AtomicU64 {
        let pointer = self.local.arena.pointer(GlobalAddr(0)).expect("inside the arena");
        // SAFETY: aligned, mapped as long as the arena lives, and accessed atomically only.
        unsafe { AtomicU64::from_ptr(pointer.cast()) }
    }

    fn load(&self) -> u64 {
        self.word().load(Ordering::Relaxed)
    }

    fn store(&self, value: u64) {
        self.word().store(value, Ordering::Relaxed);
    }

    fn end(&self) {
        self.ended.store(true, Ordering::SeqCst);
        self.local.arena.revoke_all();
    }
}

#[test]
fn a_load_or_store_after_the_end_of_the_node_ends_the_process_with_the_cause() {
    dies("revoked load", &ALL, Signal::SIGABRT, "the cause of the end");
    dies("revoked store", &ALL, Signal::SIGABRT, "the cause of the end");
}

fn touch_after_the_end(backend: Backend, touch: impl Fn(&Mortal)) {
    let mortal = Mortal::start(backend);
    mortal.end();
    touch(&mortal);
}

/// Whoever has submitted the fault need not: it may be of a thread that waits no more.
#[test]
fn a_thread_that_waits_for_a_page_faults_again_when_all_access_is_taken() {
    dies("revoked wait", &[Backend::Thread], Signal::SIGABRT, "the cause of the end");
}

fn wait_in_vain_until_the_end(backend: Backend) {
    alarm::set(20);
    let mortal = Mortal::start(backend);
    let before = mortal.submitted.load(Ordering::SeqCst);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let address = NEVER_GRANTED.start();
            let word = mortal.local.arena.pointer(address).expect("inside the arena");
            // SAFETY: mapped as long as the arena lives; the load never comes to its end.
            unsafe { word.read_volatile() }
        });
        while mortal.submitted.load(Ordering::SeqCst) == before {
            std::hint::spin_loop();
        }
        mortal.end();
    });
}

#[test]
fn a_thread_that_only_loads_ends_with_its_node() {
    dies("revoked loop", &ALL, Signal::SIGABRT, "the cause of the end");
}

fn load_in_a_loop_to_the_end(backend: Backend) {
    let mortal = Mortal::start(backend);
    let (loads, over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // At least one load begins after the end has returned.
            while !over.load(Ordering::SeqCst) {
                assert_eq!(mortal.load(), 1);
                loads.fetch_add(1, Ordering::SeqCst);
            }
            assert_eq!(mortal.load(), 1);
        });
        while loads.load(Ordering::SeqCst) < 1000 {
            std::hint::spin_loop();
        }
        mortal.end();
        over.store(true, Ordering::SeqCst);
    });
}
