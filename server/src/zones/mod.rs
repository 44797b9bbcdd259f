//! The stores that a node writes to, by the numbers of their zones: 0 is the standard store, 1 to 3 are the Express
//! zones.
//!
//! - [`standard`]: a node does not start without it, unless its cell has none.
//! - [`express`]: each is used when it has proved to be the one that metadata know, and a node does with two of three.
//! - [`guard`]: lets nothing through to a store that has not proved it.
//! - [`mirror`]: segments in the Express zones, where there is no standard store.
//! - [`source`]: how a store is reached; [`repair`] and [`segments`] give a zone what it missed, [`replace`] accepts
//!   another store for good; a node that is [`alone`] is told to at its start.

pub mod alone;
pub mod express;
pub mod guard;
mod look;
pub mod mirror;
pub mod repair;
pub mod replace;
pub mod segments;
pub mod source;
pub mod standard;

use millrace_api::config::StorageClass;
use millrace_raft::query::ZoneRecord;

/// How many zones Express is written to, and how many must have a chunk before it is acknowledged.
pub const EXPRESS_ZONES: usize = 3;
pub const EXPRESS_QUORUM: usize = 2;

/// Numbers of the zones of a class, in the order in which its WAL has them.
pub fn zone_numbers(class: StorageClass) -> std::ops::Range<u32> {
    match class {
        StorageClass::Standard => standard::ZONE..standard::ZONE + 1,
        StorageClass::Express => 1..1 + EXPRESS_ZONES as u32,
    }
}

/// Whether every zone of the class was reached once, so that there can be channels of it.
pub fn class_is_there(class: StorageClass, registered: &[ZoneRecord]) -> bool {
    match class {
        StorageClass::Standard => standard::is_registered(registered),
        StorageClass::Express => {
            zone_numbers(class).all(|number| registered.iter().any(|zone| zone.zone == number))
        }
    }
}

/// The URL without what may be secret in it.
pub fn redacted(url: &str) -> String {
    let Ok(mut parsed) = url::Url::parse(url) else {
        return "(not a URL)".into();
    };
    let _ = parsed.set_password(None);
    let public: Vec<(String, String)> = parsed
        .query_pairs()
        .filter(|(name, _)| matches!(&**name, "endpoint" | "region"))
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    parsed.set_query(None);
    if !public.is_empty() {
        parsed.query_pairs_mut().extend_pairs(public);
    }
    parsed.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_a_store_url_are_not_shown() {
        let url = "s3://bucket/p?endpoint=http://127.0.0.1:8333&access_key_id=ak&secret_access_key=sk";
        let shown = redacted(url);
        assert!(shown.contains("127.0.0.1"), "{shown}");
        assert!(!shown.contains("sk") && !shown.contains("=ak"), "{shown}");
    }
}
