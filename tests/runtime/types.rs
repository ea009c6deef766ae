//! Regions keep the type of their elements. This crate depends on `pagemesh` alone, as a program does: what
//! `derive(Pod)` generates must need nothing else.

use std::num::Wrapping;
use std::sync::atomic::{AtomicI32, AtomicU64};

use pagemesh::prelude::*;
use pagemesh::{Element, Untagged, bytemuck};
use system_tests::rig::Rig;

#[derive(Clone, Copy, Debug, PartialEq, Pod)]
#[repr(C)]
struct Particle {
    position: [f64; 3],
    r#type: u32,
    flags: [u8; 4],
}

/// As `Particle` in memory, with another name for a field.
#[derive(Clone, Copy, Pod)]
#[repr(C)]
struct Renamed {
    position: [f64; 3],
    kind: u32,
    flags: [u8; 4],
}

/// The same type from another program: names of structures do not count.
mod other {
    use pagemesh::prelude::*;

    #[derive(Clone, Copy, Pod)]
    #[repr(C)]
    pub(super) struct Body {
        pub(super) position: [f64; 3],
        pub(super) r#type: u32,
        pub(super) flags: [u8; 4],
    }
}

#[derive(Clone, Copy, Pod)]
#[repr(C, packed)]
struct Packed(u8, u32, Nested);

#[derive(Clone, Copy, Pod)]
#[repr(transparent)]
struct Nested {
    inner: Untagged<[u16; 2]>,
}

/// A type of another crate, which knows nothing of tags.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Foreign {
    x: f32,
    y: f32,
}

// SAFETY: zero bytes are two zeros.
unsafe impl bytemuck::Zeroable for Foreign {}
// SAFETY: two numbers, nothing between or behind them.
unsafe impl bytemuck::Pod for Foreign {}

fn tag<T: Element>() -> String {
    T::type_tag().map_or_else(|| "none".into(), |tag| tag.to_string())
}

#[test]
fn a_type_s_tag_is_its_layout() {
    assert_eq!([tag::<u8>(), tag::<i16>(), tag::<f32>()], ["|u1", "<i2", "<f4"]);
    assert_eq!([tag::<u64>(), tag::<AtomicU64>(), tag::<usize>()], ["<u8", "<u8", "<u8"]);
    assert_eq!([tag::<i8>(), tag::<bool>(), tag::<AtomicI32>()], ["|i1", "|b1", "<i4"]);
    assert_eq!([tag::<[[f64; 3]; 2]>(), tag::<Wrapping<u32>>()], ["(2)(3)<f8", "<u4"]);
    assert_eq!(tag::<Particle>(), "{position:(3)<f8@0,type:<u4@24,flags:(4)|u1@28}");
    assert_eq!(tag::<Packed>(), "{0:|u1@0,1:<u4@1,2:{inner:|V4@0}@5}");
    assert_eq!(tag::<Untagged<Foreign>>(), "none");
}

#[test]
fn a_structure_derived_from_the_prelude_alone_is_shared() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let particles = dsm.alloc::<Particle>("particles", 300).unwrap();
        let particle = |at: usize| Particle { position: [at as f64; 3], r#type: at as u32, flags: [7; 4] };
        for at in dsm.my_block(particles.len()) {
            particles.set(at, particle(at));
        }
        dsm.barrier().unwrap();
        assert!(particles.iter().enumerate().all(|(at, found)| found == particle(at)));
        // A structure with a lock around it.
        let sum = dsm.mutex::<Particle>("sum").unwrap();
        sum.lock().unwrap().r#type += 1;
        dsm.barrier().unwrap();
        assert_eq!(sum.lock().unwrap().r#type, 2);
        // A program that names the structure otherwise has the same type.
        let bodies = dsm.attach::<other::Body>("particles").unwrap();
        let body = bodies.get(5);
        assert_eq!((body.position, body.r#type, body.flags), ([5.0; 3], 5, [7; 4]));
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn a_region_of_integers_does_not_open_as_floats() {
    Rig::with_daemons(1, 2).run(|dsm| {
        let numbers = dsm.alloc::<u64>("numbers", 1000).unwrap();
        dsm.barrier().unwrap();
        let refused = |error: Option<Error>, names: [&str; 2]| {
            let error = error.expect("it is refused").to_string();
            assert!(names.iter().all(|name| error.contains(name)), "{error}");
            assert!(error.contains("`numbers`") || error.contains("`particles`"), "{error}");
        };
        refused(dsm.alloc::<f64>("numbers", 1000).err(), ["`<u8` (u64)", "`<f8` (f64)"]);
        refused(dsm.attach::<f64>("numbers").err(), ["`<u8` (u64)", "`<f8` (f64)"]);
        refused(dsm.attach::<i64>("numbers").err(), ["`<u8` (u64)", "`<i8` (i64)"]);
        refused(dsm.attach::<[u32; 2]>("numbers").err(), ["`<u8` (u64)", "`(2)<u4`"]);
        dsm.alloc::<Particle>("particles", 10).unwrap();
        refused(dsm.attach::<Renamed>("particles").err(), ["type:<u4@24", "kind:<u4@24"]);
        // An atomic integer is an integer.
        assert_eq!(dsm.attach::<AtomicU64>("numbers").unwrap().len(), numbers.len());
        dsm.barrier().unwrap();
        dsm.leave().unwrap();
    });
}

#[test]
fn a_reference_in_a_call_opens_as_its_region_s_type() {
    Rig::with_daemons(1, 1).run(|dsm| {
        let numbers = dsm.alloc::<u64>("numbers", 1000).unwrap();
        numbers.set(20, 7);
        let part = dsm.globals().open(numbers.global_range(20..30)).unwrap();
        assert_eq!((part.len(), part.get(0)), (10, 7));
        let floats = pagemesh::rpc::Global::<f64>::new(part.addr(), 10, numbers.global().generation());
        let error = dsm.globals().open(floats).err().expect("it is refused").to_string();
        assert!(error.contains("`numbers`") && error.contains("`<u8` (u64)"), "{error}");
        assert!(error.contains("`<f8` (f64)"), "{error}");
        dsm.leave().unwrap();
    });
}

#[test]
fn a_region_without_a_type_opens_as_anything() {
    Rig::with_daemons(1, 1).run(|dsm| {
        let foreign = dsm.alloc::<Untagged<Foreign>>("foreign", 100).unwrap();
        foreign.set(3, Untagged(Foreign { x: 1.0, y: 2.0 }));
        let floats = dsm.attach::<f32>("foreign").unwrap();
        assert_eq!((floats.len(), floats.get(6), floats.get(7)), (200, 1.0, 2.0));
        assert_eq!(dsm.attach::<[f32; 4]>("foreign").unwrap().len(), 50);
        let error = dsm.attach::<[f32; 3]>("foreign").err().expect("800 bytes are not 12s").to_string();
        assert!(error.contains("without a type"), "{error}");
        dsm.alloc::<[f32; 2]>("pairs", 100).unwrap();
        assert_eq!(dsm.attach::<Untagged<Foreign>>("pairs").unwrap().len(), 100);
        dsm.leave().unwrap();
    });
}
