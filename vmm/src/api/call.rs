//! The way of a request to the VMM thread and back.
//!
//! Does: pair a request with the one-time right to answer it. Does not: wait; whoever asks says
//! what is to happen with the answer.
//!
//! Invariant: a [`Reply`] is used once, or answers with [`ApiError::Dropped`] when it goes away.

use std::fmt;
use std::sync::mpsc;

use super::error::ApiError;
use super::{Request, Response};
use crate::vmm::Message;

type Answer = Result<Response, ApiError>;

/// The right to answer one request.
pub struct Reply(Option<Box<dyn FnOnce(Answer) + Send>>);

impl Reply {
    /// One that calls `answer`.
    pub fn new(answer: impl FnOnce(Answer) + Send + 'static) -> Self {
        Reply(Some(Box::new(answer)))
    }

    /// Answers.
    pub fn send(mut self, answer: Answer) {
        if let Some(call) = self.0.take() {
            call(answer);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call(Err(ApiError::Dropped));
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// A request and the right to answer it.
#[derive(Debug)]
pub struct ApiCall {
    /// What is asked.
    pub request: Request,
    /// Where the answer goes.
    pub reply: Reply,
}

/// Whoever holds this can ask.
#[derive(Clone, Debug)]
pub struct ApiHandle {
    sender: mpsc::Sender<Message>,
}

impl ApiHandle {
    pub(crate) fn new(sender: mpsc::Sender<Message>) -> Self {
        ApiHandle { sender }
    }

    /// Asks, and returns at once.
    pub fn call(&self, request: Request, reply: Reply) {
        // If the VMM thread has ended, the reply goes away with the message and says so.
        let _ = self.sender.send(Message::Api(ApiCall { request, reply }));
    }

    /// Asks, and waits for the answer. Not for the VMM thread itself.
    pub fn call_and_wait(&self, request: Request) -> Answer {
        let (sender, receiver) = mpsc::channel();
        // The receiver lives until the answer is there.
        self.call(request, Reply::new(move |answer| drop(sender.send(answer))));
        receiver.recv().unwrap_or(Err(ApiError::Dropped))
    }

    /// Tells the VMM thread that this process got a signal that asks it to end.
    pub fn end_by_signal(&self, signal: i32) {
        // If the VMM thread has ended, it needs no telling.
        let _ = self.sender.send(Message::Signal(signal));
    }
}
