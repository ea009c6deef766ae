//! The processes of a cluster: this test program, started again on a host. It tells of its progress, and of what its
//! node logs, in lines on standard output, and goes on when it is told to on standard input.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::Sender;
use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pagemesh::{Dsm, Placement};
use pagemesh::{Node, NodeConfig, Settings};
use system_tests::rig::{self, until};

use crate::network::{Host, child_of};

/// Marks the lines that are for the parent among those of the test harness.
const MARK: &str = "@ ";
const ROLE: &str = "HOSTS_TEST_ROLE";
/// Elements of a page.
const PER_PAGE: usize = 512;
/// Pages of the region of a program.
const PAGES: usize = 64;

/// What a process has said, and when that was read.
pub(crate) struct Told {
    pub(crate) who: usize,
    pub(crate) at: Instant,
    pub(crate) line: String,
}

/// A process, which is killed when dropped.
pub(crate) struct Member {
    process: Child,
    input: ChildStdin,
    /// As the test's own processes are numbered.
    pub(crate) pid: Pid,
}

impl Member {
    /// Starts a process in a role, with these variables, which tells `told` as number `who`.
    pub(crate) fn start(
        host: &Host,
        role: &str,
        variables: &[(&str, String)],
        (who, told): (usize, Sender<Told>),
    ) -> Member {
        let mut command = host.command(&std::env::current_exe().expect("this program"));
        command.args(["member::the_member_plays_its_role", "--exact", "--nocapture", "--test-threads=1"]);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PAGEMESH_")) {
            command.env_remove(name);
        }
        let small = rig::small();
        let key_file = small.key_file.expect("a key").display().to_string();
        command.env(ROLE, role).env("PAGEMESH_BIND", format!("{}:0", host.address()));
        command.env("PAGEMESH_KEY_FILE", key_file).env("PAGEMESH_ARENA_SIZE", small.arena_size.to_string());
        command.env("PAGEMESH_MEMORY_MAX", small.memory_max.to_string());
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("a member starts");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The harness writes no line end after the name of its test.
                if let Some((_, line)) = line.split_once(MARK) {
                    let _ = told.send(Told { who, at: Instant::now(), line: line.to_owned() });
                }
            }
        });
        let outer = Pid::from_raw(process.id() as i32);
        until("the process is on its host", || child_of(outer).is_some());
        let pid = child_of(outer).expect("seen");
        let input = process.stdin.take().expect("piped");
        Member { process, input, pid }
    }

    /// Lets it go on.
    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.input, "{word}").expect("it listens");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid, signal).expect("it exists");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        // It stops with the process that it has started.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Tells the parent, in one system call: threads do.
fn say(line: &str) {
    let _ = std::io::stdout().lock().write_all(format!("{MARK}{line}\n").as_bytes());
}

/// Waits until the parent says something; its end is this process's end.
fn listen() -> String {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap_or(0) == 0 {
        std::process::exit(0);
    }
    line.trim().to_owned()
}

/// A log line, told to the parent.
struct Logged;

impl Write for Logged {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        say(&format!("log {}", String::from_utf8_lossy(line).trim()));
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_member_plays_its_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .without_time()
        .with_ansi(false)
        .with_target(false)
        .with_writer(|| Logged)
        .init();
    let settings = Settings::from_env().expect("good settings");
    match role.split(' ').collect::<Vec<_>>()[..] {
        ["daemon", index] => daemon(settings, index.parse().expect("a number")),
        ["idle"] => idle(settings),
        ["keeper"] => keeper(settings),
        ["worker", rounds] => worker(settings, rounds.parse().expect("a number")),
        ["waiter"] => waiter(settings),
        ["spinner", threads] => spinner(threads.parse().expect("a number")),
        _ => panic!("no such role: {role}"),
    }
}

fn daemon(settings: Settings, index: u16) {
    let node = Node::start(NodeConfig::daemon(settings, index)).expect("a daemon starts");
    say(&format!("ready {} {}", std::process::id(), node.local_addr()));
    let ended = node.wait_for_shutdown();
    say(&format!("ended {ended:?}"));
    listen();
}

/// Joins.
fn join(settings: Settings) -> Dsm {
    let dsm = Dsm::builder().settings(settings).arena_anywhere().join().unwrap_or_else(|error| {
        say(&format!("ended {error}"));
        std::process::exit(1)
    });
    say(&format!("ready {}", std::process::id()));
    dsm
}

/// A program of one rank that has nothing to do.
fn idle(settings: Settings) {
    let _dsm = join(settings);
    loop {
        listen();
    }
}

fn word(round: usize, page: usize) -> u64 {
    (round << 32 | page) as u64
}

/// A program of one rank that checks its data, and writes them anew, when told to.
fn keeper(settings: Settings) {
    let dsm = join(settings);
    let data = dsm.alloc_with::<u64>("kept", PAGES * PER_PAGE, Placement::Block).expect("a region");
    for round in 0.. {
        let wrong = |page: &usize| round > 0 && data.get(page * PER_PAGE) != word(round, *page);
        let wrong = (0..PAGES).filter(wrong).count();
        (0..PAGES).for_each(|page| data.set(page * PER_PAGE, word(round + 1, page)));
        say(&format!("checked {wrong}"));
        listen();
    }
}

/// A program of several ranks that hand pages to each other, and check them.
fn worker(settings: Settings, rounds: usize) {
    let name = format!("data of {:x}", settings.program);
    let dsm = join(settings);
    let worked = (|| {
        let data = dsm.alloc::<u64>(&name, PAGES * PER_PAGE)?;
        let (rank, ranks) = (dsm.rank() as usize, dsm.ranks() as usize);
        let mut wrong = 0;
        for round in 0..rounds {
            let mine = |page: &usize| (page + round) % ranks == rank;
            (0..PAGES).filter(mine).for_each(|page| data.set(page * PER_PAGE, word(round, page)));
            dsm.barrier()?;
            wrong += (0..PAGES).filter(|page| data.get(page * PER_PAGE) != word(round, *page)).count();
            dsm.barrier()?;
        }
        dsm.remove(&name).or_else(|error| if rank == 0 { Err(error) } else { Ok(()) })?;
        dsm.leave()?;
        Ok::<usize, pagemesh::Error>(wrong)
    })();
    match worked {
        Ok(wrong) => say(&format!("done {wrong}")),
        Err(error) => say(&format!("ended {error}")),
    }
    listen();
}

/// Waits at a barrier for rank 0, in the thread whose number it tells; rank 0 comes when it is told to, and before that
/// reads what the other one has written.
fn waiter(settings: Settings) {
    let name = format!("written before a barrier of {:x}", settings.program);
    let dsm = join(settings);
    let data = dsm.alloc::<u64>(&name, PER_PAGE).expect("a region");
    if !dsm.is_root() {
        data.set(0, 5);
    }
    say(&format!("thread {}", nix::unistd::gettid()));
    if dsm.is_root() {
        listen();
        say(&format!("page {}", data.get(0)));
        listen();
        dsm.remove(&name).expect("it is there");
    }
    match dsm.barrier().and_then(|()| dsm.leave()) {
        Ok(()) => say("passed"),
        Err(error) => say(&format!("ended {error}")),
    }
    listen();
}

/// Takes so many threads' time from everybody else on this machine.
fn spinner(threads: usize) {
    for _ in 0..threads {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    say("ready");
    listen();
}
