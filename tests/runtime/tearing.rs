//! Values of up to 64 bits never tear: while one thread writes values whose bytes are all equal, another one
//! reads no value with two different bytes. That the tests can see torn values is shown with elements
//! without alignment, which the library copies byte by byte at both ends of a run.
//!
//! `LONG=1` in the environment makes each case take 10 seconds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pagemesh::{Element, Pod, SharedSlice, TypeTag, bytemuck};
use system_tests::rig::Rig;

/// The ways to access elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Access {
    GetSet,
    Copy,
    Fill,
    Iter,
}

const WAYS: [Access; 4] = [Access::GetSet, Access::Copy, Access::Fill, Access::Iter];

/// Elements that the cases write and read: at neither end of a word, for every size of element.
const ELEMENTS: std::ops::Range<usize> = 1..7;

/// A value without alignment.
#[derive(Clone, Copy)]
#[repr(C, packed)]
struct Bytewise<T>(T);

// SAFETY: zero bytes are a valid `T`.
unsafe impl<T: bytemuck::Zeroable> bytemuck::Zeroable for Bytewise<T> {}
// SAFETY: without padding, and any bytes are a valid `T`.
unsafe impl<T: bytemuck::Pod> bytemuck::Pod for Bytewise<T> {}
impl<T: Element> Element for Bytewise<T> {
    fn type_tag() -> Option<TypeTag> {
        T::type_tag()
    }
}

fn value<T: Pod>(byte: u8) -> T {
    let mut value = T::zeroed();
    bytemuck::bytes_of_mut(&mut value).fill(byte);
    value
}

fn bytes_of<T: Pod>(value: &T) -> BTreeSet<u8> {
    bytemuck::bytes_of(value).iter().copied().collect()
}

/// Writes until `stop`.
fn write<T: Pod>(slice: &SharedSlice<T>, way: Access, stop: &AtomicBool) {
    // Small bytes: all of them make finite floats.
    for byte in (1..100).cycle() {
        match way {
            Access::GetSet | Access::Iter => (0..slice.len()).for_each(|at| slice.set(at, value(byte))),
            Access::Copy => slice.copy_in(0, &vec![value(byte); slice.len()]).unwrap(),
            Access::Fill => slice.fill(value(byte)),
        }
        if stop.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// What a reader has seen.
#[derive(Default, Debug)]
struct Seen {
    whole: u64,
    torn: u64,
    values: BTreeSet<u8>,
}

/// Reads until `enough`, and tells the writer to stop.
fn read<T: Pod>(
    slice: &SharedSlice<T>,
    way: Access,
    stop: &AtomicBool,
    enough: impl Fn(&Seen) -> bool,
) -> Seen {
    let mut seen = Seen::default();
    let mut values = vec![T::zeroed(); slice.len()];
    while !enough(&seen) {
        match way {
            Access::GetSet | Access::Fill => (0..slice.len()).for_each(|at| values[at] = slice.get(at)),
            Access::Copy => slice.copy_out(0, &mut values).unwrap(),
            Access::Iter => values = slice.iter().collect(),
        }
        for bytes in values.iter().map(bytes_of) {
            if bytes.len() == 1 {
                seen.whole += 1;
                seen.values.extend(bytes);
            } else {
                seen.torn += 1;
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    seen
}

/// When a reader has seen enough.
#[derive(Clone, Copy)]
enum Until {
    /// After a while in which the values changed.
    Changed,
    /// With the first torn value.
    Torn,
}

impl Until {
    fn condition(self) -> impl Fn(&Seen) -> bool {
        let begun = Instant::now();
        let long = system_tests::long();
        let time = if long { Duration::from_secs(10) } else { Duration::from_millis(100) };
        move |seen| match self {
            Until::Changed => seen.values.len() > 2 && begun.elapsed() >= time,
            Until::Torn => seen.torn > 0 && (!long || begun.elapsed() >= time),
        }
    }

    fn check<T>(self, way: Access, seen: &Seen) {
        let case = format!("{} by {way:?}: {seen:?}", std::any::type_name::<T>());
        match self {
            Until::Changed => assert_eq!(seen.torn, 0, "{case}"),
            Until::Torn => assert!(seen.torn > 0, "{case}"),
        }
    }
}

/// Where the writer and the reader are.
#[derive(Clone, Copy)]
enum Place {
    TwoThreads,
    TwoRanks,
}

/// All ways to access elements of one type.
fn cases<T: Pod + Send + Sync>(place: Place, until: Until) {
    let name = std::any::type_name::<T>();
    let rig = Rig::without_daemons(match place {
        Place::TwoThreads => 1,
        Place::TwoRanks => 2,
    });
    let stop = Arc::new(WAYS.map(|_| AtomicBool::new(false)));
    let seen = rig.longer_by(Duration::from_secs(60)).run(move |dsm| {
        let region = dsm.alloc::<T>(name, ELEMENTS.end + 1).unwrap().slice(ELEMENTS);
        let run = |way, stop| match place {
            Place::TwoThreads => std::thread::scope(|scope| {
                scope.spawn(|| write(&region, way, stop));
                Some(read(&region, way, stop, until.condition()))
            }),
            Place::TwoRanks if dsm.is_root() => {
                write(&region, way, stop);
                None
            }
            Place::TwoRanks => Some(read(&region, way, stop, until.condition())),
        };
        let mut seen = Vec::new();
        for (&way, stop) in WAYS.iter().zip(&*stop) {
            region.fill(value(1));
            dsm.barrier().unwrap();
            seen.push((way, run(way, stop)));
            dsm.barrier().unwrap();
        }
        dsm.leave().unwrap();
        seen
    });
    for (way, seen) in seen.iter().flatten() {
        if let Some(seen) = seen {
            until.check::<T>(*way, seen);
        }
    }
}

fn all_types(place: Place) {
    cases::<u16>(place, Until::Changed);
    cases::<u32>(place, Until::Changed);
    cases::<u64>(place, Until::Changed);
    cases::<f32>(place, Until::Changed);
    cases::<f64>(place, Until::Changed);
}

fn all_types_bytewise(place: Place) {
    cases::<Bytewise<u16>>(place, Until::Torn);
    cases::<Bytewise<u32>>(place, Until::Torn);
    cases::<Bytewise<f32>>(place, Until::Torn);
}

#[test]
fn a_value_that_another_thread_writes_is_read_whole() {
    all_types(Place::TwoThreads);
}

#[test]
fn a_value_that_another_rank_writes_is_read_whole() {
    all_types(Place::TwoRanks);
}

#[test]
fn a_copy_byte_by_byte_is_seen_to_tear_between_threads() {
    all_types_bytewise(Place::TwoThreads);
}

#[test]
fn a_copy_byte_by_byte_is_seen_to_tear_between_ranks() {
    all_types_bytewise(Place::TwoRanks);
}
