//! The bells of those who let outputs out.
//!
//! Does: find the bell of a lane. Does not: ring by itself.
//!
//! Invariant: a lane has one bell for as long as the machine lives here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use machine::Lane;

use crate::host::bell::Bell;

/// The bells.
#[derive(Debug, Default)]
pub struct Bells {
    bells: Mutex<BTreeMap<Lane, Arc<Bell>>>,
}

impl Bells {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Lane, Arc<Bell>>> {
        self.bells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That of a lane.
    pub fn of(&self, lane: Lane) -> Arc<Bell> {
        Arc::clone(self.lock().entry(lane).or_default())
    }

    /// Rings that of a lane.
    pub fn ring(&self, lane: Lane) {
        self.of(lane).ring();
    }

    /// Rings all.
    pub fn ring_all(&self) {
        for bell in self.lock().values() {
            bell.ring();
        }
    }
}
