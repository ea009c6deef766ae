//! A rank of a cluster: it does to shared memory what it is told, and times that.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use pagemesh::admin::NodeStatus;
use pagemesh::{Dsm, NodeId, Placement, SharedSlice};
use serde::{Deserialize, Serialize};

use crate::cluster::RankSettings;
use crate::programs::{Kind, Program, Run};
use crate::sync::{self, Tenure};
use crate::touch::{PAGE, Walk};
use crate::{Result, child, matmul, rpc, scan};

/// What a rank is told. Regions are named by numbers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Make or find a region. Without a `home` its placement is that of a program which names none.
    Alloc { region: u32, pages: usize, home: Option<u16> },
    /// Write each page's word.
    Write { region: u32, walk: Walk },
    /// Time a load from each page.
    Load { region: u32, walk: Walk },
    /// Time a store to each page.
    Store { region: u32, walk: Walk },
    /// Load every word of the first pages, in order; the time in microseconds.
    Scan { region: u32, pages: usize, stamp: u64 },
    /// Time so many barriers.
    Barriers(usize),
    /// Take a lock `count` times, and hold it for `hold_ns` nanoseconds each time.
    HandOver { lock: u32, home: Option<u16>, count: usize, hold_ns: u64 },
    /// Add one to a number under a lock, `count` times at each rank; the answer is the time in microseconds until all
    /// ranks have finished.
    Count { lock: u32, count: usize },
    /// Take a lock whose home is node 0 and give it back so many times while nobody else wants it; nanoseconds each.
    Retake { lock: u32, count: usize },
    /// Take part in the product of two `n` x `n` matrices; seconds, at rank 0.
    Multiply { region: u32, n: usize },
    /// Run a program once more; all ranks are told so.
    Run(Kind),
    /// Serve echoes.
    ServeEcho,
    /// Time so many echoes by node 0, one after the other.
    Echo { count: usize, bytes: usize },
    /// So many echoes by node 0 with 64 under way; calls a second.
    EchoRate { count: usize, bytes: usize },
    /// What passed the socket.
    Traffic,
    /// Pages that hold memory here.
    Resident,
}

/// What a rank answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    Times(Vec<f64>),
    Tenures(Vec<Tenure>),
    Traffic(Traffic),
    Resident(u64),
    Ran(Run),
}

/// What has passed a node's socket and memory so far.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Traffic {
    pub(crate) datagrams_in: u64,
    pub(crate) datagrams_out: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) send_calls: u64,
    pub(crate) receive_calls: u64,
    pub(crate) read_faults: u64,
    /// Pieces of messages sent again.
    pub(crate) sent_again: u64,
}

impl Traffic {
    pub(crate) fn of(status: &NodeStatus) -> Traffic {
        let socket = &status.socket;
        Traffic {
            datagrams_in: socket.datagrams_in,
            datagrams_out: socket.datagrams_out,
            bytes_in: socket.bytes_in,
            bytes_out: socket.bytes_out,
            send_calls: socket.send_calls,
            receive_calls: socket.receive_calls,
            read_faults: status.read_faults,
            sent_again: status.net.fragments_retransmitted,
        }
    }
}

impl Answer {
    pub(crate) fn times(self) -> Result<Vec<f64>> {
        match self {
            Answer::Times(times) => Ok(times),
            Answer::Done | Answer::Tenures(_) | Answer::Traffic(_) | Answer::Resident(_) | Answer::Ran(_) => {
                Err(mismatch())
            }
        }
    }

    pub(crate) fn tenures(self) -> Result<Vec<Tenure>> {
        match self {
            Answer::Tenures(tenures) => Ok(tenures),
            Answer::Done | Answer::Times(_) | Answer::Traffic(_) | Answer::Resident(_) | Answer::Ran(_) => {
                Err(mismatch())
            }
        }
    }

    pub(crate) fn traffic(self) -> Result<Traffic> {
        match self {
            Answer::Traffic(traffic) => Ok(traffic),
            Answer::Done | Answer::Times(_) | Answer::Tenures(_) | Answer::Resident(_) | Answer::Ran(_) => {
                Err(mismatch())
            }
        }
    }

    pub(crate) fn run(self) -> Result<Run> {
        match self {
            Answer::Ran(run) => Ok(run),
            Answer::Done
            | Answer::Times(_)
            | Answer::Tenures(_)
            | Answer::Traffic(_)
            | Answer::Resident(_) => Err(mismatch()),
        }
    }

    pub(crate) fn resident(self) -> Result<u64> {
        match self {
            Answer::Resident(pages) => Ok(pages),
            Answer::Done | Answer::Times(_) | Answer::Tenures(_) | Answer::Traffic(_) | Answer::Ran(_) => {
                Err(mismatch())
            }
        }
    }
}

fn mismatch() -> Box<dyn std::error::Error> {
    "an answer to another question".into()
}

struct Rank {
    dsm: Dsm,
    regions: HashMap<u32, SharedSlice<u8>>,
    products: HashMap<u32, matmul::Product>,
    program: Option<(Kind, Program)>,
}

/// Joins, says so, and obeys.
pub(crate) fn serve(settings: RankSettings) -> Result<()> {
    let dsm = Dsm::builder().settings(settings.settings()?).join()?;
    child::answer(&Ok(Answer::Done))?;
    let mut rank = Rank { dsm, regions: HashMap::new(), products: HashMap::new(), program: None };
    child::serve(|command| rank.obey(command))?;
    // Only a parent that has gone closes the pipe: whoever is left would wait for the others in vain.
    std::process::exit(0)
}

impl Rank {
    fn obey(&mut self, command: Command) -> Result<Answer> {
        match command {
            Command::Alloc { region, pages, home } => {
                let name = format!("region {region}");
                let slice = match home {
                    Some(home) => {
                        self.dsm.alloc_with(&name, pages * PAGE, Placement::OnNode(NodeId(home)))?
                    }
                    None => self.dsm.alloc(&name, pages * PAGE)?,
                };
                self.regions.insert(region, slice);
                Ok(Answer::Done)
            }
            Command::Write { region, walk } => {
                walk.store(self.base(region)?)?;
                Ok(Answer::Done)
            }
            Command::Load { region, walk } => walk.load(self.base(region)?).map(Answer::Times),
            Command::Store { region, walk } => walk.store(self.base(region)?).map(Answer::Times),
            Command::Scan { region, pages, stamp } => self.scan(region, pages, stamp),
            Command::Barriers(count) => self.barriers(count),
            Command::HandOver { lock, home, count, hold_ns } => {
                let mutex = sync::mutex(&self.dsm, lock, home)?;
                sync::hand_over(&mutex, count, Duration::from_nanos(hold_ns)).map(Answer::Tenures)
            }
            Command::Count { lock, count } => {
                sync::count_together(&self.dsm, lock, count).map(|time| Answer::Times(vec![time]))
            }
            Command::Retake { lock, count } => Ok(Answer::Times(vec![sync::retake(&self.dsm, lock, count)?])),
            Command::Multiply { region, n } => self.multiply(region, n),
            Command::Run(kind) => self.run(kind).map(Answer::Ran),
            Command::ServeEcho => rpc::serve(&self.dsm).map(|()| Answer::Done),
            Command::Echo { count, bytes } => rpc::one_by_one(&self.dsm, count, bytes).map(Answer::Times),
            Command::EchoRate { count, bytes } => {
                rpc::together(&self.dsm, count, bytes).map(|rate| Answer::Times(vec![rate]))
            }
            Command::Traffic => Ok(Answer::Traffic(Traffic::of(&self.dsm.status()))),
            Command::Resident => Ok(Answer::Resident(self.dsm.status().resident_pages)),
        }
    }

    fn run(&mut self, kind: Kind) -> Result<Run> {
        if self.program.as_ref().is_none_or(|(known, _)| *known != kind) {
            self.program = Some((kind, Program::new(&self.dsm, kind)?));
        }
        let (_, program) = self.program.as_mut().ok_or("no program")?;
        program.run(&self.dsm)
    }

    fn base(&self, region: u32) -> Result<*mut u8> {
        let region = self.regions.get(&region).ok_or("no such region")?;
        Ok(region.as_mut_ptr())
    }

    fn scan(&self, region: u32, pages: usize, stamp: u64) -> Result<Answer> {
        let base = self.base(region)?;
        let start = Instant::now();
        let sum = scan::sum(base, pages);
        let time = start.elapsed().as_secs_f64() * 1e6;
        let expected = (0..pages).fold(0, |sum: u64, page| sum.wrapping_add(Walk::word(stamp, page)));
        if sum == expected {
            Ok(Answer::Times(vec![time]))
        } else {
            Err("the scan read something else".into())
        }
    }

    fn barriers(&self, count: usize) -> Result<Answer> {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let start = Instant::now();
            self.dsm.barrier()?;
            times.push(start.elapsed().as_nanos() as f64 / 1e3);
        }
        Ok(Answer::Times(times))
    }

    fn multiply(&mut self, region: u32, n: usize) -> Result<Answer> {
        let product = match self.products.entry(region) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => {
                let placement = Placement::OnNode(NodeId(0));
                let all = self.dsm.alloc_with(&format!("matrices {region}"), 3 * n * n, placement)?;
                new.insert(matmul::Product::new(&self.dsm, all, n))
            }
        };
        product.multiply(&self.dsm).map(|time| Answer::Times(vec![time]))
    }
}
