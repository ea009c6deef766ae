//! The server that the tests of calls talk to.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Wake;
use std::time::{Duration, Instant};

use pagemesh::rpc::{Context, Error, Global, Sink};
use pagemesh::{Dsm, Globals};

/// How long a step of `dig` takes.
const STEP: Duration = Duration::from_millis(10);

pagemesh::include_idl!("counter" as stubs);
pub(crate) use stubs::*;

/// What the tests look at.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) sum: AtomicI64,
    /// Calls of `dig` and `hold` that run.
    pub(crate) running: AtomicI64,
    pub(crate) go_on: AtomicBool,
}

/// A server of one node.
#[derive(Clone, Default)]
pub(crate) struct Counting {
    pub(crate) state: Arc<State>,
    globals: Option<Globals>,
}

impl Counting {
    pub(crate) fn new(dsm: &Dsm) -> Counting {
        Counting { state: Arc::default(), globals: Some(dsm.globals()) }
    }

    fn run<T>(&self, work: impl FnOnce(&State) -> T) -> T {
        self.state.running.fetch_add(1, Ordering::SeqCst);
        let result = work(&self.state);
        self.state.running.fetch_sub(1, Ordering::SeqCst);
        result
    }
}

impl Counter for Counting {
    fn add(&self, _: &Context<'_>, amount: i64) -> Result<i64, Error> {
        Ok(self.state.sum.fetch_add(amount, Ordering::SeqCst) + amount)
    }

    fn read(&self, _: &Context<'_>) -> Result<i64, Error> {
        Ok(self.state.sum.load(Ordering::SeqCst))
    }

    fn echo(&self, _: &Context<'_>, data: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(data.to_vec())
    }

    fn zeros(&self, _: &Context<'_>, len: u32) -> Result<Vec<u8>, Error> {
        Ok(vec![0; len as usize])
    }

    fn dig(&self, context: &Context<'_>, steps: i64) -> Result<i64, Error> {
        self.run(|_| {
            for step in 1..=steps {
                context.progress(step as u64, steps as u64)?;
                let pause = Instant::now();
                while pause.elapsed() < STEP && !context.is_cancelled() {
                    std::thread::yield_now();
                }
            }
            Ok(steps)
        })
    }

    fn hold(&self, _: &Context<'_>) -> Result<i64, Error> {
        self.run(|state| {
            while !state.go_on.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            Ok(0)
        })
    }

    fn count(&self, _: &Context<'_>, upto: i64, sink: &mut Sink<'_, i64>) -> Result<(), Error> {
        (0..upto).try_for_each(|item| sink.send(&item))
    }

    fn note(&self, _: &Context<'_>, amount: i64) {
        self.state.sum.fetch_add(amount, Ordering::SeqCst);
    }

    fn sum(&self, _: &Context<'_>, data: Global<i64>) -> Result<i64, CounterSumError> {
        let reason = |error: pagemesh::Error| NoSuchElements { reason: error.to_string() };
        let globals = self.globals.as_ref().expect("a server with memory");
        let data = globals.open(data).map_err(reason)?;
        Ok((0..data.len()).map(|index| data.get(index)).sum())
    }
}

/// A waker that does what its test gave it, once.
pub(crate) struct OnWake(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl OnWake {
    pub(crate) fn new(act: impl FnOnce() + Send + 'static) -> Arc<OnWake> {
        Arc::new(OnWake(Mutex::new(Some(Box::new(act)))))
    }
}

impl Wake for OnWake {
    fn wake(self: Arc<Self>) {
        let act = self.0.lock().unwrap().take();
        act.into_iter().for_each(|act| act());
    }
}
