//! A real node in this process, on a store in memory.

use std::net::SocketAddr;

use millrace_server::config::{NodeConfig, Settings};
use millrace_server::env::Env;
use millrace_server::node::{Ended, Node};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct Running {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Ended>,
    _dir: tempfile::TempDir,
}

impl Running {
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings {
            data_dir: Some(dir.path().to_owned()),
            http_addr: Some(([127, 0, 0, 1], 0).into()),
            store: Some("memory://".into()),
            ..Settings::default()
        };
        let config = NodeConfig::resolve(settings).expect("a valid configuration");
        let node = Node::start(config, Env::system()).await.expect("the node starts");
        let addr = node.http_addr();
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(node.run(async { drop(stopped.await) }));
        Self {
            addr,
            stop,
            ended,
            _dir: dir,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops gracefully and waits for the end.
    pub async fn stop(self) {
        drop(self.stop);
        let ended = self.ended.await.expect("the node does not panic");
        assert!(matches!(ended, Ended::Stopped), "{ended:?}");
    }
}
