//! Names inside JSON bodies: checked while they are read, so that a bad one is a JSON error.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::name::{BasinName, FencingToken, StreamName};

macro_rules! name_json {
    ($($name:ident)*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $name::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    )*};
}

name_json! { BasinName StreamName FencingToken }
