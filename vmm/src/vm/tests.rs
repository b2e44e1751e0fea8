//! What several tests in this module need.

#[path = "../../tests/guest/pvh.rs"]
pub(super) mod pvh;
