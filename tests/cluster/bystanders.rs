//! A program that is killed takes nothing of other programs along. Regions lie back to back: one program keeps data
//! in every second one and checks them after each death, another program is killed in the middle of a run of
//! stores into the pages that lie beside them.

mod roles;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bed::{Bed, Done, Going, Pipe};
use roles::PAGES;

const ROLE: &str = "BYSTANDERS_ROLE";
/// Bytes of a region.
const LEN: usize = PAGES * 4096;
const SIGNALS: [Signal; 3] = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT];
/// Signals, targets and orders of the regions; the long run is 200 deaths.
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

/// The program that keeps data, and its two pipes.
struct Keeper {
    going: Going,
    orders: Pipe,
    answers: Pipe,
}

impl Keeper {
    fn start(bed: &Bed, deaths: usize) -> Keeper {
        let (orders, answers) = (bed.pipe("orders"), bed.pipe("answers"));
        let role = format!("keeper {deaths} {} {}", orders.path(), answers.path());
        let going = bed.start("pagemesh", &format!("run --ranks 1 sh {}", script(bed, "keeper.sh", &role)));
        assert_eq!(answers.hear("the keeper has written"), "written");
        Keeper { going, orders, answers }
    }

    /// Fails if a page of the keeper's is not as it wrote it. A page that is lost ends its process, and the test
    /// hears of that.
    fn check(&self, what: &str) {
        self.orders.say("check");
        assert_eq!(self.answers.hear(what), "0 wrong", "{what}");
    }
}

/// Makes the regions of the test: the keeper's, and between each two of them one in which a neighbour dies. The
/// addresses in that order.
fn make_regions(bed: &Bed, deaths: usize) -> Vec<usize> {
    let made = bed.pipe("made");
    let script = script(bed, "maker.sh", &format!("maker {deaths} {}", made.path()));
    let maker = bed.start("pagemesh", &format!("run --ranks 1 sh {script}"));
    let told = made.hear("the regions are made");
    maker.wait().ok();
    told.split(' ').map(|address| address.parse().expect("an address")).collect()
}

/// Starts a program that stores next to one of the keeper's regions, and kills it in the middle of that.
fn one_death(bed: &Bed, keeper: &Keeper, death: usize, address: usize) {
    let direction = if (death / 6).is_multiple_of(2) { "down" } else { "up" };
    let target = if death.is_multiple_of(2) { Target::Rank } else { Target::Run };
    let signal = SIGNALS[death % 3];
    let what = format!("{signal} to {target:?}, stores {direction}");
    let word = bed.pipe("word");
    let role = format!("neighbour {death} {direction} {}", word.path());
    let going = bed.start("pagemesh", &format!("run --ranks 2 sh {}", script(bed, "neighbour.sh", &role)));
    let told = word.hear("the neighbour stores");
    let (process, found) = told.split_once(' ').expect("two words");
    assert_eq!(found.parse(), Ok(address), "{what}");
    match target {
        Target::Rank => kill(Pid::from_raw(process.parse().expect("a process")), signal).expect("it runs"),
        Target::Run => going.signal(signal),
    }
    let done = going.wait();
    assert_eq!(done.code, 128 + signal as i32, "{what}: {done:#?}");
    assert_lines(&done, target, signal, process);
    keeper.check(&what);
    word.remove();
}

/// Fails unless the lines of a run that was killed, or of which a rank was killed, name what was killed, and no other
/// process.
fn assert_lines(done: &Done, target: Target, signal: Signal, process: &str) {
    let of_command: Vec<&str> = done.err.lines().filter(|line| line.starts_with("pagemesh: ")).collect();
    let (first, others) =
        of_command.split_first().map_or((None, &[][..]), |(first, rest)| (Some(*first), rest));
    let expected = match (target, signal) {
        (Target::Rank, _) => Some(format!("pagemesh: rank 0 was killed by {signal}")),
        (Target::Run, Signal::SIGKILL) => None,
        (Target::Run, Signal::SIGINT) => Some("pagemesh: interrupted".to_owned()),
        (Target::Run, _) => Some(format!("pagemesh: interrupted by {signal}")),
    };
    assert_eq!(first, expected.as_deref(), "{done:#?}");
    // Rank 1 goes on until it needs the other one, or until the command ends it.
    let of_rank_1 =
        |line: &&str| line.contains("then rank 1 ") || line.contains("the other ranks do not end");
    assert!(others.iter().all(|line| target == Target::Rank && of_rank_1(line)), "{done:#?}");
    for line in done.err.lines().filter(|line| line.contains(" died (") && !line.starts_with("pagemesh: ")) {
        let names_the_dead = line.contains("(rank 0 of ") && line.contains(&format!("process {process} at"));
        assert!(target == Target::Rank && names_the_dead, "{line}: {done:#?}");
    }
}

/// All combinations in turn: each region of a neighbour lies between two of the keeper's.
#[test]
fn a_killed_program_takes_no_page_of_its_neighbour_along() {
    let bed = Bed::new();
    bed.pagemesh("up --daemons 2").ok();
    let deaths = if system_tests::long() { 200 } else { COMBINATIONS };
    let addresses = make_regions(&bed, deaths);
    assert!(addresses.windows(2).all(|two| two[0] + LEN == two[1]), "not back to back: {addresses:#x?}");
    let keeper = Keeper::start(&bed, deaths);
    for death in 0..deaths {
        one_death(&bed, &keeper, death, addresses[2 * death + 1]);
    }
    keeper.orders.say("leave");
    keeper.going.wait().ok();
    bed.pagemesh("down").ok();
    bed.assert_nothing_left();
}
