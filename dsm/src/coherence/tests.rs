//! Tests of the page protocol that drive the core by hand.
