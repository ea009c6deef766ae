//! The cluster's key as a file: 64 hexadecimal digits that only its owner may read.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::error::{Error, Result};
use crate::net::ClusterKey;

impl ClusterKey {
    /// Reads a key file. An error names the file and what is wrong with it, never its contents.
    pub fn load(path: &Path) -> Result<ClusterKey> {
        let name = path.display();
        let fail = |error| Error::os(format!("key file {name}"), error);
        let mode = std::fs::metadata(path).map_err(fail)?.mode();
        if mode & 0o077 != 0 {
            return Err(Error::Invalid(format!(
                "key file {name} can be read by others (mode {:o}): chmod 600 {name}",
                mode & 0o777
            )));
        }
        let text = std::fs::read_to_string(path).map_err(fail)?;
        parse(text.trim())
            .map(ClusterKey::new)
            .ok_or_else(|| Error::Invalid(format!("key file {name} does not hold 64 hexadecimal digits")))
    }

    /// A key that nobody else has.
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
    fn only_64_hexadecimal_digits_are_a_key() {
        assert_eq!(parse(&"0f".repeat(32)), Some([15; 32]));
        assert_eq!(parse(&"0f".repeat(31)), None);
        assert_eq!(parse(&"zz".repeat(32)), None);
    }
}
