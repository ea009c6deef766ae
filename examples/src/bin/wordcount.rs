//! How often each word stands in a text: the text lies in shared memory, every rank counts parts of it
//! when it is called, and rank 0 adds up. Only references travel to the counters, and only counts back.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use examples::{Failure, Outcome, Table, Traffic, arguments, check, timed};
use pagemesh::prelude::*;
use pagemesh::rpc::{self, Context, Global, Policy};
use pagemesh::{Globals, Placement};

pagemesh::include_idl!("wordcount" as wordcount);
use wordcount::{NoText, WordCount, WordCountCalls, WordCountCountError, WordCountServer};

/// Count words together
#[derive(Parser)]
#[command(name = "wordcount", version)]
struct Arguments {
    /// Words of the text
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..))]
    words: u32,
    /// Bytes that one call counts
    #[arg(long, default_value_t = 64 << 10, value_parser = clap::value_parser!(u32).range(1..))]
    part: u32,
}

/// Counts where it is.
struct Counter {
    globals: Globals,
}

impl WordCount for Counter {
    fn count(
        &self,
        _: &Context<'_>,
        text: Global<u8>,
        part: Global<u8>,
    ) -> rpc::Result<BTreeMap<String, u64>, WordCountCountError> {
        let reason = |error: Error| NoText { reason: error.to_string() };
        let outside = || NoText { reason: "the part is not of the text".into() };
        let start = part.addr().0.checked_sub(text.addr().0).ok_or_else(outside)?;
        let text = self.globals.open(text).map_err(reason)?;
        let (start, end) = (start as usize, (start + part.len()) as usize);
        if end > text.len() {
            return Err(outside().into());
        }
        Ok(count_words(&text, start, end))
    }
}

/// The words that begin in these bytes; the last one may end behind them.
fn count_words(text: &SharedSlice<u8>, start: usize, end: usize) -> BTreeMap<String, u64> {
    let in_word = |at: usize| at < text.len() && text.get(at).is_ascii_alphabetic();
    let mut counts = BTreeMap::new();
    let mut at = start;
    // One that began before belongs to who counts there.
    while at > 0 && in_word(at - 1) && in_word(at) {
        at += 1;
    }
    while at < end {
        let mut word = String::new();
        while in_word(at) {
            word.push(char::from(text.get(at)));
            at += 1;
        }
        if !word.is_empty() {
            *counts.entry(word).or_insert(0) += 1;
        }
        at += 1;
    }
    counts
}

fn main() -> ExitCode {
    examples::main("wordcount", run)
}

fn run() -> Outcome {
    let arguments: Arguments = arguments()?;
    let dsm = Dsm::builder().from_env()?.join()?;
    dsm.serve(WordCountServer(Counter { globals: dsm.globals() }), 1024)?;
    dsm.barrier()?;
    let before = dsm.stats();
    let mut found = BTreeMap::new();
    let mut time = Duration::ZERO;
    let mut expected = BTreeMap::new();
    if dsm.is_root() {
        let text = text_of(arguments.words, &mut expected);
        let shared = dsm.alloc_with::<u8>("wordcount.text", text.len(), Placement::Block)?;
        shared.copy_in(0, text.as_bytes())?;
        let (counted, spent) = timed(|| count_together(&dsm, &shared, arguments.part as usize));
        (found, time) = (counted?, spent);
        dsm.remove("wordcount.text")?;
    }
    dsm.barrier()?;
    let traffic = Traffic::between(&before, &dsm.stats()).sum(&dsm)?;
    check(found == expected, || format!("{found:?} instead of {expected:?}"))?;
    if dsm.is_root() {
        let mut table = Table::default();
        table.row("different words", found.len());
        table.row("words", found.values().sum::<u64>());
        table.time("time", time);
        traffic.rows(&mut table);
        table.row("verified", "yes");
        table.print(&format!("Words counted by {} ranks", dsm.ranks()))?;
    }
    dsm.barrier()?;
    Ok(dsm.leave()?)
}

/// Asks for all parts at once, and adds up what comes back.
fn count_together(
    dsm: &Dsm,
    text: &SharedSlice<u8>,
    part: usize,
) -> std::result::Result<BTreeMap<String, u64>, Failure> {
    let calls = WordCountCalls::new(dsm.channel(Policy::LeastInFlight));
    let starts = (0..text.len()).step_by(part);
    let ranges = starts.map(|start| start..(start + part).min(text.len()));
    let open: Vec<_> = ranges.map(|range| calls.count(text.global(), text.global_range(range))).collect();
    let mut sum = BTreeMap::new();
    for call in open {
        for (word, count) in call.wait().map_err(failed)? {
            *sum.entry(word).or_insert(0) += count;
        }
    }
    Ok(sum)
}

/// Some text, and how often each word stands in it.
fn text_of(words: u32, counts: &mut BTreeMap<String, u64>) -> String {
    const WORDS: [&str; 12] =
        ["page", "home", "owner", "copy", "fault", "grant", "recall", "lease", "node", "epoch", "twin", "a"];
    let mut text = String::new();
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..words {
        let word = WORDS[random.usize(..WORDS.len())];
        text.push_str(word);
        text.push_str([" ", "  ", ", ", ".\n"][random.usize(..4)]);
        *counts.entry(word.to_owned()).or_insert(0) += 1;
    }
    text
}

fn failed(error: WordCountCountError) -> Failure {
    let reason = match error {
        WordCountCountError::NoText(thrown) => thrown.reason,
        WordCountCountError::Rpc(error) => error.to_string(),
    };
    Failure::Dsm(Error::Refused(reason))
}
