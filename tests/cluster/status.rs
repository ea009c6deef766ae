//! What `status` and `regions ls` show of programs that run.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Stdio;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::bed::{Bed, Going, Pipe};

/// The program of the tests, under a name for which no table has room.
const LONG_NAME: &str = "a-program-whose-name-is-much-too-long-for-a-table";

/// Two ranks that run: rank 0 has touched pages and computes, rank 1 waits for it at a barrier.
fn waiting(bed: &Bed) -> (Going, Pipe) {
    let program = bed.dir().join(LONG_NAME);
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_subject"), &program).expect("a link");
    let (told, go) = (bed.pipe("told"), bed.pipe("go"));
    let line = format!("run --ranks 2 {} wait {} {}", program.display(), told.path(), go.path());
    let going = bed.start("pagemesh", &line);
    assert_eq!(told.hear("rank 0 has touched its pages"), "ready");
    bed.status_until(|status| {
        let open = |member: &Value| member["status"]["waits"]["barriers"]["open"].as_u64();
        status["members"].as_array()?.iter().filter_map(open).sum::<u64>().eq(&1).then_some(())
    });
    (going, go)
}

fn let_go((going, go): (Going, Pipe)) {
    std::fs::write(go.path().to_string(), "go").expect("the program reads");
    going.wait().ok();
}

#[test]
fn status_tells_rates_and_waits_of_every_rank_in_80_columns() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 2").ok();
    let program = waiting(&bed);
    let done = bed.pagemesh("status --json").ok();
    let status: Value = serde_json::from_str(&done.out).expect("JSON");
    let members = status["members"].as_array().expect("members");
    let kinds: Vec<String> = members
        .iter()
        .map(|member| {
            member["kind"]["Rank"]["rank"].as_u64().map_or("daemon".into(), |rank| rank.to_string())
        })
        .collect();
    assert_eq!(kinds, ["daemon", "daemon", "0", "1"], "daemons, then ranks: {status:#}");
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    for member in members {
        assert_eq!(member["status"]["host"], hostname.trim());
        let rates = member["rates"].as_object().expect("rates");
        for name in
            ["faults_per_s", "bytes_in_per_s", "bytes_out_per_s", "waiting_for_pages", "waiting_for_locks"]
        {
            assert!(rates[name].is_f64(), "{name}: {member:#}");
        }
    }
    let [rank_0, rank_1] = [&members[2], &members[3]];
    let touched = &rank_0["status"]["waits"]["pages"];
    assert!(touched["count"].as_u64() >= Some(1) && touched["total_ns"].as_u64() > Some(0), "{touched:#}");
    assert_eq!(rank_0["rates"]["waiting_at_barriers"], 0.0);
    let waited = rank_1["rates"]["waiting_at_barriers"].as_f64().expect("a share");
    assert!((0.9..=1.1).contains(&waited), "one thread waits all the time: {waited}");

    let done = bed.pagemesh("status").ok();
    assert!(done.out.lines().all(|line| line.chars().count() <= 80), "{}", done.out);
    let place = |what: &str| done.out.find(what).unwrap_or_else(|| panic!("no {what} in {}", done.out));
    assert!(
        place("daemon 0") < place("daemon 1")
            && place("daemon 1") < place(" 0/2")
            && place(" 0/2") < place(" 1/2")
    );
    let rank_1 = done.out.lines().find(|line| line.contains(" 1/2")).expect("a line");
    assert!(rank_1.contains("100%"), "the share of its waits: {}", done.out);
    let_go(program);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn status_and_log_tell_what_the_nodes_of_a_host_may_take_of_its_memory() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 2 --memory-max 192MiB").ok();
    let program = waiting(&bed);
    let status = bed.status();
    let limit = |member: &Value| member["memory_max"].as_u64().expect("a limit");
    let sum: u64 = status["members"].as_array().expect("members").iter().map(limit).sum();
    assert!(sum > 2 * (192 << 20), "two ranks beside two daemons: {status:#}");
    let meminfo = std::fs::read_to_string("/proc/meminfo").expect("a file");
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
    let total = kib.and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024;
    let hosts = status["hosts"].as_array().expect("hosts");
    assert_eq!(hosts.len(), 1, "{status:#}");
    assert_eq!(hosts[0]["host"], status["members"][0]["status"]["host"]);
    let told = ["nodes", "memory_max", "memory"].map(|name| hosts[0][name].as_u64());
    assert_eq!(told, [Some(4), Some(sum), Some(total)]);
    let shown = bed.pagemesh("status").ok().out;
    let mut lines = shown.lines().skip_while(|line| !line.starts_with("Memory:")).skip(1);
    let words =
        |line: Option<&str>| line.unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(words(lines.next()), ["HOST", "NODES", "LIMITS", "MEMORY"], "{shown}");
    let row = words(lines.next());
    assert!(row.len() == 6 && row[1] == "4" && row[3].ends_with('B') && row[5].ends_with('B'), "{shown}");
    // The second daemon found the first one there, and no rank.
    let log = bed.pagemesh("logs 1").ok().out;
    let line = log.lines().find(|line| line.contains("nodes of this host"));
    let line = line.unwrap_or_else(|| panic!("no line of memory: {log}"));
    let expected = format!("2, which may take 384 MiB together, of {} MiB", total >> 20);
    assert!(line.contains(&expected), "{line}");
    let_go(program);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn an_id_has_one_form_in_all_json_and_tables() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 1").ok();
    let program = waiting(&bed);
    let status = bed.status();
    let id = status["members"][1]["kind"]["Rank"]["program"].as_str().expect("text").to_owned();
    assert!(id.len() == 16 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
    assert_eq!(status["members"][2]["kind"]["Rank"]["program"], id);
    assert_eq!(status["regions"][0]["program"], id);
    let listed: Value = serde_json::from_str(&bed.pagemesh("regions ls --json").ok().out).expect("JSON");
    assert_eq!(listed[0]["program"], id);
    // No number that readers with 53 bits would change.
    for document in [&status, &listed] {
        let mut values = vec![document];
        while let Some(value) = values.pop() {
            match value {
                Value::Array(items) => values.extend(items),
                Value::Object(fields) => values.extend(fields.values()),
                Value::Number(number) => {
                    assert!(number.as_f64().expect("finite") < (1u64 << 53) as f64, "{number}")
                }
                Value::Null | Value::Bool(_) | Value::String(_) => {}
            }
        }
    }
    let_go(program);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn regions_are_listed_with_their_pages_and_users() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 1").ok();
    let program = waiting(&bed);
    let done = bed.pagemesh("regions ls").ok();
    let line = done.out.lines().find(|line| line.starts_with("waiting")).expect("its line");
    assert!(line.contains("256.0 KiB") && line.trim_end().ends_with('2'), "{}", done.out);
    let listed: Value = serde_json::from_str(&bed.pagemesh("regions ls --json").ok().out).expect("JSON");
    let (here, there) = (listed[0]["pages_here"].as_u64(), listed[0]["pages_there"].as_u64());
    assert!(here >= Some(64) && there == Some(0), "64 pages were touched: {listed:#}");
    let_go(program);
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

/// What a command shows on a terminal, until it ends.
struct Terminal {
    master: File,
    shown: String,
}

impl Terminal {
    /// Starts the command with its output on a terminal.
    fn start(bed: &Bed, line: &str) -> (Terminal, Going) {
        // Both sides close on exec: another test's process that had one would keep the terminal open.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("its other side");
        let mut slave = OpenOptions::new();
        slave.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
        let slave = slave.open(ptsname_r(&master).expect("its name")).expect("its other side");
        let going = bed.start_with(line, slave.into(), Stdio::piped());
        (Terminal { master: OwnedFd::from(master).into(), shown: String::new() }, going)
    }

    /// Reads until `what` is shown.
    fn wait_for(&mut self, what: &str) {
        while !self.shown.contains(what) {
            assert!(self.read(), "it ended without `{what}`: {:?}", self.shown);
        }
    }

    /// Reads all that is shown until the command has ended.
    fn finish(mut self) -> String {
        while self.read() {}
        self.shown
    }

    /// False at the end: the command has closed the other side.
    fn read(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let len = self.master.read(&mut bytes).unwrap_or(0);
        self.shown.push_str(&String::from_utf8_lossy(&bytes[..len]));
        len > 0
    }
}

#[test]
fn a_watch_gives_the_terminal_back_at_ctrl_c_and_on_an_error() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 1").ok();
    for interrupted in [true, false] {
        let (mut terminal, going) = Terminal::start(&bed, "status --watch --interval 0.05");
        terminal.wait_for("\x1b[?1049h\x1b[?25l");
        terminal.wait_for("daemon 0");
        if interrupted {
            going.signal(Signal::SIGINT);
        } else {
            let status = bed.status();
            let pid = status["members"][0]["pid"].as_i64().expect("a process") as i32;
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
        }
        let shown = terminal.finish();
        assert!(shown.ends_with("\x1b[?25h\x1b[?1049l"), "{shown:?}");
        let done = going.wait();
        assert_eq!(
            (done.code == 0, done.err.lines().count()),
            (interrupted, usize::from(!interrupted)),
            "{done:#?}"
        );
    }
}
