//! How much memory a node may take for pages if no setting says: its share of half of what the machine has free, or
//! the control group that the process is in, if that is less. The other half is for what the programs keep
//! elsewhere.

use std::path::{Path, PathBuf};

use super::MEMORY_MIN;
use crate::config::net::SOCKET_BUFFER;
use crate::config::node::PAGE_POOL_MAX;
use crate::page::PAGE_SIZE;

/// Bytes that a node keeps beside each page: its entries in the tables of access, coherence and directory.
const TABLES_PER_PAGE: u64 = 64;
/// Bytes that a node takes whether it holds pages or not: its socket's buffers and its pool of page buffers.
const QUEUES: u64 = 2 * SOCKET_BUFFER as u64 + (PAGE_POOL_MAX * PAGE_SIZE) as u64;

/// The limit, in bytes of pages, of one of `nodes` nodes that are started on this host together.
pub(super) fn default_max(nodes: u32) -> u64 {
    let free = free(Path::new("/proc"), Path::new("/sys/fs/cgroup")).unwrap_or(2 << 30);
    share(free, nodes)
}

fn share(free: u64, nodes: u32) -> u64 {
    let own = (free / 2 / u64::from(nodes.max(1))).saturating_sub(QUEUES);
    let page = PAGE_SIZE as u64;
    (own / (page + TABLES_PER_PAGE) * page).max(MEMORY_MIN)
}

/// Memory of this host in bytes, used or not; `None` where the system does not say.
pub fn host_memory() -> Option<u64> {
    keyed(Path::new("/proc/meminfo"), "MemTotal:").map(|kib| kib * 1024)
}

fn free(proc: &Path, groups: &Path) -> Option<u64> {
    let machine = keyed(&proc.join("meminfo"), "MemAvailable:").map(|kib| kib * 1024);
    let group = group_of(&proc.join("self/cgroup"), groups).and_then(|dir| free_in_group(&dir, groups));
    [machine, group].into_iter().flatten().min()
}

/// The directory of this process's control group: version 2, or the memory controller of version 1.
fn group_of(file: &Path, groups: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(file).ok()?;
    let path_after = |mark: &str| text.lines().find_map(|line| line.split_once(mark)).map(|(_, path)| path);
    let v1 = path_after(":memory:/").map(|path| groups.join("memory").join(path));
    v1.or_else(|| path_after("0::/").map(|path| groups.join(path)))
}

/// The least that the group and those around it leave. Pages of files that were not used for long are
/// free: the kernel gives them up first.
fn free_in_group(dir: &Path, groups: &Path) -> Option<u64> {
    let inside = dir.ancestors().take_while(|dir| dir.starts_with(groups));
    let left = inside.filter_map(|dir| {
        let v2 = number(&dir.join("memory.max")).zip(number(&dir.join("memory.current")));
        let v1 =
            || number(&dir.join("memory.limit_in_bytes")).zip(number(&dir.join("memory.usage_in_bytes")));
        let (limit, used) = v2.or_else(v1)?;
        let idle = keyed(&dir.join("memory.stat"), "inactive_file ").unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(idle)))
    });
    left.min()
}

/// `None` where there is no limit: the file is missing, or says `max`.
fn number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn keyed(path: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a file in a directory")).expect("a directory");
        std::fs::write(path, text).expect("a file");
    }

    #[test]
    fn the_default_limits_of_all_nodes_of_a_host_fit_half_of_it_with_tables_and_queues() {
        let free = 24 << 30;
        for nodes in 1..=64 {
            let pages = share(free, nodes) / PAGE_SIZE as u64;
            let takes = pages * (PAGE_SIZE as u64 + TABLES_PER_PAGE) + QUEUES;
            assert!(u64::from(nodes) * takes <= free / 2, "{nodes} nodes");
            assert!(u64::from(nodes) * takes > free / 2 - (1 << 20), "{nodes} nodes leave memory unused");
        }
        // A node that could hold nothing could not start.
        assert_eq!(share(1 << 20, 8), MEMORY_MIN);
    }

    #[test]
    fn the_tightest_of_machine_and_groups_counts() {
        let root = std::env::temp_dir().join(format!("pagemesh-memory-{}", std::process::id()));
        let (proc, groups) = (root.join("proc"), root.join("groups"));
        assert_eq!(free(&proc, &groups), None);
        write(&root, "proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n");
        assert_eq!(free(&proc, &groups), Some(4_096_000));
        write(&root, "proc/self/cgroup", "0::/outer/inner\n");
        write(&root, "groups/outer/inner/memory.max", "max\n");
        write(&root, "groups/outer/inner/memory.current", "77\n");
        assert_eq!(free(&proc, &groups), Some(4_096_000));
        write(&root, "groups/outer/memory.max", "3000\n");
        write(&root, "groups/outer/memory.current", "2500\n");
        write(&root, "groups/outer/memory.stat", "anon 2000\ninactive_file 400\n");
        assert_eq!(free(&proc, &groups), Some(900));
        write(&root, "proc/self/cgroup", "5:cpu:/x\n4:memory:/old\n0::/\n");
        write(&root, "groups/memory/old/memory.limit_in_bytes", "1000\n");
        write(&root, "groups/memory/old/memory.usage_in_bytes", "400\n");
        assert_eq!(free(&proc, &groups), Some(600));
        std::fs::remove_dir_all(root).expect("the test's own directory");
    }
}
