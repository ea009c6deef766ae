//! The thread that receives for a guest's futures, and wakes them: an executor only polls, and does not wait
//! in here.
//! It starts with the first future that finds no answer, and sleeps while none waits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::thread::{JoinHandle, ThreadId};

use parking_lot::Mutex;

use super::Carrier;
use crate::config::membership::HEARTBEAT;
use crate::page::Time;
use crate::rpc::{Endpoint, Signal, Transport};

/// What others know of the thread.
#[derive(Default)]
pub(super) struct Attendant {
    signal: OnceLock<Arc<Signal>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    /// It looks at the calls' timers by itself then; zero while it looks, or sleeps for good.
    until: AtomicU64,
    stopping: AtomicBool,
}

impl Attendant {
    /// Makes sure that the thread runs, and looks at the timers of the calls in time.
    pub(super) fn attend(&self, carrier: &Arc<Carrier>, calls: &Endpoint) {
        if self.signal.get().is_none() {
            self.start(carrier);
        }
        let until = self.until.load(Ordering::Acquire);
        let is_late = || calls.poll_timeout().is_some_and(|due| due.0 < until);
        if until == 0 || is_late() || calls.deferred_len() > 0 {
            self.wake(carrier);
        }
    }

    fn start(&self, carrier: &Arc<Carrier>) {
        let mut thread = self.thread.lock();
        if thread.is_some() || self.stopping.load(Ordering::Acquire) {
            return;
        }
        let weak = Arc::downgrade(carrier);
        let named = std::thread::Builder::new().name("pm-guest".into());
        match named.spawn(move || run(&weak)) {
            Ok(started) => *thread = Some(started),
            // Whoever waits in a thread receives for all.
            Err(error) => tracing::error!("no thread for the futures of a guest: {error}"),
        }
    }

    /// Whether the thread was started.
    pub(super) fn is_there(&self) -> bool {
        self.thread.lock().is_some()
    }

    /// Has the thread look at what there is to do.
    pub(super) fn wake(&self, carrier: &Carrier) {
        if let Some(signal) = self.signal.get() {
            signal.set();
            signal.unpark();
            carrier.notify(signal);
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self, carrier: &Carrier) {
        self.stopping.store(true, Ordering::Release);
        self.wake(carrier);
        let thread = self.thread.lock().take();
        // A future that is woken may own the last handle on the guest.
        let me: ThreadId = std::thread::current().id();
        if let Some(thread) = thread.filter(|thread| thread.thread().id() != me) {
            // It cannot have panicked: it catches what wakers panic with.
            let _ = thread.join();
        }
    }
}

/// Receives while futures wait. Holds the carrier only as long as it receives.
fn run(carrier: &Weak<Carrier>) {
    let signal = Arc::new(Signal::for_this_thread());
    loop {
        let Some(carrier) = carrier.upgrade() else { return };
        let attendant = &carrier.attendant;
        let _ = attendant.signal.set(signal.clone());
        // First: what is set from here on ends the wait.
        signal.clear();
        if attendant.stopping.load(Ordering::Acquire) {
            return;
        }
        let endpoint = carrier.endpoint();
        // Here it receives for nobody, and a waker may wait for something.
        endpoint.iter().for_each(|endpoint| endpoint.run_deferred());
        let Some(endpoint) = endpoint.filter(|endpoint| endpoint.has_tasks()) else {
            drop(carrier);
            std::thread::park();
            continue;
        };
        let due = endpoint.poll_timeout();
        let until = (carrier.now() + HEARTBEAT).min(due.unwrap_or(Time(u64::MAX)));
        attendant.until.store(until.0, Ordering::Release);
        carrier.wait(&signal, Some(until));
        attendant.until.store(0, Ordering::Release);
        if due.is_some_and(|due| due <= carrier.now()) {
            endpoint.handle_timeout();
        }
    }
}
