//! Other hosts, seen from this one: whether ssh gets there without a password, whether the build there is this one,
//! and whether datagrams go there and come back, the other side's own included.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use pagemesh::net::udp::probe_mtu;
use pagemesh::{Check, Health};
use rustix::process::{PidfdFlags, pidfd_open};

use super::peer::Hello;
use super::{Report, good, ill};
use crate::process::{join, ssh, this_executable};
use crate::trouble::Trouble;
use crate::wait::{Interest, wait};

/// How long the other side may take to say its first line, the login included.
const HELLO_TIMEOUT: Duration = Duration::from_secs(30);
/// How long it may take to end once its input has.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one datagram is waited for.
const ECHO_TIMEOUT: Duration = Duration::from_millis(400);
/// Tries before a datagram counts as not arriving.
const TRIES: usize = 5;
/// The UDP payload that every path must carry, and that of an Ethernet frame.
const SIZES: [usize; 2] = [pagemesh::config::net::MTU_BASE, pagemesh::config::net::MTU_PROBES[0]];
/// The mend for datagrams that do not arrive.
const MEND_UDP: &str = "let UDP through between the hosts, in both directions and on all ports from 1024 on";

/// The other side of an examination, killed when it is dropped. Its pipes do not end with the process: a master
/// connection that ssh leaves in the background (`ControlPersist`) has inherited them.
struct Remote {
    child: Child,
    /// Readable when the process has ended.
    pidfd: OwnedFd,
    stdout: ChildStdout,
}

/// Looks at all hosts at the same time.
pub(super) fn examine(hosts: Vec<String>) -> Vec<Report> {
    std::thread::scope(|scope| {
        let started: Vec<_> = hosts.iter().map(|host| (host, scope.spawn(|| examine_one(host)))).collect();
        let report = |(host, thread): (&String, std::thread::ScopedJoinHandle<'_, Vec<Check>>)| Report {
            host: Some(host.clone()),
            checks: thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        };
        started.into_iter().map(report).collect()
    })
}

/// The findings about one host, up to the first that makes others pointless.
fn examine_one(host: &str) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Err(check) = try_examine(host, &mut checks) {
        checks.push(check);
    }
    checks
}

fn try_examine(host: &str, checks: &mut Vec<Check>) -> Result<(), Check> {
    let ip = resolve(host)?;
    checks.push(good("address", ip.to_string()));
    let mut remote = Remote::start(host, ip).map_err(|trouble| {
        ill(Health::Bad, "ssh", trouble.to_string(), "install an ssh client, and have it in PATH")
    })?;
    let hello = remote.hello(host)?;
    checks.push(good("ssh", "without a password"));
    checks.push(version(&hello)?);
    let listens = hello.listens.map_err(|error| {
        ill(
            Health::Bad,
            "UDP there",
            format!("{ip} cannot be bound there: {error}"),
            format!("name the host by an address of its own; `{host}` leads to {ip}"),
        )
    })?;
    checks.push(there_and_back(listens)?);
    checks.push(unasked(&mut remote, listens)?);
    checks.extend(hello.checks);
    Ok(())
}

/// The address at which the others would reach the host's nodes.
fn resolve(host: &str) -> Result<IpAddr, Check> {
    let name = host.rsplit('@').next().unwrap_or(host);
    let bad = |why: String| {
        let mend = "name a host that /etc/hosts or the name service knows, or its address";
        ill(Health::Bad, "address", format!("`{name}`: {why}"), mend)
    };
    let found = (name, 0).to_socket_addrs().map_err(|error| bad(error.to_string()))?;
    let (mut four, mut six): (Vec<IpAddr>, Vec<IpAddr>) =
        found.map(|addr| addr.ip()).partition(IpAddr::is_ipv4);
    four.append(&mut six);
    four.first().copied().ok_or_else(|| bad("it has no address".to_owned()))
}

/// Nodes of one cluster run the same code.
fn version(theirs: &Hello) -> Result<Check, Check> {
    const NAME: &str = "version";
    let ours = Hello::ours();
    let unknown = [&ours.commit, &theirs.commit].iter().any(|commit| *commit == "unknown");
    if ours.version == theirs.version && (unknown || ours.commit == theirs.commit) {
        return Ok(good(NAME, format!("{}, commit {}", theirs.version, theirs.commit)));
    }
    Err(ill(
        Health::Bad,
        NAME,
        format!(
            "{}, commit {} there; {}, commit {} here",
            theirs.version, theirs.commit, ours.version, ours.commit
        ),
        "install one build on all hosts, or use a directory that they share",
    ))
}

/// What is waited for while the other side has not said its first line.
#[derive(Clone, Copy, PartialEq)]
enum Event {
    Said,
    Ended,
}

impl Remote {
    fn start(host: &str, ip: IpAddr) -> Result<Remote, Trouble> {
        let words = [this_executable()?.into(), "doctor-peer".into(), "--bind".into(), ip.to_string().into()];
        let words = ssh(host, &format!("exec {}", join(&words)));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Trouble::os("run ssh", error))?;
        let stdout = child.stdout.take().ok_or_else(|| Trouble::start("ssh: no pipe"))?;
        let pidfd = pidfd_open(rustix::process::Pid::from_child(&child), PidfdFlags::empty())
            .map_err(|error| Trouble::os("watch ssh", error))?;
        Ok(Remote { child, pidfd, stdout })
    }

    /// Its first line, or why there is none.
    fn hello(&mut self, host: &str) -> Result<Hello, Check> {
        let deadline = Instant::now() + HELLO_TIMEOUT;
        let mut heard = Vec::new();
        loop {
            if let Some(end) = heard.iter().position(|byte| *byte == b'\n') {
                return serde_json::from_slice(&heard[..end]).map_err(|_| self.not_a_hello(&heard[..end]));
            }
            let sources = [
                (Event::Said, self.stdout.as_fd(), Interest::Read),
                (Event::Ended, self.pidfd.as_fd(), Interest::Read),
            ];
            let ready = wait(&sources, Some(deadline)).unwrap_or_default();
            if ready.is_empty() {
                let found = format!("no answer within {} s", HELLO_TIMEOUT.as_secs());
                return Err(ill(Health::Bad, "ssh", found, mend_ssh(host)));
            }
            // What it said before its end comes first.
            if !ready.contains(&Event::Said) {
                return Err(self.ended(host));
            }
            let mut bytes = [0; 4096];
            match self.stdout.read(&mut bytes) {
                Ok(len) if len > 0 => heard.extend_from_slice(&bytes[..len]),
                Ok(_) | Err(_) => return Err(self.ended(host)),
            }
        }
    }

    fn not_a_hello(&mut self, line: &[u8]) -> Check {
        let line = String::from_utf8_lossy(line).chars().take(80).collect::<String>();
        let mend = "remove what the shell's start-up files print, and install this build there";
        ill(Health::Bad, "ssh", format!("the other side says `{line}`"), mend)
    }

    /// Why it has ended before it said anything.
    fn ended(&mut self, host: &str) -> Check {
        // Its end is near: the process has ended, or has closed its output.
        self.end_by(Instant::now() + END_TIMEOUT);
        let code = self.child.wait().ok().and_then(|status| status.code());
        let text = self.child.stderr.as_mut().map(what_is_there).unwrap_or_default();
        let said =
            text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing").trim();
        match code {
            // The shell's codes for a program that is not there or cannot be run, and ours for one that is too old.
            Some(code @ (2 | 126 | 127)) => {
                let path =
                    this_executable().map_or_else(|_| "pagemesh".into(), |path| path.display().to_string());
                let found = format!("{path} does not run there (code {code}): {said}");
                ill(Health::Bad, "version", found, format!("install this build there, at {path}"))
            }
            _ => ill(Health::Bad, "ssh", said.to_owned(), mend_ssh(host)),
        }
    }
}

impl Remote {
    /// Waits for the end of the process; kills it when the deadline has come.
    fn end_by(&mut self, deadline: Instant) {
        let ended = ((), self.pidfd.as_fd(), Interest::Read);
        if wait(&[ended], Some(deadline)).is_ok_and(|ready| !ready.is_empty()) {
            return;
        }
        let _ = self.child.kill();
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // The end of its input ends the other side; the connection follows. What it has still to say fits its pipe.
        drop(self.child.stdin.take());
        self.end_by(Instant::now() + END_TIMEOUT);
        let _ = self.child.wait();
    }
}

/// The text that a pipe holds, without waiting for more.
fn what_is_there(pipe: &mut (impl Read + AsFd)) -> String {
    let (mut text, mut bytes) = (Vec::new(), [0; 4096]);
    while wait(&[((), pipe.as_fd(), Interest::Read)], Some(Instant::now()))
        .is_ok_and(|ready| !ready.is_empty())
        && let Ok(len @ 1..) = pipe.read(&mut bytes)
    {
        text.extend_from_slice(&bytes[..len]);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn mend_ssh(host: &str) -> String {
    format!(
        "`ssh -o BatchMode=yes {host} true` must succeed: log in once to know the host, then `ssh-copy-id {host}`"
    )
}

/// Sends datagrams of both sizes until they come back.
fn there_and_back(listens: SocketAddr) -> Result<Check, Check> {
    const NAME: &str = "UDP there and back";
    let bad = |found: String| ill(Health::Bad, NAME, found, MEND_UDP);
    let connect = || {
        let any: IpAddr = if listens.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(listens)?;
        if listens.is_ipv4() {
            // In pieces a long one would get through, and say nothing about the path.
            probe_mtu(&socket, listens)?;
        }
        socket.set_read_timeout(Some(ECHO_TIMEOUT))?;
        Ok(socket)
    };
    let socket = connect().map_err(|error: std::io::Error| bad(format!("{listens}: {error}")))?;
    let least = echo(&socket, SIZES[0]);
    let frame = least.and_then(|_| echo(&socket, SIZES[1]));
    match (least, frame) {
        (None, _) => Err(bad(format!("nothing came back from {listens} in {TRIES} tries"))),
        (Some(took), Some(_)) => Ok(good(NAME, format!("{} us", took.as_micros()))),
        (Some(_), None) => Ok(ill(
            Health::Limited,
            NAME,
            format!("datagrams of {} bytes do not come back, of {} they do", SIZES[1], SIZES[0]),
            "an MTU of 1500 on all of the way",
        )),
    }
}

/// How long a datagram of this size took to come back, if it did.
fn echo(socket: &UdpSocket, size: usize) -> Option<Duration> {
    let mut came = vec![0; 2 * size];
    (0..TRIES).find_map(|number| {
        // Each try is another datagram: a late one must not count for the next.
        let sent: Vec<u8> = (0..size).map(|at| (at + number + size) as u8).collect();
        let began = Instant::now();
        socket.send(&sent).ok()?;
        let same = |len: usize, came: &[u8]| came[..len] == sent;
        while began.elapsed() < ECHO_TIMEOUT {
            match socket.recv(&mut came) {
                Ok(len) if same(len, &came) => return Some(began.elapsed()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
        None
    })
}

/// Has the other side send without having been sent anything: as the nodes of a cluster do.
fn unasked(remote: &mut Remote, listens: SocketAddr) -> Result<Check, Check> {
    const NAME: &str = "UDP from there unasked";
    let bad = |found: String| ill(Health::Bad, NAME, found, MEND_UDP);
    let route = || {
        let any: IpAddr = if listens.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(listens)?;
        let here = UdpSocket::bind((socket.local_addr()?.ip(), 0))?;
        here.set_read_timeout(Some(ECHO_TIMEOUT))?;
        let addr = here.local_addr()?;
        Ok((here, addr))
    };
    let (socket, here) = route().map_err(|error: std::io::Error| bad(error.to_string()))?;
    let mut came = [0; 64];
    for number in 0..TRIES {
        let token = format!("pagemesh-{number}-{}", std::process::id());
        let asked = remote.child.stdin.as_mut().map(|stdin| writeln!(stdin, "{here} {token}"));
        if asked.is_none_or(|asked| asked.is_err()) {
            return Err(bad("the other side has ended".to_owned()));
        }
        while let Ok((len, from)) = socket.recv_from(&mut came) {
            if came[..len].starts_with(b"pagemesh-") {
                return Ok(good(NAME, format!("from {}", from.ip())));
            }
        }
    }
    Err(bad(format!("nothing came to {here} in {TRIES} tries")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_of_another_version_or_commit_will_not_work() {
        assert!(version(&Hello::ours()).is_ok());
        let newer = Hello { version: "library 9.9.9 (protocol 7)".to_owned(), ..Hello::ours() };
        let found = version(&newer).expect_err("another version");
        assert!(
            found.health == Health::Bad && found.found.contains("9.9.9") && found.mend.is_some(),
            "{found:?}"
        );
        let unknown = Hello { commit: "unknown".to_owned(), ..Hello::ours() };
        assert!(version(&unknown).is_ok());
    }

    #[test]
    fn datagrams_that_do_not_come_back_are_found_and_those_that_do_are_timed() {
        let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let addr = silent.local_addr().expect("bound");
        assert_eq!(there_and_back(addr).expect_err("nobody answers").health, Health::Bad);
        let peer = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let addr = peer.local_addr().expect("bound");
        let echo = std::thread::spawn(move || {
            let mut datagram = [0; 2000];
            for size in SIZES {
                // One that comes again was answered too late.
                while {
                    let (len, from) = peer.recv_from(&mut datagram).expect("a datagram");
                    peer.send_to(&datagram[..len], from).expect("an answer goes out");
                    len != size
                } {}
            }
        });
        assert_eq!(there_and_back(addr).expect("an answer").health, Health::Ok);
        echo.join().expect("the echo");
    }
}
