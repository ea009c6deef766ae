//! Bytes to values and back: the little-endian reader and writer of the hand-laid messages, and the
//! one place that names bincode, for control messages whose size is bounded. Decoding never panics,
//! and never allocates from a length field before it was compared with the bytes that are there.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::mutation::decoders_keep;

/// Bytes that do not decode. Nothing was changed by the attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// The bytes end before the value does.
    #[error("truncated")]
    Truncated,
    /// A field has a value that no sender writes.
    #[error("bad {0}")]
    Bad(&'static str),
}

/// Reads little-endian fields from the front of a slice.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }

    /// The next `len` bytes.
    pub fn bytes(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        if !decoders_keep("LengthsAreChecked") {
            let (head, rest) = self.rest.split_at(len);
            self.rest = rest;
            return Ok(head);
        }
        let (head, rest) = self.rest.split_at_checked(len).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Sixteen bytes, little-endian.
    pub fn u128(&mut self) -> Result<u128, DecodeError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
}

/// Something that bytes are appended to: `Vec<u8>` or an inline buffer.
pub trait Writer {
    /// Appends `bytes`.
    fn put(&mut self, bytes: &[u8]);
    /// Appends one byte.
    fn put_u8(&mut self, value: u8) {
        self.put(&[value]);
    }
    /// Appends two bytes, little-endian.
    fn put_u16(&mut self, value: u16) {
        self.put(&value.to_le_bytes());
    }
    /// Appends four bytes, little-endian.
    fn put_u32(&mut self, value: u32) {
        self.put(&value.to_le_bytes());
    }
    /// Appends eight bytes, little-endian.
    fn put_u64(&mut self, value: u64) {
        self.put(&value.to_le_bytes());
    }
    /// Appends sixteen bytes, little-endian.
    fn put_u128(&mut self, value: u128) {
        self.put(&value.to_le_bytes());
    }
}

impl Writer for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl<const N: usize> Writer for smallvec::SmallVec<[u8; N]> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// How an id of 64 bits is serialized, for `#[serde(with = "..")]`: a number between nodes; in JSON, whose readers
/// have 53 bits for a number, text of 16 hexadecimal digits.
pub mod id {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes it.
    pub fn serialize<S: Serializer>(id: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(&format_args!("{id:016x}"))
        } else {
            serializer.serialize_u64(*id)
        }
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        if !deserializer.is_human_readable() {
            return u64::deserialize(deserializer);
        }
        let digits = String::deserialize(deserializer)?;
        u64::from_str_radix(&digits, 16).map_err(|_| D::Error::custom("an id is 16 hexadecimal digits"))
    }
}

/// Bytes that one control message may have, and thus what decoding it may allocate.
pub const CONTROL_LEN_MAX: usize = 1 << 20;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<CONTROL_LEN_MAX>()
}

/// Encodes a control message. A value of ours always encodes: failure is a broken program.
pub fn encode_control<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::serde::encode_to_vec(value, config()).expect("control messages are plain data")
}

/// Decodes a control message that must fill `bytes` entirely.
pub fn decode_control<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    if bytes.len() > CONTROL_LEN_MAX {
        return Err(DecodeError::Bad("control message length"));
    }
    match bincode::serde::decode_from_slice(bytes, config()) {
        Ok((value, used)) if used == bytes.len() || !decoders_keep("ControlFillsItsBytes") => Ok(value),
        Ok(_) => Err(DecodeError::Bad("control message tail")),
        Err(_) => Err(DecodeError::Bad("control message")),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Holder {
        #[serde(with = "id")]
        id: u64,
    }

    #[test]
    fn an_id_is_text_in_json_and_a_number_between_nodes() {
        for id in [7, 1 << 53, u64::MAX] {
            let json = serde_json::to_value(Holder { id }).expect("plain data");
            assert_eq!(json, serde_json::json!({ "id": format!("{id:016x}") }));
            assert_eq!(serde_json::from_value::<Holder>(json).expect("an id"), Holder { id });
            let bytes = encode_control(&Holder { id });
            assert_eq!(bytes, encode_control(&id));
            assert_eq!(decode_control::<Holder>(&bytes), Ok(Holder { id }));
        }
        assert!(serde_json::from_str::<Holder>(r#"{"id": 7}"#).is_err());
    }
}
