//! Why a request was not carried out.
//!
//! Does: give every reason its HTTP status and its words. Does not: format responses.
//!
//! Invariant: 400 means that the request is wrong, 404 that what it is about is not there, 409 that
//! a name is taken, 500 that it cannot be done now.

use thiserror::Error;

use crate::config::ConfigError;
use crate::control::VmError;

/// Why a request was not carried out.
#[derive(Debug, Error)]
pub enum ApiError {
    /// There is no VM.
    #[error("no virtual machine has been created")]
    VmNotCreated,
    /// There already is one.
    #[error("a virtual machine already exists; delete it first")]
    VmAlreadyCreated,
    /// The VM has no machine yet.
    #[error("the virtual machine has not been booted")]
    VmNotBooted,
    /// The VM has a machine already.
    #[error("the virtual machine has already been booted")]
    VmAlreadyBooted,
    /// Another request about the VM's end is under way.
    #[error("the virtual machine is being shut down")]
    VmGoingDown,
    /// A backup that does not know its configuration yet.
    #[error("the virtual machine waits for its primary and has no configuration yet")]
    VmReceiving,
    /// The configuration or the parameters are wrong.
    #[error("the request is not valid")]
    Config(#[from] ConfigError),
    /// The machine could not be built.
    #[error("the virtual machine could not be built")]
    Build(#[source] VmError),
    /// The machine did not obey.
    #[error("the virtual machine could not {what}")]
    Vm {
        /// What was asked of it.
        what: &'static str,
        /// Why not.
        source: VmError,
    },
    /// The path is none of the API's.
    #[error("there is no endpoint '{path}'")]
    NoSuchEndpoint {
        /// What was asked for.
        path: String,
    },
    /// An endpoint that Cloud Hypervisor has.
    #[error("the endpoint '{endpoint}' is not supported yet")]
    NotYet {
        /// What was asked for.
        endpoint: String,
    },
    /// The endpoint has another verb.
    #[error("the endpoint '{endpoint}' is used with {verb}")]
    WrongVerb {
        /// What was asked for.
        endpoint: String,
        /// How to ask for it.
        verb: &'static str,
    },
    /// Not an HTTP request.
    #[error("the request could not be understood: {reason}")]
    Http {
        /// What is wrong with it.
        reason: String,
    },
    /// The VMM thread has ended before it answered.
    #[error("the virtual machine monitor ends and does not answer any more")]
    Dropped,
}

impl ApiError {
    /// The HTTP status.
    pub fn status(&self) -> u16 {
        match self {
            ApiError::Config(ConfigError::DuplicateId { .. })
            | ApiError::Vm {
                source: VmError::Config(ConfigError::DuplicateId { .. }),
                ..
            } => 409,
            ApiError::Config(_) | ApiError::WrongVerb { .. } | ApiError::Http { .. } => 400,
            ApiError::VmNotCreated
            | ApiError::NoSuchEndpoint { .. }
            | ApiError::Vm {
                source: VmError::UnknownDevice { .. },
                ..
            } => 404,
            ApiError::VmAlreadyCreated
            | ApiError::VmNotBooted
            | ApiError::VmAlreadyBooted
            | ApiError::VmGoingDown
            | ApiError::VmReceiving
            | ApiError::Build(_)
            | ApiError::Vm { .. }
            | ApiError::NotYet { .. }
            | ApiError::Dropped => 500,
        }
    }

    /// The messages, outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut messages = vec!["The API request failed".to_owned()];
        let mut next: Option<&dyn std::error::Error> = Some(self);
        while let Some(error) = next {
            messages.push(error.to_string());
            next = error.source();
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::VmState;

    #[test]
    fn the_chain_reaches_the_cause() {
        let source = VmError::WrongState {
            state: VmState::Paused,
            command: "pause",
        };
        let error = ApiError::Vm {
            what: "pause",
            source,
        };
        assert_eq!(error.status(), 500);
        assert_eq!(
            error.chain(),
            [
                "The API request failed",
                "the virtual machine could not pause",
                "the virtual machine is paused, which 'pause' cannot start from",
            ]
        );
    }
}
