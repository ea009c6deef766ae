//! What a region's elements are, so that a region of one type is not opened as another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::config::membership::TYPE_TAG_LEN_MAX;

/// A type of elements as text, the same for all programs: a number as NumPy writes it (`<u8` has 8 bytes,
/// little-endian, `|u1` one; `i` and `f` are signed and floating point, `|b1` is a `bool`, `|V12` 12 bytes
/// of any kind), an array as `(3)<f8`, a structure as `{x:<f8@0,y:<f8@8}`: names, types and offsets of its
/// fields in bytes. At most 4096 bytes, without control characters.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TypeTag(String);

/// A region's elements.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ElementType {
    /// Bytes of one element.
    pub size: u64,
    /// Its type. None: any type that fits.
    pub tag: Option<TypeTag>,
}

impl TypeTag {
    /// A tag of this text.
    pub fn new(text: impl Into<String>) -> Result<TypeTag, String> {
        let text = text.into();
        if text.is_empty() || text.len() > TYPE_TAG_LEN_MAX {
            return Err(format!("a type tag has 1 to {TYPE_TAG_LEN_MAX} bytes, not {}", text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(format!("the type tag {text:?} has control characters"));
        }
        Ok(TypeTag(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The type's name in Rust, if it is a number: NumPy counts bytes where Rust counts bits.
    fn rust_name(&self) -> Option<String> {
        let (kind, bytes) = self.0.strip_prefix(['<', '>', '|'])?.split_at_checked(1)?;
        let bits = bytes.parse::<u32>().ok()?.checked_mul(8)?;
        match kind {
            "u" | "i" | "f" => Some(format!("{kind}{bits}")),
            "b" => Some("bool".into()),
            _ => None,
        }
    }
}

impl TryFrom<String> for TypeTag {
    type Error = String;

    fn try_from(text: String) -> Result<TypeTag, String> {
        TypeTag::new(text)
    }
}

impl From<TypeTag> for String {
    fn from(tag: TypeTag) -> String {
        tag.0
    }
}

impl fmt::Display for TypeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ElementType {
    /// Elements of `size` bytes, of any type.
    pub fn untagged(size: u64) -> ElementType {
        ElementType { size, tag: None }
    }

    /// Whether a region of `bytes` bytes in these elements opens in elements of the other type. Where one
    /// of them has no tag, only sizes count.
    pub fn opens_as(&self, other: &ElementType, bytes: u64) -> bool {
        match (&self.tag, &other.tag) {
            (None, _) => bytes.is_multiple_of(other.size),
            (Some(_), None) => self.size == other.size,
            (Some(_), Some(_)) => self == other,
        }
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "elements of {} bytes", self.size)?;
        let Some(tag) = &self.tag else { return f.write_str(" without a type") };
        write!(f, " of type `{tag}`")?;
        tag.rust_name().map_or(Ok(()), |name| write!(f, " ({name})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode_control, encode_control};

    fn tag(text: &str) -> TypeTag {
        TypeTag::new(text).expect("a tag")
    }

    #[test]
    fn a_tag_that_a_peer_sends_is_bounded_and_printable() {
        let of = |text: &str| decode_control::<TypeTag>(&encode_control(&text));
        assert_eq!(of("{x:<f8@0}"), Ok(tag("{x:<f8@0}")));
        assert!(of(&"x".repeat(TYPE_TAG_LEN_MAX)).is_ok());
        for bad in ["", "a\nb", "\u{1b}[2J", &"x".repeat(TYPE_TAG_LEN_MAX + 1)] {
            assert!(of(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_number_s_tag_is_explained_in_rust_s_words() {
        let shown = |text: &str| ElementType { size: 8, tag: Some(tag(text)) }.to_string();
        assert_eq!(shown("<u8"), "elements of 8 bytes of type `<u8` (u64)");
        assert_eq!(shown("|b1"), "elements of 8 bytes of type `|b1` (bool)");
        assert_eq!(shown("|V8"), "elements of 8 bytes of type `|V8`");
        assert_eq!(shown("(2)<f4"), "elements of 8 bytes of type `(2)<f4`");
        assert_eq!(shown("<ü8"), "elements of 8 bytes of type `<ü8`");
        assert_eq!(shown("<u999999999"), "elements of 8 bytes of type `<u999999999`");
    }

    #[test]
    fn without_a_tag_only_sizes_count() {
        let typed = |text: &str, size| ElementType { size, tag: Some(tag(text)) };
        let any = ElementType::untagged;
        assert!(typed("<u8", 8).opens_as(&typed("<u8", 8), 80));
        assert!(!typed("<u8", 8).opens_as(&typed("<f8", 8), 80));
        assert!(any(1).opens_as(&typed("<f8", 8), 80));
        assert!(!any(1).opens_as(&typed("<f8", 8), 81));
        assert!(!any(1).opens_as(&any(0), 81));
        assert!(typed("<u8", 8).opens_as(&any(8), 80));
        assert!(!typed("<u8", 8).opens_as(&any(4), 80));
    }
}
