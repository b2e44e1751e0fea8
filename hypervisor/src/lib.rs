//! The boundary between the machine and what executes the guest's instructions.
//!
//! Does: name positions, and (as engines come) the `Vcpu` they all implement.
//! Does not: know devices, the log or fault tolerance.
//!
//! Invariant: a position belongs to one engine; positions of different engines never meet.

mod position;

pub use position::Position;
