//! Devices through the eyes of their drivers.

mod block;
mod driver;
mod net;
mod rng;
mod transport;
