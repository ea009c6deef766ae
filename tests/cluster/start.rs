//! Starting and stopping: what a run hands to its ranks and takes from them, clusters that stay, other
//! hosts, and what is left when something was there before.

use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::Bed;

#[test]
fn ranks_get_directory_environment_and_tags() {
    let bed = Bed::new().set("COLOUR", "red");
    let program =
        bed.file("tell.sh", "echo $PAGEMESH_RANK of $PAGEMESH_RANKS, $COLOUR, $PWD; echo trouble >&2\n");
    let done = bed.pagemesh(&format!("run --no-daemons --ranks 3 sh {program}")).ok();
    let mut lines: Vec<&str> = done.out.lines().collect();
    lines.sort_unstable();
    let expected: Vec<String> =
        (0..3).map(|rank| format!("[{rank}] {rank} of 3, red, {}", bed.dir().display())).collect();
    assert_eq!(lines, expected);
    assert_eq!(done.err.matches("] trouble").count(), 3);
    let done = bed.pagemesh(&format!("run --no-daemons --ranks 2 --no-tag sh {program}")).ok();
    assert!(done.out.contains("0 of 2, red") && !done.out.contains('['), "{done:#?}");
    let done = bed.pagemesh(&format!("run --no-daemons --ranks 1 sh {program}")).ok();
    assert!(done.out.starts_with("0 of 1, red"), "one rank needs no tag: {done:#?}");
}

#[test]
fn the_exit_code_is_the_worst_ranks() {
    let bed = Bed::new();
    let program = bed.file("end.sh", "exit $PAGEMESH_RANK\n");
    assert_eq!(bed.pagemesh(&format!("run --no-daemons --ranks 4 sh {program}")).code, 3);
    let program = bed.file("die.sh", "kill -TERM $$\n");
    let done = bed.pagemesh(&format!("run --no-daemons --ranks 1 sh {program}"));
    assert_eq!(done.code, 143);
    done.says(&["rank 0 was killed by SIGTERM"]);
}

#[test]
fn what_a_rank_leaves_in_its_group_is_ended() {
    let bed = Bed::new();
    let program = bed.file("leave.sh", "cat /dev/zero > /dev/null &\necho started\n");
    bed.pagemesh(&format!("run --no-daemons --ranks 2 sh {program}")).ok();
    bed.assert_nothing_left();
}

#[test]
fn a_cluster_goes_up_and_down() {
    let bed = Bed::new();
    let up = bed.pagemesh("up --nodes 2 --json").ok();
    let cluster: serde_json::Value = serde_json::from_str(&up.out).expect("JSON");
    assert_eq!(cluster["nodes"].as_array().map(Vec::len), Some(2));
    bed.pagemesh("status").ok().says(&["daemon", "127.0.0.1:"]);
    bed.pagemesh("logs 1").ok().says(&["node 1:", "member of the cluster"]);
    bed.pagemesh("up --nodes 2").refused(&["a cluster of 2 nodes is up already"]);
    bed.pagemesh("run --nodes 3 matmul --n 4").refused(&["the running cluster has 2 nodes, not 3"]);
    bed.pagemesh("run --private --nodes 3 matmul --n 4").ok();
    let down = bed.pagemesh("down").ok().says(&["stopped 2 nodes"]);
    assert_eq!(down.err, "", "the coordinator answers whoever stops it before it goes");
    bed.assert_nothing_left();
    bed.pagemesh("down").ok().says(&["no cluster is running here"]);
}

#[test]
fn a_run_does_not_replace_a_cluster_that_has_died() {
    let bed = Bed::new();
    bed.pagemesh("up --nodes 1").ok();
    for pid in bed.processes() {
        kill(Pid::from_raw(pid), Signal::SIGKILL).expect("it runs");
    }
    bed.status_refused();
    let line = "matmul --n 4 --verify";
    let refused = bed.pagemesh(&format!("run {line}"));
    refused.refused(&["the cluster that was here has ended", "pagemesh up", "--private"]);
    bed.pagemesh(&format!("run --private --nodes 1 {line}")).ok();
    bed.pagemesh("up --nodes 1").ok().says(&["the cluster that was here has ended"]);
    bed.pagemesh(&format!("run {line}")).ok();
    bed.pagemesh("down").ok().says(&["stopped 1 node"]);
    bed.assert_nothing_left();
}

#[test]
fn a_dry_run_prints_the_commands_and_starts_nothing() {
    let bed = Bed::new();
    let hosts = bed.file("hosts", "127.0.0.2 slots=2\n127.0.0.3 # the other\n");
    let done = bed.pagemesh(&format!("run --hosts {hosts} --dry-run matmul --n 8")).ok();
    let lines: Vec<&str> = done.out.lines().collect();
    // A key for each host, three daemons, three ranks.
    assert_eq!(lines.len(), 2 + 3 + 3, "{done:#?}");
    assert!(lines.iter().all(|line| line.starts_with("ssh -T -o BatchMode=yes 127.0.0.")), "{done:#?}");
    assert!(lines[4].contains("127.0.0.3") && lines[4].contains("--index 2"), "{done:#?}");
    assert!(lines[7].contains("PAGEMESH_RANK=2") && lines[7].contains("matmul --n 8"), "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn the_nodes_of_a_host_are_told_how_many_share_its_memory() {
    let bed = Bed::new();
    let told = |line: &str| {
        let done = bed.pagemesh(line).ok();
        let counts = done.out.lines().map(|line| {
            let (_, rest) = line.split_once("PAGEMESH_HOST_NODES=").expect("every node is told");
            rest.split_whitespace().next().expect("a number").to_owned()
        });
        counts.collect::<Vec<_>>()
    };
    assert_eq!(told("up --nodes 3 --dry-run"), ["3", "3", "3"]);
    // Two daemons, then three ranks beside them.
    assert_eq!(told("run --private --nodes 2 --ranks 3 --dry-run matmul --n 8"), ["2", "2", "5", "5", "5"]);
    assert_eq!(told("run --no-daemons --ranks 3 --dry-run matmul --n 8"), ["3", "3", "3"]);
    let done = bed.pagemesh("run --private --nodes 2 --ranks 3 --memory-max 1T --dry-run matmul --n 8").ok();
    assert!(done.err.contains("1048576 MiB for 5 nodes of this host is 5242880 MiB"), "{done:#?}");
    assert_eq!(done.err.lines().count(), 1, "{done:#?}");
    bed.pagemesh("run --private --nodes 1 --memory-max 64M --dry-run matmul --n 8").ok().says(&[]);
}

#[test]
fn a_node_that_is_told_of_others_on_its_host_takes_a_share_of_the_memory() {
    let limit = |nodes: &str| {
        let bed = Bed::new().set("PAGEMESH_HOST_NODES", nodes);
        let done = bed.start_path(env!("CARGO_BIN_EXE_subject"), "limit").wait().ok();
        done.out.trim().parse::<u64>().expect("a number of bytes")
    };
    let (alone, of_eight) = (limit("1"), limit("8"));
    // Other programs take and give memory between the two.
    assert!(of_eight < alone / 4, "{of_eight} of {alone}");
    let bed = Bed::new().set("PAGEMESH_HOST_NODES", "many");
    bed.start_path(env!("CARGO_BIN_EXE_subject"), "limit").wait().refused(&["PAGEMESH_HOST_NODES", "many"]);
}

#[test]
fn a_dry_run_without_daemons_starts_no_rank_either() {
    let bed = Bed::new();
    let program = bed.file("touch.sh", &format!("echo started > {}/started\n", bed.dir().display()));
    let done = bed.pagemesh(&format!("run --no-daemons --ranks 3 --dry-run sh {program}")).ok();
    let lines: Vec<&str> = done.out.lines().collect();
    assert_eq!(lines.len(), 3, "{done:#?}");
    assert!(lines[0].contains("PAGEMESH_BIND=127.0.0.1:0"), "{done:#?}");
    assert!(lines[1..].iter().all(|line| line.contains("PAGEMESH_JOIN=ADDRESS_OF_NODE_0")), "{done:#?}");
    assert!(!bed.dir().join("started").exists());
    bed.assert_nothing_left();
}

/// Other hosts without other hosts: addresses of the loopback network, and an `ssh` that runs the command
/// here, as sshd would, through a shell.
fn with_hosts() -> (Bed, String) {
    let bed = Bed::new();
    let ssh = bed.file("ssh", "#!/bin/sh\nfor last; do :; done\nexec sh -c \"$last\"\n");
    std::fs::set_permissions(&ssh, PermissionsExt::from_mode(0o755)).expect("executable");
    let hosts = bed.file("hosts", "127.0.0.2\n127.0.0.3\n");
    let path = format!("{}:{}", bed.dir().display(), std::env::var("PATH").unwrap_or_default());
    (bed.set("PATH", &path), hosts)
}

#[test]
fn a_program_runs_on_other_hosts() {
    let (bed, hosts) = with_hosts();
    bed.pagemesh(&format!("run --hosts {hosts} --ranks 3 matmul --n 40 --verify")).ok().says(&["verified"]);
    bed.assert_nothing_left();
}

/// Another user of a host can foresee the path of the state directory there, and put something at it first.
#[test]
fn a_directory_that_was_prepared_on_another_host_gets_no_key() {
    let (bed, hosts) = with_hosts();
    let (state, aside, trap) = (bed.state(), bed.dir().join("aside"), bed.dir().join("trap"));
    let mut plants = vec![
        ("mkdir -m 777 $state", "other users can enter it (mode 777)"),
        ("ln -s $trap $state", "a symbolic link"),
        ("mkdir -m 700 $state; mkdir -m 755 $state/logs", "other users can enter it (mode 755)"),
        ("mkdir -m 700 $state; ln -s $trap $state/logs", "a symbolic link"),
    ];
    if nix::unistd::Uid::effective().is_root() {
        plants.push(("mkdir -m 700 $state; chown 65534 $state", "belongs to user 65534"));
    } else {
        eprintln!("SKIPPED: only root can make a directory of another user");
    }
    for (plant, why) in plants {
        // The host's directory is this one's: the script lends it the path until the key has come.
        let script = format!(
            "#!/bin/sh\nfor last; do :; done\nstate={} aside={} trap={}\n\
             case \"$last\" in *prepare-host*|*'cat > '*) ;; *) exec sh -c \"$last\";; esac\n\
             mkdir -m 700 $trap\nmv $state $aside\n{plant}\nsh -c \"$last\"\ncode=$?\n\
             find $state $trap -name 'key*' -size +0 | grep . && echo GIVEN AWAY >&2\n\
             rm -rf $state $trap\nmv $aside $state\nexit $code\n",
            state.display(),
            aside.display(),
            trap.display(),
        );
        bed.file("ssh", &script);
        let done = bed.pagemesh(&format!("up --hosts {hosts}"));
        assert_eq!(done.code, 2, "{plant}: {done:#?}");
        assert!(done.err.contains(why) && !done.err.contains("GIVEN AWAY"), "{plant}: {done:#?}");
        bed.assert_nothing_left();
    }
}

/// A log is appended to as the user who starts the cluster: not through a link, and not to another file.
#[test]
fn a_log_is_not_appended_through_a_link() {
    let bed = Bed::new();
    let private = bed.file("private", "mine\n");
    let link = bed.dir().join("node-0.log");
    std::os::unix::fs::symlink(&private, &link).expect("a link");
    let done = bed.pagemesh(&format!("exec-child --stderr {} -- ls no-such-file", link.display()));
    assert_eq!(done.code, 2, "{done:#?}");
    assert!(done.err.contains("symbolic link"), "{done:#?}");
    assert_eq!(std::fs::read_to_string(&private).expect("a file"), "mine\n");
}

/// The key must not stay where it was put, whatever becomes of the start.
#[test]
fn a_start_that_fails_takes_its_key_back_from_other_hosts() {
    let (bed, hosts) = with_hosts();
    let log = bed.file("lines", "");
    let script = format!(
        "#!/bin/sh\nfor last; do :; done\nprintf '%s\\n' \"$last\" >> {log}\n\
         case \"$last\" in *'--index 1 '*) exit 1;; esac\nexec sh -c \"$last\"\n"
    );
    bed.file("ssh", &script);
    let removals = || {
        let text = std::fs::read_to_string(&log).expect("the log of ssh");
        text.lines().filter(|line| line.starts_with("rm -rf -- ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let done = bed.pagemesh(&format!("run --hosts {hosts} --ranks 1 matmul --n 4"));
    assert_eq!(done.code, 2, "{done:#?}");
    let removed = removals();
    assert!(removed.len() == 2 && removed.iter().all(|line| line.contains("-run-")), "{removed:#?}");
    let done = bed.pagemesh(&format!("up --hosts {hosts}"));
    assert_eq!(done.code, 2, "{done:#?}");
    let removed = removals();
    assert!(removed.len() == 4 && removed[2..].iter().all(|line| line.ends_with("/key")), "{removed:#?}");
    bed.assert_nothing_left();
}

/// Of a host that answers, but is slow to.
#[test]
fn a_start_can_be_interrupted_while_another_host_is_waited_for() {
    let (bed, hosts) = with_hosts();
    let begun = bed.pipe("begun");
    bed.file("ssh", &format!("#!/bin/sh\nfor last; do :; done\ncase \"$last\" in *prepare-host*) echo begun > {}; exec sleep 1000;; esac\n", begun.path()));
    let going = bed.start("pagemesh", &format!("up --hosts {hosts}"));
    assert_eq!(begun.hear("the key is on its way").trim(), "begun");
    going.signal(Signal::SIGINT);
    let done = going.wait();
    assert_eq!(done.code, 130, "{done:#?}");
    bed.assert_nothing_left();
}

#[test]
fn daemons_that_cannot_be_recorded_do_not_stay() {
    let (bed, hosts) = with_hosts();
    for line in ["up --nodes 2".to_owned(), format!("up --hosts {hosts}")] {
        // A directory where the record must go.
        let record = bed.state().join("cluster.json");
        std::fs::create_dir_all(record.join("in-the-way")).expect("made");
        let done = bed.pagemesh(&line);
        assert_ne!(done.code, 0, "{done:#?}");
        std::fs::remove_dir_all(&record).expect("removed");
        bed.assert_nothing_left();
    }
}

#[test]
fn a_cluster_on_other_hosts_goes_up_and_down() {
    let (bed, hosts) = with_hosts();
    bed.pagemesh(&format!("up --hosts {hosts}")).ok().says(&["127.0.0.3"]);
    bed.pagemesh("run region write data").ok();
    bed.pagemesh("run region check data").ok();
    bed.pagemesh("logs 0").ok().says(&["member of the cluster"]);
    bed.pagemesh("down").ok();
    bed.status_refused();
}

impl Bed {
    fn status_refused(&self) {
        let done = self.pagemesh("status");
        assert_eq!(done.code, 2, "{done:#?}");
    }
}

#[test]
fn a_daemon_does_not_join_without_the_clusters_key() {
    let bed = Bed::new();
    let done = bed.pagemesh("daemon --index 1 --join 127.0.0.1:7400");
    done.refused(&["127.0.0.1:7400", "PAGEMESH_KEY_FILE", "--key-file"]);
    bed.assert_nothing_left();
}
