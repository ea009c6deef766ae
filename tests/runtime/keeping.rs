//! What a process at a node's keep socket can do that is no node.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::Signal;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, recv, sendmsg, socket,
};
use pagemesh::Settings;

use crate::child::Child;
use system_tests::rig;

const MAGIC: [u8; 4] = *b"PGMK";
const FORMAT: [u8; 2] = [2, 0];
const OFFER: u8 = 1;

/// An offer of a node, of two files of a page each.
fn offer(node: u16, incarnation: u64) -> Vec<u8> {
    let mut bytes = [&MAGIC[..], &FORMAT, &[OFFER], &node.to_le_bytes()].concat();
    [incarnation, 4096, 4096].iter().for_each(|word| bytes.extend(word.to_le_bytes()));
    bytes
}

/// Sends one packet with descriptors to a node; gives its answer if it is to be waited for.
fn say(to: &Path, bytes: &[u8], files: &[RawFd], waits: bool) -> Vec<u8> {
    let socket =
        socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    connect(socket.as_raw_fd(), &UnixAddr::new(to).expect("a path")).expect("the node listens");
    let rights = [ControlMessage::ScmRights(files)];
    let control = if files.is_empty() { &[] } else { &rights[..] };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::empty(), None);
    // It may have closed a connection already that was too many.
    assert!(matches!(sent, Ok(_) | Err(Errno::EPIPE | Errno::ECONNRESET)), "{sent:?}");
    let mut answer = vec![0; 512];
    let len = if waits { recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap_or(0) } else { 0 };
    answer.truncate(len);
    answer
}

/// Memory that nobody can make shorter.
fn memory() -> File {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"offered", flags).expect("memory"));
    file.set_len(4096).expect("a length");
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
    file
}

#[test]
fn ten_thousand_wrong_offers_are_refused_and_cost_no_descriptor() {
    let directory = std::env::temp_dir().join(format!("pagemesh-offers-{}", std::process::id()));
    let settings = Settings { keep_dir: Some(directory.clone()), ..rig::small() };
    let daemon = Child::start("daemon", &settings);
    daemon.line();
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("it runs").count();
    let sockets = || std::fs::read_dir(&directory).expect("it is made").flatten();
    let socket = sockets().next().expect("the daemon's").path();
    let name = socket.file_stem().and_then(|name| name.to_str()).expect("its start");
    let node = u64::from_str_radix(name, 16).expect("its start");
    let (sealed, pipe) = (memory(), std::io::pipe().expect("a pipe"));
    let (sealed, pipe) = (sealed.as_raw_fd(), pipe.0.as_raw_fd());
    let mut wrong_format = offer(0, node);
    wrong_format[4] = 9;
    let before = descriptors();
    for round in 0..1_000 {
        let refusal = |files: &[RawFd]| {
            String::from_utf8_lossy(&say(&socket, &offer(0, node), files, true)).into_owned()
        };
        let of_another = format!("process {} offers it, and it runs in", std::process::id());
        assert!(refusal(&[sealed, sealed]).contains(&of_another), "{}", refusal(&[sealed, sealed]));
        assert!(refusal(&[]).contains("two descriptors"), "{}", refusal(&[]));
        assert!(refusal(&[pipe, sealed]).contains("is no file"), "{}", refusal(&[pipe, sealed]));
        // Of a node that may yet become known.
        say(&socket, &offer(9, round), &[sealed, sealed], false);
        say(&socket, b"noise", &[sealed; 16], false);
        say(&socket, &[], &[sealed], false);
        say(&socket, &wrong_format, &[sealed, sealed], true);
        say(&socket, &offer(0, node)[..20], &[pipe], true);
        say(&socket, &[0; 4096], &[sealed, pipe], false);
        say(&socket, &[], &[], false);
    }
    rig::until("every connection is closed", || descriptors() == before);
    // It listens as before.
    assert!(!say(&socket, &offer(0, node), &[], true).is_empty());
    daemon.signal(Signal::SIGKILL);
    drop(daemon);
    std::fs::remove_dir_all(&directory).expect("the test's own");
}
