//! The programs of the test: one makes regions that lie back to back, one keeps data in every second of them and
//! checks the data when it is told to, one stores into a region between two of these.
//!
//! They are told what to do through named pipes, and answer through named pipes.

use std::path::PathBuf;

use pagemesh::{Dsm, SharedSlice};

/// Pages of each region.
pub(crate) const PAGES: usize = 128;
/// Pages next to the other region, into which the neighbour stores.
const EDGE: usize = 64;
const WORDS: usize = 512;

/// What a process is to do, from the variable `ROLE`: its name and its arguments.
pub(crate) fn play(role: &str) {
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["maker", deaths, addresses] => make(number(deaths), &addresses.into()),
        ["keeper", deaths, orders, answers] => keep(number(deaths), &orders.into(), &answers.into()),
        ["neighbour", death, direction, word] => store(number(death), direction, &word.into()),
        _ => panic!("no such role: {role}"),
    }
}

fn join() -> Dsm {
    Dsm::builder().from_env().unwrap().join().unwrap()
}

fn number(word: &str) -> usize {
    word.parse().expect("a number")
}

/// The keeper's region before the place of a death. The one behind that place has the next number.
fn kept(dsm: &Dsm, place: usize) -> SharedSlice<u64> {
    dsm.alloc(&format!("kept {place}"), PAGES * WORDS).unwrap()
}

/// The region in which a neighbour of the keeper dies.
fn beside(dsm: &Dsm, death: usize) -> SharedSlice<u64> {
    dsm.alloc(&format!("beside {death}"), PAGES * WORDS).unwrap()
}

fn address(region: &SharedSlice<u64>) -> String {
    region.as_mut_ptr().addr().to_string()
}

/// Makes all regions in the order of their addresses, and tells these in that order.
fn make(deaths: usize, addresses: &PathBuf) {
    let dsm = join();
    let mut made = vec![address(&kept(&dsm, 0))];
    for death in 0..deaths {
        made.push(address(&beside(&dsm, death)));
        made.push(address(&kept(&dsm, death + 1)));
    }
    tell(addresses, &made.join(" "));
    dsm.leave().unwrap();
}

fn tell(pipe: &PathBuf, word: &str) {
    std::fs::write(pipe, word).expect("somebody reads it");
}

/// Every word of a page says which page it is, and in which round it was written.
fn word(round: u64, page: usize) -> u64 {
    round << 32 | page as u64
}

/// Writes all pages of its regions, says so, and at each order checks what it wrote and writes anew.
fn keep(deaths: usize, orders: &PathBuf, answers: &PathBuf) {
    let dsm = join();
    let regions: Vec<SharedSlice<u64>> = (0..=deaths).map(|place| kept(&dsm, place)).collect();
    let pages = || regions.iter().flat_map(|data| (0..PAGES).map(move |page| (data, page)));
    let write = |round| pages().for_each(|(data, page)| data.set(page * WORDS, word(round, page)));
    write(0);
    tell(answers, "written");
    for round in 0.. {
        match std::fs::read_to_string(orders).expect("an order").trim() {
            "check" => {}
            _ => break,
        }
        let wrong = pages().filter(|(data, page)| data.get(page * WORDS) != word(round, *page)).count();
        write(round + 1);
        tell(answers, &format!("{wrong} wrong"));
    }
    dsm.leave().unwrap();
}

/// Stores into the pages at the end of a region (`up`) or at its start (`down`), towards the other region, again and
/// again. Two ranks take the pages from each other, so that each pass is a run of page faults. In the middle of
/// its first pass rank 0 tells its process and the region's address.
fn store(death: usize, direction: &str, pipe: &PathBuf) {
    let dsm = join();
    let data = beside(&dsm, death);
    dsm.barrier().unwrap();
    for pass in 1.. {
        for step in 0..EDGE {
            let page = if direction == "up" { PAGES - EDGE + step } else { EDGE - 1 - step };
            data.set(page * WORDS, pass);
            if dsm.rank() == 0 && pass == 1 && step == EDGE / 2 {
                tell(pipe, &format!("{} {}", std::process::id(), address(&data)));
            }
        }
    }
}
