//! A program for the tests of the command: it does one thing, by its first argument, and says in one line what came
//! of it. Most things are wrong, and done by rank 1 while the others wait at a barrier.

use std::io::Write;
use std::process::ExitCode;

use pagemesh::prelude::*;

/// The bystanders' region: its elements are their indices.
const LEN: usize = 4096;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [what, arguments @ ..] = arguments.as_slice() else {
        eprintln!("subject: no argument");
        return ExitCode::from(2);
    };
    match run(what, arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("subject: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(what: &str, arguments: &[String]) -> Result<()> {
    if what == "limit" {
        return limit();
    }
    let dsm = Dsm::builder().from_env()?.join()?;
    match what {
        "make" => make(&dsm)?,
        "check" => check(&dsm)?,
        "wait" => wait(&dsm, arguments)?,
        "load" => load(&dsm, arguments)?,
        "store" => store(&dsm, arguments)?,
        "rewrite" => rewrite(&dsm, arguments)?,
        "reread" => reread(&dsm)?,
        _ if dsm.rank() == 1 => wrong(&dsm, what)?,
        _ => {}
    }
    dsm.barrier()?;
    dsm.leave()
}

/// Says in how many bytes a node with this environment may hold pages.
fn limit() -> Result<()> {
    let limit = pagemesh::Settings::from_env()?.memory_max;
    writeln!(std::io::stdout(), "{limit}").map_err(|error| Error::os("standard output", error))
}

/// A region that others are to leave alone.
fn make(dsm: &Dsm) -> Result<()> {
    let data = dsm.alloc_with::<u64>("data", LEN, Placement::Block)?;
    let values: Vec<u64> = (0..LEN as u64).collect();
    data.copy_in(0, &values)
}

fn check(dsm: &Dsm) -> Result<()> {
    let mut values = vec![0; LEN];
    dsm.attach::<u64>("data")?.copy_out(0, &mut values)?;
    if values.iter().copied().eq(0..LEN as u64) {
        return Ok(());
    }
    Err(Error::Invalid("the region `data` was changed".to_owned()))
}

/// Rank 0 faults, says so through the first pipe, and goes on when something comes through the second; the others
/// wait for it at the barrier.
fn wait(dsm: &Dsm, pipes: &[String]) -> Result<()> {
    let slice = dsm.alloc::<u64>("waiting", 64 * 512)?;
    if dsm.is_root() {
        (0..64).for_each(|page| slice.set(page * 512, 1));
        let io = |error| Error::os("a pipe of the test", error);
        std::fs::write(&pipes[0], "ready").map_err(io)?;
        std::fs::read(&pipes[1]).map_err(io)?;
    }
    Ok(())
}

/// Loads from a page for ever, and says through the pipe when it begins.
fn load(dsm: &Dsm, pipes: &[String]) -> Result<()> {
    let slice = dsm.alloc::<u64>("loaded", 1)?;
    let value = slice.get(0);
    say_ready(pipes)?;
    while slice.get(0) == value {
        std::hint::spin_loop();
    }
    Err(Error::Invalid("nobody stores into the page".to_owned()))
}

/// Stores into a page that it has mapped, once a call has said that the cluster has ended.
fn store(dsm: &Dsm, pipes: &[String]) -> Result<()> {
    let slice = dsm.alloc::<u64>("stored", 1)?;
    slice.set(0, 1);
    say_ready(pipes)?;
    while dsm.barrier().is_ok() {}
    slice.set(0, 2);
    Err(Error::Invalid("a store after the end of the cluster was taken".to_owned()))
}

/// Rank 1 stores into a region for ever, word after word: in each round a number that is higher by 1. The other rank
/// waits.
fn rewrite(dsm: &Dsm, pipes: &[String]) -> Result<()> {
    let slice = dsm.alloc::<u64>("rewritten", LEN)?;
    if dsm.is_root() {
        return Ok(());
    }
    for round in 1.. {
        (0..LEN).for_each(|index| slice.set(index, round));
        if round == 2 {
            say_ready(pipes)?;
        }
    }
    Ok(())
}

/// Reads what a process has left that was killed in a round: up to some word those of that round, then those of the
/// round before.
fn reread(dsm: &Dsm) -> Result<()> {
    let began = std::time::Instant::now();
    let mut words = vec![0; LEN];
    dsm.attach::<u64>("rewritten")?.copy_out(0, &mut words)?;
    let ms = began.elapsed().as_millis();
    let (first, stored) = (words[0], words.partition_point(|word| *word == words[0]));
    if first < 2 || words[stored..].iter().any(|word| word + 1 != first) {
        return Err(Error::Invalid(format!(
            "round {first} until word {stored}, then {:?}",
            &words[stored..]
        )));
    }
    writeln!(std::io::stdout(), "read after {ms}").map_err(|error| Error::os("standard output", error))
}

fn say_ready(pipes: &[String]) -> Result<()> {
    std::fs::write(&pipes[0], "ready").map_err(|error| Error::os("a pipe of the test", error))
}

fn wrong(dsm: &Dsm, what: &str) -> Result<()> {
    match what {
        "size" => dsm.alloc::<u64>("data", 2 * LEN).map(drop),
        "element" => dsm.alloc::<u8>("data", 8 * LEN).map(drop),
        "placement" => dsm.alloc_with::<u64>("data", LEN, Placement::Cyclic).map(drop),
        "type" => dsm.alloc::<f64>("data", LEN).map(drop),
        "attach-element" => dsm.attach::<u16>("data").map(drop),
        "attach-absent" => dsm.attach::<u64>("nothing").map(drop),
        "remove-absent" => dsm.remove("nothing"),
        "name-empty" => dsm.alloc::<u64>("", 1).map(drop),
        "name-long" => dsm.alloc::<u64>(&"n".repeat(256), 1).map(drop),
        "name-control" => dsm.alloc::<u64>("two\nlines", 1).map(drop),
        "length-zero" => dsm.alloc::<u64>("new", 0).map(drop),
        "length-overflow" => dsm.alloc::<u64>("new", usize::MAX / 4).map(drop),
        "element-zero" => dsm.alloc::<[u64; 0]>("new", 5).map(drop),
        "no-home" => dsm.alloc_with::<u64>("new", 1, Placement::OnNode(NodeId(77))).map(drop),
        "no-room" => dsm.alloc::<u8>("new", 1 << 30).map(drop),
        "mutex-size" => {
            dsm.mutex::<u64>("guard")?;
            dsm.mutex::<[u64; 2]>("guard").map(drop)
        }
        "lock-twice" => {
            let counter = dsm.mutex::<u64>("counter")?;
            let _held = counter.lock()?;
            counter.lock().map(drop)
        }
        "copy-in-beyond" => dsm.attach::<u64>("data")?.copy_in(LEN - 1, &[0, 0]),
        "copy-out-beyond" => dsm.attach::<u64>("data")?.copy_out(LEN + 1, &mut [0]),
        other => {
            let _ = writeln!(std::io::stderr(), "subject: nothing is called {other}");
            std::process::exit(3)
        }
    }
}
