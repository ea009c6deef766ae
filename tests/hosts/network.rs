//! Hosts of a test: each has namespaces of its own for network, processes and mounts, and a link to one switch. All of
//! that belongs to processes that the test started, and goes with them; nothing of the machine's own network is
//! touched.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use system_tests::rig::until;

/// A process that keeps namespaces alive, and ends when the test does.
struct Holder {
    process: Child,
    /// The process that is inside.
    inside: Pid,
}

/// The switch between all hosts.
pub(crate) struct Network {
    switch: Holder,
    hosts: std::cell::Cell<u32>,
}

/// A host with one link.
pub(crate) struct Host {
    holder: Holder,
    switch: Pid,
    number: u32,
}

impl Network {
    /// None, and a line that says why, where nobody may make namespaces.
    pub(crate) fn new() -> Option<Network> {
        let why = match Holder::start(&["--net"]) {
            _ if !Uid::effective().is_root() => "only root may make network namespaces".to_owned(),
            Ok(switch) => match ip(switch.inside, "link add switch type bridge\nlink set switch up\n") {
                Ok(()) => return Some(Network { switch, hosts: std::cell::Cell::new(0) }),
                Err(why) => why,
            },
            Err(why) => why,
        };
        println!("SKIPPED: no hosts of their own can be made here: {why}");
        None
    }

    /// A new host that reaches all others.
    pub(crate) fn host(&self) -> Host {
        let number = self.hosts.replace(self.hosts.get() + 1) + 1;
        let holder = Holder::start(&["--net", "--pid", "--mount", "--fork", "--kill-child", "--mount-proc"])
            .expect("as the switch");
        let (inside, switch) = (holder.inside, self.switch.inside);
        let host = Host { holder, switch, number };
        let mut at_the_switch = String::new();
        let _ = writeln!(at_the_switch, "link add h{number} type veth peer name eth0 netns {inside}");
        let _ = writeln!(at_the_switch, "link set h{number} master switch up");
        ip(switch, &at_the_switch).expect("a link");
        let at_the_host =
            format!("link set lo up\naddr add {}/16 dev eth0\nlink set eth0 up\n", host.address());
        ip(inside, &at_the_host).expect("an address");
        host
    }
}

impl Host {
    pub(crate) fn address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, (self.number >> 8) as u8, self.number as u8)
    }

    /// A command that runs a program here.
    pub(crate) fn command(&self, program: &std::path::Path) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--pid", "--mount", "--target"]).arg(self.holder.inside.to_string());
        command.arg("--").arg(program);
        command
    }

    /// Takes its link down: nothing comes through, in either direction.
    pub(crate) fn cut(&self) {
        ip(self.switch, &format!("link set h{} down\n", self.number)).expect("the link is there");
    }

    /// Sends all its processes a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        let namespace = |pid: Pid| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.holder.inside).expect("it lives");
        let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
        for pid in pids.filter(|pid| namespace(*pid).as_ref() == Some(&own)) {
            let _ = kill(pid, signal);
        }
    }
}

impl Holder {
    fn start(namespaces: &[&str]) -> Result<Holder, String> {
        let mut command = Command::new("unshare");
        command
            .args(namespaces)
            .arg("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let process = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        let mut holder = Holder { inside: Pid::from_raw(process.id() as i32), process };
        let reads = |pid: i32| name_of(pid) == "cat";
        until("the namespaces are there, or refused", || {
            let ended = name_of(holder.inside.as_raw()).is_empty() || is_zombie(holder.inside);
            ended
                || reads(holder.inside.as_raw())
                || child_of(holder.inside).is_some_and(|pid| reads(pid.as_raw()))
        });
        if let Some(child) = child_of(holder.inside) {
            holder.inside = child;
        }
        if is_zombie(holder.inside) {
            let mut why = String::new();
            let mut stderr = holder.process.stderr.take().expect("piped");
            let _ = std::io::Read::read_to_string(&mut stderr, &mut why);
            return Err(why.trim().to_owned());
        }
        Ok(holder)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The first process of a namespace of processes takes all others along.
        let _ = kill(self.inside, Signal::SIGKILL);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The child of a process, as this process numbers it.
pub(crate) fn child_of(parent: Pid) -> Option<Pid> {
    let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok().map(Pid::from_raw)
}

fn name_of(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

fn is_zombie(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
}

/// Runs lines of `ip` in the network of a process.
fn ip(of: Pid, lines: &str) -> Result<(), String> {
    let mut command = Command::new("nsenter");
    command.args(["--net", "--target"]).arg(of.to_string()).args(["--", "ip", "-batch", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().map_err(|error| format!("nsenter: {error}"))?;
    let written = process.stdin.take().expect("piped").write_all(lines.as_bytes());
    let output = process.wait_with_output().map_err(|error| error.to_string())?;
    if output.status.success() && written.is_ok() {
        return Ok(());
    }
    Err(format!("ip: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
