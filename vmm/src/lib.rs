//! The virtual machine monitor: configuration, REST API, lifecycle and host side.
//!
//! Does: own the host's threads, take requests, and drive machines and their protection. Does not:
//! compute anything a guest can see; `machine` does, from the inputs it is given here.
//!
//! Invariant: dependencies run downwards; nothing below this crate knows of it.

pub mod api;
pub mod authority;
pub mod config;
pub mod control;
pub mod device_tree;
pub mod host;
pub mod machine_factory;
pub mod process;
pub mod status;
pub mod vm;
pub mod vmm;
