//! Which key a node has, as other processes of its host can see it: the name of an abstract socket, which holds the
//! node's address and its key's fingerprint, and is gone with the process. A joiner with another key gets no answer,
//! like every stranger; on the same host this tells it why, at once. The fingerprint is public: it stands in each
//! handshake packet. It is a hint: any user of the host can make such a name, so a name with the joiner's own
//! fingerprint makes all others count for nothing.

use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};

use crate::error::{Error, Result};
use crate::net::ClusterKey;

const PREFIX: &str = "pagemesh";
/// The kernel's list of the names of this network namespace, which is also that of the node's address.
const NAMES: &str = "/proc/net/unix";

/// A node's name, while this lives.
#[derive(Debug)]
pub(crate) struct KeyMark(#[expect(dead_code, reason = "it holds the name")] UnixDatagram);

impl KeyMark {
    /// Shows the key of a node at this address. None: the system has no such names, and joiners wait for an answer.
    pub(crate) fn show(key: &ClusterKey, addr: SocketAddr) -> Option<KeyMark> {
        let name = UnixAddr::from_abstract_name(format!("{PREFIX}/{addr}/{}", key.fingerprint())).ok()?;
        let socket = UnixDatagram::bind_addr(&name).ok()?;
        // Nobody can send anything there.
        socket.shutdown(std::net::Shutdown::Both).ok()?;
        Some(KeyMark(socket))
    }
}

/// An error if the node at `addr` runs on this host and has another key. `what` names the key in it.
pub(crate) fn check(key: &ClusterKey, what: &str, addr: SocketAddr) -> Result<()> {
    match other_key(&std::fs::read_to_string(NAMES).unwrap_or_default(), key, addr) {
        None => Ok(()),
        Some(theirs) => Err(Error::Invalid(format!(
            "{what} (fingerprint {}) is not the key of the cluster at {addr} (fingerprint {theirs}): use that \
             cluster's key file",
            key.fingerprint()
        ))),
    }
}

/// The fingerprint of the node at `addr`, if names show it and none shows this key's.
fn other_key(names: &str, key: &ClusterKey, addr: SocketAddr) -> Option<String> {
    let ours = key.fingerprint();
    let mut marks = names.lines().filter_map(|line| {
        let (_, name) = line.split_once(&format!("@{PREFIX}/"))?;
        let (at, fingerprint) = name.split_once('/')?;
        let at: SocketAddr = at.parse().ok()?;
        // A node that is bound to all addresses is surely meant by loopback's only.
        let is_meant =
            at == addr || at.ip().is_unspecified() && addr.ip().is_loopback() && at.port() == addr.port();
        let is_one = fingerprint.len() == ours.len() && fingerprint.bytes().all(|b| b.is_ascii_hexdigit());
        (is_meant && is_one).then(|| fingerprint.to_owned())
    });
    let first = marks.next()?;
    (first != ours && !marks.any(|other| other == ours)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_of_this_host_shows_its_key_until_it_ends() {
        let (key, other) = (ClusterKey::new([1; 32]), ClusterKey::new([2; 32]));
        // Nobody binds to port 0, so no other test has this name.
        let addr: SocketAddr = "127.0.0.77:0".parse().expect("an address");
        let mark = KeyMark::show(&key, addr).expect("an abstract socket");
        assert!(check(&key, "this key", addr).is_ok());
        let error = check(&other, "key file F", addr).expect_err("another key").to_string();
        assert!(error.starts_with("key file F (fingerprint ") && error.contains("127.0.0.77:0"), "{error}");
        assert!(error.contains(&key.fingerprint()) && error.contains(&other.fingerprint()), "{error}");
        drop(mark);
        assert!(check(&other, "key file F", addr).is_ok());
    }

    /// Whoever can list names can also make them.
    #[test]
    fn no_name_of_another_user_keeps_a_joiner_out_that_has_the_key() {
        let (key, addr) = (ClusterKey::new([1; 32]), "127.0.0.1:7400".parse().expect("an address"));
        let line = |at: &str, fingerprint: &str| format!("0: 2 0 0 2 1 9 @pagemesh/{at}/{fingerprint}\n");
        let ours = line("127.0.0.1:7400", &key.fingerprint());
        let forged = line("127.0.0.1:7400", "0123456789abcdef");
        let is_refused = |names: &str| other_key(names, &key, addr).is_some();
        assert!(!is_refused(&format!("{forged}{ours}{forged}")) && is_refused(&forged));
        assert!(is_refused(&line("0.0.0.0:7400", "0123456789abcdef")));
        let harmless = [("127.0.0.1:7401", "0123456789abcdef"), ("127.0.0.1:7400", "\u{1b}[31m"), ("", "")];
        assert!(!harmless.iter().any(|(at, fingerprint)| is_refused(&line(at, fingerprint))));
    }
}
