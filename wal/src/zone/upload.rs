//! Uploads to an object store: in one request, or in parts that are under way together.

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error, MultipartUpload, ObjectStore, ObjectStoreExt, PutPayload, Result};

use super::object::explain;
use super::{Payload, StoreError};

/// Bytes of the longest object that one request carries.
const WHOLE_LEN_MAX: u64 = 16 << 20;
/// Bytes of every part but the last; S3 takes at least 5 MiB and at most 10,000 parts.
const PART_LEN: u64 = 8 << 20;
/// Parts of one object that are under way at a time. What is copied for them is bounded by their number.
const PARTS_PARALLEL: usize = 4;
/// Pieces of memory below this many bytes are copied together, because each piece of a body costs the client as much
/// as copying this many bytes.
const SMALL_LEN: usize = 8 << 10;

/// Puts an object, whatever stands under its key. `Ok` means that it stands there whole.
pub(super) async fn upload(
    store: &dyn ObjectStore,
    path: &Path,
    payload: &Payload,
) -> Result<(), StoreError> {
    // What is not found when an upload begins is the bucket; later it is the upload, and another may work.
    let begin = |error| match error {
        Error::NotFound { .. } => StoreError::Invalid(error.to_string()),
        error => explain(error),
    };
    if payload.len() <= WHOLE_LEN_MAX {
        return store.put(path, body(payload)).await.map(drop).map_err(begin);
    }
    let upload = store.put_multipart(path).await.map_err(begin)?;
    in_parts(upload, payload).await.map_err(explain)
}

/// Sends all parts and completes the upload. A failure, or dropping the future, aborts it as far as that is possible:
/// what a process leaves that dies before, the store's own rules for unfinished uploads must remove.
async fn in_parts(upload: Box<dyn MultipartUpload>, payload: &Payload) -> Result<()> {
    let mut unfinished = Unfinished(Some(upload));
    match send_parts(unfinished.upload(), payload).await {
        Ok(()) => {
            unfinished.0 = None;
            Ok(())
        }
        Err(error) => {
            if let Some(upload) = unfinished.0.take() {
                abort(upload).await;
            }
            Err(error)
        }
    }
}

async fn send_parts(upload: &mut dyn MultipartUpload, payload: &Payload) -> Result<()> {
    // The body of a part is made when its turn comes.
    let parts = stream::iter(payload.pieces(PART_LEN)).map(|piece| upload.put_part(body(&piece)));
    parts.buffer_unordered(PARTS_PARALLEL).try_collect::<()>().await?;
    upload.complete().await.map(drop)
}

async fn abort(mut upload: Box<dyn MultipartUpload>) {
    if let Err(error) = upload.abort().await {
        tracing::warn!(%error, "parts of an unfinished upload may remain in the store");
    }
}

/// An upload that is aborted when its caller goes away.
struct Unfinished(Option<Box<dyn MultipartUpload>>);

impl Unfinished {
    fn upload(&mut self) -> &mut dyn MultipartUpload {
        self.0.as_deref_mut().expect("only taken when it is over")
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let (Some(upload), Ok(runtime)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(abort(upload));
        }
    }
}

/// The payload as a request's body. Large parts are shared, small ones that follow each other are copied together.
fn body(payload: &Payload) -> PutPayload {
    let (mut parts, mut small) = (Vec::<Bytes>::new(), BytesMut::new());
    for part in payload.parts() {
        if part.len() < SMALL_LEN {
            small.extend_from_slice(part);
        } else {
            parts.extend((!small.is_empty()).then(|| small.split().freeze()));
            parts.push(part.clone());
        }
    }
    parts.extend((!small.is_empty()).then(|| small.freeze()));
    PutPayload::from_iter(parts)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use async_trait::async_trait;
    use futures::FutureExt;
    use object_store::{PutResult, UploadPart};

    use super::*;

    /// Counts what is asked of it, and fails at one part.
    #[derive(Debug, Default)]
    struct Seen {
        lens: Mutex<Vec<usize>>,
        running: AtomicUsize,
        most: AtomicUsize,
        completed: AtomicUsize,
        aborted: AtomicUsize,
        fail_at: Option<usize>,
    }

    #[derive(Debug)]
    struct Counted(Arc<Seen>);

    #[async_trait]
    impl MultipartUpload for Counted {
        fn put_part(&mut self, data: PutPayload) -> UploadPart {
            let seen = self.0.clone();
            let mut lens = seen.lens.lock().unwrap();
            let fails = seen.fail_at == Some(lens.len());
            lens.push(data.content_length());
            drop(lens);
            async move {
                let running = seen.running.fetch_add(1, Ordering::Relaxed) + 1;
                seen.most.fetch_max(running, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(10)).await;
                seen.running.fetch_sub(1, Ordering::Relaxed);
                if fails {
                    Err(Error::NotImplemented {
                        operation: "part".into(),
                        implementer: "test".into(),
                    })
                } else {
                    Ok(())
                }
            }
            .boxed()
        }

        async fn complete(&mut self) -> Result<PutResult> {
            self.0.completed.fetch_add(1, Ordering::Relaxed);
            Ok(PutResult {
                e_tag: None,
                version: None,
                extensions: Default::default(),
            })
        }

        async fn abort(&mut self) -> Result<()> {
            self.0.aborted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    /// Ten parts and a bit.
    fn payload() -> Payload {
        Payload::from(vec![Bytes::from(vec![7; 1 << 20]); 81])
    }

    fn seen(fail_at: Option<usize>) -> Arc<Seen> {
        Arc::new(Seen {
            fail_at,
            ..Seen::default()
        })
    }

    #[tokio::test(start_paused = true)]
    async fn parts_are_of_one_size_and_a_bounded_number_is_under_way() {
        let seen = seen(None);
        in_parts(Box::new(Counted(seen.clone())), &payload())
            .await
            .unwrap();
        let lens = seen.lens.lock().unwrap();
        assert_eq!(lens[..10], [PART_LEN as usize; 10]);
        assert_eq!(lens[10..], [1 << 20]);
        assert_eq!(seen.most.load(Ordering::Relaxed), PARTS_PARALLEL);
        assert_eq!(seen.completed.load(Ordering::Relaxed), 1);
        assert_eq!(seen.aborted.load(Ordering::Relaxed), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_part_that_fails_aborts_the_upload() {
        let seen = seen(Some(2));
        assert!(
            in_parts(Box::new(Counted(seen.clone())), &payload())
                .await
                .is_err()
        );
        assert_eq!(seen.completed.load(Ordering::Relaxed), 0);
        assert_eq!(seen.aborted.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_whose_caller_goes_away_is_aborted() {
        let seen = seen(None);
        let payload = payload();
        let upload = in_parts(Box::new(Counted(seen.clone())), &payload);
        let limit = Duration::from_millis(15);
        assert!(tokio::time::timeout(limit, upload).await.is_err());
        tokio::time::sleep(limit).await;
        assert_eq!(seen.aborted.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_body_is_its_payload_with_small_parts_together() {
        let large = Bytes::from(vec![2; SMALL_LEN]);
        let small = |text: &'static str| Bytes::from_static(text.as_bytes());
        let parts = vec![
            small("a"),
            small(""),
            small("bc"),
            large.clone(),
            small("d"),
            large.clone(),
            large,
        ];
        let payload = Payload::from(parts);
        let body = body(&payload);
        assert_eq!(body.as_ref().len(), 5);
        assert_eq!(Bytes::from(body), payload.to_bytes());
    }
}
