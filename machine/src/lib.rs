//! One guest machine as a pure function of its inputs.

mod input;

pub use hypervisor::Position;
pub use input::{Input, Output};
