//! Processes of a test: this binary started again, to be stopped, killed, or to end by itself.
//!
//! A child runs [`the_child_plays_its_role`], which is an empty test for everybody else. It tells of
//! its progress in lines on standard output, and goes on when it is told to on standard input.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pagemesh::{Dsm, Node, NodeConfig, Settings};

use system_tests::rig;

/// Marks the lines that are for the parent among those of the test harness.
const MARK: &str = "@ ";
const ROLE: &str = "RUNTIME_TEST_ROLE";
/// Before the name of a setting, in capitals: the variable that has its value.
const SETTING: &str = "RUNTIME_TEST_SETTING_";

/// What a child is to do.
pub(crate) type Role = fn(Settings);

/// A child that is killed when dropped.
pub(crate) struct Child {
    process: std::process::Child,
    lines: mpsc::Receiver<String>,
    errors: mpsc::Receiver<String>,
    /// What it has written to standard error so far.
    said: Arc<Mutex<String>>,
}

impl Child {
    /// Starts a child in the role that `roles` knows by this name.
    pub(crate) fn start(role: &str, settings: &Settings) -> Child {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.args(["child::the_child_plays_its_role", "--exact", "--nocapture", "--test-threads=1"]);
        command.env(ROLE, role);
        for (key, value) in exported(settings) {
            command.env(format!("{SETTING}{}", key.to_uppercase()), value);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().expect("a child starts");
        let (sender, lines) = mpsc::channel();
        let output = BufReader::new(process.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                // The harness writes no line end after the name of its test.
                if let Some((_, told)) = line.split_once(MARK) {
                    let _ = sender.send(told.to_owned());
                }
            }
        });
        let (sender, errors) = mpsc::channel();
        let stderr = BufReader::new(process.stderr.take().expect("piped"));
        let said = Arc::new(Mutex::new(String::new()));
        std::thread::spawn({
            let said = said.clone();
            move || {
                for line in stderr.split(b'\n').map_while(Result::ok) {
                    *said.lock().expect("no panic") += &(String::from_utf8_lossy(&line) + "\n");
                }
                let _ = sender.send(said.lock().expect("no panic").clone());
            }
        });
        Child { process, lines, errors, said }
    }

    /// Waits for the child's next line; panics if it is another one.
    pub(crate) fn expect(&self, line: &str) {
        let told = self.lines.recv_timeout(Duration::from_secs(20));
        assert_eq!(told.as_deref(), Ok(line), "{}", self.complaint());
    }

    /// Waits for the child's next line.
    pub(crate) fn line(&self) -> String {
        self.line_within(Duration::from_secs(20))
    }

    /// The same for a line that may take longer.
    pub(crate) fn line_within(&self, longest: Duration) -> String {
        self.lines
            .recv_timeout(longest)
            .unwrap_or_else(|_| panic!("the child says nothing: {}", self.complaint()))
    }

    /// Waits for so long; panics if the child says anything.
    pub(crate) fn says_nothing_for(&self, time: Duration) {
        let told = self.lines.recv_timeout(time);
        assert_eq!(told, Err(mpsc::RecvTimeoutError::Timeout), "{}", self.complaint());
    }

    /// The lines that the child has written to standard error so far and that hold all of `words`.
    pub(crate) fn lines_with(&self, words: &[&str]) -> Vec<String> {
        let said = self.said.lock().expect("no panic").clone();
        let holds = |line: &&str| words.iter().all(|word| line.contains(word));
        said.lines().filter(holds).map(str::to_owned).collect()
    }

    /// Lets the child go on.
    pub(crate) fn tell(&mut self, word: &str) {
        writeln!(self.process.stdin.as_mut().expect("piped"), "{word}").expect("the child listens");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("the child exists");
    }

    /// Stops the child; none of its threads runs on return.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let stopped = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        };
        rig::until("the child stops", || {
            std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it exists").flatten().all(stopped)
        });
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.process.id() as i32)
    }

    /// Waits for the child's end; panics after `longest`.
    pub(crate) fn end_within(&mut self, longest: Duration) -> (ExitStatus, String) {
        let until = Instant::now() + longest;
        loop {
            if let Some(status) = self.process.try_wait().expect("a child of ours") {
                return (status, self.errors.recv().unwrap_or_default());
            }
            if Instant::now() >= until {
                let threads = self.threads();
                let _ = self.process.kill();
                panic!("the child hangs: {threads:?}: {}", self.complaint());
            }
            std::thread::yield_now();
        }
    }

    /// Where each thread of the child is.
    fn threads(&self) -> Vec<String> {
        let text = |path| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it exists").flatten();
        let state = |task: std::fs::DirEntry| {
            let stat = text(task.path().join("stat"));
            let state = stat.rsplit_once(") ").map_or("?", |(_, rest)| &rest[..1]).to_owned();
            format!("{} {state} {}", text(task.path().join("comm")), text(task.path().join("wchan")))
        };
        tasks.map(state).collect()
    }

    fn complaint(&self) -> String {
        self.errors.recv_timeout(Duration::from_millis(200)).unwrap_or_default()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Tells the parent.
pub(crate) fn say(line: &str) {
    println!("{MARK}{line}");
}

/// Waits until the parent says something; its end is the child's end.
pub(crate) fn listen() -> String {
    let mut line = String::new();
    if std::io::stdin().read_line(&mut line).unwrap_or(0) == 0 {
        std::process::exit(0);
    }
    line.trim().to_owned()
}

/// The memory that this process uses.
pub(crate) fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("a file of the kernel");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Settings as text, for the environment. The child refuses a name that is none of a setting.
fn exported(settings: &Settings) -> Vec<(&'static str, String)> {
    let settings = [
        ("join", settings.join.map(|addr: SocketAddr| addr.to_string())),
        ("bind", Some(settings.bind.to_string())),
        ("key_file", settings.key_file.as_ref().map(|file| file.display().to_string())),
        ("encrypt", Some(settings.encrypt.name().to_owned())),
        // Ids are hexadecimal.
        ("program", Some(format!("{:x}", settings.program))),
        ("rank", Some(settings.rank.to_string())),
        ("ranks", Some(settings.ranks.to_string())),
        ("nearest", settings.nearest.map(|node| node.0.to_string())),
        ("fault", settings.fault.clone()),
        ("arena_size", Some(settings.arena_size.to_string())),
        ("memory_max", Some(settings.memory_max.to_string())),
        ("rpc_workers", Some(settings.rpc_workers.to_string())),
        ("keep_max", Some(settings.keep_max.to_string())),
        ("keep_dir", settings.keep_dir.as_ref().map(|dir| dir.display().to_string())),
        ("silence_max_ms", settings.silence_max_ms.map(|ms| ms.to_string())),
    ];
    settings.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

#[test]
fn the_child_plays_its_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut settings = rig::small();
    for (name, value) in std::env::vars() {
        if let Some(key) = name.strip_prefix(SETTING) {
            settings.apply(&key.to_lowercase(), &value).expect("exported by the parent");
        }
    }
    let play: Role = match role.as_str() {
        "daemon" => daemon,
        "owner" => crate::death::owner,
        "reader" => crate::death::reader,
        "locker" => crate::death::locker,
        "joiner" => crate::death::joiner,
        "loads for ever" => crate::ended::loads_for_ever,
        "stores after an error" => crate::ended::stores_after_an_error,
        "waiter" => crate::starved::waiter,
        "hands over" => crate::clean_leaves::hand_over,
        "takes over" => crate::clean_leaves::take_over,
        "giver" => crate::leaving::giver,
        "taker" => crate::leaving::taker,
        "uses memory after leaving" => crate::leaving::use_memory_after_leaving,
        "panicker" => crate::leaving::panicker,
        "forker" => crate::process::forker,
        "member_that_forks" => crate::forks::member_that_forks,
        "client_that_forks" => crate::forks::client_that_forks,
        "interrupted" => crate::process::interrupted,
        "player" => crate::litmus::player,
        "allocations" => crate::allocation::measure,
        "writer" => crate::interrupts::write_and_wait,
        "leaves early" => crate::interrupts::leave_early,
        "handles signals" => crate::interrupts::handle_signals,
        "reads a lost page" => crate::interrupts::read_lost_page,
        "caller" => crate::hard_calls::caller,
        "server" => crate::hard_calls::server,
        "attacked" => crate::hostile::attacked,
        "waits" => crate::waiting::waits,
        "waits at a barrier" => crate::waiting::waits_at_a_barrier,
        "broadcasts" => crate::waiting::broadcasts,
        "ends with an error" => crate::waiting::end_with_an_error,
        _ => panic!("no such role: {role}"),
    };
    play(settings);
}

/// A daemon; its index is the rank's number.
fn daemon(settings: Settings) {
    let index = settings.rank as u16;
    let node = Node::start(NodeConfig::daemon(settings, index)).expect("a daemon starts");
    say(&node.local_addr().to_string());
    listen();
}

/// Joins as a rank.
pub(crate) fn join(settings: Settings) -> Dsm {
    rig::join(settings)
}
