//! Opening a region whose type is not known leaves a line in the log.

use std::fmt::Write;
use std::sync::{Arc, Mutex};

use pagemesh::prelude::*;
use pagemesh::{Settings, Untagged};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// Keeps the warnings of one thread.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<String>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN
    }
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        self.0.lock().expect("no thread panicked").push(text.0);
    }
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn std::fmt::Debug) {
        write!(self.0, "{value:?}").expect("memory");
    }
}

#[test]
fn a_region_that_opens_untyped_is_logged() {
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        let settings = Settings { arena_size: 1 << 28, memory_max: 1 << 28, ..Settings::default() };
        let dsm = Dsm::builder().settings(settings).arena_anywhere().join().expect("a cluster of one");
        dsm.alloc::<Untagged<u64>>("untyped", 10).expect("memory");
        dsm.alloc::<u64>("typed", 10).expect("memory");
        dsm.attach::<u64>("typed").expect("the type agrees");
        dsm.attach::<Untagged<u64>>("untyped").expect("no types");
        assert_eq!(*warnings.0.lock().expect("no thread panicked"), [""; 0]);
        dsm.attach::<f64>("untyped").expect("any type");
        dsm.attach::<Untagged<f64>>("typed").expect("of one size");
        dsm.leave().expect("alone");
    });
    let warnings = warnings.0.lock().expect("no thread panicked").clone();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("`untyped`") && warnings[0].contains("`<f8` (f64)"), "{warnings:?}");
    assert!(warnings[1].contains("`typed`") && warnings[1].contains("`<u8` (u64)"), "{warnings:?}");
}
