//! A file system that is full, a real one: in memory, mounted in a name space of the test's own.

use std::path::Path;
use std::process::Command;

use super::*;

/// Set for the process that has the file system; it is mounted there.
const MOUNTED: &str = "MILLRACE_TEST_FULL_DISK";
/// Bytes of the file system.
const DISK_BYTES: u64 = 8 << 20;
const LEN: usize = 40_000;

fn key(n: u32) -> String {
    format!("k/{n:05}")
}

fn options() -> DiskOptions {
    DiskOptions {
        file_bytes: 1 << 20,
        ..DiskOptions::default()
    }
}

#[test]
fn a_full_disk_refuses_new_objects_harms_no_old_ones_and_goes_on_when_there_is_room() {
    if let Some(mounted) = std::env::var_os(MOUNTED) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_time()
            .build();
        return runtime.expect("a runtime").block_on(fill(Path::new(&mounted)));
    }
    let directory = tempfile::tempdir().expect("a directory");
    let test = std::env::current_exe().expect("this program");
    let script = format!(
        "mount -t tmpfs -o size={DISK_BYTES} none \"$1\" || exit 77; exec \"$2\" --exact --nocapture \"$3\""
    );
    let name = "zone::disk::tests::full::\
                a_full_disk_refuses_new_objects_harms_no_old_ones_and_goes_on_when_there_is_room";
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"])
        .arg(directory.path())
        .arg(test)
        .arg(name)
        .env(MOUNTED, directory.path())
        .output();
    let output = match run {
        Ok(output) if output.status.code() != Some(77) && !refused(&output.stderr) => output,
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            return eprintln!("skipped: no file system can be mounted here: {}", why.trim());
        }
        Err(error) => return eprintln!("skipped: no name space of the test's own: {error}"),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(
        said.contains("1 passed"),
        "the test is not known by its name: {said}"
    );
}

fn refused(stderr: &[u8]) -> bool {
    stderr.starts_with(b"unshare:")
}

/// Creates until the disk takes no more; how many it took.
async fn until_refused(store: &DiskStore, from: u32) -> u32 {
    let mut next = from;
    loop {
        match store.create(&key(next), &body(next, LEN)).await {
            Ok(outcome) => assert_eq!(outcome, CreateOutcome::Created),
            Err(error) => {
                assert!(error.retryable(), "{error}");
                return next;
            }
        }
        next += 1;
        assert!(
            u64::from(next - from) * LEN as u64 <= DISK_BYTES,
            "the disk is never full"
        );
    }
}

async fn assert_holds(store: &DiskStore, objects: std::ops::Range<u32>) {
    for n in objects {
        assert_eq!(full(store, &key(n)).await, Some(body(n, LEN).to_bytes()), "{n}");
    }
}

async fn fill(mounted: &Path) {
    let path = mounted.join("zone");
    let store = DiskStore::open(&path, options()).expect("a store");
    let end = until_refused(&store, 0).await;
    assert!(end > 50, "{end} objects");
    assert_holds(&store, 0..end).await;
    // Refused again and again, and nothing of it is there.
    for _ in 0..20 {
        let refused = store.create(&key(end), &body(end, LEN)).await;
        assert!(matches!(&refused, Err(error) if error.retryable()), "{refused:?}");
    }
    assert_eq!(full(&store, &key(end)).await, None);
    // The process ends and starts again while the disk is full.
    drop(store);
    let store = DiskStore::open(&path, options()).expect("a store on a full disk");
    assert_holds(&store, 0..end).await;
    for n in 0..end / 2 {
        assert_eq!(store.delete(&key(n)).await, Ok(()), "deletes need no room");
    }
    // What was deleted is given back beside other work.
    let mut tried = 0;
    while store.create(&key(end), &body(end, LEN)).await.is_err() {
        tried += 1;
        assert!(tried < 1000, "room is never given back");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_holds(&store, end / 2..end + 1).await;
    drop(store);
    let store = DiskStore::open(&path, options()).expect("a store");
    assert_holds(&store, end / 2..end + 1).await;
    assert_eq!(full(&store, &key(0)).await, None);
}
