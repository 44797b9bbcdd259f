//! A process that is killed while it commits.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Names the directory for the process that is to be killed.
const DIRECTORY: &str = "MILLRACE_TEST_DISK_CRASH";
const WRITERS: u32 = 8;

fn options() -> DiskOptions {
    DiskOptions {
        file_bytes: FILE_BYTES,
        ..DiskOptions::default()
    }
}

fn len(n: u32) -> usize {
    (n as usize * 7919) % 9000
}

/// What the process does until it is killed: says what was answered, line by line.
#[test]
fn create_and_delete_until_killed() {
    let Ok(path) = std::env::var(DIRECTORY) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let store = DiskStore::open(path, options()).expect("a store");
        let writers = (0..WRITERS).map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for n in (writer..).step_by(WRITERS as usize) {
                    let key = format!("k/{n:08}");
                    create(&store, &key, &body(n, len(n))).await;
                    println!("\ncreated {n}");
                    if n % 3 != 0 {
                        println!("\ndeleting {n}");
                        store.delete(&key).await.expect("a delete");
                        println!("\ndeleted {n}");
                    }
                }
            })
        });
        futures::future::join_all(writers.collect::<Vec<_>>()).await;
    });
}

#[tokio::test]
async fn what_was_answered_before_a_kill_is_so_afterwards() {
    let root = directory();
    let mut said: BTreeMap<u32, String> = BTreeMap::new();
    for answers in [30, 300, 900] {
        let name = "zone::disk::tests::crash::create_and_delete_until_killed";
        let path = root.path().join(answers.to_string());
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name, "--nocapture"])
            .env(DIRECTORY, &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        said.clear();
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let mut say = |line: std::io::Result<String>| {
            let line = line.expect("a line");
            if let Some((what, n)) = line.split_once(' ')
                && let ("created" | "deleting" | "deleted", Ok(n)) = (what, n.parse())
            {
                said.insert(n, what.to_owned());
            }
        };
        lines.by_ref().take(answers).for_each(&mut say);
        child.kill().expect("it runs");
        child.wait().expect("it ends");
        lines.for_each(&mut say);
        assert!(said.len() > 5, "{said:?}");
        for _ in 0..2 {
            let store = DiskStore::open(&path, options()).expect("the store");
            for (n, what) in &said {
                let read = full(&store, &format!("k/{n:08}")).await;
                match what.as_str() {
                    "created" => assert_eq!(read, Some(body(*n, len(*n)).to_bytes()), "{n}"),
                    "deleted" => assert_eq!(read, None, "{n}"),
                    _ => assert!(
                        read.is_none() || read == Some(body(*n, len(*n)).to_bytes()),
                        "{n}"
                    ),
                }
            }
        }
    }
}
