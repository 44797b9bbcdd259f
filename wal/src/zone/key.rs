//! What a key may look like. One rule for every backend, so that none is reached by a key that another refuses.

use super::StoreError;

/// Bytes of the longest key.
pub const KEY_LEN_MAX: usize = 512;
/// Bytes of the longest part between slashes, below what file systems allow.
const PART_LEN_MAX: usize = 200;

/// Accepts 1 to 512 bytes: parts of `[A-Za-z0-9._=-]`, 1 to 200 bytes each, none beginning with a dot, between
/// single slashes.
pub fn check_key(key: &str) -> Result<(), StoreError> {
    if key.len() > KEY_LEN_MAX || !key.split('/').all(part_is_good) {
        return Err(StoreError::Invalid(format!(
            "bad key {:?}",
            key.get(..64).unwrap_or(key)
        )));
    }
    Ok(())
}

/// Accepts an empty prefix, or a key followed by one slash.
pub fn check_prefix(prefix: &str) -> Result<(), StoreError> {
    match prefix.strip_suffix('/') {
        Some(directory) => check_key(directory),
        None if prefix.is_empty() => Ok(()),
        None => Err(StoreError::Invalid("a list prefix ends with a slash".into())),
    }
}

fn part_is_good(part: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'=' | b'-');
    (1..=PART_LEN_MAX).contains(&part.len()) && !part.starts_with('.') && part.bytes().all(good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_its_root() {
        for key in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", ".", "a/.tmp", "a b", "a\0", "ä", "a\\b", "~",
            "a%2f",
        ] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        assert!(check_key(&"a".repeat(201)).is_err());
        assert!(check_key(&vec!["abcd"; 200].join("/")).is_err());
    }

    #[test]
    fn ordinary_keys_are_accepted() {
        for key in [
            "zone",
            "wal/00000001/0000000000000002/0000000000000003",
            "a.b/c-d_e=f",
            "A/b.parquet",
        ] {
            assert!(check_key(key).is_ok(), "{key:?}");
        }
        assert!(check_prefix("").is_ok());
        assert!(check_prefix("wal/").is_ok());
        assert!(check_prefix("wal").is_err());
        assert!(check_prefix("/").is_err());
    }
}
