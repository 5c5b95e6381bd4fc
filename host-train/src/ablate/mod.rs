//! The single-variable ledger (METHOD §2): what each mechanism is worth, by runs that differ in one key.
//!
//! A [`plan`] names a base configuration and variants, each of which changes exactly one key against a named parent.
//! Every (variant, seed) is trained in a run folder of its own by the trainer of `gsacp train`, measured on the whole
//! validation list, and written as one line to the append-only [`ledger`] before the next one starts. The [`table`] is
//! computed from the ledger alone.

pub mod ledger;
pub mod plan;
pub mod revision;
pub mod table;
