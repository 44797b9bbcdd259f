//! What is wrong, for people.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::trace::Trace;

/// So many are kept: the first ones tell most.
const MAX: usize = 50;

/// Everything found so far. Clones share it.
#[derive(Clone)]
pub struct Findings {
    list: Arc<Mutex<Vec<String>>>,
    trace: Trace,
}

impl Findings {
    /// Nothing yet.
    pub fn new(trace: Trace) -> Self {
        Self {
            list: Arc::default(),
            trace,
        }
    }

    /// Adds one.
    pub fn add(&self, text: String) {
        self.trace.line(&format!("WRONG: {text}"));
        let mut list = self.lock();
        if list.len() < MAX && !list.contains(&text) {
            list.push(text);
        }
    }

    /// All of them.
    pub fn list(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
