//! Finding out before the first append whether a store keeps its promises.

use bytes::Bytes;

use super::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore};

/// Why a store must not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreflightError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It lets a second create replace the first: acknowledged records would be lost.
    #[error("the store ignores the condition of a create: it has overwritten an object")]
    IgnoresCondition,
    #[error("the store fails a check: {0}")]
    Broken(&'static str),
}

/// Makes a probe object under `probe/` and uses it in every way that Millrace does, then deletes it. `nonce` is
/// random: several nodes may do this at once. `Ok` means that the store behaved; that it is durable cannot be seen.
pub async fn preflight(store: &dyn ZoneStore, nonce: u128) -> Result<(), PreflightError> {
    let key = format!("probe/{nonce:032x}");
    let result = probe(store, &key).await;
    // Deleted whatever came of it; what the checks found matters more.
    let deleted = store.delete(&key).await;
    result?;
    deleted?;
    match store.get(&key, ReadRange::Full).await? {
        None => Ok(()),
        Some(_) => Err(PreflightError::Broken("an object was read after it was deleted")),
    }
}

async fn probe(store: &dyn ZoneStore, key: &str) -> Result<(), PreflightError> {
    let check = |good: bool, what| {
        if good {
            Ok(())
        } else {
            Err(PreflightError::Broken(what))
        }
    };
    let first = Payload::new(vec![
        Bytes::from_static(b"probe "),
        Bytes::from_static(b"0123456789"),
    ]);
    let second = Payload::from(Bytes::from_static(b"another probe of another length"));

    check(
        store.get(key, ReadRange::Full).await?.is_none(),
        "an object is there before it was created",
    )?;
    // The answer may have been lost on the way of an earlier try, so that `Exists` may be our own.
    let outcome = store.create(key, &first).await?;
    let stands = store.get(key, ReadRange::Full).await?;
    check(
        stands.as_ref() == Some(&first.to_bytes()),
        "an object does not read back as it was created",
    )?;
    check(outcome == CreateOutcome::Created, "the first create was refused")?;
    if store.create(key, &second).await? == CreateOutcome::Created {
        return Err(PreflightError::IgnoresCondition);
    }
    let stands = store.get(key, ReadRange::Full).await?;
    if stands != Some(first.to_bytes()) {
        return Err(PreflightError::IgnoresCondition);
    }
    let range = store.get(key, ReadRange::Range(6..9)).await?;
    check(
        range.as_deref() == Some(b"012"),
        "a range is not the bytes asked for",
    )?;
    let suffix = store.get(key, ReadRange::Suffix(4)).await?;
    check(
        suffix.as_deref() == Some(b"6789"),
        "a suffix is not the last bytes",
    )?;
    let suffix = store.get(key, ReadRange::Suffix(1 << 20)).await?;
    check(
        suffix == Some(first.to_bytes()),
        "a long suffix is not the whole object",
    )?;
    let listed = store.list("probe/", None, usize::MAX).await?;
    check(
        listed.iter().any(|listed| listed == key),
        "an object is not listed",
    )?;
    check(listed.is_sorted(), "a listing is not in order")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;
    use crate::zone::MemoryStore;

    /// Answers `Created` to every create, as a store does that does not know the condition.
    #[derive(Debug, Default)]
    struct Overwriting(MemoryStore);

    #[async_trait]
    impl ZoneStore for Overwriting {
        async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
            self.0.overwrite(key, payload.to_bytes());
            Ok(CreateOutcome::Created)
        }

        async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
            self.0.get(key, range).await
        }

        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            limit: usize,
        ) -> Result<Vec<String>, StoreError> {
            self.0.list(prefix, after, limit).await
        }

        async fn delete(&self, key: &str) -> Result<(), StoreError> {
            self.0.delete(key).await
        }
    }

    #[tokio::test]
    async fn a_store_that_ignores_the_condition_is_refused() {
        let store = Overwriting::default();
        assert_eq!(preflight(&store, 1).await, Err(PreflightError::IgnoresCondition));
        assert_eq!(store.0.object_count(), 0, "the probe is removed");
    }
}
