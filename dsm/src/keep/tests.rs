//! Offers between two ends in one process: what is held, what is refused, and that nothing stays open.

use std::fs::File;
use std::io::{IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::*;
use crate::config::keep::{SOCKETS_MAX, UNDECIDED_MAX};
use crate::fault::LENGTH_SEALS;

/// A directory of one test, which goes with it.
struct Bed {
    path: PathBuf,
}

impl Bed {
    fn new(test: &str) -> Bed {
        let path = std::env::temp_dir().join(format!("pagemesh-keep-{test}-{}", std::process::id()));
        Bed { path }
    }

    fn keeper(&self) -> Keeping {
        let mut keeper = Keeping::new().expect("a keeper");
        keeper.listen(self.directory(), KEEPER).expect("a socket");
        keeper
    }

    /// Where a keeper listens.
    fn socket(&self) -> PathBuf {
        self.path.join("0000000000000007.keep")
    }

    fn connect(&self) -> Channel {
        directory::connect_to(&self.socket()).expect("a connection")
    }

    fn directory(&self) -> KeepDirectory {
        KeepDirectory::open(&self.path).expect("a directory")
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

const NOW: Time = Time(1);
const KEEPER: Incarnation = Incarnation(7);
const NODE: NodeId = NodeId(3);
const OFFERED: Incarnation = Incarnation(9);

fn memory(len: u64) -> File {
    let file = File::from(
        memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("memory"),
    );
    file.set_len(len).expect("a length");
    file
}

pub(super) fn sealed_memory(len: u64) -> File {
    let file = memory(len);
    fcntl(&file, FcntlArg::F_ADD_SEALS(LENGTH_SEALS)).expect("seals");
    file
}

fn admit_all(_: &Claim, _: &[Kept]) -> Admission {
    Admission::Granted
}

/// What a node would say to a keeper, sent as it is.
fn send_raw(channel: &Channel, bytes: &[u8], files: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); 256];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(files)));
    }
    sendmsg(channel, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).expect("sent");
}

fn offer_of(arena_len: u64, record_len: u64) -> Vec<u8> {
    Request::Offer(Offer { node: NODE, incarnation: OFFERED, arena_len, record_len }).encode()
}

/// The one answer of a keeper to an offer that was sent as it is.
fn answer_to(keeper: &mut Keeping, bed: &Bed, bytes: &[u8], files: &[BorrowedFd<'_>]) -> Answer {
    let channel = bed.connect();
    send_raw(&channel, bytes, files);
    keeper.progress(NOW, admit_all);
    channel.receive_answer().expect("an answer")
}

fn reason(answer: Answer) -> String {
    match answer {
        Answer::No(reason) => reason,
        Answer::Kept => panic!("kept"),
    }
}

#[test]
fn what_a_node_stores_after_its_offer_is_in_the_files_that_the_keeper_holds() {
    let bed = Bed::new("stores");
    let mut keeper = bed.keeper();
    let mut node = Keeping::new().expect("a node");
    let (arena, record) = (sealed_memory(8192), sealed_memory(4096));
    let estate = Estate { node: NODE, incarnation: OFFERED, arena: arena.as_fd(), record: record.as_fd() };
    assert!(!is_readable(&keeper) && !is_readable(&node));
    node.offer(NOW, (KEEPER, &bed.socket()), &estate).expect("a keeper listens");
    assert_eq!(node.keepers_of(OFFERED).collect::<Vec<_>>(), [(KEEPER, false)]);
    assert!(is_readable(&keeper));
    assert_eq!(keeper.progress(NOW, admit_all), [Change::Holds(OFFERED)]);
    assert!(!is_readable(&keeper) && is_readable(&node));
    assert_eq!(node.progress(NOW, admit_all), [Change::KeptBy { of: OFFERED, keeper: KEEPER }]);
    assert_eq!(node.keepers_of(OFFERED).collect::<Vec<_>>(), [(KEEPER, true)]);
    assert!(!is_readable(&node) && node.deadline().is_none());
    arena.write_all_at(b"after", 4096).expect("a store");
    drop(arena);
    let kept = &keeper.kept()[0];
    let mut bytes = [0; 5];
    kept.arena.read_exact_at(&mut bytes, 4096).expect("bytes");
    assert_eq!((&bytes, kept.node, kept.record.metadata().expect("a file").len()), (b"after", NODE, 4096));
    node.release(OFFERED, |keeper| keeper == KEEPER);
    assert_eq!(keeper.progress(NOW, admit_all), [Change::Forgot(OFFERED)]);
    assert!(keeper.kept().is_empty() && node.keepers_of(OFFERED).next().is_none());
}

/// The connection's end is no proof of the process's: what was handed over is held, and nothing wakes for ever.
#[test]
fn files_are_held_when_the_connection_ends() {
    let bed = Bed::new("ends");
    let mut keeper = bed.keeper();
    let mut node = Keeping::new().expect("a node");
    let file = sealed_memory(4096);
    let estate = Estate { node: NODE, incarnation: OFFERED, arena: file.as_fd(), record: file.as_fd() };
    node.offer(NOW, (KEEPER, &bed.socket()), &estate).expect("a keeper listens");
    keeper.progress(NOW, admit_all);
    drop(node);
    assert!(is_readable(&keeper));
    assert_eq!(keeper.progress(NOW, admit_all), []);
    assert!(!is_readable(&keeper) && keeper.kept().len() == 1);
}

#[test]
fn an_offer_without_an_answer_fails_in_time_and_one_to_a_keeper_that_ends_at_once() {
    let bed = Bed::new("silence");
    let keeper = bed.keeper();
    let mut node = Keeping::new().expect("a node");
    let file = sealed_memory(4096);
    let estate = Estate { node: NODE, incarnation: OFFERED, arena: file.as_fd(), record: file.as_fd() };
    node.offer(NOW, (KEEPER, &bed.socket()), &estate).expect("a keeper listens");
    let deadline = node.deadline().expect("an end");
    assert_eq!(node.progress(NOW, admit_all), []);
    let failed = |why: &str| vec![Change::OfferFailed { of: OFFERED, keeper: KEEPER, why: why.to_owned() }];
    assert_eq!(node.progress(deadline, admit_all), failed("no answer"));
    node.offer(NOW, (KEEPER, &bed.socket()), &estate).expect("a keeper listens");
    drop(keeper);
    assert_eq!(node.progress(NOW, admit_all), failed("ECONNRESET: Connection reset by peer"));
    assert!(node.offer(NOW, (KEEPER, &bed.socket()), &estate).is_err());
}

fn is_readable(keeping: &Keeping) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(keeping, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).expect("a poll") == 1
}

#[test]
fn a_keeper_refuses_files_that_others_can_cut_and_such_as_are_not_what_the_node_says() {
    let bed = Bed::new("files");
    let mut keeper = bed.keeper();
    let (good, small) = (sealed_memory(8192), sealed_memory(4096));
    let unsealed = memory(8192);
    let plain = File::create(bed.path.join("plain")).expect("a file");
    plain.set_len(8192).expect("a length");
    let write_sealed = memory(8192);
    let no_writes = LENGTH_SEALS | nix::fcntl::SealFlag::F_SEAL_WRITE;
    fcntl(&write_sealed, FcntlArg::F_ADD_SEALS(no_writes)).expect("seals");
    let read_only =
        File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&good))).expect("a file");
    let (pipe, _writer) = std::io::pipe().expect("a pipe");
    let mut refused = |arena: BorrowedFd<'_>| {
        reason(answer_to(&mut keeper, &bed, &offer_of(8192, 4096), &[arena, small.as_fd()]))
    };
    assert!(refused(unsealed.as_fd()).contains("not sealed"));
    assert!(refused(plain.as_fd()).contains("no seals"));
    assert!(refused(write_sealed.as_fd()).contains("sealed against it"));
    assert!(refused(read_only.as_fd()).contains("reading only"));
    assert!(refused(pipe.as_fd()).contains("is no file"));
    assert!(refused(small.as_fd()).contains("has 4096 bytes, and the node says 8192"));
    let mut with =
        |files: &[BorrowedFd<'_>]| reason(answer_to(&mut keeper, &bed, &offer_of(8192, 4096), files));
    assert!(with(&[]).contains("two descriptors"));
    assert!(with(&[good.as_fd()]).contains("two descriptors"));
    assert!(with(&[good.as_fd(), small.as_fd(), small.as_fd()]).contains("two descriptors"));
    assert!(keeper.kept().is_empty());
}

#[test]
fn a_node_is_held_once_and_only_if_it_is_admitted() {
    let bed = Bed::new("room");
    let mut keeper = bed.keeper();
    let file = sealed_memory(4096);
    let files = [file.as_fd(), file.as_fd()];
    let channel = bed.connect();
    send_raw(&channel, &offer_of(4096, 4096), &files);
    keeper.progress(NOW, |claim, _| Admission::Refused(format!("{} of process {}", claim.node, claim.pid)));
    let told = reason(channel.receive_answer().expect("an answer"));
    assert_eq!(told, format!("node 3 of process {}", std::process::id()));
    let channel = bed.connect();
    send_raw(&channel, &offer_of(4096, 4096), &files);
    assert_eq!(keeper.progress(NOW, admit_all), [Change::Holds(OFFERED)]);
    assert!(reason(answer_to(&mut keeper, &bed, &offer_of(4096, 4096), &files)).contains("already"));
    // Its process may offer it again when it has forgotten that it has.
    drop(channel);
    assert_eq!(answer_to(&mut keeper, &bed, &offer_of(4096, 4096), &files), Answer::Kept);
    assert_eq!(keeper.kept().len(), 1);
    assert!(keeper.take(OFFERED).is_some() && keeper.take(OFFERED).is_none());
}

/// The keeper's copy of the pipe's end would hold the pipe open.
#[test]
fn descriptors_that_come_with_a_bad_packet_are_closed() {
    let bed = Bed::new("descriptors");
    let mut keeper = bed.keeper();
    for (packet, count) in
        [(&b"noise"[..], 1), (&[][..], 1), (&offer_of(1, 1), 3), (&offer_of(1, 1), 20), (&[0; 4096], 2)]
    {
        let (mut reader, writer) = std::io::pipe().expect("a pipe");
        let writer = OwnedFd::from(writer);
        let channel = bed.connect();
        send_raw(&channel, packet, &vec![writer.as_fd(); count]);
        drop(writer);
        keeper.progress(NOW, admit_all);
        assert_eq!(reader.read(&mut [0]).expect("the end"), 0, "{packet:?} with {count} descriptors");
    }
    assert!(keeper.kept().is_empty() && keeper.undecided.is_empty());
}

#[test]
fn connections_that_say_nothing_keep_no_node_out() {
    let bed = Bed::new("silent");
    let mut keeper = bed.keeper();
    let silent: Vec<Channel> = (0..3 * UNDECIDED_MAX)
        .map(|_| {
            let channel = bed.connect();
            keeper.progress(NOW, admit_all);
            channel
        })
        .collect();
    let file = sealed_memory(4096);
    let answer = answer_to(&mut keeper, &bed, &offer_of(4096, 4096), &[file.as_fd(), file.as_fd()]);
    assert_eq!((answer, keeper.undecided.len()), (Answer::Kept, UNDECIDED_MAX - 1));
    drop(silent);
    keeper.progress(NOW, admit_all);
    assert!(keeper.undecided.is_empty());
}

#[test]
fn a_directory_that_others_may_use_is_refused_and_a_long_path_is_none() {
    let bed = Bed::new("mode");
    drop(bed.directory());
    std::fs::set_permissions(&bed.path, PermissionsExt::from_mode(0o755)).expect("the test's own");
    let error = KeepDirectory::open(&bed.path).expect_err("a refusal").to_string();
    assert!(error.contains("mode 755") && error.contains("chmod 700"), "{error}");
    std::fs::set_permissions(&bed.path, PermissionsExt::from_mode(0o700)).expect("the test's own");
    let long = bed.path.join("d".repeat(120));
    let mut keeper = Keeping::new().expect("a keeper");
    keeper.listen(KeepDirectory::open(&long).expect("a directory"), KEEPER).expect("a socket");
    let socket = keeper.socket().expect("it listens");
    assert!(socket.exists() && directory::connect_to(&socket).is_ok());
    drop(keeper);
    assert!(!socket.exists());
    let error = directory::connect_to(&socket).expect_err("nobody listens").to_string();
    assert!(error.contains("0000000000000007.keep: No such file"), "{error}");
}

/// The keeper may hear of a newcomer from it before it hears of it from the cluster.
#[test]
fn an_offer_of_a_node_that_is_not_known_yet_waits_for_the_view() {
    let bed = Bed::new("early");
    let mut keeper = bed.keeper();
    let file = sealed_memory(4096);
    let files = [file.as_fd(), file.as_fd()];
    let unknown = |_: &Claim, _: &[Kept]| Admission::NotYet("it is no member here".to_owned());
    let channel = bed.connect();
    send_raw(&channel, &offer_of(4096, 4096), &files);
    assert_eq!(keeper.progress(NOW, unknown), []);
    let until = keeper.deadline().expect("it is refused in time");
    assert!(!is_readable(&keeper) && channel.receive_answer().is_err());
    assert_eq!(keeper.progress(NOW, admit_all), [Change::Holds(OFFERED)]);
    assert_eq!((channel.receive_answer().expect("an answer"), keeper.deadline()), (Answer::Kept, None));
    keeper.end();
    let mut keeper = bed.keeper();
    let channel = bed.connect();
    send_raw(&channel, &offer_of(4096, 4096), &files);
    assert_eq!(keeper.progress(NOW, unknown), []);
    assert_eq!(keeper.progress(until, unknown).len(), 1);
    assert!(reason(channel.receive_answer().expect("an answer")).contains("no member"));
    let channel = bed.connect();
    send_raw(&channel, &offer_of(4096, 4096), &files);
    assert_eq!(keeper.progress(NOW, unknown), []);
    drop(channel);
    assert!(is_readable(&keeper));
    assert_eq!(keeper.progress(NOW, unknown), []);
    assert!(!is_readable(&keeper) && keeper.undecided.is_empty(), "nobody waits for an answer any more");
}

/// Names are used once, so that the sockets of killed processes stand in nobody's way; but their number is bounded.
#[test]
fn sockets_that_killed_processes_have_left_are_removed_when_they_are_many() {
    let bed = Bed::new("stale");
    let keeper = bed.keeper();
    drop(bed.directory());
    let count = || std::fs::read_dir(&bed.path).expect("a directory").count();
    let leave = |number: usize| {
        let name = bed.path.join(format!("{number:016x}.keep"));
        drop(std::os::unix::net::UnixListener::bind(name).expect("a socket"));
    };
    (100..100 + SOCKETS_MAX - 1).for_each(leave);
    let other = |incarnation| {
        let mut other = Keeping::new().expect("a keeper");
        other.listen(bed.directory(), Incarnation(incarnation)).expect("a socket");
        other
    };
    drop(other(8));
    assert_eq!(count(), SOCKETS_MAX, "few of them are left alone");
    leave(99);
    let other = other(8);
    assert_eq!(count(), 2);
    assert!(other.socket().is_some_and(|socket| socket.exists()) && bed.socket().exists());
    drop(keeper);
}
