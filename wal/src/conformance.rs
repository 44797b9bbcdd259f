//! What every zone store must do, backend or wrapper. Run [`suite`] against an empty one.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use crate::zone::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore};

/// Runs all checks, one after the other, each under keys of its own.
///
/// # Panics
/// At the first promise that the store breaks.
pub async fn suite(store: Arc<dyn ZoneStore>) {
    create_is_once(&*store).await;
    racing_creates_have_one_winner(&store).await;
    absent_objects_are_none(&*store).await;
    ranges_are_cut_at_the_end(&*store).await;
    pieces_are_what_a_read_gives(&*store).await;
    payloads_of_any_shape_read_back(&*store).await;
    lists_are_complete_and_in_order(&*store).await;
    lists_of_siblings_do_not_mix(&*store).await;
    uploads_may_be_repeated(&*store).await;
    large_uploads_read_back(&*store).await;
    deletes_are_idempotent(&*store).await;
    odd_keys_work_and_bad_keys_do_not(&*store).await;
    crate::zone::preflight(&*store, 0x5eed)
        .await
        .expect("preflight passes");
}

fn payload(text: &'static str) -> Payload {
    Payload::from(Bytes::from_static(text.as_bytes()))
}

async fn create(store: &dyn ZoneStore, key: &str, text: &'static str) {
    assert_eq!(
        store.create(key, &payload(text)).await,
        Ok(CreateOutcome::Created),
        "{key}"
    );
}

async fn full(store: &dyn ZoneStore, key: &str) -> Option<Bytes> {
    store.get(key, ReadRange::Full).await.expect("a read")
}

async fn create_is_once(store: &dyn ZoneStore) {
    create(store, "once/a", "first").await;
    assert_eq!(
        store.create("once/a", &payload("second")).await,
        Ok(CreateOutcome::Exists)
    );
    assert_eq!(
        store.create("once/a", &payload("first")).await,
        Ok(CreateOutcome::Exists)
    );
    assert_eq!(full(store, "once/a").await.as_deref(), Some(&b"first"[..]));
}

async fn racing_creates_have_one_winner(store: &Arc<dyn ZoneStore>) {
    for round in 0..10 {
        let racers = (0..8u8).map(|racer| {
            let (store, key) = (Arc::clone(store), format!("race/{round}"));
            tokio::spawn(async move {
                let body = Payload::from(vec![
                    Bytes::from(vec![racer; 1000]),
                    Bytes::from(vec![racer; 3000]),
                ]);
                (racer, store.create(&key, &body).await)
            })
        });
        let outcomes: Vec<_> = join_all(racers)
            .await
            .into_iter()
            .map(|joined| joined.expect("no panic"))
            .collect();
        let winners: Vec<u8> = outcomes
            .iter()
            .filter(|(_, o)| *o == Ok(CreateOutcome::Created))
            .map(|(racer, _)| *racer)
            .collect();
        assert_eq!(winners.len(), 1, "round {round}: {outcomes:?}");
        let stands = full(&**store, &format!("race/{round}")).await.expect("an object");
        assert_eq!(stands, Bytes::from(vec![winners[0]; 4000]), "round {round}");
    }
}

async fn absent_objects_are_none(store: &dyn ZoneStore) {
    for range in [
        ReadRange::Full,
        ReadRange::Range(0..10),
        ReadRange::Suffix(10),
        ReadRange::Suffix(0),
    ] {
        assert_eq!(store.get("absent/a", range.clone()).await, Ok(None), "{range:?}");
    }
    assert_eq!(store.list("absent/", None, 10).await, Ok(Vec::new()));
}

async fn ranges_are_cut_at_the_end(store: &dyn ZoneStore) {
    create(store, "range/a", "0123456789").await;
    create(store, "range/empty", "").await;
    let cases: [(ReadRange, &str); 10] = [
        (ReadRange::Full, "0123456789"),
        (ReadRange::Range(0..10), "0123456789"),
        (ReadRange::Range(3..5), "34"),
        (ReadRange::Range(8..1000), "89"),
        (ReadRange::Range(10..20), ""),
        (ReadRange::Range(50..60), ""),
        (ReadRange::Range(4..4), ""),
        (ReadRange::Suffix(3), "789"),
        (ReadRange::Suffix(1000), "0123456789"),
        (ReadRange::Suffix(0), ""),
    ];
    for (range, expected) in cases {
        let got = store.get("range/a", range.clone()).await.expect("a read");
        assert_eq!(got.as_deref(), Some(expected.as_bytes()), "{range:?}");
    }
    for range in [ReadRange::Full, ReadRange::Range(0..5), ReadRange::Suffix(5)] {
        let got = store.get("range/empty", range.clone()).await.expect("a read");
        assert_eq!(got.as_deref(), Some(&b""[..]), "{range:?}");
    }
}

async fn pieces_are_what_a_read_gives(store: &dyn ZoneStore) {
    create(store, "pieces/a", "0123456789").await;
    let cases: [(Range<u64>, usize, &[&str]); 6] = [
        (0..10, 4, &["0123", "4567", "89"]),
        (2..8, 3, &["234", "567"]),
        (3..9, 100, &["345678"]),
        (8..1000, 1, &["8", "9"]),
        (10..20, 4, &[]),
        (4..4, 4, &[]),
    ];
    for (range, len, expected) in cases {
        let got = store.get_pieces("pieces/a", range.clone(), len).await;
        let got = got.expect("a read").expect("it is there");
        let expected: Vec<_> = expected.iter().map(|piece| piece.as_bytes()).collect();
        assert_eq!(got, expected, "{range:?} by {len}");
    }
    assert_eq!(store.get_pieces("absent/a", 0..10, 4).await, Ok(None));
}

async fn payloads_of_any_shape_read_back(store: &dyn ZoneStore) {
    let large: Vec<Bytes> = (0..5u8).map(|i| Bytes::from(vec![i; 1 << 20])).collect();
    let many: Vec<Bytes> = (0..3000u32)
        .map(|i| Bytes::from(i.to_le_bytes().to_vec()))
        .collect();
    let holes = vec![
        Bytes::new(),
        Bytes::from_static(b"a"),
        Bytes::new(),
        Bytes::from_static(b"b"),
        Bytes::new(),
    ];
    for (name, parts) in [
        ("large", large),
        ("many", many),
        ("holes", holes),
        ("none", Vec::new()),
    ] {
        let (key, body) = (format!("shape/{name}"), Payload::from(parts));
        assert_eq!(
            store.create(&key, &body).await,
            Ok(CreateOutcome::Created),
            "{name}"
        );
        assert!(
            full(store, &key).await == Some(body.to_bytes()),
            "{name} does not read back"
        );
    }
}

async fn lists_are_complete_and_in_order(store: &dyn ZoneStore) {
    let mut keys: Vec<String> = (0..25u64)
        .rev()
        .map(|i| format!("list/{:016x}", i * 37 % 101))
        .collect();
    for key in &keys {
        create(store, key, "x").await;
    }
    keys.sort();
    assert_eq!(store.list("list/", None, usize::MAX).await.as_ref(), Ok(&keys));
    assert_eq!(store.list("list/", None, 7).await, Ok(keys[..7].to_vec()));
    assert_eq!(store.list("list/", None, 0).await, Ok(Vec::new()));
    assert_eq!(
        store.list("list/", Some(&keys[6]), 7).await,
        Ok(keys[7..14].to_vec())
    );
    assert_eq!(store.list("list/", Some(&keys[24]), 7).await, Ok(Vec::new()));
    assert_eq!(store.list("list/", Some("list/zzz"), 7).await, Ok(Vec::new()));
    assert_eq!(store.list("list/", Some("kist"), 2).await, Ok(keys[..2].to_vec()));
    assert!(
        store.list("list", None, 7).await.is_err(),
        "a prefix ends with a slash"
    );
}

async fn lists_of_siblings_do_not_mix(store: &dyn ZoneStore) {
    // By bytes '-' and '.' come before '/', and '0' after it.
    let keys = [
        "tree/a-b",
        "tree/a.b",
        "tree/a/x",
        "tree/a/y/z",
        "tree/a0",
        "tree/b",
    ];
    for key in keys {
        create(store, key, "x").await;
    }
    let list = async |prefix: &str, after: Option<&str>, limit| {
        store.list(prefix, after, limit).await.expect("a listing")
    };
    assert_eq!(list("tree/", None, 100).await, keys);
    assert_eq!(list("tree/a/", None, 100).await, keys[2..4]);
    for (i, key) in keys.iter().enumerate() {
        assert_eq!(
            list("tree/", Some(key), 2).await,
            keys[i + 1..(i + 3).min(keys.len())],
            "after {key}"
        );
    }
    assert_eq!(list("tree/", Some("tree/a/"), 1).await, ["tree/a/x"]);
}

async fn uploads_may_be_repeated(store: &dyn ZoneStore) {
    let body = payload("uploaded");
    for _ in 0..3 {
        assert_eq!(store.upload("upload/a", &body).await, Ok(()));
        assert_eq!(full(store, "upload/a").await.as_deref(), Some(&b"uploaded"[..]));
    }
    assert_eq!(
        store.upload("upload/empty", &Payload::from(Vec::new())).await,
        Ok(())
    );
    assert_eq!(full(store, "upload/empty").await, Some(Bytes::new()));
    let listed = store.list("upload/", None, 10).await;
    assert_eq!(listed, Ok(vec!["upload/a".to_owned(), "upload/empty".to_owned()]));
    assert_eq!(
        store.create("upload/a", &payload("other")).await,
        Ok(CreateOutcome::Exists)
    );
    assert_eq!(store.delete("upload/a").await, Ok(()));
    assert_eq!(full(store, "upload/a").await, None);
    assert_eq!(store.upload("upload/a", &body).await, Ok(()));
    assert_eq!(full(store, "upload/a").await.as_deref(), Some(&b"uploaded"[..]));
}

/// Larger than what stores take in one request, in parts that fit no boundary.
async fn large_uploads_read_back(store: &dyn ZoneStore) {
    let (len, step) = (20 << 20, 70_001);
    let bytes: Bytes = (0..len as u32 / 4)
        .flat_map(u32::to_le_bytes)
        .collect::<Vec<u8>>()
        .into();
    let parts = (0..len).step_by(step).flat_map(|at| {
        let end = (at + step).min(len);
        let middle = (at + 100).min(end);
        [bytes.slice(at..middle), bytes.slice(middle..end)]
    });
    let body = Payload::from(parts.collect::<Vec<Bytes>>());
    for _ in 0..2 {
        assert_eq!(store.upload("upload/large", &body).await, Ok(()));
        assert!(
            full(store, "upload/large").await.as_ref() == Some(&bytes),
            "it does not read back"
        );
    }
    let range = (16 << 20) - 5..(16 << 20) + 5;
    let part = store.get("upload/large", ReadRange::Range(range.clone())).await;
    let range = range.start as usize..range.end as usize;
    assert_eq!(part, Ok(Some(bytes.slice(range))));
}

async fn deletes_are_idempotent(store: &dyn ZoneStore) {
    assert_eq!(store.delete("gone/a").await, Ok(()));
    create(store, "gone/a", "x").await;
    assert_eq!(store.delete("gone/a").await, Ok(()));
    assert_eq!(store.delete("gone/a").await, Ok(()));
    assert_eq!(full(store, "gone/a").await, None);
    assert_eq!(store.list("gone/", None, 10).await, Ok(Vec::new()));
    // The WAL never does this, the preflight's probe key does.
    create(store, "gone/a", "y").await;
}

async fn odd_keys_work_and_bad_keys_do_not(store: &dyn ZoneStore) {
    let long = format!("odd/{}", "x".repeat(200));
    for key in [
        "odd-0",
        "odd-1/UPPER.lower_0=-",
        "odd-1/deep/1/2/3/4/5/6/7/8",
        &long,
    ] {
        create(store, key, "odd").await;
        assert_eq!(full(store, key).await.as_deref(), Some(&b"odd"[..]), "{key}");
    }
    for key in [
        "",
        "/odd",
        "odd/",
        "odd//a",
        "../odd",
        "odd/../a",
        "odd/.a",
        "odd a",
        "odd/\u{e4}",
        "odd\\a",
        "odd\n",
    ] {
        let invalid = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Invalid(_)));
        assert!(
            invalid(store.create(key, &payload("x")).await.map(drop)),
            "create {key:?}"
        );
        assert!(invalid(store.upload(key, &payload("x")).await), "upload {key:?}");
        assert!(
            invalid(store.get(key, ReadRange::Full).await.map(drop)),
            "get {key:?}"
        );
        assert!(invalid(store.delete(key).await), "delete {key:?}");
    }
}
