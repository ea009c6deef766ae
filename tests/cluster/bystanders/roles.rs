//! The programs of the test: one keeps data in its region and checks them when it is told to, one stores into the
//! pages of its own region that lie beside it.
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
        ["keeper", region, orders, answers] => keep(region, &orders.into(), &answers.into()),
        ["neighbour", region, direction, word] => store(region, direction, &word.into()),
        ["maker", region, word] => {
            tell(&word.into(), &address(&join().alloc::<u64>(region, PAGES * WORDS).unwrap()))
        }
        _ => panic!("no such role: {role}"),
    }
}

fn join() -> Dsm {
    Dsm::builder().from_env().unwrap().join().unwrap()
}

fn address(region: &SharedSlice<u64>) -> String {
    region.as_mut_ptr().addr().to_string()
}

fn tell(pipe: &PathBuf, word: &str) {
    std::fs::write(pipe, word).expect("somebody reads it");
}

/// Every word of a page says which page it is, and in which round it was written.
fn word(round: u64, page: usize) -> u64 {
    round << 32 | page as u64
}

/// Writes all pages of a region, tells its address, and at each order checks what it wrote and writes anew.
fn keep(region: &str, orders: &PathBuf, answers: &PathBuf) {
    let dsm = join();
    let data = dsm.alloc::<u64>(region, PAGES * WORDS).unwrap();
    let write = |round| (0..PAGES).for_each(|page| data.set(page * WORDS, word(round, page)));
    write(0);
    tell(answers, &address(&data));
    for round in 0.. {
        match std::fs::read_to_string(orders).expect("an order").trim() {
            "check" => {}
            _ => break,
        }
        let wrong = (0..PAGES).filter(|&page| data.get(page * WORDS) != word(round, page)).count();
        write(round + 1);
        tell(answers, &format!("{wrong} wrong"));
    }
    dsm.leave().unwrap();
}

/// Stores into the pages at the end of a region (`up`) or at its start (`down`), towards the other region, again and
/// again. Two ranks take the pages from each other, so that each pass is a run of page faults. In the middle of
/// its first pass rank 0 tells its process and the region's address.
fn store(region: &str, direction: &str, pipe: &PathBuf) {
    let dsm = join();
    let data = dsm.alloc::<u64>(region, PAGES * WORDS).unwrap();
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
