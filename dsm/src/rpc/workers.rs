//! The thread shell of the server's side: a fixed number of workers that wait for calls and run them.
//! A node that receives in its workers does without: there the thread that received runs the call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::endpoint::Endpoint;
use crate::fork;

/// Threads that run the calls to a node. Dropping stops them; each ends the call that it runs first.
pub struct Workers {
    endpoint: Arc<Endpoint>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts `count` workers.
    pub fn start(endpoint: &Arc<Endpoint>, count: usize) -> std::io::Result<Workers> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut workers = Workers { endpoint: endpoint.clone(), stop, threads: Vec::new() };
        for number in 0..count {
            let (endpoint, stop) = (endpoint.clone(), workers.stop.clone());
            let name = format!("rpc-worker-{number}");
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    endpoint.wait_for_calls(|| stop.load(Ordering::Acquire));
                    endpoint.run_ready();
                }
            })?;
            workers.threads.push(thread);
        }
        Ok(workers)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if fork::is_child() {
            // A forked child has none of the threads, and must not even detach them.
            return self.threads.drain(..).for_each(std::mem::forget);
        }
        self.stop.store(true, Ordering::Release);
        self.endpoint.wake_workers();
        for thread in self.threads.drain(..) {
            // A worker catches what methods panic with; it cannot have died of it.
            let _ = thread.join();
        }
    }
}
