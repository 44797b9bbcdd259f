//! A whole node inside the test's process, on threads of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_server::config::{NodeConfig, Settings};
use millrace_server::env::{Env, Stores};
use millrace_server::node::{Ended, Node};
use millrace_wal::{StoreError, ZoneStore};
use tokio::sync::oneshot;

/// A node that is stopped when dropped.
pub struct TestNode {
    pub addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Ended>>,
}

impl TestNode {
    /// On a data directory of its own, with streams in memory unless `change` says otherwise.
    pub fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let settings = settings(dir.path(), change);
        Self::run(settings, Env::system(), Some(dir))
    }

    /// For all tests of a process, as long as it lives. Nothing runs at its end, so what earlier processes left is
    /// removed here.
    pub fn shared(change: impl FnOnce(&mut Settings)) -> Self {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join("shared-nodes");
        for left in std::fs::read_dir(&all).into_iter().flatten().flatten() {
            let process = Path::new("/proc").join(left.file_name());
            if !process.exists() {
                // Another process may be at it too.
                let _ = std::fs::remove_dir_all(left.path());
            }
        }
        let dir = all.join(std::process::id().to_string());
        let settings = settings(&dir, change);
        Self::run(settings, Env::system(), None)
    }

    /// On a store that the test made, with metadata of its own.
    pub fn start_on(store: Arc<dyn ZoneStore>, change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let env = Env {
            stores: Arc::new(OneStore(store)),
            ..Env::system()
        };
        let settings = settings(dir.path(), change);
        Self::run(settings, env, Some(dir))
    }

    /// On a directory that the test keeps, so that another node can go on where this one ended. Streams are in files
    /// below it.
    pub fn start_in(dir: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        let settings = settings(dir, |settings| {
            settings.store = None;
            change(settings);
        });
        Self::run(settings, Env::system(), None)
    }

    fn run(settings: Settings, env: Env, own_dir: Option<tempfile::TempDir>) -> Self {
        let config = NodeConfig::resolve(settings).expect("a valid configuration");
        let (stop, stopped) = oneshot::channel();
        let (started, start) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            let ended = runtime.block_on(async {
                let node = Node::start(config, env).await.expect("the node starts");
                started.send(node.http_addr()).expect("the test waits");
                node.run(async { drop(stopped.await) }).await
            });
            drop(own_dir);
            ended
        });
        let addr = start.recv().expect("the node started");
        Self {
            addr,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Begins a graceful stop.
    pub fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Stops gracefully and waits until nothing of the node is left.
    pub async fn stop(mut self) -> Ended {
        self.begin_stop();
        let thread = self.thread.take().expect("taken here only");
        let joined = tokio::task::spawn_blocking(|| thread.join()).await;
        joined
            .expect("a thread to wait on")
            .expect("the node does not panic")
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// Answers one store, whatever the URL.
struct OneStore(Arc<dyn ZoneStore>);

impl Stores for OneStore {
    fn open(&self, _url: &str) -> Result<Arc<dyn ZoneStore>, StoreError> {
        Ok(self.0.clone())
    }
}

fn settings(dir: &Path, change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings {
        data_dir: Some(dir.to_owned()),
        store: Some("memory://".into()),
        http_addr: Some(([127, 0, 0, 1], 0).into()),
        deletion_grace: Some(Duration::from_millis(500)),
        ..Settings::default()
    };
    change(&mut settings);
    settings
}
