//! The check on the simulator's oracles: a node in which one rule is broken on purpose, chosen at run time. The rules
//! themselves stand beside the code that keeps them. Outside the `planted` feature every rule holds, and its test is a
//! constant.

#[cfg(not(feature = "planted"))]
use std::marker::PhantomData;

/// The rules that a value keeps: all of them, or all but one.
#[derive(Clone, Copy, Debug)]
pub struct Rules<M> {
    #[cfg(feature = "planted")]
    broken: Option<M>,
    #[cfg(not(feature = "planted"))]
    broken: PhantomData<M>,
}

impl<M> Default for Rules<M> {
    fn default() -> Self {
        Rules { broken: Default::default() }
    }
}

impl<M: Copy + PartialEq> Rules<M> {
    /// All rules but one.
    #[cfg(feature = "planted")]
    pub fn without(mutation: M) -> Self {
        Rules { broken: Some(mutation) }
    }

    /// The rule that is broken.
    #[cfg(feature = "planted")]
    pub(crate) fn broken(&self) -> Option<M> {
        self.broken
    }

    #[cfg(feature = "planted")]
    pub(crate) fn keeps(&self, mutation: M) -> bool {
        self.broken != Some(mutation)
    }

    #[cfg(not(feature = "planted"))]
    #[inline(always)]
    pub(crate) fn keeps(&self, _mutation: M) -> bool {
        true
    }
}

/// Whether the decoders keep this rule: all but the one that the variable `PLANTED_RULE` names, in a build with planted
/// faults. The check on the fuzz targets.
#[cfg(feature = "planted")]
pub(crate) fn decoders_keep(rule: &str) -> bool {
    static BROKEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    BROKEN.get_or_init(|| std::env::var("PLANTED_RULE").ok()).as_deref() != Some(rule)
}

/// Whether the decoders keep this rule.
#[cfg(not(feature = "planted"))]
#[inline(always)]
pub(crate) fn decoders_keep(_rule: &str) -> bool {
    true
}
