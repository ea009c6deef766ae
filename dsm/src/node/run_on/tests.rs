//! A process that another one keeps is ended at any moment, and its memory is opened when nobody else uses it.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill as signal};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::*;
use crate::fault::{ArenaOptions, Backend, BackendChoice, name_user};
use crate::keep::{Admission, Change, Claim, Estate, KeepDirectory};
use crate::page::{Incarnation, PAGE_SIZE};
use crate::process::Process;

/// Set in the process that is ended: the keeper's socket.
const SOCKET: &str = "PAGEMESH_TEST_SOCKET";
const NODE: PeerId = PeerId { node: NodeId(3), incarnation: Incarnation(9) };
const KEEPER: Incarnation = Incarnation(7);
const OTHER: Incarnation = Incarnation(8);
const PAGES: u64 = 64;
/// The page that the process has written, and another that it has half installed.
const WRITTEN: PageId = PageId(5);
const VERSION: Version = Version(1 << 40 | 3);
const NOW: Time = Time(1);

/// The process that is ended: this test binary again.
#[test]
#[ignore = "is what the other tests of this file end"]
fn victim() {
    let Some(socket) = std::env::var_os(SOCKET).map(PathBuf::from) else { return };
    let options = ArenaOptions {
        len: PAGES * PAGE_SIZE as u64,
        base: None,
        backend: BackendChoice::Only(Backend::None),
        mappings_max: None,
        pool: PagePool::new(4),
    };
    let arena = Arena::reserve(&options).expect("an arena");
    let mut keeping = Keeping::new().expect("sockets");
    let (file, record) = arena.files();
    let estate = Estate { node: NODE.node, incarnation: NODE.incarnation, arena: file, record };
    keeping.offer(NOW, (KEEPER, &socket), &estate).expect("a keeper listens");
    let further = socket.with_file_name(format!("{:016x}.keep", OTHER.0));
    if further.exists() {
        keeping.offer(NOW, (OTHER, &further), &estate).expect("a keeper listens");
    }
    arena.map_region(PageId(0), PAGES).expect("a region");
    let mut memory = &arena;
    memory.install(WRITTEN, Contents::Bytes(&[0x5a; PAGE_SIZE]), Access::None, VERSION);
    memory.note_home(ExtentId(0), NodeId(2));
    arena.note_lock(PageId(6), true);
    let mut out = std::io::stdout();
    writeln!(out, "stored").and_then(|()| out.flush()).expect("a parent");
    let _ = std::io::stdin().read(&mut [0]);
    // A process that leaves and lives on.
    drop(arena);
    writeln!(out, "left").and_then(|()| out.flush()).expect("a parent");
    let _ = std::io::stdin().read(&mut [0]);
}

struct Bed {
    path: PathBuf,
    keeping: Keeping,
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn path_of(test: &str) -> PathBuf {
    std::env::temp_dir().join(format!("pagemesh-run-on-{test}-{}", std::process::id()))
}

fn admit(_: &Claim, _: &[Kept]) -> Admission {
    Admission::Granted
}

fn listener(path: &Path, me: Incarnation) -> Keeping {
    let mut keeping = Keeping::new().expect("sockets");
    keeping.listen(KeepDirectory::open(path).expect("a directory"), me).expect("a socket");
    keeping
}

impl Bed {
    /// A process whose memory is kept here and that has written a page.
    fn new(test: &str) -> Bed {
        let path = path_of(test);
        let mut keeping = listener(&path, KEEPER);
        let name = format!("{}::victim", module_path!().split_once("::").expect("a crate").1);
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        command.args(["--exact", &name, "--ignored", "--nocapture", "--test-threads=1"]);
        command.env(SOCKET, keeping.socket().expect("it listens"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        assert!(lines.by_ref().map_while(|line| line.ok()).any(|line| line.ends_with("stored")));
        assert_eq!(keeping.progress(NOW, admit), [Change::Holds(NODE.incarnation)]);
        Bed { path, keeping, child, lines }
    }

    fn signal(&self, what: Signal) {
        signal(Pid::from_raw(self.child.id() as i32), what).expect("it runs");
    }

    /// Looks at a beginning until the kernel says nothing more.
    fn advance(&mut self, now: Time, beginning: &mut Beginning, told: &mut Told) -> Option<Begun> {
        beginning.advance(now, &mut self.keeping, &[], told)
    }

    /// Waits as the thread of keeping does.
    fn wait(&self, beginning: &Beginning) {
        // None: it has ended meanwhile.
        let Some(process) = beginning.waits_for() else { return };
        let mut fds = [PollFd::new(process, PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(20_000_u16)), Ok(1), "it does not end");
    }
}

/// The memory of a beginning that is alone: what the process has stored is there.
fn open(begun: Option<Begun>) -> Arena {
    let Some(Begun::Alone { kept, user }) = begun else { panic!("somebody uses the memory") };
    let arena = Arena::open(kept.arena, kept.record, PagePool::new(4), user).expect("an arena");
    let recovered = arena.recover();
    let legacy = legacy_of(recovered);
    assert_eq!(legacy.pages, [(WRITTEN, VERSION)]);
    assert_eq!(legacy.homes, [(ExtentId(0), NodeId(2))]);
    assert_eq!(legacy.locks, [LockId(PageId(6))]);
    let run_on = RunOn { nodes: vec![(NODE, Arc::new(arena))], orders: Vec::new() };
    run_on.map_region(PageId(0), PAGES).expect("a region");
    let mut memory = run_on.memory(NODE).expect("it is run on");
    assert_eq!(memory.read(WRITTEN).as_slice(), [0x5a; PAGE_SIZE]);
    assert_eq!(run_on.backed_pages(), 1);
    memory.discard(WRITTEN);
    assert_eq!(run_on.backed_pages(), 0);
    run_on.unmap_region(PageId(0), PAGES).expect("a region");
    memory.discard(WRITTEN);
    let [(_, arena)] = <[_; 1]>::try_from(run_on.nodes).ok().expect("one");
    Arc::into_inner(arena).expect("nobody else has it")
}

#[test]
fn a_stopped_process_is_killed_and_its_memory_opened_when_it_has_ended_and_not_before() {
    let mut bed = Bed::new("stopped");
    bed.signal(Signal::SIGSTOP);
    waitpid(Pid::from_raw(bed.child.id() as i32), Some(WaitPidFlag::WUNTRACED)).expect("it stops");
    let (mut beginning, mut told) = (Beginning::new(NOW, NODE), Told::new());
    let first = bed.advance(NOW, &mut beginning, &mut told);
    // It may have ended by then, and never before it was killed.
    if first.is_none() {
        bed.wait(&beginning);
    }
    let begun = first.or_else(|| bed.advance(NOW, &mut beginning, &mut told));
    assert_eq!(told, []);
    drop(open(begun));
    assert!(bed.keeping.kept().is_empty());
    let mut again = Beginning::new(NOW, NODE);
    assert!(matches!(bed.advance(NOW, &mut again, &mut told), Some(Begun::Missing)));
    assert!(told[0].1.contains("node 3 cannot be run on: its memory is not here"), "{told:?}");
}

#[test]
fn a_process_that_a_debugger_holds_is_waited_for_and_a_line_says_so_once() {
    let mut bed = Bed::new("traced");
    let pid = Pid::from_raw(bed.child.id() as i32);
    ptrace::seize(pid, ptrace::Options::empty()).expect("a child can be traced");
    let (mut beginning, mut told) = (Beginning::new(NOW, NODE), Told::new());
    assert!(bed.advance(NOW, &mut beginning, &mut told).is_none());
    assert_eq!(told, [], "not yet");
    let later = NOW + ENDS_BY_ITSELF_MAX + END_TOLD;
    for _ in 0..2 {
        assert!(bed.advance(later, &mut beginning, &mut told).is_none());
    }
    assert_eq!(told.len(), 1);
    assert!(told[0].1.contains("node 3 waits to be run on") && told[0].1.contains("debugs it"), "{told:?}");
    ptrace::interrupt(pid).expect("it is traced");
    waitpid(pid, None).expect("it stops");
    ptrace::detach(pid, None).expect("it is traced");
    let begun = bed.advance(later, &mut beginning, &mut told);
    if begun.is_none() {
        bed.wait(&beginning);
    }
    drop(open(begun.or_else(|| bed.advance(later, &mut beginning, &mut told))));
}

#[test]
fn a_process_that_has_left_and_lives_is_not_killed() {
    let mut bed = Bed::new("left");
    bed.child.stdin.as_mut().expect("a pipe").write_all(b"x").expect("it reads");
    assert!(bed.lines.by_ref().map_while(|line| line.ok()).any(|line| line.ends_with("left")));
    let (mut beginning, mut told) = (Beginning::new(NOW, NODE), Told::new());
    let begun = bed.advance(NOW, &mut beginning, &mut told);
    drop(open(begun));
    assert_eq!(bed.child.try_wait().expect("a child"), None, "it lives");
}

/// Of a rank whose program has died: it is about to say so on standard error, and to exit with a code.
#[test]
fn a_process_that_ends_by_itself_in_time_is_not_killed_and_one_that_does_not_is() {
    let mut bed = Bed::new("itself");
    let (mut beginning, mut told) = (Beginning::new(NOW, NODE), Told::new());
    assert!(bed.advance(NOW, &mut beginning, &mut told).is_none(), "it lives");
    // Its program ends when nobody can write to it any more.
    drop(bed.child.stdin.take());
    bed.wait(&beginning);
    let code = bed.child.wait().expect("a child").code();
    assert_eq!(code, Some(0), "it was not killed");
    drop(open(bed.advance(NOW, &mut beginning, &mut told)));

    let mut bed = Bed::new("never");
    let (mut beginning, late) = (Beginning::new(NOW, NODE), NOW + ENDS_BY_ITSELF_MAX);
    let first = bed.advance(late, &mut beginning, &mut told);
    if first.is_none() {
        bed.wait(&beginning);
    }
    drop(open(first.or_else(|| bed.advance(late, &mut beginning, &mut told))));
    assert_eq!(bed.child.wait().expect("a child").code(), None, "it was killed");
    assert_eq!(told, []);
}

/// The process that ran the node until now is not its own, which has ended, and not the one that has handed it over.
#[test]
fn the_process_that_the_record_names_is_ended_whoever_has_handed_the_memory_over() {
    let mut bed = Bed::new("runner");
    bed.signal(Signal::SIGKILL);
    bed.child.wait().expect("a child");
    let mut runner = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("a process");
    let kept = bed.keeping.find(NODE.incarnation).expect("it is kept");
    name_user(&kept.record, Process::of(runner.id()));
    let (mut beginning, mut told) = (Beginning::new(NOW, NODE), Told::new());
    let late = NOW + ENDS_BY_ITSELF_MAX;
    let first = bed.advance(late, &mut beginning, &mut told);
    if first.is_none() {
        bed.wait(&beginning);
    }
    let begun = first.or_else(|| bed.advance(late, &mut beginning, &mut told));
    let has_ended = runner.try_wait().expect("a child").is_some();
    let _ = runner.kill();
    let _ = runner.wait();
    assert!(has_ended, "the runner lives");
    drop(open(begun));
}

/// Whoever runs a node on offers its files to further keepers, also to those that have them of the ended process.
#[test]
fn what_is_run_on_is_handed_to_a_further_keeper_in_the_place_of_the_ended_process() {
    let mut further = listener(&path_of("hand"), OTHER);
    let mut bed = Bed::new("hand");
    assert_eq!(further.progress(NOW, admit), [Change::Holds(NODE.incarnation)]);
    bed.signal(Signal::SIGKILL);
    let (mut beginning, mut told) = (Beginning::new(NOW, NODE), Told::new());
    bed.child.wait().expect("a child");
    let arena = open(bed.advance(NOW, &mut beginning, &mut told));
    let (file, record) = arena.files();
    let estate = Estate { node: NODE.node, incarnation: NODE.incarnation, arena: file, record };
    bed.keeping.offer(NOW, (OTHER, &further.socket().expect("it listens")), &estate).expect("it listens");
    assert_eq!(further.progress(NOW, admit), [Change::Holds(NODE.incarnation)]);
    let kept = further.find(NODE.incarnation).expect("it is kept");
    assert_eq!(kept.pid, std::process::id(), "this process runs it now");
    // This process leaves and lives on: who runs the node next waits for that, and kills nobody.
    let (mut next, late) = (Beginning::new(NOW, NODE), NOW + ENDS_BY_ITSELF_MAX);
    assert!(next.advance(late, &mut further, &[], &mut told).is_none(), "it uses the memory still");
    let run_on = RunOn { nodes: vec![(NODE, Arc::new(arena))], orders: Vec::new() };
    let mut left = run_on;
    drop(left.end());
    let Some(Begun::Alone { kept, user }) = next.advance(late, &mut further, &[], &mut told) else {
        panic!("somebody uses the memory");
    };
    assert_eq!(user, User::Nobody);
    Arena::open(kept.arena, kept.record, PagePool::new(4), user).expect("an arena");
    assert_eq!(told, []);
}

#[test]
fn the_line_about_too_much_memory_says_whose_it_is_and_what_to_do() {
    let line = excess(256, 512, 512);
    assert_eq!(
        line,
        "3 MiB of pages are here, 2 MiB of them of nodes that are run on, and memory_max is 2 MiB: remove regions that \
         are needed no more"
    );
}
