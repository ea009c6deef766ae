//! The faulting side of the bare fault: trap, 64 B out, a page (or 64 B) in, copy, map, run on.
//!
//! It is served by `server.rs`; the scan's by `bulk.rs`. Nothing is checked but the page's first word,
//! which the walk looks at.

use std::io;
use std::net::UdpSocket;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use serde::{Deserialize, Serialize};

use super::bulk::Bulk;
use super::server::Request;
use super::view::View;
use super::{FaultSide, Mechanism, REQUEST, adopt, receive};
use crate::Result;
use crate::child;
use crate::touch::{PAGE, Walk};

/// What the faulting side is told. The server must have been started before.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum ClientCommand {
    /// Time loads of pages whose memory exists here.
    WarmLoads(Walk),
    /// Time loads of pages that were never touched here.
    FreshLoads(Walk),
    /// Time stores to pages that are readable here and at the server.
    Upgrades(Walk),
    /// Load every word of all pages, in order, by bursts; microseconds in all. `warm`: their memory exists.
    Scan { stamp: u64, warm: bool },
}

/// What the page fault handlers find; one for the process.
static CLIENT: OnceLock<Client> = OnceLock::new();

struct Client {
    socket: UdpSocket,
    view: View,
    what: Mutex<What>,
}

/// What the faults of the present walk ask for.
enum What {
    Page { stamp: u64 },
    Upgrade,
    Scan(Bulk),
}

/// Runs the faulting side.
pub(crate) fn take_faults(side: &FaultSide) -> Result<()> {
    let socket = adopt(side.socket, side.wait)?;
    let view = View::new(side.mechanism, side.pages)?;
    let what = Mutex::new(What::Upgrade);
    if CLIENT.set(Client { socket, view, what }).is_err() {
        return Err("one client for a process".into());
    }
    let client = CLIENT.get().expect("set just above");
    match side.mechanism {
        Mechanism::Signal => catch(Signal::SIGBUS)?,
        Mechanism::Mprotect => catch(Signal::SIGSEGV)?,
        Mechanism::Thread => {
            std::thread::spawn(|| handle_events(client));
        }
    }
    child::serve(|command: ClientCommand| client.obey(command))
}

impl Client {
    fn obey(&self, command: ClientCommand) -> Result<Vec<f64>> {
        match command {
            ClientCommand::WarmLoads(walk) => {
                self.view.populate(walk.first..walk.first + walk.pages)?;
                self.view.drop_pages(walk.first..walk.first + walk.pages)?;
                self.set(What::Page { stamp: walk.stamp });
                walk.load(self.view.base())
            }
            ClientCommand::FreshLoads(walk) => {
                self.set(What::Page { stamp: walk.stamp });
                walk.load(self.view.base())
            }
            ClientCommand::Upgrades(walk) => {
                let pages = walk.first..walk.first + walk.pages;
                self.view.populate(pages.clone())?;
                self.view.drop_pages(pages.clone())?;
                self.view.map(pages.clone())?;
                self.view.downgrade(pages)?;
                self.set(What::Upgrade);
                walk.store(self.view.base())
            }
            ClientCommand::Scan { stamp, warm } => {
                let pages = self.view.pages();
                if warm {
                    self.view.populate(0..pages)?;
                    self.view.drop_pages(0..pages)?;
                }
                self.set(What::Scan(Bulk::new(pages, stamp)));
                let start = Instant::now();
                let sum = crate::scan::sum(self.view.base(), pages);
                let time = start.elapsed().as_secs_f64() * 1e6;
                let expected = (0..pages).fold(0, |sum: u64, page| sum.wrapping_add(Walk::word(stamp, page)));
                if sum == expected { Ok(vec![time]) } else { Err("the scan read something else".into()) }
            }
        }
    }

    fn set(&self, what: What) {
        *self.what.lock().expect("no thread panics here") = what;
    }

    /// Answers a fault. What fails here fails for good.
    fn resolve(&self, page: usize) -> io::Result<()> {
        let mut what = self.what.lock().expect("no thread panics here");
        match &mut *what {
            What::Page { stamp } => {
                let mut bytes = [0; PAGE];
                self.exchange(&Request::Page { page, stamp: *stamp }, &mut bytes)?;
                self.view.write(page, &bytes);
                self.view.map(page..page + 1)
            }
            What::Upgrade => {
                self.exchange(&Request::Upgrade { page }, &mut [0; REQUEST])?;
                self.view.upgrade(page..page + 1)
            }
            What::Scan(bulk) => {
                let burst = bulk.fetch(
                    &self.socket,
                    page,
                    |page, bytes| self.view.write(page, bytes),
                    |burst| self.view.populate(burst),
                )?;
                self.view.map(burst)
            }
        }
    }

    fn exchange(&self, request: &Request, answer: &mut [u8]) -> io::Result<()> {
        self.socket.send(&request.encode())?;
        let len = receive(&self.socket, answer)?;
        if len == answer.len() { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
    }
}

fn catch(signal: Signal) -> Result<()> {
    let action = SigAction::new(SigHandler::SigAction(on_signal), SaFlags::SA_SIGINFO, SigSet::all());
    // SAFETY: the handler runs at loads and stores of walks only, which hold no lock that it takes.
    unsafe { sigaction(signal, &action) }?;
    Ok(())
}

extern "C" fn on_signal(_: i32, info: *mut libc::siginfo_t, _: *mut std::ffi::c_void) {
    // SAFETY: the kernel passes a handler with SA_SIGINFO a valid description of the signal.
    let info = unsafe { &*info };
    // SAFETY: signals of the kernel with these numbers carry an address.
    let address = unsafe { info.si_addr() }.addr();
    resolve_at(address);
}

fn handle_events(client: &'static Client) {
    let uffd = client.view.uffd().expect("this mechanism has one");
    while let Ok(address) = uffd.read_address() {
        resolve_at(address);
    }
}

fn resolve_at(address: usize) {
    let client = CLIENT.get();
    let page = client.and_then(|client| client.view.page_of(address));
    let resolved = client.zip(page).map(|(client, page)| client.resolve(page));
    if !matches!(resolved, Some(Ok(()))) {
        eprintln!("bench: a fault of the floor at {address:#x} cannot be resolved: {resolved:?}");
        std::process::abort();
    }
}
