//! Points in time as RFC 3339 text, in UTC and to the millisecond.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known;

/// Milliseconds since the Unix epoch. Text has four digits for the year: later times are shown as the end of 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rfc3339(pub u64);

/// 9999-12-31T23:59:59.999Z
const SHOWN_MAX: u64 = 253_402_300_799_999;
const NANOS_PER_MILLI: i128 = 1_000_000;

impl fmt::Display for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = i128::from(self.0.min(SHOWN_MAX)) * NANOS_PER_MILLI;
        let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| fmt::Error)?;
        f.write_str(&time.format(&well_known::Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl Serialize for Rfc3339 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rfc3339 {
    /// Any offset is accepted; fractions of a millisecond are cut off.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let text = String::deserialize(deserializer)?;
        let time = OffsetDateTime::parse(&text, &well_known::Rfc3339).map_err(D::Error::custom)?;
        u64::try_from(time.unix_timestamp_nanos() / NANOS_PER_MILLI)
            .map(Self)
            .map_err(|_| D::Error::custom("time before 1970"))
    }
}
