//! The cluster's key as a file: 64 hexadecimal digits that only its owner may read.

mod mark;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::unistd::Uid;

use crate::error::{Error, Result};
use crate::net::ClusterKey;

pub(crate) use mark::KeyMark;

/// Longest part of a key file that is read, in bytes: more than a key and blanks around it.
const KEY_FILE_LEN_MAX: u64 = 4096;

impl ClusterKey {
    /// Reads a key file, which must be this user's (or root's) and closed to others. An error names the file and
    /// what is wrong with it, never its contents.
    pub fn load(path: &Path) -> Result<ClusterKey> {
        let name = path.display();
        let fail = |error| Error::os(format!("key file {name}"), error);
        // Opened once: what is checked is what is read, whatever becomes of the path meanwhile.
        let file = File::open(path).map_err(fail)?;
        let found = file.metadata().map_err(fail)?;
        let (mode, owner, me) = (found.mode(), found.uid(), Uid::effective().as_raw());
        if owner != me && owner != 0 {
            return Err(Error::Invalid(format!(
                "key file {name} belongs to user {owner}, who can read and replace it: use a file of user {me}"
            )));
        }
        if mode & 0o077 != 0 {
            return Err(Error::Invalid(format!(
                "key file {name} can be read by others (mode {:o}): chmod 600 {name}",
                mode & 0o777
            )));
        }
        let mut text = String::new();
        file.take(KEY_FILE_LEN_MAX).read_to_string(&mut text).map_err(fail)?;
        parse(text.trim())
            .map(ClusterKey::new)
            .ok_or_else(|| Error::Invalid(format!("key file {name} does not hold 64 hexadecimal digits")))
    }

    /// Reads the key file with which a process joins the cluster at this address. If that runs on this host and has
    /// another key, the error says so at once; a node of another host gives strangers no answer.
    pub fn load_to_join(path: &Path, addr: SocketAddr) -> Result<ClusterKey> {
        let key = ClusterKey::load(path)?;
        mark::check(&key, &format!("key file {}", path.display()), addr)?;
        Ok(key)
    }

    /// A key that no other cluster has.
    pub(crate) fn random() -> Result<ClusterKey> {
        random_bytes().map(ClusterKey::new)
    }

    /// Makes a new key file that only its owner may read. An error if the file exists.
    pub fn generate(path: &Path) -> Result<ClusterKey> {
        let bytes = random_bytes()?;
        let fail = |error| Error::os(format!("key file {}", path.display()), error);
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(fail)?;
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(file, "{digits}").map_err(fail)?;
        Ok(ClusterKey::new(bytes))
    }
}

fn random_bytes() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::Refused(format!("random numbers: {error}")))?;
    Ok(bytes)
}

fn parse(digits: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() || !digits.is_ascii() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_of_another_user_is_refused() {
        if !Uid::effective().is_root() {
            return eprintln!("SKIPPED: only root can give a file to another user");
        }
        let path = std::env::temp_dir().join(format!("pagemesh-foreign-key-{}", std::process::id()));
        ClusterKey::generate(&path).expect("a new file");
        assert!(ClusterKey::load(&path).is_ok());
        std::os::unix::fs::chown(&path, Some(65534), None).expect("root may");
        let error = ClusterKey::load(&path).expect_err("a refusal").to_string();
        std::fs::remove_file(&path).expect("the test's own file");
        assert!(error.contains("belongs to user 65534"), "{error}");
    }

    /// The file is longer than any memory, though it takes no room on the disk.
    #[test]
    fn a_key_file_is_read_as_far_as_a_key_may_reach() {
        let path = std::env::temp_dir().join(format!("pagemesh-long-key-{}", std::process::id()));
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).expect("a new file");
        file.set_len(8 << 40).expect("a file with a hole");
        let error = ClusterKey::load(&path).expect_err("a refusal").to_string();
        std::fs::remove_file(&path).expect("the test's own file");
        assert!(error.contains("does not hold 64 hexadecimal digits"), "{error}");
    }

    #[test]
    fn only_64_hexadecimal_digits_are_a_key() {
        assert_eq!(parse(&"0f".repeat(32)), Some([15; 32]));
        assert_eq!(parse(&"0f".repeat(31)), None);
        assert_eq!(parse(&"zz".repeat(32)), None);
    }
}
