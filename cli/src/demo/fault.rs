//! What a page fault costs: a load from a page that another process has, beside a round trip of UDP
//! datagrams between the processes themselves, measured in turns.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use pagemesh::{Dsm, Error, SharedSlice};
use serde::Serialize;

use super::notes::{Note, Notes};

/// Pages that are read. In a random order of fewer, neighbours come so often that they look like a stream of
/// faults, and are fetched ahead.
const PAGES: usize = 1000;
/// Turns in which faults and datagrams are measured.
const TURNS: usize = 4;
const NUMBERS_A_PAGE: usize = 4096 / size_of::<u64>();
/// Bytes of the question; a request for a page is about as long.
const QUESTION: usize = 64;
/// Bytes of the answer: a page.
const ANSWER: usize = 4096;
/// A datagram that has not come after this time does not come.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// Medians.
#[derive(Serialize, Default)]
pub(super) struct FaultCost {
    pub(super) fault_p50_us: f64,
    faults: usize,
    /// None: no answer came.
    pub(super) udp_round_trip_p50_us: Option<f64>,
    udp_question_bytes: usize,
    udp_answer_bytes: usize,
}

/// Rank 0 reads pages that rank 1 has written, and exchanges datagrams with it. Collective.
pub(super) fn measure(dsm: &Dsm, notes: &Notes<'_>) -> pagemesh::Result<FaultCost> {
    let pages = dsm.alloc::<u64>("demo.fault", PAGES * NUMBERS_A_PAGE)?;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(udp)?;
    socket.set_read_timeout(Some(LOST_AFTER)).map_err(udp)?;
    notes.set(Note::Port, u64::from(socket.local_addr().map_err(udp)?.port()));
    if dsm.rank() == 1 {
        (0..PAGES).for_each(|page| pages.set(page * NUMBERS_A_PAGE, page as u64));
    }
    dsm.barrier()?;

    let mut order: Vec<usize> = (0..PAGES).collect();
    fastrand::Rng::with_seed(2).shuffle(&mut order);
    let (mut faults, mut round_trips) = (Vec::new(), Vec::new());
    for turn in order.chunks(PAGES / TURNS) {
        match dsm.rank() {
            0 => {
                let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, notes.get(Note::Port, 1) as u16));
                round_trips.extend(ask(&socket, peer, turn.len()).map_err(udp)?);
            }
            1 => answer(&socket).map_err(udp)?,
            _ => {}
        }
        dsm.barrier()?;
        if dsm.is_root() {
            faults.extend(turn.iter().map(|page| time_of_load(&pages, page * NUMBERS_A_PAGE)));
        }
        dsm.barrier()?;
    }
    Ok(FaultCost {
        fault_p50_us: median_us(&mut faults).unwrap_or(f64::NAN),
        faults: faults.len(),
        udp_round_trip_p50_us: median_us(&mut round_trips),
        udp_question_bytes: QUESTION,
        udp_answer_bytes: ANSWER,
    })
}

fn time_of_load(pages: &SharedSlice<u64>, index: usize) -> Duration {
    let begun = Instant::now();
    std::hint::black_box(pages.get(index));
    begun.elapsed()
}

/// Round trips to a peer that [`answer`]s; lost ones are left out. An empty datagram ends the conversation.
fn ask(socket: &UdpSocket, peer: SocketAddr, count: usize) -> std::io::Result<Vec<Duration>> {
    let mut bytes = [0; ANSWER];
    let mut times = Vec::new();
    for _ in 0..count {
        let begun = Instant::now();
        socket.send_to(&[0; QUESTION], peer)?;
        if received(socket.recv_from(&mut bytes))?.is_some() {
            times.push(begun.elapsed());
        }
    }
    socket.send_to(&[], peer)?;
    Ok(times)
}

/// Answers until the peer ends the conversation or is silent.
fn answer(socket: &UdpSocket) -> std::io::Result<()> {
    let mut bytes = [0; ANSWER];
    while let Some((len, peer)) = received(socket.recv_from(&mut bytes))?
        && len > 0
    {
        socket.send_to(&[1; ANSWER], peer)?;
    }
    Ok(())
}

/// None: nothing came in time.
fn received<T>(result: std::io::Result<T>) -> std::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(None),
        Err(error) => Err(error),
    }
}

fn udp(error: std::io::Error) -> Error {
    Error::os("exchange UDP datagrams on 127.0.0.1", error)
}

fn median_us(times: &mut [Duration]) -> Option<f64> {
    times.sort_unstable();
    times.get(times.len() / 2).map(|time| time.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_answered_until_the_conversation_ends() {
        let socket = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let (client, server) = (socket(), socket());
        let peer = server.local_addr().expect("bound");
        let answering = std::thread::spawn(move || answer(&server));
        let mut times = ask(&client, peer, 5).expect("answers");
        assert_eq!(times.len(), 5);
        assert!(median_us(&mut times).is_some_and(|median| median > 0.0));
        answering.join().expect("no panic").expect("no error");
        assert_eq!(median_us(&mut []), None);
    }
}
