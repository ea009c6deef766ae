//! `demo`: what shared memory is for and what it costs, shown by four ranks on this host.
//!
//! The command runs itself (`demo-rank`) as the program of an ordinary run without daemons, so the demo works
//! wherever the command is installed, and takes the way that every program takes. Every figure is measured
//! while the demo runs. Rank 0 prints; the others only take part.

mod counter;
mod fault;
mod figures;
#[allow(unsafe_code)]
mod list;
mod notes;
#[allow(unsafe_code)]
mod product;
mod screen;
#[allow(unsafe_code)]
mod speed_up;

use std::ffi::OsString;

use nix::sys::signal::Signal;
use pagemesh::Dsm;

use crate::args::{self, Command, Demo};
use crate::guardian;
use crate::out;
use crate::process::this_executable;
use crate::trouble::{SIGNALLED, Trouble};
use figures::Figures;
use notes::Notes;
use screen::Screen;

/// Ranks of the demo, however many cores there are.
const RANKS: u32 = 4;

/// Starts the ranks, as `run` does with these words, and gives their exit code: 0 if every result was right.
pub(crate) fn run(demo: &Demo) -> Result<i32, Trouble> {
    let ranks = RANKS.to_string();
    let mut words: Vec<OsString> =
        ["run", "--no-daemons", "--ranks", &ranks, "--no-tag", "--quiet", "--"].map(OsString::from).to_vec();
    words.extend([this_executable()?.into_os_string(), "demo-rank".into()]);
    words.extend(demo.json.then(|| "--json".into()));
    let Command::Run(run) = args::parse_from(&words)?.command else {
        unreachable!("the first word is `run`");
    };
    guardian::run(None, run, &words)
}

/// Why the demo ends before its end.
enum Stop {
    /// A line could not be written; rank 0 knows why.
    Unwritten(Option<Trouble>),
    /// An operation of the library failed.
    Failed(pagemesh::Error),
}

impl From<pagemesh::Error> for Stop {
    fn from(error: pagemesh::Error) -> Stop {
        Stop::Failed(error)
    }
}

/// One of the ranks.
pub(crate) fn rank(demo: &Demo) -> Result<i32, Trouble> {
    let dsm = Dsm::builder().from_env()?.join()?;
    if dsm.ranks() != RANKS {
        return Err(Trouble::start(format!("demo-rank: one of {RANKS} ranks that `pagemesh demo` starts")));
    }
    let played = play(&dsm, demo);
    if matches!(played, Ok(_) | Err(Stop::Unwritten(_))) {
        // All ranks are here: none ends as if it had died.
        dsm.leave()?;
    }
    let figures = match played {
        Ok(Some(figures)) => figures,
        Ok(None) | Err(Stop::Unwritten(None)) => return Ok(0),
        Err(Stop::Unwritten(Some(trouble))) => return Err(trouble),
        Err(Stop::Failed(error)) => return Err(error.into()),
    };
    let shown = if demo.json { out::json(&figures) } else { out::line(figures::next_steps()?) };
    match shown {
        // Nobody reads any more, as after `demo | head -1`: no reason to call the run a failure.
        Err(trouble) if trouble.code() == SIGNALLED + Signal::SIGPIPE as i32 => {}
        shown => shown?,
    }
    Ok(figures.code())
}

/// All steps, and their figures at rank 0. Collective.
fn play(dsm: &Dsm, demo: &Demo) -> Result<Option<Figures>, Stop> {
    let notes = Notes::new(dsm)?;
    let screen = Screen::new(dsm, &notes, demo.json);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    screen.line(&figures::title(RANKS, cores))?;

    let counter = screen.during("a counter behind a lock", |_| counter::count(dsm))?;
    screen.line(&counter)?;
    let list = screen.during("a linked list", |_| list::build_and_walk(dsm, &notes))?;
    screen.line(&list)?;
    let product = screen.during("a matrix product", |_| product::multiply_together(dsm, &notes))?;
    screen.line(&product)?;
    let fault = screen.during("the cost of a page fault", |_| fault::measure(dsm, &notes))?;
    screen.line(&figures::Costs { fault: &fault, product: &product })?;
    let speed_up = screen.during("2 processes beside one", |step| {
        speed_up::measure(dsm, &notes, product.alone_s, cores, step)
    })?;
    screen.line(&speed_up)?;
    let figures = Figures::new(cores, counter, list, product, fault, speed_up);
    Ok(dsm.is_root().then_some(figures))
}
