//! Small models of the protocols, explored to completion: not the product's code but its rules, so small that every
//! order of every step can be looked at.
//!
//! [`seal`] is the end of an epoch over three zones. [`explore`] visits all states of a model, breadth first, so that a
//! counterexample is as short as can be.
//!
//! The explorer is our own. `stateright` (MIT, last released in July 2025) was looked at: what would be used of it is
//! its breadth-first checker, and with it come a web server for its state browser, a lock-free map, two hash crates and
//! an actor framework; it keeps 64-bit fingerprints of states rather than states, so that two that collide count as
//! one; and symmetry is reduced in its depth-first checker alone, which gives long counterexamples. What is needed here
//! is some hundred lines over one ordered map.

pub mod explore;
pub mod seal;
