//! Millrace's gRPC API, through its client library: what a user of the library gets, its own work included.
//!
//! Each connection of the plan is a client of its own, for one client has one connection for appends. The library
//! resumes a session that breaks, exactly once; calls are tried once.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use millrace_api::config::StorageClass;
use millrace_client::{
    AppendSession, AppendSessionOptions, Basin, Batch, Client, Error, ReadOptions, ReadSession, Record,
    RetryPolicy, Stream, StreamConfig, Ticket,
};
use tokio::sync::mpsc;

use super::batch::EncodedBatch;
use super::driver::{Ack, Acks, Batches, Delivery, DriveError, Driver, Endpoint, Inputs, Lane, StreamRef};

/// How long a call may take, and how long a session may wait for its next ack.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// The workloads bound what is in flight; these only must not be less.
const UNBOUNDED: AppendSessionOptions = AppendSessionOptions {
    bytes_inflight_max: u32::MAX as usize,
    batches_inflight_max: u32::MAX as usize,
};

/// One endpoint. Connects when it is first used.
pub struct GrpcDriver {
    writers: Vec<Client>,
    readers: Vec<Client>,
}

impl GrpcDriver {
    pub fn new(endpoint: &Endpoint, connections: usize) -> Result<Self, DriveError> {
        let client = || {
            let retry = RetryPolicy {
                attempts_max: 1,
                budget: 0,
                ..RetryPolicy::default()
            };
            let mut builder = Client::builder()
                .endpoints([endpoint.url.as_str().trim_end_matches('/')])
                .request_timeout(REPLY_TIMEOUT)
                .retry(retry);
            if let Some(token) = &endpoint.token {
                builder = builder.access_token(token);
            }
            builder.build()
        };
        let clients = || (0..connections).map(|_| client()).collect::<Result<Vec<_>, _>>();
        Ok(Self {
            writers: clients()?,
            readers: clients()?,
        })
    }

    fn basin(&self, basin: &str) -> Result<Basin, Error> {
        self.writers[0].basin(basin)
    }

    fn stream(&self, stream: &StreamRef, lane: Lane) -> Result<Stream, Error> {
        let client = match lane {
            Lane::Writer(n) => &self.writers[n % self.writers.len()],
            Lane::Reader(n) => &self.readers[n % self.readers.len()],
        };
        client.basin(&stream.basin)?.stream(&stream.stream)
    }
}

#[async_trait]
impl Driver for GrpcDriver {
    async fn has_basin(&self, basin: &str) -> Result<bool, DriveError> {
        match self.basin(basin)?.config().await.map_err(DriveError::from) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn create_basin(&self, basin: &str) -> Result<(), DriveError> {
        self.basin(basin)?.create(Default::default()).await?;
        Ok(())
    }

    async fn delete_basin(&self, basin: &str) -> Result<(), DriveError> {
        Ok(self.basin(basin)?.delete().await?)
    }

    async fn create_stream(&self, stream: &StreamRef, class: StorageClass) -> Result<(), DriveError> {
        let config = StreamConfig {
            storage_class: Some(class),
            ..Default::default()
        };
        self.stream(stream, Lane::Writer(0))?.create(config).await?;
        Ok(())
    }

    async fn delete_stream(&self, stream: &StreamRef) -> Result<(), DriveError> {
        Ok(self.stream(stream, Lane::Writer(0))?.delete().await?)
    }

    async fn tail(&self, stream: &StreamRef) -> Result<u64, DriveError> {
        let tail = self.stream(stream, Lane::Writer(0))?.check_tail().await?;
        Ok(tail.seq_num)
    }

    async fn append_session(
        &self,
        stream: &StreamRef,
        lane: Lane,
    ) -> Result<(Box<dyn Inputs>, Box<dyn Acks>), DriveError> {
        let session = self.stream(stream, lane)?.append_session(UNBOUNDED)?;
        // Bounded by the batches in flight: a ticket is taken out when its ack has come.
        let (sender, tickets) = mpsc::unbounded_channel();
        let inputs = GrpcInputs {
            session,
            tickets: sender,
        };
        let acks = GrpcAcks {
            tickets,
            current: None,
        };
        Ok((Box::new(inputs), Box::new(acks)))
    }

    async fn read_session(
        &self,
        stream: &StreamRef,
        until: Option<u64>,
        lane: Lane,
    ) -> Result<Box<dyn Batches>, DriveError> {
        let options = ReadOptions::from_seq_num(0);
        let options = match until {
            None => options,
            Some(records) => options.count(usize::try_from(records).unwrap_or(usize::MAX)),
        };
        Ok(Box::new(GrpcBatches(
            self.stream(stream, lane)?.read_session(options),
        )))
    }
}

struct GrpcInputs {
    session: AppendSession,
    tickets: mpsc::UnboundedSender<Ticket>,
}

#[async_trait]
impl Inputs for GrpcInputs {
    async fn send(&mut self, batch: &EncodedBatch) -> Result<(), DriveError> {
        let ticket = self
            .session
            .submit(Batch::new(batch.bodies().map(Record::new))?)
            .await?;
        // It fails when nobody waits for acks any more.
        drop(self.tickets.send(ticket));
        Ok(())
    }
}

struct GrpcAcks {
    tickets: mpsc::UnboundedReceiver<Ticket>,
    /// The one that is waited for, kept when a wait is given up.
    current: Option<Ticket>,
}

#[async_trait]
impl Acks for GrpcAcks {
    async fn next(&mut self) -> Result<Option<Ack>, DriveError> {
        if self.current.is_none() {
            self.current = self.tickets.recv().await;
        }
        let Some(ticket) = &mut self.current else {
            return Ok(None);
        };
        let ack = ticket.await;
        self.current = None;
        let ack = ack?;
        Ok(Some(Ack {
            start: ack.start.seq_num,
            end: ack.end.seq_num,
        }))
    }
}

struct GrpcBatches(ReadSession);

#[async_trait]
impl Batches for GrpcBatches {
    async fn next(&mut self) -> Result<Option<Delivery>, DriveError> {
        match self.0.next().await {
            None => Ok(None),
            Some(batch) => Ok(Some(Delivery::Records(batch?.into_records()))),
        }
    }
}
