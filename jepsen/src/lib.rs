//! Finds out whether Millrace keeps its promises.
//!
//! - [`history`] and [`recorder`]: what clients asked and were told, as JSON lines.
//! - [`model`] and [`check`]: what one stream is supposed to do, and whether a history could come of it.

#![deny(missing_docs)]

pub mod check;
pub mod history;
pub mod live;
pub mod measure;
pub mod model;
pub mod nemesis;
pub mod recorder;
pub mod workload;
