//! Clients of a service in the guest, and the judgement of what they saw.
//!
//! Does: put redis or PostgreSQL under load while hosts die, record every call and return, and
//! decide whether one copy of the data, which never lost anything, could have answered like that;
//! keep connections that must not break.
//! Does not: start the service.
//!
//! Invariant: what a client could not know is recorded as unknown. A call whose connection was
//! lost may have had its effect or not, or may still have it.

pub mod checker;
pub mod history;
pub mod load;
pub mod postgresql;
pub mod redis;
pub mod sessions;
