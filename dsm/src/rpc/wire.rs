//! Values to bytes and back: the fixed little-endian layout that generated code writes. Not serde: a
//! `bytes` argument is one copy, a list of numbers is one loop, and a length is compared with what is
//! there, and with a budget of memory, before anything is allocated for it.
//!
//! ```text
//! numbers   their bytes          string, bytes  length u32, bytes      list  count u32, elements
//! bool      1 byte, 0 or 1       optional       0, or 1 and the value  map   count u32, keys and values
//! enum      i32                  array          elements               union frame: field u16, value
//! struct    frame: for each field a tag and the value; tag = id << 3 | shape in one or two bytes
//! frame     length u32, that many bytes; what a reader does not know it passes over
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use crate::codec::{DecodeError, Reader};
use crate::config::rpc::{DECODE_DEPTH_MAX, DECODE_MEMORY_MAX};
use crate::page::GlobalAddr;

/// How many bytes a field's value has, so that who does not know the field can pass over it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shape {
    /// One byte.
    One = 0,
    /// Two bytes.
    Two = 1,
    /// Four bytes.
    Four = 2,
    /// Eight bytes.
    Eight = 3,
    /// Begins with its length in bytes, a `u32`.
    Framed = 4,
    /// None of these: as a field it is put into a frame.
    Bare = 5,
}

/// A type that travels in calls. Generated code implements it; the layout is part of the protocol.
pub trait Wire: Sized {
    /// What a field of this type looks like from outside.
    const SHAPE: Shape;
    /// Appends the value.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads the value, or says what is wrong with the bytes.
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError>;

    /// Appends many values. Numbers do it in one loop.
    fn encode_all(values: &[Self], out: &mut Vec<u8>) {
        values.iter().for_each(|value| value.encode(out));
    }

    /// Reads `count` values, which the decoder has found room for.
    fn decode_all(count: usize, from: &mut Decoder<'_>) -> Result<Vec<Self>, DecodeError> {
        from.charge::<Self>(count)?;
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(Self::decode(from)?);
        }
        Ok(values)
    }
}

/// Reads values from a message, within bounds of depth and memory.
pub struct Decoder<'a> {
    rest: &'a [u8],
    depth: usize,
    memory: usize,
}

/// What lies behind a frame that is being read.
pub struct Outside<'a>(&'a [u8]);

/// Greatest number of a field: two bytes of tag hold twelve bits of it. The generator allows less.
pub(super) const FIELD_ID_MAX: u16 = 4095;

/// The tag of a field.
#[derive(Clone, Copy)]
pub struct Field {
    id: u16,
    shape: Shape,
}

impl Field {
    /// The number that the interface file gives it.
    pub fn id(self) -> u16 {
        self.id
    }
}

impl<'a> Decoder<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes, depth: 0, memory: DECODE_MEMORY_MAX }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let mut reader = Reader::new(self.rest);
        let taken = reader.bytes(len)?;
        self.rest = reader.rest();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// A length in bytes or elements: every element has a byte at least.
    fn len(&mut self) -> Result<usize, DecodeError> {
        let len = u32::from_le_bytes(self.array()?) as usize;
        if len > self.rest.len() { Err(DecodeError::Truncated) } else { Ok(len) }
    }

    /// Takes room for `count` values from the budget: bytes of a peer must not become gigabytes here.
    fn charge<T>(&mut self, count: usize) -> Result<(), DecodeError> {
        let needed = count.saturating_mul(size_of::<T>());
        self.memory = self.memory.checked_sub(needed).ok_or(DecodeError::Bad("memory needed"))?;
        Ok(())
    }

    /// Bytes that are still to be read.
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Bytes with their length in front, left where they are.
    pub fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.len()?;
        self.take(len)
    }

    /// A text with its length in front, left where it is.
    pub fn str(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| DecodeError::Bad("text"))
    }

    /// Goes into a frame; [`Decoder::leave`] goes out.
    pub fn enter(&mut self) -> Result<Outside<'a>, DecodeError> {
        self.depth += 1;
        if self.depth > DECODE_DEPTH_MAX {
            return Err(DecodeError::Bad("depth"));
        }
        let frame = self.bytes()?;
        let outside = Outside(self.rest);
        self.rest = frame;
        Ok(outside)
    }

    /// Goes to behind the frame, passing over what was not read.
    pub fn leave(&mut self, outside: Outside<'a>) {
        self.depth -= 1;
        self.rest = outside.0;
    }

    /// The next field of a struct; `None` at the end of its frame.
    pub fn field(&mut self) -> Result<Option<Field>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let [low] = self.array()?;
        let tag = match low {
            0..0x80 => u16::from(low),
            _ => {
                let [high] = self.array()?;
                u16::from(low & 0x7f) | u16::from(high) << 7
            }
        };
        let shape = match tag & 7 {
            0 => Shape::One,
            1 => Shape::Two,
            2 => Shape::Four,
            3 => Shape::Eight,
            4 => Shape::Framed,
            5 => Shape::Bare,
            _ => return Err(DecodeError::Bad("field shape")),
        };
        Ok(Some(Field { id: tag >> 3, shape }))
    }

    /// The value of a field.
    pub fn value<T: Wire>(&mut self, field: Field) -> Result<T, DecodeError> {
        if field.shape != T::SHAPE {
            return Err(DecodeError::Bad("field shape"));
        }
        if field.shape != Shape::Bare {
            return T::decode(self);
        }
        let outside = self.enter()?;
        let value = T::decode(self)?;
        self.leave(outside);
        Ok(value)
    }

    /// Passes over a field that this side does not know.
    pub fn skip(&mut self, field: Field) -> Result<(), DecodeError> {
        let len = match field.shape {
            Shape::One => 1,
            Shape::Two => 2,
            Shape::Four => 4,
            Shape::Eight => 8,
            Shape::Framed | Shape::Bare => self.len()?,
        };
        self.take(len).map(|_| ())
    }

    /// Which variant of a union follows.
    pub fn variant(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// Everything that has not been read, undecoded.
    pub(super) fn take_rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Nothing may be left.
    pub fn finish(&self) -> Result<(), DecodeError> {
        if self.rest.is_empty() { Ok(()) } else { Err(DecodeError::Bad("tail")) }
    }
}

/// Begins a frame; [`end_frame`] writes its length.
pub fn begin_frame(out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(&[0; 4]);
    out.len()
}

/// Ends the frame that `start` came from.
pub fn end_frame(out: &mut [u8], start: usize) {
    let len = wire_len(out.len() - start);
    out[start - 4..start].copy_from_slice(&len.to_le_bytes());
}

/// Appends the tag of a field. A greater number than a tag holds is a broken program: it would be another field.
pub(super) fn put_tag(out: &mut Vec<u8>, id: u16, shape: Shape) {
    assert!(id <= FIELD_ID_MAX, "field {id}: a tag holds numbers up to {FIELD_ID_MAX}");
    let tag = id << 3 | shape as u16;
    if tag < 0x80 {
        out.push(tag as u8);
    } else {
        out.extend_from_slice(&[(tag & 0x7f) as u8 | 0x80, (tag >> 7) as u8]);
    }
}

/// Appends a field of a struct.
pub fn put_field<T: Wire>(out: &mut Vec<u8>, id: u16, value: &T) {
    put_tag(out, id, T::SHAPE);
    if T::SHAPE == Shape::Bare {
        let start = begin_frame(out);
        value.encode(out);
        end_frame(out, start);
    } else {
        value.encode(out);
    }
}

/// Appends a variant of a union.
pub fn put_variant<T: Wire>(out: &mut Vec<u8>, id: u16, value: &T) {
    out.extend_from_slice(&id.to_le_bytes());
    value.encode(out);
}

/// Appends bytes with their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&wire_len(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a text with its length.
pub fn put_str(out: &mut Vec<u8>, text: &str) {
    put_bytes(out, text.as_bytes());
}

/// Appends a list with its count.
pub fn put_list<T: Wire>(out: &mut Vec<u8>, values: &[T]) {
    out.extend_from_slice(&wire_len(values.len()).to_le_bytes());
    T::encode_all(values, out);
}

/// Longer messages are refused when they are sent; a length beyond 4 GiB is a broken program.
fn wire_len(len: usize) -> u32 {
    u32::try_from(len).expect("a value of more than 4 GiB")
}

macro_rules! number {
    ($($ty:ty: $shape:ident),*) => {$(
        impl Wire for $ty {
            const SHAPE: Shape = Shape::$shape;
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
            fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
                Ok(<$ty>::from_le_bytes(from.array()?))
            }
            fn encode_all(values: &[Self], out: &mut Vec<u8>) {
                out.reserve(size_of_val(values));
                values.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes()));
            }
            fn decode_all(count: usize, from: &mut Decoder<'_>) -> Result<Vec<Self>, DecodeError> {
                from.charge::<Self>(count)?;
                let (values, _) = from.take(count * size_of::<Self>())?.as_chunks();
                Ok(values.iter().map(|bytes| <$ty>::from_le_bytes(*bytes)).collect())
            }
        }
    )*};
}

number!(i8: One, i16: Two, i32: Four, i64: Eight, u16: Two, u32: Four, u64: Eight, f32: Four, f64: Eight);

impl Wire for u8 {
    const SHAPE: Shape = Shape::One;
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let [byte] = from.array()?;
        Ok(byte)
    }
    fn encode_all(values: &[Self], out: &mut Vec<u8>) {
        out.extend_from_slice(values);
    }
    fn decode_all(count: usize, from: &mut Decoder<'_>) -> Result<Vec<Self>, DecodeError> {
        Ok(from.take(count)?.to_vec())
    }
}

impl Wire for bool {
    const SHAPE: Shape = Shape::One;
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        match u8::decode(from)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(DecodeError::Bad("bool")),
        }
    }
}

impl Wire for () {
    const SHAPE: Shape = Shape::Bare;
    fn encode(&self, _: &mut Vec<u8>) {}
    fn decode(_: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(())
    }
}

impl Wire for String {
    const SHAPE: Shape = Shape::Framed;
    fn encode(&self, out: &mut Vec<u8>) {
        put_str(out, self);
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        from.str().map(str::to_owned)
    }
}

impl<T: Wire> Wire for Vec<T> {
    const SHAPE: Shape = Shape::Bare;
    fn encode(&self, out: &mut Vec<u8>) {
        put_list(out, self);
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let count = from.len()?;
        T::decode_all(count, from)
    }
}

impl<T: Wire, const N: usize> Wire for [T; N] {
    const SHAPE: Shape = Shape::Bare;
    fn encode(&self, out: &mut Vec<u8>) {
        T::encode_all(self, out);
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let values = T::decode_all(N, from)?;
        values.try_into().map_err(|_| DecodeError::Bad("array"))
    }
}

impl<T: Wire> Wire for Option<T> {
    const SHAPE: Shape = Shape::Bare;
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.is_some()));
        self.iter().for_each(|value| value.encode(out));
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        if bool::decode(from)? { T::decode(from).map(Some) } else { Ok(None) }
    }
}

impl<T: Wire> Wire for Box<T> {
    const SHAPE: Shape = T::SHAPE;
    fn encode(&self, out: &mut Vec<u8>) {
        (**self).encode(out);
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        from.charge::<T>(1)?;
        T::decode(from).map(Box::new)
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    const SHAPE: Shape = Shape::Bare;
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&wire_len(self.len()).to_le_bytes());
        for (key, value) in self {
            key.encode(out);
            value.encode(out);
        }
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let count = from.len()?;
        let mut map = BTreeMap::new();
        for _ in 0..count {
            from.charge::<(K, V)>(1)?;
            let key = K::decode(from)?;
            map.insert(key, V::decode(from)?);
        }
        Ok(map)
    }
}

/// A typed reference into shared memory: the argument is where the data are, not the data.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/greeter.rs.in"));
/// # fn main() -> pagemesh::Result<()> {
/// # use greeter::*;
/// # use pagemesh::rpc::*;
/// # let dsm = pagemesh::Dsm::builder().arena_anywhere().join()?;
/// # dsm.serve(GreeterServer(Polite { globals: dsm.globals() }), 8)?;
/// let values = dsm.alloc::<u64>("values", 3)?;
/// values.fill(14);
/// let greeter = GreeterClient::new(dsm.channel(Policy::RoundRobin));
/// assert_eq!(greeter.sum(values.global())?, 42); // the values stay where they are
/// # dsm.leave()
/// # }
/// ```
pub struct Global<T> {
    addr: GlobalAddr,
    len: u64,
    generation: u64,
    element: PhantomData<fn() -> T>,
}

impl<T> Global<T> {
    /// Refers to `len` elements at `addr`, in the region whose number is `generation`.
    #[doc(hidden)]
    pub fn new(addr: GlobalAddr, len: u64, generation: u64) -> Self {
        Global { addr, len, generation, element: PhantomData }
    }

    /// Where the first element is.
    #[doc(hidden)]
    pub fn addr(&self) -> GlobalAddr {
        self.addr
    }

    /// How many elements there are. A peer said so: compare with the region before use.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The number of the region, which no other region of the cluster has, now or later. A reference to a region
    /// that is gone is told by it from one to the region that lies there since.
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

impl<T> Wire for Global<T> {
    const SHAPE: Shape = Shape::Bare;
    fn encode(&self, out: &mut Vec<u8>) {
        self.addr.0.encode(out);
        self.len.encode(out);
        self.generation.encode(out);
    }
    fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let addr = GlobalAddr(u64::decode(from)?);
        Ok(Global::new(addr, u64::decode(from)?, u64::decode(from)?))
    }
}

impl<T> Clone for Global<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Global<T> {}

impl<T> PartialEq for Global<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.addr, self.len, self.generation) == (other.addr, other.len, other.generation)
    }
}

impl<T> fmt::Debug for Global<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Global({:?}, {} elements)", self.addr, self.len)
    }
}
