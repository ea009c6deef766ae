//! The serving side of the bare fault: a loop of receive and send, in a thread of its own.
//!
//! An upgrade does what no protocol can leave out when the server's own application has the other
//! copy: the page leaves the server's view (a system call), then 64 B go back.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde::{Deserialize, Serialize};

use super::view::View;
use super::{FaultSide, REQUEST, Wait, adopt};
use crate::Result;
use crate::child;
use crate::touch::{PAGE, Walk};

/// What the serving side is told.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum ServerCommand {
    /// Serve; all pages are in the server's view from now on.
    Serve,
    /// Sleep.
    Rest,
}

/// What the faulting side asks for.
pub(super) enum Request {
    Page { page: usize, stamp: u64 },
    Upgrade { page: usize },
}

impl Request {
    pub(super) fn encode(&self) -> [u8; REQUEST] {
        let words = match *self {
            Request::Page { page, stamp } => [0, page as u64, stamp],
            Request::Upgrade { page } => [1, page as u64, 0],
        };
        let mut bytes = [0; REQUEST];
        for (to, word) in bytes.chunks_exact_mut(8).zip(words) {
            to.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8; REQUEST]) -> Request {
        let word = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let page = word(8) as usize;
        if word(0) == 0 { Request::Page { page, stamp: word(16) } } else { Request::Upgrade { page } }
    }
}

/// Runs the serving side.
pub(crate) fn serve_faults(side: &FaultSide) -> Result<()> {
    let socket = adopt(side.socket, side.wait)?;
    let view = Arc::new(View::new(side.mechanism, side.pages)?);
    let (serving, wait) = (Arc::new(AtomicBool::new(false)), side.wait);
    let server = {
        let (view, serving) = (view.clone(), serving.clone());
        thread::spawn(move || run(&socket, &view, &serving, wait))
    };
    child::serve(|command: ServerCommand| {
        match command {
            ServerCommand::Serve => {
                view.populate(0..view.pages())?;
                view.drop_pages(0..view.pages())?;
                view.map(0..view.pages())?;
                serving.store(true, Ordering::Release);
                server.thread().unpark();
            }
            ServerCommand::Rest => serving.store(false, Ordering::Release),
        }
        Ok(())
    })
}

fn run(socket: &UdpSocket, view: &View, serving: &AtomicBool, wait: Wait) {
    let mut memory = vec![0; view.pages() * PAGE];
    let mut request = [0; REQUEST];
    loop {
        // A blocking server sleeps in the kernel whenever nobody asks.
        while wait == Wait::Spin && !serving.load(Ordering::Acquire) {
            thread::park();
        }
        match socket.recv(&mut request) {
            Ok(REQUEST) => {
                if answer(socket, view, &mut memory, &Request::decode(&request)).is_err() {
                    return; // the other side has gone
                }
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(_) => return,
        }
    }
}

fn answer(socket: &UdpSocket, view: &View, memory: &mut [u8], request: &Request) -> std::io::Result<()> {
    match *request {
        Request::Page { page, stamp } => {
            let bytes = &mut memory[page * PAGE..(page + 1) * PAGE];
            bytes[..8].copy_from_slice(&Walk::word(stamp, page).to_ne_bytes());
            socket.send(bytes)?;
        }
        Request::Upgrade { page } => {
            view.drop_pages(page..page + 1)?;
            socket.send(&[0; REQUEST])?;
        }
    }
    Ok(())
}
