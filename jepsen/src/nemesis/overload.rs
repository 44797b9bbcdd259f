//! More requests than there is room for: many clients that append large batches to one stream and do not wait to be
//! asked again. What they append is in no history: it goes to a stream of its own.

use std::time::Duration;

use millrace_client::{Batch, Client, StreamConfig};
use tokio::task::JoinSet;

use super::{Fault, Outcome, Undo};
use crate::live::cluster::Cluster;
use crate::live::{BASIN, client_of};

const CLIENTS: usize = 24;
const RECORD_BYTES: usize = 256 << 10;
const RECORDS: usize = 3;

/// The clients; they end with it.
#[derive(Debug)]
pub(super) struct Overload(JoinSet<()>);

pub(super) async fn install(cluster: &mut Cluster) -> Outcome {
    let clients = (0..cluster.len()).map(|node| client_of(cluster, node, 77));
    let clients: Vec<Client> = match clients.collect() {
        Ok(clients) => clients,
        Err(error) => return Outcome::Skipped(format!("{error:#}")),
    };
    let stream = |client: &Client| client.basin(BASIN)?.stream("overload");
    let mut tasks = JoinSet::new();
    for number in 0..CLIENTS {
        let stream = match stream(&clients[number % clients.len()]) {
            Ok(stream) => stream,
            Err(error) => return Outcome::Skipped(error.to_string()),
        };
        if number == 0
            && let Err(error) = stream.ensure(StreamConfig::default()).await
        {
            return Outcome::Skipped(format!("no stream for it: {error}"));
        }
        tasks.spawn(async move {
            let Ok(batch) = Batch::new((0..RECORDS).map(|_| vec![b'x'; RECORD_BYTES])) else {
                return;
            };
            loop {
                // Refusals are what this is for.
                if stream.append(batch.clone()).await.is_err() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
    Outcome::Installed(Fault {
        target: format!("{CLIENTS} clients over all nodes"),
        undo: Undo::Overload(Overload(tasks)),
    })
}

impl Overload {
    pub(super) async fn end(mut self) {
        self.0.shutdown().await;
    }
}
