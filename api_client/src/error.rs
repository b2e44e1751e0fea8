//! What can go wrong between a client and the API.
//!
//! Does: keep the server's own words apart from the transport's errors. Does not: print.
//!
//! Invariant: `Refused` carries the messages in the server's order, outermost first.

use std::path::PathBuf;

use thiserror::Error;

/// Why a request has no good answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens there.
    #[error(
        "cannot connect to the API socket '{}'; is the virtual machine monitor running with \
         --api-socket?",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        source: std::io::Error,
    },
    /// The request could not be sent.
    #[error("cannot send the request")]
    Send(#[source] std::io::Error),
    /// The response could not be read.
    #[error("cannot read the response")]
    Receive(#[source] std::io::Error),
    /// The connection ended within the response.
    #[error("the server closed the connection before it had answered")]
    Closed,
    /// What came is no HTTP response.
    #[error("the server's answer is no HTTP response: {0}")]
    Malformed(&'static str),
    /// The response is longer than anything the API sends.
    #[error("the server's answer is longer than {limit} bytes")]
    TooLong {
        /// The limit.
        limit: usize,
    },
    /// The server answered with an error.
    #[error("the server answered with status {status}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Its messages, outermost first.
        messages: Vec<String>,
    },
}

impl ClientError {
    /// The messages from the outermost to the cause, the server's included.
    pub fn chain(&self) -> Vec<String> {
        let mut messages = vec![self.to_string()];
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            messages.push(error.to_string());
            source = error.source();
        }
        if let ClientError::Refused {
            messages: refused, ..
        } = self
        {
            messages.extend(refused.iter().cloned());
        }
        messages
    }
}
