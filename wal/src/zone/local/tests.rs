use super::*;

fn payload(text: &'static str) -> Payload {
    Payload::from(Bytes::from_static(text.as_bytes()))
}

fn temp_count(root: &Path) -> usize {
    std::fs::read_dir(root.join(".tmp")).expect("a directory").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_keeps_every_promise_of_a_zone() {
    for blocking in [Blocking::Pool, Blocking::Inline] {
        let root = tempfile::tempdir().expect("a directory");
        let store = LocalStore::open(root.path().join("a/b"), blocking).expect("a store");
        crate::conformance::suite(Arc::new(store)).await;
        assert_eq!(temp_count(&root.path().join("a/b")), 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_one_without_nameless_files() {
    let root = tempfile::tempdir().expect("a directory");
    let mut store = LocalStore::open(root.path(), Blocking::Pool).expect("a store");
    let inner = Arc::get_mut(&mut store.inner).expect("not shared yet");
    inner.temp = TempFiles::with_names(&inner.root_fd).expect("a directory for them");
    crate::conformance::suite(Arc::new(store)).await;
    assert_eq!(temp_count(root.path()), 0);
}

#[tokio::test]
async fn objects_outlive_the_store_and_temporary_files_do_not() {
    let root = tempfile::tempdir().expect("a directory");
    let store = LocalStore::open(root.path(), Blocking::Inline).expect("a store");
    assert_eq!(
        store.create("a/b", &payload("kept")).await,
        Ok(CreateOutcome::Created)
    );
    std::fs::write(root.path().join(".tmp/4711-0"), b"torn").expect("a write");
    drop(store);
    let store = LocalStore::open(root.path(), Blocking::Inline).expect("a store");
    assert_eq!(temp_count(root.path()), 0);
    assert_eq!(
        store
            .get("a/b", ReadRange::Full)
            .await
            .expect("a read")
            .as_deref(),
        Some(&b"kept"[..])
    );
    assert_eq!(store.list("", None, 10).await, Ok(vec!["a/b".to_owned()]));
}

#[tokio::test]
async fn a_symbolic_link_does_not_lead_out() {
    let root = tempfile::tempdir().expect("a directory");
    let outside = tempfile::tempdir().expect("a directory");
    std::fs::write(outside.path().join("secret"), b"secret").expect("a write");
    let store = LocalStore::open(root.path(), Blocking::Inline).expect("a store");
    std::os::unix::fs::symlink(outside.path(), root.path().join("dir")).expect("a link");
    std::os::unix::fs::symlink(outside.path().join("secret"), root.path().join("file")).expect("a link");
    assert!(store.get("dir/secret", ReadRange::Full).await.is_err());
    assert!(store.get("file", ReadRange::Full).await.is_err());
    assert!(store.create("dir/new", &payload("x")).await.is_err());
    assert!(!outside.path().join("new").exists());
    assert_eq!(store.list("", None, 10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_directory_removed_by_hand_is_made_again() {
    let root = tempfile::tempdir().expect("a directory");
    let store = LocalStore::open(root.path(), Blocking::Inline).expect("a store");
    store.create("a/b/c", &payload("x")).await.expect("a create");
    std::fs::remove_dir_all(root.path().join("a")).expect("a removal");
    let mut outcome = store.create("a/b/c", &payload("y")).await;
    if outcome.is_err() {
        outcome = store.create("a/b/c", &payload("y")).await;
    }
    assert_eq!(outcome, Ok(CreateOutcome::Created));
    assert_eq!(
        store
            .get("a/b/c", ReadRange::Full)
            .await
            .expect("a read")
            .as_deref(),
        Some(&b"y"[..])
    );
}

#[tokio::test]
async fn more_directories_than_are_kept_open_work() {
    let root = tempfile::tempdir().expect("a directory");
    let store = LocalStore::open(root.path(), Blocking::Inline).expect("a store");
    for i in 0..DIRS_MAX + 10 {
        store
            .create(&format!("{i}/a"), &payload("x"))
            .await
            .expect("a create");
    }
    assert!(lock(&store.inner.dirs).len() <= DIRS_MAX);
    assert_eq!(
        store.list("", None, usize::MAX).await.expect("a listing").len(),
        DIRS_MAX + 10
    );
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_promised_any_more() {
    let root = tempfile::tempdir().expect("a directory");
    let store = LocalStore::open(root.path(), Blocking::Inline).expect("a store");
    // A pipe cannot be synced.
    let (pipe, _writer) = std::io::pipe().expect("a pipe");
    let failed = store.inner.sync(&pipe.into(), Unsynced::mark(&store.inner, "a"));
    assert!(matches!(failed, Err(StoreError::Corrupt(_))));
    assert!(matches!(
        store.create("b", &payload("x")).await,
        Err(StoreError::Corrupt(_))
    ));
}
