//! A program that is killed takes nothing of other programs along. Two regions lie back to back: one program keeps
//! data in its own and checks them after each death, another one is killed in the middle of a run of stores into
//! the pages that lie beside them.

mod roles;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Bed, Going, Pipe};
use roles::PAGES;

const ROLE: &str = "BYSTANDERS_ROLE";
/// Bytes of a region.
const LEN: usize = PAGES * 4096;
const SIGNALS: [Signal; 3] = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT];
/// Signals, targets and orders of the regions; the long run is 100 deaths.
const COMBINATIONS: usize = 3 * 2 * 2;

/// One death.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Target {
    Rank,
    Run,
}

#[test]
fn the_program_plays_its_role() {
    if let Ok(role) = std::env::var(ROLE) {
        roles::play(&role);
    }
}

/// A script that is this test program in a role: the environment reaches all ranks, words on a command line would
/// be options of the test harness.
fn script(bed: &Bed, name: &str, role: &str) -> String {
    let this = std::env::current_exe().expect("this program");
    let test = "bystanders::the_program_plays_its_role --exact --nocapture --test-threads=1";
    bed.file(name, &format!("{ROLE}='{role}' exec {} {test}\n", this.display()))
}

/// The keeper and its two pipes.
struct Keeper {
    going: Going,
    orders: Pipe,
    answers: Pipe,
    address: usize,
}

impl Keeper {
    fn start(bed: &Bed) -> Keeper {
        let (orders, answers) = (bed.pipe("orders"), bed.pipe("answers"));
        let role = format!("keeper kept {} {}", orders.path(), answers.path());
        let going = bed.start("pagemesh", &format!("run --ranks 1 sh {}", script(bed, "keeper.sh", &role)));
        let address = answers.hear("the keeper has written").parse().expect("an address");
        Keeper { going, orders, answers, address }
    }

    /// Fails if a page of the keeper's is not as it wrote it. A page that is lost ends its process, and the test
    /// hears of that.
    fn check(&self, what: &str) {
        self.orders.say("check");
        assert_eq!(self.answers.hear(what), "0 wrong", "{what}");
    }
}

/// The names of the regions of the cluster.
fn regions(bed: &Bed) -> BTreeSet<String> {
    let listed: serde_json::Value =
        serde_json::from_str(&bed.pagemesh("regions ls --json").ok().out).expect("JSON");
    let name = |region: &serde_json::Value| region["name"].as_str().expect("a name").to_owned();
    listed.as_array().expect("a list").iter().map(name).collect()
}

/// Makes the place of a region free again.
fn remove(bed: &Bed, name: &str) {
    bed.pagemesh(&format!("regions rm {name}")).ok();
    // It goes when the cluster has seen that its last user has died. Each question waits for its answer.
    let give_up = Instant::now() + Duration::from_secs(60);
    while regions(bed).contains(name) {
        assert!(Instant::now() < give_up, "region {name} stays");
    }
}

/// Starts a program that stores next to the keeper's region, and kills it in the middle of that.
fn one_death(bed: &Bed, keeper: &Keeper, direction: &str, signal: Signal, target: Target) {
    let word = bed.pipe("word");
    let what = format!("{signal} to {target:?}, stores {direction}");
    let role = format!("neighbour beside {direction} {}", word.path());
    let going = bed.start("pagemesh", &format!("run --ranks 2 sh {}", script(bed, "neighbour.sh", &role)));
    let told = word.hear("the neighbour stores");
    let (process, address) = told.split_once(' ').expect("two words");
    let address: usize = address.parse().expect("an address");
    let beside =
        if direction == "up" { address + LEN == keeper.address } else { keeper.address + LEN == address };
    assert!(beside, "{what}: a region at {address:#x}, the keeper's at {:#x}", keeper.address);
    match target {
        Target::Rank => kill(Pid::from_raw(process.parse().expect("a process")), signal).expect("it runs"),
        Target::Run => going.signal(signal),
    }
    assert_ne!(going.wait().code, 0, "{what}");
    keeper.check(&what);
    remove(bed, "beside");
    word.remove();
}

/// All combinations in turn. The order of the regions is the outer loop: the place before the keeper's region is
/// kept by another one while the place behind it is used.
#[test]
fn a_killed_program_takes_no_page_of_its_neighbour_along() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 2").ok();
    let made = bed.pipe("made");
    let make = script(&bed, "maker.sh", &format!("maker before {}", made.path()));
    let maker = bed.start("pagemesh", &format!("run --ranks 1 sh {make}"));
    let before: usize = made.hear("a region is made").parse().expect("an address");
    maker.wait().ok();
    let keeper = Keeper::start(&bed);
    assert_eq!(before + LEN, keeper.address, "the regions lie back to back");
    let deaths = if system_tests::long() { 100 } else { COMBINATIONS };
    let each = |direction: &str, deaths: usize| {
        for death in 0..deaths {
            let target = if death % 2 == 0 { Target::Rank } else { Target::Run };
            one_death(&bed, &keeper, direction, SIGNALS[death % 3], target);
        }
    };
    each("down", deaths / 2);
    remove(&bed, "before");
    each("up", deaths - deaths / 2);
    keeper.orders.say("leave");
    keeper.going.wait().ok();
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}
