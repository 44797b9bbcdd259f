//! Turns strangers away before anything else looks at a call.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tonic::Status;
use tonic::body::Body;

use super::headers::{self, Turned};
use crate::group::MemberSlot;

/// What is remembered so as not to be logged again.
const SAID_MAX: usize = 256;

/// Why somebody was turned away: logged once.
#[derive(Clone, Default)]
pub struct Said(Arc<Mutex<BTreeSet<String>>>);

impl Said {
    pub fn turned_away(&self, why: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() < SAID_MAX && said.insert(why.to_owned()) {
            tracing::warn!(why, "turned a peer away; not logged again");
        }
    }
}

/// Wraps everything that a member serves. A call that comes through has its [`crate::identity::Caller`] as an
/// extension, unless an operator sent it.
#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    slot: MemberSlot,
    said: Said,
}

impl<S> Guard<S> {
    pub fn new(inner: S, slot: MemberSlot, said: Said) -> Self {
        Self { inner, slot, said }
    }

    fn check(&self, request: &mut http::Request<Body>) -> Result<(), Status> {
        let Some(own) = self.slot.identity() else {
            return Err(Status::failed_precondition("the node is starting"));
        };
        let path = request.uri().path();
        let admitted = match headers::read_operator(request.headers(), path, &own) {
            Some(admitted) => admitted,
            None => headers::read(request.headers(), &own).map(|caller| {
                request.extensions_mut().insert(caller);
            }),
        };
        match admitted {
            Ok(()) => Ok(()),
            Err(turned) => {
                let (why, status) = match turned {
                    Turned::Stranger(why) => (why.clone(), Status::permission_denied(why)),
                    Turned::NotMe(why) => (why.clone(), Status::failed_precondition(why)),
                };
                self.said.turned_away(&why);
                Err(status)
            }
        }
    }
}

type Answer<E> = Pin<Box<dyn Future<Output = Result<http::Response<Body>, E>> + Send>>;

impl<S> tower::Service<http::Request<Body>> for Guard<S>
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = Answer<S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        match self.check(&mut request) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(status) => Box::pin(async move { Ok(status.into_http()) }),
        }
    }
}
