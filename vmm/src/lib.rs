//! The virtual machine monitor: configuration, REST API, lifecycle and host side.

pub mod config;
