//! The CPU benchmark's host side: the same guest on several engines, timed from outside.
//!
//! Does: run a VMM, take the times at which the guest's marker lines arrive, compare checksums,
//! and make tables of ratios. Does not: judge; a figure that is missed is a figure in a table.
//!
//! Invariant: a time is taken on the host, because the guest's clock is virtual on some engines;
//! a ratio is made of runs of the same round, so that what slows the host slows both.

pub mod engine;
pub mod net;
pub mod report;
pub mod run;
pub mod statistics;
