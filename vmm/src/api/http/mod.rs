//! The REST API: HTTP/1.1 on a UNIX socket.
//!
//! Does: serve connections (`server`, `connection`), find endpoints (`routes`) and write responses
//! (`response`). Does not: carry anything out; requests go to the VMM thread.
//!
//! Invariant: a slow or broken client delays nobody but itself.

mod connection;
mod response;
mod routes;
mod server;

pub use server::{HttpServer, HttpServerError};

/// The longest body of a request.
pub const BODY_LENGTH_MAX: usize = 4 << 20;
