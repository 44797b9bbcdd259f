//! A zone in an object store: S3 and what speaks like it, Google Cloud Storage, Azure Blob Storage.

use std::collections::BinaryHeap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload,
};
use tokio::time::timeout;

use super::upload::upload;
use super::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore, check_key, check_prefix};

/// How a store is used.
#[derive(Debug, Clone)]
pub struct ObjectStoreOptions {
    /// After this long, and a second for every 4 MiB, a create without an answer is given up.
    pub create_timeout: Duration,
    /// The store lists keys in byte order, so that a page is all that a listing needs to read. Otherwise each page
    /// reads all keys under the prefix.
    pub list_ordered: bool,
}

impl Default for ObjectStoreOptions {
    fn default() -> Self {
        Self {
            create_timeout: Duration::from_secs(5),
            list_ordered: false,
        }
    }
}

/// Objects under a prefix of a bucket.
///
/// Creates need a handle that never retries by itself: a retry that follows a lost answer would turn its own success
/// into `Exists`. Everything else may retry; uploads take longer than other requests and may have a handle of their own.
pub struct ObjectStoreZone {
    name: String,
    creates: Arc<dyn ObjectStore>,
    others: Arc<dyn ObjectStore>,
    uploads: Arc<dyn ObjectStore>,
    /// Empty, or with a closing slash.
    prefix: String,
    options: ObjectStoreOptions,
}

impl ObjectStoreZone {
    /// `name` is for people, and holds no secret. `creates` must not retry. `prefix` is empty or as a list prefix.
    pub fn new(
        name: impl Into<String>,
        creates: Arc<dyn ObjectStore>,
        others: Arc<dyn ObjectStore>,
        prefix: &str,
        options: ObjectStoreOptions,
    ) -> Result<Self, StoreError> {
        check_prefix(prefix)?;
        Ok(Self {
            name: name.into(),
            creates,
            uploads: Arc::clone(&others),
            others,
            prefix: prefix.to_owned(),
            options,
        })
    }

    /// Sends uploads through `uploads`, which may retry, rather than as all else.
    pub fn with_uploads(self, uploads: Arc<dyn ObjectStore>) -> Self {
        Self { uploads, ..self }
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        Path::parse(format!("{}{key}", self.prefix)).map_err(|error| StoreError::Invalid(error.to_string()))
    }

    /// Reads a range that the store refused as a range: it may lie outside the object, or be of a kind that the store
    /// does not know. The object's length tells.
    async fn get_by_length(
        &self,
        path: &Path,
        range: &ReadRange,
        refused: Option<Error>,
    ) -> Result<Option<Bytes>, StoreError> {
        let len = match self.others.head(path).await {
            Ok(meta) => meta.size,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(explain(refused.unwrap_or(error))),
        };
        let range = range.within(len);
        match refused {
            _ if range.is_empty() => Ok(Some(Bytes::new())),
            Some(refused)
                if !matches!(refused, Error::NotSupported { .. } | Error::NotImplemented { .. }) =>
            {
                Err(explain(refused))
            }
            _ => match self.others.get_range(path, range).await {
                Ok(bytes) => Ok(Some(bytes)),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(explain(error)),
            },
        }
    }
}

/// Copies what comes, as it comes, into pieces of `len` bytes.
async fn pieces(
    mut body: impl Stream<Item = object_store::Result<Bytes>> + Unpin,
    len: usize,
) -> object_store::Result<Vec<Bytes>> {
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    while let Some(mut part) = body.try_next().await? {
        while !part.is_empty() {
            if piece.capacity() == 0 {
                piece.reserve_exact(len);
            }
            let taken = part.split_to(part.len().min(len - piece.len()));
            piece.extend_from_slice(&taken);
            if piece.len() == len {
                pieces.push(std::mem::take(&mut piece).into());
            }
        }
    }
    pieces.extend((!piece.is_empty()).then(|| piece.into()));
    Ok(pieces)
}

impl fmt::Debug for ObjectStoreZone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ObjectStoreZone({})", self.name)
    }
}

#[async_trait]
impl ZoneStore for ObjectStoreZone {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        check_key(key)?;
        let path = self.path(key)?;
        let limit = self.options.create_timeout + Duration::from_millis(payload.len() / (4 << 10));
        let options = PutOptions::from(PutMode::Create);
        let body: PutPayload = payload.parts().iter().cloned().collect();
        match timeout(limit, self.creates.put_opts(&path, body, options)).await {
            Ok(Ok(_)) => Ok(CreateOutcome::Created),
            // 409 comes back like 412 does, though it only says that another create is under way: the caller looks.
            Ok(Err(Error::AlreadyExists { .. } | Error::Precondition { .. } | Error::NotModified { .. })) => {
                Ok(CreateOutcome::Exists)
            }
            Ok(Err(error @ Error::NotFound { .. })) => Err(StoreError::Invalid(error.to_string())),
            Ok(Err(error)) => Err(explain(error)),
            Err(_) => Err(StoreError::Retry(format!("no answer within {limit:?}"))),
        }
    }

    /// Above 16 MiB in parts, which are aborted when it fails.
    async fn upload(&self, key: &str, payload: &Payload) -> Result<(), StoreError> {
        check_key(key)?;
        upload(&*self.uploads, &self.path(key)?, payload).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        let path = self.path(key)?;
        let wanted = match &range {
            ReadRange::Full => None,
            ReadRange::Range(range) if range.start < range.end => Some(GetRange::Bounded(range.clone())),
            ReadRange::Suffix(len) if *len > 0 => Some(GetRange::Suffix(*len)),
            // Empty ranges are errors to the stores; only the object's presence is asked for.
            _ => return self.get_by_length(&path, &range, None).await,
        };
        let ranged = wanted.is_some();
        let options = GetOptions {
            range: wanted,
            ..GetOptions::default()
        };
        let result = match self.others.get_opts(&path, options).await {
            Ok(result) => result.bytes().await,
            Err(error) => Err(error),
        };
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) if ranged => self.get_by_length(&path, &range, Some(error)).await,
            Err(error) => Err(explain(error)),
        }
    }

    async fn get_pieces(
        &self,
        key: &str,
        range: Range<u64>,
        piece_len: usize,
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        check_key(key)?;
        let path = self.path(key)?;
        let wanted = ReadRange::Range(range.clone());
        if range.is_empty() {
            let found = self.get_by_length(&path, &wanted, None).await?;
            return Ok(found.map(|_| Vec::new()));
        }
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let result = match self.others.get_opts(&path, options).await {
            Ok(result) => pieces(result.into_stream(), piece_len).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(pieces) => Ok(Some(pieces)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => {
                let found = self.get_by_length(&path, &wanted, Some(error)).await?;
                let apart = |bytes: Bytes| bytes.chunks(piece_len).map(Bytes::copy_from_slice).collect();
                Ok(found.map(apart))
            }
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        check_prefix(prefix)?;
        let directory = self.path(prefix.trim_end_matches('/'))?;
        let mut objects = match after {
            // A store with an order of its own has its own idea of what comes after a key, too.
            Some(after) if self.options.list_ordered => {
                let after = Path::parse(format!("{}{after}", self.prefix))
                    .map_err(|error| StoreError::Invalid(error.to_string()))?;
                self.others.list_with_offset(Some(&directory), &after)
            }
            _ => self.others.list(Some(&directory)),
        };
        // The smallest keys so far, the largest of them on top: a listing may come in any order.
        let mut smallest = BinaryHeap::new();
        while let Some(object) = objects.try_next().await.map_err(explain)? {
            let Some(key) = object.location.as_ref().strip_prefix(&self.prefix) else {
                continue;
            };
            if !key.starts_with(prefix) || after.is_some_and(|after| key <= after) || check_key(key).is_err()
            {
                continue;
            }
            if self.options.list_ordered && smallest.len() == limit {
                break;
            }
            smallest.push(key.to_owned());
            if smallest.len() > limit {
                smallest.pop();
            }
        }
        Ok(smallest.into_sorted_vec())
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        match self.others.delete(&self.path(key)?).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(explain(error)),
        }
    }
}

pub(super) fn explain(error: Error) -> StoreError {
    let message = error.to_string();
    match error {
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => StoreError::Denied(message),
        Error::InvalidPath { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. } => StoreError::Invalid(message),
        _ => StoreError::Retry(message),
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;
    use crate::zone::{StoreEnvOptions, open_url};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_object_store_keeps_every_promise_of_a_zone() {
        for prefix in ["", "some/prefix/"] {
            let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
            let options = ObjectStoreOptions::default();
            let zone = ObjectStoreZone::new("test", Arc::clone(&store), store, prefix, options)
                .expect("a good prefix");
            crate::conformance::suite(Arc::new(zone)).await;
        }
    }

    /// Against a real server: `MILLRACE_TEST_S3_URL=s3://bucket?endpoint=…` with an empty or new prefix.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn so_does_the_server_named_by_the_environment() {
        let Ok(url) = std::env::var("MILLRACE_TEST_S3_URL") else {
            eprintln!("skipped: MILLRACE_TEST_S3_URL is not set");
            return;
        };
        let options = StoreEnvOptions {
            env: std::env::vars().collect(),
            ..StoreEnvOptions::default()
        };
        let zone = open_url(&url, &options).expect("a good URL");
        crate::conformance::suite(zone).await;
    }
}
