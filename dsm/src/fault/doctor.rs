//! What of the fault machinery works on this machine, what does not, and how to mend it. Also the
//! errors of an arena that cannot be reserved, for they are the same questions asked too late.

use std::io;
use std::ops::Range;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};
use nix::sys::signal::SigSet;

use super::backend::{self, MEND_SIGNAL, MEND_THREAD};
use super::core_section::blocked_fault_signals;
use super::map::AppView;
use super::{probe, table};
use crate::config::fault::MAPPINGS_DEFAULT;
use crate::error::Error;
use crate::page::PAGE_SIZE;

/// One line of the doctor's report.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// The verdict.
    pub health: Health,
    /// What was found.
    pub found: String,
    /// What to do about it; none if it is as it should be.
    pub mend: Option<String>,
}

/// A verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub enum Health {
    /// As it should be.
    Ok,
    /// As it should be; something that few programs need would take more.
    Note,
    /// Works, but slower.
    Limited,
    /// Does not work.
    Bad,
}

/// Examines the machine for an arena of `len` bytes at `base`. Leaves nothing changed.
pub fn doctor(base: usize, len: usize) -> Vec<Check> {
    let cycle = probe::cycle();
    vec![
        kernel(),
        backend(&cycle),
        seccomp(&read("/proc/self/status"), &cycle),
        signal_mask(),
        thread_backend(),
        unprivileged(),
        mappings(),
        address_space(len),
        arena(base, len),
    ]
}

/// The oldest kernel with all system calls that a node cannot do without; `epoll_pwait2` is the youngest.
const KERNEL_MIN: (u32, u32) = (5, 11);

fn kernel() -> Check {
    kernel_of(read("/proc/sys/kernel/osrelease").trim())
}

fn kernel_of(release: &str) -> Check {
    const NAME: &str = "kernel";
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().ok());
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    match version {
        None => ok(NAME, format!("`{release}`: its version is not known")),
        Some(version) if version >= KERNEL_MIN => ok(NAME, format!("Linux {release}")),
        Some(_) => Check {
            name: NAME.to_owned(),
            health: Health::Bad,
            found: format!("Linux {release}"),
            mend: Some(format!("Linux {}.{} or newer, 6.4 for fast page faults", KERNEL_MIN.0, KERNEL_MIN.1)),
        },
    }
}

fn backend(cycle: &Result<(), String>) -> Check {
    const NAME: &str = "fault backend";
    match cycle {
        Ok(()) => ok(NAME, "signal: userfaultfd's whole cycle works".to_owned()),
        Err(why) => Check {
            name: NAME.to_owned(),
            health: Health::Limited,
            found: format!("mprotect, for userfaultfd does not work: {why}"),
            mend: Some(MEND_SIGNAL.to_owned()),
        },
    }
}

/// A container's filter is the usual reason for which a new kernel has no userfaultfd.
fn seccomp(status: &str, cycle: &Result<(), String>) -> Check {
    const NAME: &str = "seccomp";
    let mode = status.lines().find_map(|line| line.strip_prefix("Seccomp:")).unwrap_or("0").trim();
    match (mode, cycle) {
        ("0", _) => ok(NAME, "no filter".to_owned()),
        (_, Ok(())) => ok(NAME, "a filter, which lets userfaultfd through".to_owned()),
        (_, Err(_)) => Check {
            name: NAME.to_owned(),
            health: Health::Limited,
            found: "a filter, and userfaultfd does not work under it".to_owned(),
            mend: Some("a seccomp profile that allows userfaultfd (for a try: docker run --security-opt seccomp=unconfined)".to_owned()),
        },
    }
}

fn thread_backend() -> Check {
    const NAME: &str = "system calls on shared memory";
    match backend::probe_thread() {
        Ok(()) => ok(NAME, "possible with PAGEMESH_FAULT=thread".to_owned()),
        Err(why) => Check {
            name: NAME.to_owned(),
            health: Health::Note,
            found: format!("only through pagemesh::io, for PAGEMESH_FAULT=thread does not work: {why}"),
            mend: Some(MEND_THREAD.to_owned()),
        },
    }
}

fn unprivileged() -> Check {
    const NAME: &str = "vm.unprivileged_userfaultfd";
    match read_number("/proc/sys/vm/unprivileged_userfaultfd") {
        Some(value) => ok(NAME, format!("{value} (1 allows PAGEMESH_FAULT=thread to every user)")),
        None => ok(NAME, "not there: this kernel has no userfaultfd, or /proc is hidden".to_owned()),
    }
}

/// Programs inherit the mask of the process that starts them.
fn signal_mask() -> Check {
    const NAME: &str = "signal mask";
    let mask = SigSet::thread_get_mask().unwrap_or(SigSet::empty());
    match blocked_fault_signals(&mask) {
        None => ok(NAME, "the signals of page faults come through".to_owned()),
        Some(names) => Check {
            name: NAME.to_owned(),
            health: Health::Bad,
            found: format!("{names} blocked: a program started from here would end at its first page fault"),
            mend: Some(
                "unblock them in what started this command, or start programs by `pagemesh run`".to_owned(),
            ),
        },
    }
}

fn mappings() -> Check {
    const NAME: &str = "vm.max_map_count";
    let count = read_number("/proc/sys/vm/max_map_count").unwrap_or(MAPPINGS_DEFAULT as u64);
    if count >= MAPPINGS_DEFAULT as u64 {
        return ok(NAME, count.to_string());
    }
    Check {
        name: NAME.to_owned(),
        health: Health::Limited,
        found: format!("{count}: the mprotect backend will often remap"),
        mend: Some(format!("sysctl -w vm.max_map_count={MAPPINGS_DEFAULT}")),
    }
}

fn address_space(len: usize) -> Check {
    const NAME: &str = "address space limit (RLIMIT_AS)";
    match limit_below(len) {
        None => ok(NAME, "large enough".to_owned()),
        Some(limit) => Check {
            name: NAME.to_owned(),
            health: Health::Bad,
            found: format!("{limit} bytes; an arena of {len} bytes is mapped twice"),
            mend: Some("ulimit -v unlimited, or a smaller --arena-size".to_owned()),
        },
    }
}

fn arena(base: usize, len: usize) -> Check {
    const NAME: &str = "arena's addresses";
    match AppView::reserve(Some(base), len) {
        Ok(_view) => ok(NAME, format!("{len:#x} bytes at {base:#x} are free")),
        Err(errno) => Check {
            name: NAME.to_owned(),
            health: Health::Bad,
            found: reserve_error(Some(base), len, errno).to_string(),
            mend: Some("--arena-base or --arena-size, the same on every node".to_owned()),
        },
    }
}

/// Why the application's view could not be reserved.
pub(super) fn reserve_error(base: Option<usize>, len: usize, errno: Errno) -> Error {
    let at = base.map_or_else(String::new, |base| format!(" at {base:#x}"));
    let what = format!("cannot reserve {len:#x} bytes of addresses{at}");
    if errno == Errno::EEXIST && base.is_some_and(|base| table::overlaps(&(base..base.saturating_add(len)))) {
        return Error::Invalid(format!(
            "{what}: they are in use by the cluster that this process has joined before; call `leave` on its `Dsm` and \
             drop all its handles first, or join with `arena_anywhere` to be a member of both"
        ));
    }
    let in_the_way = base.filter(|_| errno == Errno::EEXIST).and_then(|base| {
        let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
        mapping_in(&maps, base..base.saturating_add(len)).map(str::to_owned)
    });
    match (in_the_way, limit_below(len)) {
        (Some(line), _) => Error::Invalid(format!(
            "{what}: this mapping is in the way: {line}; choose another --arena-base, the same on every node"
        )),
        (None, Some(limit)) if errno == Errno::ENOMEM => Error::Invalid(over_limit(&what, limit)),
        _ if errno == Errno::EINVAL && base.is_some_and(|base| !base.is_multiple_of(PAGE_SIZE)) => {
            Error::Invalid(format!("{what}: an --arena-base is a multiple of {PAGE_SIZE}"))
        }
        _ => Error::os(what, errno),
    }
}

/// Why the file or the runtime's view could not be made.
pub(super) fn store_error(len: usize, error: io::Error) -> Error {
    let what = format!("cannot map the runtime's view of {len:#x} bytes");
    match limit_below(len) {
        Some(limit) if error.raw_os_error() == Some(libc::ENOMEM) => Error::Invalid(over_limit(&what, limit)),
        _ => Error::os(what, error),
    }
}

fn over_limit(what: &str, limit: u64) -> String {
    format!(
        "{what}: the address space limit RLIMIT_AS is {limit} bytes and an arena is mapped twice; \
         raise it (ulimit -v unlimited) or choose a smaller --arena-size"
    )
}

/// The limit, if it is too low for two views of `len` bytes.
fn limit_below(len: usize) -> Option<u64> {
    let (limit, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
    (limit != RLIM_INFINITY && limit < 2 * len as u64).then_some(limit)
}

/// The first line of /proc/self/maps that overlaps `range`.
fn mapping_in(maps: &str, range: Range<usize>) -> Option<&str> {
    maps.lines().find(|line| {
        let ends = line.split_once(' ').and_then(|(addresses, _)| addresses.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16).ok();
        let ends = ends.and_then(|(start, end)| Some(number(start)?..number(end)?));
        ends.is_some_and(|mapping| mapping.start < range.end && range.start < mapping.end)
    })
}

fn read_number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn ok(name: &str, found: String) -> Check {
    Check { name: name.to_owned(), health: Health::Ok, found, mend: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_and_a_filter_are_found_each_with_its_mend() {
        for (release, health) in [
            ("6.8.0-31-generic", Health::Ok),
            ("5.11", Health::Ok),
            ("5.10.217-rt", Health::Bad),
            ("4.18.0-553.el8", Health::Bad),
            ("", Health::Ok),
        ] {
            let check = kernel_of(release);
            assert_eq!((check.health, check.mend.is_some()), (health, health == Health::Bad), "{check:?}");
        }
        let refused = Err("userfaultfd: EPERM".to_owned());
        assert_eq!(seccomp("Seccomp:\t2\n", &refused).health, Health::Limited);
        assert_eq!(seccomp("Seccomp:\t2\n", &Ok(())).health, Health::Ok);
        assert_eq!(seccomp("Seccomp:\t0\n", &refused).health, Health::Ok);
    }
}
