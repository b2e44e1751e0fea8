//! A client of the REST API: HTTP/1.1 over a UNIX socket.
//!
//! Does: send one request at a time, read its response, and turn an error response into a typed
//! error. Does not: know endpoints or the shapes of bodies.
//!
//! Invariant: what a server sends is bounded ([`RESPONSE_LENGTH_MAX`]) before it is kept.

mod client;
mod error;
mod response;

pub use client::{Client, Method};
pub use error::ClientError;
pub use response::{RESPONSE_LENGTH_MAX, Response};
