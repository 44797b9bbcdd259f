//! One call: choose a node, ask it, and decide what to do with its answer.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep, timeout};
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::endpoints::{Endpoints, Route};
use crate::error::Error;
use crate::retry::{Backoff, Budget, RetryPolicy, Safety};
use crate::trace;
use crate::transport::Lane;

/// Names the node that serves the stream of the call, in the metadata of a reply.
const OWNER: &str = "millrace-owner";

/// What all handles of a client share.
pub(crate) struct Shared {
    pub(crate) endpoints: Endpoints,
    pub(crate) policy: RetryPolicy,
    pub(crate) budget: Budget,
    /// Of one try, connecting included.
    pub(crate) request_timeout: Duration,
    pub(crate) token: Option<MetadataValue<Ascii>>,
    rng: Mutex<StdRng>,
}

impl Shared {
    pub(crate) fn new(
        endpoints: Endpoints,
        policy: RetryPolicy,
        request_timeout: Duration,
        token: Option<MetadataValue<Ascii>>,
        seed: u64,
    ) -> Self {
        Self {
            budget: Budget::new(policy.budget),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
            endpoints,
            policy,
            request_timeout,
            token,
        }
    }

    pub(crate) fn random(&self) -> u64 {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner).random()
    }

    pub(crate) fn backoff(&self) -> Backoff {
        Backoff::new(&self.policy, self.random())
    }

    /// A message with what goes along with each: credentials and trace context.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        trace::inject(request.metadata_mut());
        request
    }

    /// Makes a call until it succeeds, or fails in a way, or as often, that the policy does not go on.
    ///
    /// `limit` bounds each try. An error after an earlier try that may have been applied says that it may have.
    pub(crate) async fn call<T, F>(
        &self,
        route: Option<&Route>,
        safety: Safety,
        limit: Duration,
        call: impl Fn(Channel) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = self.backoff();
        let mut avoid = None;
        let mut maybe = false;
        let mut tries = 0;
        loop {
            tries += 1;
            let node = self.endpoints.pick(route, avoid.as_ref(), Instant::now());
            let place = self.endpoints.place(&node, Lane::Calls);
            let error = match timeout(limit, call(place.channel)).await {
                Ok(Ok(response)) => {
                    if tries == 1 {
                        self.budget.succeeded();
                    }
                    self.endpoints.succeeded(&node, route, owner(response.metadata()));
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => Error::from(status),
                Err(_) => Error::Timeout(limit),
            };
            self.endpoints.failed(&node, route, &error, Instant::now());
            let again = safety.allows(&error) && tries < self.policy.attempts_max && self.budget.take();
            if !again {
                return Err(if maybe { error.after_maybe() } else { error });
            }
            maybe |= safety != Safety::Read && error.may_have_happened();
            let pause = backoff.next(&error);
            tracing::debug!(%error, tries, ?pause, node = %node.uri(), "trying again");
            avoid = error.blames_node().then_some(node);
            sleep(pause).await;
        }
    }
}

/// Where the reply says that the stream is served.
pub(crate) fn owner(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(OWNER)?.to_str().ok()
}
