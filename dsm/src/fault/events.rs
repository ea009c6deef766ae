//! The handler thread of the `thread` backend: reads page faults from the userfaultfd and hands them
//! to the sink. The install, now or later, wakes the thread that faulted.

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::handler::die;
use super::uffd::{Event, Uffd};
use super::{PageFault, Shared};
use crate::config::fault::EVENTS_MAX;
use crate::error::{Error, Result};

/// A running handler thread; stopped and joined on drop.
pub(super) struct EventThread {
    stop: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl EventThread {
    pub(super) fn start(uffd: Arc<Uffd>, arena: Arc<Shared>) -> Result<EventThread> {
        let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Error::os("eventfd", errno))?;
        let stop = Arc::new(stop);
        let ends = stop.clone();
        // The thread inherits the mask: a signal handler that ran on it could fault, and nobody else
        // would be left to resolve that.
        let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK).expect("valid arguments");
        let thread = std::thread::Builder::new().name("pm-faults".into()).spawn(move || {
            let mut events = Vec::with_capacity(EVENTS_MAX);
            while wait(&uffd, &ends).is_continue() && pump(&uffd, &arena, &mut events) {}
        });
        mask.thread_set_mask().expect("valid arguments");
        let thread = thread.map_err(|error| Error::os("starting the page fault thread", error))?;
        Ok(EventThread { stop, thread: Some(thread) })
    }
}

impl Drop for EventThread {
    fn drop(&mut self) {
        self.stop.write(1).expect("an eventfd takes a 1");
        let thread = self.thread.take().expect("taken only here");
        // The sink's last owner may be the handler thread itself; it then ends on its own.
        if thread.thread().id() != std::thread::current().id() {
            thread.join().expect("a panic there ends the process");
        }
    }
}

/// Sleeps until there are events; `Break` when the thread is to stop.
fn wait(uffd: &Uffd, stop: &EventFd) -> ControlFlow<()> {
    let mut fds =
        [PollFd::new(uffd.as_fd(), PollFlags::POLLIN), PollFd::new(stop.as_fd(), PollFlags::POLLIN)];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(errno) => die(format_args!("waiting for page faults: {errno}")),
    }
    let stopped = fds[1].any().unwrap_or(true);
    if stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
}

/// Hands over the events that are there; false when nobody takes them any more.
fn pump(uffd: &Uffd, arena: &Shared, events: &mut Vec<Event>) -> bool {
    if let Err(error) = uffd.read_events(events, EVENTS_MAX) {
        die(format_args!("reading page faults: {error}"));
    }
    let Some(sink) = arena.sink() else {
        return false;
    };
    for Event { address, access, thread } in events.drain(..) {
        // The kernel does not say which instruction it was.
        let fault = PageFault { page: arena.page_of(address), access, instruction: 0, thread };
        arena.counts.count(&fault);
        if catch_unwind(AssertUnwindSafe(|| sink.submit(fault))).is_err() {
            die(format_args!("panic while a page fault on {:?} was being submitted", fault.page));
        }
    }
    if catch_unwind(AssertUnwindSafe(|| sink.attend())).is_err() {
        die(format_args!("panic while page faults were being waited for"));
    }
    true
}
