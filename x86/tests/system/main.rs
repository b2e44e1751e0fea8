//! What the CPU does in kernel mode: exceptions, privileges, paging, segments, debugging, and the
//! invisibility of its caches.
//!
//! A test sets up a [`bench::Bench`], runs it, and looks at what is left. The bench runs each
//! program several times — at one go, step by step, with caches flushed and with the state saved
//! and restored at every step, and with limits in units — and compares all of it, so every test is
//! also a test of the contract that neither caches nor stops can be observed.

mod bench;

mod address_spaces;
mod cache_bounds;
mod code_changes;
mod control_registers;
mod debug_registers;
mod exceptions;
mod far_transfers;
mod fetch;
mod implicit_accesses;
mod interrupts;
mod io_ports;
mod later_features;
mod limits;
mod mode_switches;
mod msrs;
mod page_tables;
mod paging;
mod segments;
mod sequences;
mod shadows;
mod single_step;
mod string_repeats;
mod system_calls;
mod task_switches;
mod virtual_8086;
