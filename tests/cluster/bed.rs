//! What every test needs: the binaries, built once; a directory of its own; commands with a time limit;
//! and the certainty that nothing is left running.

use std::fs::{File, Permissions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{Pid, Uid};

/// No command of a test takes as long, on however busy a machine.
const LIMIT: Duration = Duration::from_secs(120);
/// A user that has no privileges, for tests that run as root. Not 65534, by which the kernel names all users that it
/// cannot show.
const ORDINARY: u32 = 60_123;

/// A test's place: state directory, environment, and processes that are known by a mark.
pub(crate) struct Bed {
    dir: PathBuf,
    binaries: PathBuf,
    mark: String,
    variables: Vec<(String, String)>,
    user: Option<u32>,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A pipe with a name, for one word from a program.
pub(crate) struct Pipe(PathBuf);

/// A command that runs.
pub(crate) struct Going {
    pub(crate) pid: u32,
    line: String,
    done: mpsc::Receiver<Done>,
}

impl Bed {
    /// A fresh place.
    pub(crate) fn new() -> Bed {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(format!("pagemesh-test-{mark}"));
        std::fs::create_dir(&dir).expect("a directory for the test");
        std::fs::set_permissions(&dir, Permissions::from_mode(0o700)).expect("private");
        Bed { dir, binaries: built().to_owned(), mark, variables: Vec::new(), user: None }
    }

    /// The same as a user who may do nothing special. Without root, that is who we are already.
    pub(crate) fn unprivileged() -> Bed {
        let mut bed = Bed::new();
        if Uid::effective().is_root() {
            let binaries = bed.dir.join("bin");
            std::fs::create_dir(&binaries).expect("a directory");
            for name in ["pagemesh", "matmul"] {
                std::fs::copy(bed.binaries.join(name), binaries.join(name)).expect("copy a binary");
            }
            std::os::unix::fs::chown(&bed.dir, Some(ORDINARY), Some(ORDINARY)).expect("give away");
            bed.binaries = binaries;
            bed.user = Some(ORDINARY);
        }
        bed
    }

    /// Sets a variable for all commands from here on.
    pub(crate) fn set(mut self, name: &str, value: &str) -> Bed {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The test's own directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The state directory of its cluster.
    pub(crate) fn state(&self) -> PathBuf {
        self.dir.join("pagemesh")
    }

    /// Writes a file into the test's directory.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.join(name);
        std::fs::write(&path, text).expect("write a file");
        path.display().to_string()
    }

    /// Makes a pipe through which a program can tell the test something.
    pub(crate) fn pipe(&self, name: &str) -> Pipe {
        let path = self.dir.join(name);
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        Pipe(path)
    }

    /// Runs the `pagemesh` command with these words.
    pub(crate) fn pagemesh(&self, line: &str) -> Done {
        self.start("pagemesh", line).wait()
    }

    /// The file of a built program.
    pub(crate) fn binary(&self, program: &str) -> String {
        self.binaries.join(program).display().to_string()
    }

    /// Runs one of the built programs.
    pub(crate) fn start(&self, program: &str, line: &str) -> Going {
        self.start_path(&self.binary(program), line)
    }

    /// Runs any program.
    pub(crate) fn start_path(&self, program: &str, line: &str) -> Going {
        let mut command = Command::new(program);
        command.args(line.split_whitespace());
        self.start_command(command, &format!("{program} {line}"))
    }

    /// Runs the `pagemesh` command with its standard output connected to `out`.
    pub(crate) fn pagemesh_into(&self, line: &str, out: Stdio) -> Done {
        self.start_with(line, out, Stdio::piped()).wait()
    }

    /// Starts the `pagemesh` command with these outputs.
    pub(crate) fn start_with(&self, line: &str, out: Stdio, err: Stdio) -> Going {
        let mut command = Command::new(self.binary("pagemesh"));
        command.args(line.split_whitespace()).stdout(out).stderr(err);
        self.spawn(command, line)
    }

    fn start_command(&self, mut command: Command, line: &str) -> Going {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(command, line)
    }

    fn spawn(&self, mut command: Command, line: &str) -> Going {
        // Variables of whoever runs the tests must not reach the programs.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PAGEMESH_")) {
            command.env_remove(name);
        }
        command.env("XDG_RUNTIME_DIR", &self.dir).env("TEST_MARK", &self.mark).current_dir(&self.dir);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        // Whoever runs the tests in the background has SIGINT ignored, and what they start would inherit that.
        // SAFETY: between fork and exec it calls nothing but sigaction, which is allowed there.
        unsafe { command.pre_exec(heed_interrupts) };
        command.stdin(Stdio::null());
        let child = command.spawn().unwrap_or_else(|error| panic!("{line}: {error}"));
        let pid = child.id();
        let (send, done) = mpsc::channel();
        std::thread::spawn(move || send.send(wait(child)));
        Going { pid, line: line.to_owned(), done }
    }

    /// Processes of this test that run, by their mark.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let wanted = format!("TEST_MARK={}", self.mark);
        let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
        })
        .collect()
    }

    /// Waits for a condition that processes bring about; fails after the limit of a command.
    pub(crate) fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let until = Instant::now() + LIMIT;
        while !condition() {
            assert!(Instant::now() < until, "in vain: {what}");
            std::thread::yield_now();
        }
    }

    /// Fails if a process of this test runs, or a private state directory is left.
    pub(crate) fn assert_nothing_left(&self) {
        assert_eq!(self.processes(), [] as [i32; 0], "processes left running");
        let entries = std::fs::read_dir(&self.dir).expect("the test's directory").flatten();
        let names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let left: Vec<&String> = names.iter().filter(|name| name.starts_with("pagemesh-run-")).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }

    /// The cluster's status, as JSON.
    pub(crate) fn status(&self) -> serde_json::Value {
        let done = self.pagemesh("status --json --interval 0").ok();
        serde_json::from_str(&done.out).expect("JSON")
    }

    /// Asks for the status until `found` gives something. Each question waits for its answer, so this
    /// is no busy loop; it ends after the limit of a command.
    pub(crate) fn status_until<T>(&self, found: impl Fn(&serde_json::Value) -> Option<T>) -> T {
        let until = Instant::now() + LIMIT;
        loop {
            let status = self.status();
            if let Some(value) = found(&status) {
                return value;
            }
            assert!(Instant::now() < until, "the cluster never got there: {status:#}");
        }
    }
}

fn heed_interrupts() -> std::io::Result<()> {
    // SAFETY: the default is no handler that could do anything.
    unsafe { signal(Signal::SIGINT, SigHandler::SigDfl) }?;
    Ok(())
}

impl Drop for Bed {
    fn drop(&mut self) {
        // After a failed test too; by their ids, which carry this test's mark.
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        if std::thread::panicking() {
            eprintln!("the test's files are in {}", self.dir.display());
        } else {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Pipe {
    pub(crate) fn path(&self) -> std::path::Display<'_> {
        self.0.display()
    }

    /// Waits for the first line that a program writes. The pipe is closed then.
    pub(crate) fn line(&self, what: &str) -> String {
        let (send, heard) = mpsc::channel();
        let path = self.0.clone();
        // If nobody ever writes it ends with the test program.
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = File::open(path).and_then(|pipe| BufReader::new(pipe).read_line(&mut line));
            send.send(read.map(|_| line))
        });
        heard.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("in vain: {what}")).expect("text")
    }

    /// Writes a word for a program that reads the pipe. Waits until one does; fails if none comes.
    pub(crate) fn say(&self, word: &str) {
        let (send, said) = mpsc::channel();
        let (path, line) = (self.0.clone(), format!("{word}\n"));
        // If nobody ever reads it ends with the test program.
        std::thread::spawn(move || send.send(std::fs::write(path, line)));
        said.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("nobody hears {word}")).expect("a pipe");
    }

    /// Gives the name free.
    pub(crate) fn remove(self) {
        std::fs::remove_file(self.0).expect("a pipe of ours");
    }

    /// Waits until a program has written something and closed the pipe.
    pub(crate) fn hear(&self, what: &str) -> String {
        let (send, heard) = mpsc::channel();
        let path = self.0.clone();
        // If nobody ever writes it ends with the test program.
        std::thread::spawn(move || send.send(std::fs::read_to_string(path)));
        heard.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("in vain: {what}")).expect("text")
    }
}

impl Going {
    /// Waits for its end.
    pub(crate) fn wait(self) -> Done {
        self.wait_up_to(LIMIT)
    }

    /// Waits for its end; fails if it takes longer.
    pub(crate) fn wait_up_to(self, limit: Duration) -> Done {
        if let Ok(done) = self.done.recv_timeout(limit) {
            return done;
        }
        let _ = kill(Pid::from_raw(self.pid as i32), Signal::SIGKILL);
        let done = self.done.recv_timeout(LIMIT);
        panic!("`{}` has not ended within {limit:?}: {done:#?}", self.line);
    }

    /// Sends it a signal again and again, and waits for its end.
    pub(crate) fn signal_until_it_ends(self, signal: Signal) -> Done {
        let until = Instant::now() + LIMIT;
        loop {
            // Its number may have been given back.
            let _ = kill(Pid::from_raw(self.pid as i32), signal);
            if let Ok(done) = self.done.recv_timeout(Duration::from_millis(1)) {
                return done;
            }
            assert!(Instant::now() < until, "`{}` does not end", self.line);
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid as i32), signal).expect("it runs");
    }
}

impl Done {
    /// Fails unless it went well.
    pub(crate) fn ok(self) -> Done {
        assert_eq!(self.code, 0, "{self:#?}");
        self
    }

    /// Fails unless it ended with this code and one line on standard error that says all of `words`.
    pub(crate) fn refused(self, words: &[&str]) -> Done {
        assert_eq!(self.code, 2, "{self:#?}");
        assert_eq!(self.err.lines().count(), 1, "one line: {self:#?}");
        self.says(words)
    }

    /// Fails unless standard error has a line with all of `words`.
    pub(crate) fn says(self, words: &[&str]) -> Done {
        let said = self.err.lines().chain(self.out.lines());
        let all = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(said.into_iter().any(all), "no line with {words:?} in {self:#?}");
        self
    }
}

fn wait(child: Child) -> Done {
    let output = child.wait_with_output().expect("the child's output");
    let signal = output.status.signal().map(|signal| 128 + signal);
    Done {
        code: output.status.code().or(signal).unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The directory of the programs that the tests start. `cargo build --workspace --bins` puts them there, before
/// the tests and with their profile; a program that is older than its sources would test what was there before.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // .../target/debug/deps/cluster-0123456789abcdef
        let this = std::env::current_exe().expect("this test's file");
        let profile = this.parent().and_then(Path::parent).expect("a profile's directory");
        for program in ["pagemesh", "matmul"] {
            if let Err(why) = up_to_date(&profile.join(program)) {
                panic!(
                    "{program}: {why}; run `cargo build --workspace --bins` first, as scripts/check.sh does"
                );
            }
        }
        profile.to_owned()
    })
}

/// Whether a program is younger than all its sources, which the compiler lists in a file beside it.
fn up_to_date(program: &Path) -> Result<(), String> {
    let modified = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified());
    let built = modified(program).map_err(|error| format!("{}: {error}", program.display()))?;
    let list = std::fs::read_to_string(program.with_extension("d")).map_err(|error| error.to_string())?;
    let (_, sources) = list.split_once(": ").ok_or("a list of sources that is none")?;
    // Blanks in names are escaped. A commit changes what the version is called, and no source.
    let sources = sources.replace("\\ ", "\0");
    for source in sources.split_whitespace().filter(|source| !source.contains("/.git/")) {
        let source = source.replace('\0', " ");
        if modified(Path::new(&source)).map_err(|error| format!("{source}: {error}"))? > built {
            return Err(format!("it is older than {source}"));
        }
    }
    Ok(())
}
