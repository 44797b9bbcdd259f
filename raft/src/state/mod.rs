//! The state: ordered keys and values, the records in them, and the changes of one batch.

pub mod checksum;
pub mod kv;
pub mod memory;
pub mod record;
pub mod segment;
pub mod table;
pub mod txn;
