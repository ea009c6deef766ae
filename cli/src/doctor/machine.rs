//! What the machine and the control group around this process allow: cores, memory, socket buffers, MTU. All of it
//! stands in /proc and /sys, below a root that tests choose.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use pagemesh::config::net::{MTU_BASE, SOCKET_BUFFER};
use pagemesh::net::udp::UdpSocket;
use pagemesh::{Check, Health};
use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::{good, ill};
use crate::table::bytes;

/// Memory without which nothing useful runs: a daemon's and a rank's tables, and some pages.
const MEMORY_MIN: u64 = 64 << 20;
/// Memory with which examples of the usual sizes run.
const MEMORY_ENOUGH: u64 = 512 << 20;
/// Bytes of headers in front of a datagram: IPv4 and UDP.
const HEADERS_LEN: usize = 28;
/// Ethernet's usual MTU.
const MTU_USUAL: usize = 1500;

/// Looks at all of it.
pub(super) fn examine(root: &Path) -> Vec<Check> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut checks = vec![process_handles(), self::cores(cores)];
    checks.extend(cpu_quota(root, cores));
    checks.push(memory(root));
    checks.push(socket_buffer(root));
    checks.push(mtu(root));
    checks
}

/// Daemons, and this command, watch processes through such handles.
fn process_handles() -> Check {
    const NAME: &str = "pidfd_open";
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_handle) => good(NAME, "allowed"),
        Err(error) => ill(
            Health::Bad,
            NAME,
            format!("refused: {error}"),
            "a seccomp profile that allows pidfd_open and pidfd_send_signal",
        ),
    }
}

fn cores(cores: usize) -> Check {
    const NAME: &str = "cores";
    match cores {
        1 => ill(Health::Limited, NAME, "1: processes of this host take turns", "more cores, or more hosts"),
        cores => good(NAME, cores.to_string()),
    }
}

/// What the control groups give of the cores; nothing where they set no limit.
fn cpu_quota(root: &Path, cores: usize) -> Option<Check> {
    const NAME: &str = "CPU quota";
    let quotas = groups(root, "cpu").into_iter().filter_map(|dir| {
        let v2 = || {
            let text = std::fs::read_to_string(dir.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            Some((quota.parse::<f64>().ok()?, period.parse::<f64>().ok()?))
        };
        let v1 = || {
            let read = |file: &str| number(&dir.join(file)).map(|n| n as f64);
            Some((read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?))
        };
        let (quota, period) = v2().or_else(v1)?;
        Some(quota / period)
    });
    let quota = quotas.min_by(f64::total_cmp)?;
    if quota >= cores as f64 {
        return Some(good(NAME, format!("{quota:.1} cores")));
    }
    Some(ill(
        Health::Limited,
        NAME,
        format!("{quota:.1} of {cores} cores: the control group stops processes that use more"),
        "raise the container's CPU limit (cpu.max), or start fewer processes",
    ))
}

fn memory(root: &Path) -> Check {
    const NAME: &str = "memory";
    let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let machine: Option<u64> = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .map(|kib: u64| kib << 10);
    let group = groups(root, "memory").into_iter().filter_map(|dir| {
        let v2 = || number(&dir.join("memory.max")).zip(number(&dir.join("memory.current")));
        let v1 =
            || number(&dir.join("memory.limit_in_bytes")).zip(number(&dir.join("memory.usage_in_bytes")));
        let (limit, used) = v2().or_else(v1)?;
        // The file is a cache as far as it was not used for long: the kernel gives it up first.
        let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
        let idle = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.trim().parse().ok());
        Some(limit.saturating_sub(used.saturating_sub(idle.unwrap_or(0))))
    });
    let group = group.min().filter(|group| machine.is_none_or(|machine| *group < machine));
    let Some(free) = group.or(machine) else {
        return good(NAME, "unknown: /proc is hidden; say --memory-max");
    };
    let by = if group.is_some() { ", by its control group's limit" } else { "" };
    let found = format!("{} free{by}", bytes(free));
    let mend = if group.is_some() {
        "raise the container's memory limit (memory.max)"
    } else {
        "end other programs, or take a larger host"
    };
    match free {
        ..MEMORY_MIN => ill(Health::Bad, NAME, found, mend),
        MEMORY_MIN..MEMORY_ENOUGH => ill(Health::Limited, NAME, found, mend),
        MEMORY_ENOUGH.. => good(NAME, found),
    }
}

/// What a node's socket gets, by asking for it.
fn socket_buffer(root: &Path) -> Check {
    const NAME: &str = "socket buffer";
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let got = match UdpSocket::bind(any, SOCKET_BUFFER) {
        // The kernel doubles it for its own records, and says the double.
        Ok(socket) => socket.receive_buffer() / 2,
        Err(error) => {
            return ill(Health::Bad, NAME, error.to_string(), "allow UDP sockets on 127.0.0.1");
        }
    };
    let limit = number(&root.join("proc/sys/net/core/rmem_max"));
    socket_buffer_of(got as u64, limit)
}

fn socket_buffer_of(got: u64, limit: Option<u64>) -> Check {
    const NAME: &str = "socket buffer";
    let wanted = SOCKET_BUFFER as u64;
    let limit = limit.map_or_else(String::new, |limit| format!(" (net.core.rmem_max is {limit})"));
    let found = format!("{} of {}{limit}", bytes(got), bytes(wanted));
    if got >= wanted {
        return good(NAME, found);
    }
    ill(
        Health::Limited,
        NAME,
        found + ": bursts of pages wait for one another",
        format!("sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}"),
    )
}

/// The smallest MTU of the interfaces that are up.
fn mtu(root: &Path) -> Check {
    const NAME: &str = "MTU";
    let entries = std::fs::read_dir(root.join("sys/class/net")).into_iter().flatten().flatten();
    let mut interfaces: Vec<(usize, String)> = entries
        .filter_map(|entry| {
            // Loopback says "unknown": it is up.
            let state = std::fs::read_to_string(entry.path().join("operstate")).ok()?;
            let mtu = number(&entry.path().join("mtu"))? as usize;
            let name = entry.file_name().to_string_lossy().into_owned();
            (state.trim() != "down").then_some((mtu, name))
        })
        .collect();
    interfaces.sort();
    let Some((mtu, name)) = interfaces.first() else {
        return good(NAME, "unknown: /sys is hidden");
    };
    let found = format!("{mtu} on {name}");
    let mend =
        format!("ip link set dev {name} mtu {MTU_USUAL}, or keep to hosts that other interfaces reach");
    match *mtu {
        // Loopback and other interfaces may still do: programs on one host run.
        mtu if mtu < MTU_USUAL => ill(Health::Limited, NAME, found + &worth(mtu), mend),
        _ => good(NAME, found),
    }
}

/// What it means for hosts behind such an interface.
fn worth(mtu: usize) -> String {
    let least = MTU_BASE + HEADERS_LEN;
    if mtu < least {
        format!(": hosts behind it cannot be in a cluster, which needs {least}")
    } else {
        format!(": pages travel in more datagrams than over {MTU_USUAL}")
    }
}

/// The directories of this process's control group and of those around it, innermost first: version 2, or the
/// controller of version 1.
fn groups(root: &Path, controller: &str) -> Vec<PathBuf> {
    let top = root.join("sys/fs/cgroup");
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut dirs = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let base = match controllers {
            "" => top.clone(),
            names if names.split(',').any(|name| name == controller) => top.join(names),
            _ => continue,
        };
        let dir = base.join(path.trim_start_matches('/'));
        dirs.extend(dir.ancestors().take_while(|dir| dir.starts_with(&base)).map(Path::to_owned));
    }
    dirs
}

/// `None` where there is no such number: the file is missing, or says `max`.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    struct Root(State);

    impl Root {
        fn new() -> Root {
            Root(State::temporary().unwrap_or_else(|error| panic!("{error}")))
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a directory");
            std::fs::write(path, text).expect("a file");
        }

        fn path(&self) -> &Path {
            self.0.dir()
        }
    }

    #[test]
    fn the_control_groups_limits_count_where_they_are_tighter() {
        let root = Root::new();
        root.write("proc/meminfo", "MemTotal: 9 kB\nMemAvailable:    4194304 kB\n");
        assert_eq!(memory(root.path()), good("memory", "4.0 GiB free"));
        assert_eq!(cpu_quota(root.path(), 8), None);
        root.write("proc/self/cgroup", "0::/outer/inner\n");
        root.write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
        root.write("sys/fs/cgroup/outer/memory.max", "209715200\n");
        root.write("sys/fs/cgroup/outer/memory.current", "104857600\n");
        root.write("sys/fs/cgroup/outer/cpu.max", "150000 100000\n");
        let found = memory(root.path());
        assert_eq!(
            (found.health, found.found.as_str()),
            (Health::Limited, "100.0 MiB free, by its control group's limit")
        );
        assert!(found.mend.is_some_and(|mend| mend.contains("memory.max")));
        let found = cpu_quota(root.path(), 8).expect("a quota");
        assert!(found.health == Health::Limited && found.found.starts_with("1.5 of 8 cores"), "{found:?}");
        root.write("sys/fs/cgroup/outer/memory.current", "209715200\n");
        assert_eq!(memory(root.path()).health, Health::Bad);
        root.write("sys/fs/cgroup/outer/memory.stat", "anon 1\ninactive_file 209715200\n");
        assert_eq!(memory(root.path()).health, Health::Limited);
        // Version 1.
        root.write("proc/self/cgroup", "4:cpu,cpuacct:/old\n3:memory:/old\n");
        root.write("sys/fs/cgroup/cpu,cpuacct/old/cpu.cfs_quota_us", "50000\n");
        root.write("sys/fs/cgroup/cpu,cpuacct/old/cpu.cfs_period_us", "100000\n");
        assert!(cpu_quota(root.path(), 8).expect("a quota").found.starts_with("0.5 of 8 cores"));
        assert_eq!(cpu_quota(root.path(), 8).map(|check| check.health), Some(Health::Limited));
    }

    #[test]
    fn a_small_mtu_or_buffer_is_slower_and_has_its_mend() {
        let root = Root::new();
        for (name, state, size) in
            [("lo", "unknown", "65536"), ("eth0", "up", "1500"), ("tun0", "down", "1280")]
        {
            root.write(&format!("sys/class/net/{name}/operstate"), &format!("{state}\n"));
            root.write(&format!("sys/class/net/{name}/mtu"), &format!("{size}\n"));
        }
        assert_eq!(mtu(root.path()), good("MTU", "1500 on eth0"));
        root.write("sys/class/net/tun0/operstate", "up\n");
        let found = mtu(root.path());
        assert!(
            found.health == Health::Limited && found.found.starts_with("1280 on tun0: pages travel"),
            "{found:?}"
        );
        root.write("sys/class/net/tun0/mtu", "1200\n");
        assert!(mtu(root.path()).found.contains("cannot be in a cluster, which needs 1228"));
        let found = socket_buffer_of(212_992, Some(212_992));
        assert_eq!(found.health, Health::Limited);
        assert!(found.mend.expect("a mend").contains("net.core.rmem_max=4194304"));
        assert_eq!(socket_buffer_of(4 << 20, None).health, Health::Ok);
        assert_eq!((cores(1).health, cores(2).health), (Health::Limited, Health::Ok));
    }
}
