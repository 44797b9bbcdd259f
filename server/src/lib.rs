//! The Millrace node.
