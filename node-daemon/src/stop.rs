//! SIGTERM and SIGINT as a request to stop, taken by a thread of its own and not inside a handler.

use std::sync::Arc;

use nix::sys::signal::{SigSet, Signal};
use pagemesh::Node;

/// The signals, blocked in all threads; they wait here.
pub(crate) struct Stop {
    signals: SigSet,
}

/// Takes the signals over. Call before any thread is started.
pub(crate) fn take_over() -> Stop {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
    // Fails for invalid arguments only.
    signals.thread_block().expect("SIGTERM and SIGINT can be blocked");
    Stop { signals }
}

impl Stop {
    /// Asks the node to stop when one of the signals comes.
    pub(crate) fn call_on_signal(self, node: &Arc<Node>) {
        // Not kept alive by this thread, which never ends.
        let node = Arc::downgrade(node);
        std::thread::spawn(move || {
            while self.signals.wait().is_ok() {
                match node.upgrade() {
                    Some(node) => node.request_shutdown(),
                    None => return,
                }
            }
        });
    }
}
