//! Devices through the eyes of their drivers.

mod balloon;
mod block;
mod console;
mod driver;
mod ejection;
mod net;
mod rng;
mod transport;
mod vsock;
