//! A server of the golden interface, and a cluster of two.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use pagemesh::page::{Incarnation, NodeId};
use pagemesh::rpc::local::LocalNetwork;
use pagemesh::rpc::{Channel, Context, Endpoint, Error, Global, PeerId, Sink, Workers};

use crate::calculator::*;
use crate::geometry::{Point, Polygon};

/// Counts what it is asked for.
#[derive(Clone, Default)]
pub(crate) struct Counting {
    pub(crate) runs: Arc<AtomicI64>,
    pub(crate) items: Arc<AtomicI64>,
}

impl Calculator for Counting {
    /// Adds to the counter: executing it twice shows.
    fn func1(&self, _: &Context<'_>, arg1: i32) -> Result<i32, Error> {
        let before = self.runs.fetch_add(i64::from(arg1), Ordering::SeqCst);
        Ok(before as i32 + arg1)
    }

    fn func2(&self, _: &Context<'_>, arg1: i32, arg2: i32) -> Result<i32, Error> {
        assert!(arg2 != 13, "thirteen");
        Ok(arg1 + arg2)
    }

    fn divide(&self, _: &Context<'_>, a: i32, b: i32) -> Result<i32, CalculatorDivideError> {
        match b {
            0 => Err(DivideByZero {}.into()),
            99 => Err(TooLarge { limit: 98 }.into()),
            _ => Ok(a / b),
        }
    }

    fn summary(&self, _: &Context<'_>, samples: Vec<Sample>, tag: Option<String>) -> Result<Stats, Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let mean = samples.iter().map(|sample| sample.time).sum::<f64>() / samples.len().max(1) as f64;
        Ok(Stats { samples: samples.len() as u64 + tag.map_or(0, |tag| tag.len() as u64), mean })
    }

    fn train(&self, context: &Context<'_>, data: Global<f64>) -> Result<Model, Error> {
        for step in 0..data.len() {
            context.progress(step + 1, data.len())?;
        }
        Ok(Model { weights: vec![data.len() as f64] })
    }

    fn count(&self, _: &Context<'_>, upto: i32, sink: &mut Sink<'_, i32>) -> Result<(), Error> {
        for i in 0..upto {
            sink.send(&i)?;
            self.items.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    fn walk(
        &self,
        _: &Context<'_>,
        along: Polygon,
        sink: &mut Sink<'_, Point>,
    ) -> Result<(), CalculatorWalkError> {
        for corner in &along.corners {
            sink.send(corner)?;
        }
        Err(TooLarge { limit: along.corners.len() as i64 }.into())
    }

    fn note(&self, _: &Context<'_>, text: &str) {
        self.runs.fetch_add(text.len() as i64, Ordering::SeqCst);
    }

    fn echo(&self, _: &Context<'_>, data: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(data.to_vec())
    }

    fn nothing(&self, _: &Context<'_>) -> Result<(), Error> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        Err(Error::remote("nothing doing"))
    }

    fn mirror(&self, _: &Context<'_>, tree: Tree) -> Result<Tree, Error> {
        Ok(Tree { name: tree.name, left: tree.right, right: tree.left, others: tree.others })
    }

    fn area(&self, _: &Context<'_>, figure: Figure, color: Color) -> Result<f64, Error> {
        let shade = f64::from(color as i32);
        Ok(match figure {
            Figure::Dot(_) => 0.0,
            Figure::Polygon(polygon) => polygon.corners.len() as f64 + shade,
            Figure::Circle(radius) => PI * radius * radius,
        })
    }

    fn sum(
        &self,
        _: &Context<'_>,
        small: Vec<u8>,
        flags: std::collections::BTreeMap<i32, bool>,
        f: f32,
        r#type: bool,
        self_: i16,
    ) -> Result<u64, Error> {
        let flagged = flags.iter().filter(|(_, set)| **set).count() as u64;
        let small: u64 = small.iter().map(|byte| u64::from(*byte)).sum();
        Ok(small + flagged + f as u64 + u64::from(r#type) + self_ as u64)
    }

    fn hello(&self, _: &Context<'_>, context: &str, ends: [Point; 2]) -> Result<String, Error> {
        Ok(format!("{context} from {} to {}", ends[0].x, ends[1].y))
    }
}

/// A client and a server, and what lies between.
pub(crate) struct Pair {
    pub(crate) network: Arc<LocalNetwork>,
    pub(crate) client: PeerId,
    pub(crate) server: PeerId,
    pub(crate) client_end: Arc<Endpoint>,
    pub(crate) server_end: Arc<Endpoint>,
    pub(crate) counting: Counting,
}

pub(crate) fn peer(network: &Arc<LocalNetwork>, node: u16, incarnation: u64) -> (PeerId, Arc<Endpoint>) {
    network.join(NodeId(node), Incarnation(incarnation))
}

impl Pair {
    /// The test delivers the messages.
    pub(crate) fn by_hand() -> Pair {
        Pair::with_limit(1024)
    }

    /// Whoever waits delivers them.
    pub(crate) fn driven() -> Pair {
        let pair = Pair::by_hand();
        pair.network.let_waiters_drive();
        pair
    }

    pub(crate) fn with_limit(calls_max: usize) -> Pair {
        let network = LocalNetwork::new();
        let (client, client_end) = peer(&network, 0, 10);
        let (server, server_end) = peer(&network, 1, 11);
        let counting = Counting::default();
        server_end.serve(CalculatorServer(counting.clone()), calls_max);
        pagemesh::rpc::serve_meta(&server_end);
        Pair { network, client, server, client_end, server_end, counting }
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::to(&self.client_end, self.server)
    }

    pub(crate) fn calls(&self) -> CalculatorCalls {
        CalculatorCalls::new(self.channel())
    }

    pub(crate) fn blocking(&self) -> CalculatorClient {
        CalculatorClient::new(self.channel())
    }

    pub(crate) fn runs(&self) -> i64 {
        self.counting.runs.load(Ordering::SeqCst)
    }

    /// Does the work while one thread delivers messages and another runs calls, as between two processes.
    pub(crate) fn alive<T>(&self, work: impl FnOnce() -> T) -> T {
        let worker = Workers::start(&self.server_end, 1).unwrap();
        let done = AtomicBool::new(false);
        let result = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    self.deliver();
                    std::thread::yield_now();
                }
            });
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            done.store(true, Ordering::SeqCst);
            result
        });
        drop(worker);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Delivers the requests that are on their way, without running them.
    pub(crate) fn deliver(&self) {
        for envelope in self.network.take_queue(|_| true) {
            self.network.deliver(&envelope).unwrap();
        }
    }
}
