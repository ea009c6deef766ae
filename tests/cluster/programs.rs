//! The example programs give the right result on whatever cluster, user, fault backend and network.

use nix::unistd::Uid;

use crate::bed::Bed;

/// Every program with arguments that end soon; all verify what they did.
const PROGRAMS: [&str; 9] = [
    "matmul --n 61 --verify --no-baseline",
    "counter --increments 50",
    "histogram --items 3000",
    "workqueue --tasks 50",
    "stencil --n 3000 --steps 5",
    "list --items 200",
    "jacobi --n 50 --iterations 6 --verify",
    "calculator --calls 50",
    "wordcount --words 3000 --part 2000",
];

/// A network that loses, doubles, delays and spoils datagrams.
const BAD_NETWORK: [(&str, &str); 5] = [
    ("PAGEMESH_NET_LOSS", "5%"),
    ("PAGEMESH_NET_DUP", "5%"),
    ("PAGEMESH_NET_REORDER", "5%"),
    ("PAGEMESH_NET_CORRUPT", "1%"),
    ("PAGEMESH_NET_SEED", "7"),
];

fn verified(bed: &Bed, line: &str) {
    bed.pagemesh(line).ok().says(&["verified", "yes"]);
    bed.assert_nothing_left();
}

#[test]
fn a_product_is_right_on_any_number_of_nodes() {
    let bed = Bed::new();
    for nodes in [1, 2, 3, 4, 8] {
        verified(&bed, &format!("run --nodes {nodes} matmul --n 67 --verify"));
    }
}

#[test]
fn ranks_may_be_more_or_fewer_than_daemons() {
    let bed = Bed::new();
    for (nodes, ranks) in [(2, 5), (4, 1), (3, 2)] {
        for program in PROGRAMS {
            verified(&bed, &format!("run --nodes {nodes} --ranks {ranks} {program}"));
        }
    }
}

#[test]
fn programs_need_no_daemons() {
    let bed = Bed::new();
    for ranks in [1, 2, 3] {
        for program in PROGRAMS {
            verified(&bed, &format!("run --no-daemons --ranks {ranks} {program}"));
        }
    }
}

#[test]
fn a_program_alone_is_a_cluster_of_one() {
    let bed = Bed::new();
    for line in PROGRAMS {
        let (program, arguments) = line.split_once(' ').expect("arguments");
        bed.start(program, arguments).wait().ok().says(&["verified", "yes"]);
    }
}

#[test]
fn matrices_may_be_smaller_than_the_number_of_ranks() {
    let bed = Bed::new();
    for n in [1, 2, 3] {
        verified(&bed, &format!("run --nodes 1 --ranks 4 matmul --n {n} --verify"));
        verified(&bed, &format!("run --nodes 1 --ranks 4 jacobi --n {n} --verify --iterations 3"));
    }
}

#[test]
fn a_running_cluster_runs_one_program_after_the_other() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 2").ok();
    for program in PROGRAMS.iter().chain(&PROGRAMS) {
        bed.pagemesh(&format!("run {program}")).ok().says(&["verified", "yes"]);
    }
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}

#[test]
fn programs_are_right_over_a_bad_network() {
    let bed = BAD_NETWORK.iter().fold(Bed::new(), |bed, (name, value)| bed.set(name, value));
    for program in PROGRAMS {
        verified(&bed, &format!("run --nodes 2 --ranks 2 {program}"));
    }
}

#[test]
fn small_socket_buffers_only_slow_down() {
    let bed = Bed::new().set("PAGEMESH_SOCKET_BUFFER", "212992");
    verified(&bed, "run --nodes 2 matmul --n 200 --verify");
}

#[test]
fn programs_are_right_with_mprotect() {
    let bed = Bed::new().set("PAGEMESH_FAULT", "mprotect");
    for program in PROGRAMS {
        verified(&bed, &format!("run --nodes 2 {program}"));
    }
}

#[test]
fn programs_are_right_with_a_handler_thread() {
    if !Uid::effective().is_root() {
        eprintln!("SKIPPED: PAGEMESH_FAULT=thread needs root");
        return;
    }
    let bed = Bed::new().set("PAGEMESH_FAULT", "thread");
    for program in PROGRAMS {
        verified(&bed, &format!("run --nodes 2 {program}"));
    }
}

#[test]
fn a_user_without_privileges_can_run_everything() {
    let bed = Bed::unprivileged();
    verified(&bed, "run --nodes 4 matmul --n 64 --verify");
    bed.pagemesh("up --nodes 2").ok();
    bed.pagemesh("run matmul --n 64 --verify").ok().says(&["verified", "yes"]);
    bed.pagemesh("down").ok();
    let bed = bed.set("PAGEMESH_FAULT", "mprotect");
    verified(&bed, "run --nodes 2 matmul --n 64 --verify");
}
