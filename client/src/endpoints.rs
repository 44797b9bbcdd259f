//! Which node to ask: those that were configured, those that were learned, and how each has been doing.
//!
//! - A node that failed rests, longer with each failure in a row, while another one serves. When all rest, the one
//!   that is to be back first is asked all the same: resting is advice and never the reason for a failure.
//! - A reply may name the node that serves a stream. Later calls for the stream go there, until one fails.
//! - What is learned is bounded: [`ROUTES_MAX`] streams, [`LEARNED_MAX`] nodes besides the configured ones.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_api::name::{BasinName, StreamName};
use tokio::time::Instant;
use tonic::transport::Uri;

use crate::error::Error;
use crate::transport::{Connections, Lane, Place, TransportConfig};

const ROUTES_MAX: usize = 10_000;
const LEARNED_MAX: usize = 64;

const REST_MIN: Duration = Duration::from_millis(100);
const REST_MAX: Duration = Duration::from_secs(10);

/// The stream that a call is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Route {
    pub(crate) basin: BasinName,
    pub(crate) stream: StreamName,
}

/// One server, under one URL.
#[derive(Debug)]
pub(crate) struct Node {
    uri: Uri,
    connections: Connections,
    health: Mutex<Health>,
}

impl Node {
    fn new(uri: Uri, config: &TransportConfig) -> Result<Self, Error> {
        Ok(Self {
            connections: Connections::new(&uri, config)?,
            uri,
            health: Mutex::default(),
        })
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a node has been doing lately.
#[derive(Debug, Default, Clone, Copy)]
struct Health {
    /// In a row.
    failures: u32,
    rests_until: Option<Instant>,
}

impl Health {
    fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Failures of calls that were on their way together count once: the node rests already.
    fn failed(&mut self, now: Instant) {
        if self.is_resting(now) {
            return;
        }
        let rest = REST_MIN.saturating_mul(1 << self.failures.min(10)).min(REST_MAX);
        self.failures = self.failures.saturating_add(1);
        self.rests_until = Some(now + rest);
    }

    fn is_resting(&self, now: Instant) -> bool {
        self.rests_until.is_some_and(|until| now < until)
    }
}

/// All nodes that a client knows.
pub(crate) struct Endpoints {
    configured: Vec<Arc<Node>>,
    /// Index of the one in use: one node at a time keeps connections few and caches warm.
    current: AtomicUsize,
    learned: Mutex<Learned>,
    config: TransportConfig,
    /// All configured URLs are https: a learned one must be, too.
    secure: bool,
}

#[derive(Default)]
struct Learned {
    nodes: HashMap<Uri, Arc<Node>>,
    owners: HashMap<Route, Arc<Node>>,
}

impl Endpoints {
    /// `start` chooses the configured node to begin with; clients should differ.
    pub(crate) fn new(uris: Vec<Uri>, config: TransportConfig, start: usize) -> Result<Self, Error> {
        if uris.is_empty() {
            return Err(Error::invalid("a client needs at least one endpoint"));
        }
        let secure = uris.iter().all(|uri| uri.scheme_str() == Some("https"));
        let nodes = uris.into_iter().map(|uri| Node::new(uri, &config).map(Arc::new));
        Ok(Self {
            configured: nodes.collect::<Result<_, _>>()?,
            current: AtomicUsize::new(start),
            learned: Mutex::default(),
            config,
            secure,
        })
    }

    /// The node to ask next. `avoid` failed just now and is only chosen again if there is no other.
    pub(crate) fn pick(&self, route: Option<&Route>, avoid: Option<&Arc<Node>>, now: Instant) -> Arc<Node> {
        let fit = |node: &Arc<Node>| {
            avoid.is_none_or(|avoid| !Arc::ptr_eq(node, avoid)) && !node.health().is_resting(now)
        };
        if let Some(owner) = route.and_then(|route| self.owner(route)).filter(fit) {
            return owner;
        }
        let start = self.current.load(Ordering::Relaxed);
        let count = self.configured.len();
        let in_turn = (0..count).map(|step| start.wrapping_add(step) % count);
        let fit_index = in_turn.clone().find(|index| fit(&self.configured[*index]));
        if let Some(index) = fit_index {
            self.current.store(index, Ordering::Relaxed);
            return self.configured[index].clone();
        }
        let back_first = in_turn.min_by_key(|index| {
            let node = &self.configured[*index];
            let avoided = avoid.is_some_and(|avoid| Arc::ptr_eq(node, avoid));
            (node.health().rests_until, avoided)
        });
        self.configured[back_first.unwrap_or(0)].clone()
    }

    /// A connection to the node.
    pub(crate) fn place(&self, node: &Node, lane: Lane) -> Place {
        node.connections.place(lane, self.config.connector.as_ref())
    }

    /// The node answered. `owner` is what the answer says of where the stream is served.
    pub(crate) fn succeeded(&self, node: &Node, route: Option<&Route>, owner: Option<&str>) {
        node.health().succeeded();
        if let (Some(route), Some(owner)) = (route, owner) {
            self.learn(route, owner);
        }
    }

    /// A call failed there.
    pub(crate) fn failed(&self, node: &Arc<Node>, route: Option<&Route>, error: &Error, now: Instant) {
        if error.blames_node() {
            node.health().failed(now);
        }
        if let Some(route) = route
            && error.retryable()
        {
            let mut learned = self.learned();
            if learned
                .owners
                .get(route)
                .is_some_and(|owner| Arc::ptr_eq(owner, node))
            {
                learned.owners.remove(route);
            }
        }
    }

    /// The stream's owner, if it is known not to be `node` and does not rest.
    pub(crate) fn better(&self, route: &Route, node: &Arc<Node>, now: Instant) -> Option<Arc<Node>> {
        self.owner(route)
            .filter(|owner| !Arc::ptr_eq(owner, node) && !owner.health().is_resting(now))
    }

    pub(crate) fn owner(&self, route: &Route) -> Option<Arc<Node>> {
        self.learned().owners.get(route).cloned()
    }

    /// What does not parse, or would leave TLS, is not followed: every node answers every call.
    fn learn(&self, route: &Route, owner: &str) {
        let Ok(uri) = parse_endpoint(owner) else {
            tracing::debug!(owner, "a reply names an owner that is not a URL");
            return;
        };
        if self.secure && uri.scheme_str() != Some("https") {
            tracing::debug!(owner, "a reply names an owner without TLS");
            return;
        }
        let mut learned = self.learned();
        let configured = self.configured.iter().find(|node| node.uri == uri);
        let known = configured.or_else(|| learned.nodes.get(&uri)).cloned();
        let node = match known {
            Some(node) => node,
            None => {
                let Ok(node) = Node::new(uri.clone(), &self.config).map(Arc::new) else {
                    return;
                };
                if !learned.make_room_for_node() {
                    return;
                }
                learned.nodes.insert(uri, node.clone());
                node
            }
        };
        learned.make_room_for_route(route);
        learned.owners.insert(route.clone(), node);
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Learned {
    /// Forgets the nodes that no stream is on, if there are too many. False if all are in use.
    fn make_room_for_node(&mut self) -> bool {
        if self.nodes.len() >= LEARNED_MAX {
            self.nodes.retain(|_, node| Arc::strong_count(node) > 1);
        }
        self.nodes.len() < LEARNED_MAX
    }

    /// Forgets any one stream's owner: to learn it again costs one reply.
    fn make_room_for_route(&mut self, route: &Route) {
        if self.owners.len() >= ROUTES_MAX && !self.owners.contains_key(route) {
            let any = self.owners.keys().next().cloned();
            any.and_then(|route| self.owners.remove(&route));
        }
    }
}

/// `http://` or `https://`, a host, and nothing behind it.
pub(crate) fn parse_endpoint(text: &str) -> Result<Uri, Error> {
    let uri: Uri = text
        .trim_end_matches('/')
        .parse()
        .map_err(|error| Error::invalid(format!("endpoint {text:?}: {error}")))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) if uri.path() == "/" && uri.query().is_none() => Ok(uri),
        _ => Err(Error::invalid(format!(
            "endpoint {text:?} is not of the form http://host:port or https://host:port"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Windows;

    fn endpoints(urls: &[&str]) -> Endpoints {
        let config = TransportConfig {
            tls: None,
            connect_timeout: Duration::from_secs(1),
            windows: Windows::default(),
            connector: None,
        };
        let uris = urls.iter().map(|url| parse_endpoint(url).unwrap()).collect();
        Endpoints::new(uris, config, 0).unwrap()
    }

    fn route(stream: &str) -> Route {
        Route {
            basin: BasinName::new("some-basin").unwrap(),
            stream: StreamName::new(stream).unwrap(),
        }
    }

    fn broken() -> Error {
        Error::Broken("x".into())
    }

    #[test]
    fn a_failing_node_rests_and_another_serves() {
        let endpoints = endpoints(&["http://a", "http://b"]);
        let now = Instant::now();
        let first = endpoints.pick(None, None, now);
        assert_eq!(first.uri().host(), Some("a"));
        endpoints.failed(&first, None, &broken(), now);
        let second = endpoints.pick(None, None, now);
        assert_eq!(second.uri().host(), Some("b"));
        endpoints.failed(&second, None, &broken(), now + REST_MIN / 2);
        let back_first = endpoints.pick(None, Some(&second), now + REST_MIN / 2);
        assert_eq!(back_first.uri().host(), Some("a"));
    }

    #[test]
    fn a_rest_grows_with_failures_in_a_row_and_ends_with_a_success() {
        let now = Instant::now();
        let mut health = Health::default();
        let mut at = now;
        let mut rests = Vec::new();
        for _ in 0..12 {
            health.failed(at);
            health.failed(at);
            let until = health.rests_until.unwrap();
            rests.push(until - at);
            at = until;
        }
        assert_eq!(rests[0], REST_MIN);
        assert_eq!(rests[1], 2 * REST_MIN);
        assert_eq!(rests[11], REST_MAX);
        health.succeeded();
        assert!(!health.is_resting(at));
        health.failed(at);
        assert_eq!(health.rests_until.unwrap() - at, REST_MIN);
    }

    #[test]
    fn an_owner_is_asked_directly_until_it_fails() {
        let endpoints = endpoints(&["http://a"]);
        let now = Instant::now();
        let a = endpoints.pick(None, None, now);
        let stream = route("s");
        endpoints.succeeded(&a, Some(&stream), Some("http://owner:1"));
        let owner = endpoints.pick(Some(&stream), None, now);
        assert_eq!(owner.uri().host(), Some("owner"));
        assert_eq!(
            endpoints.pick(Some(&route("t")), None, now).uri().host(),
            Some("a")
        );
        endpoints.failed(&owner, Some(&stream), &broken(), now);
        assert!(endpoints.owner(&stream).is_none());
        assert_eq!(endpoints.pick(Some(&stream), None, now).uri().host(), Some("a"));
    }

    #[test]
    fn a_reply_cannot_lead_out_of_tls_or_to_nonsense() {
        let endpoints = endpoints(&["https://a"]);
        let a = endpoints.pick(None, None, Instant::now());
        for owner in ["http://owner:1", "", "owner", "ftp://x", "https://x/y?z", "\u{0}"] {
            endpoints.succeeded(&a, Some(&route("s")), Some(owner));
            assert!(endpoints.owner(&route("s")).is_none(), "{owner}");
        }
    }

    #[test]
    fn what_is_learned_is_bounded() {
        let endpoints = endpoints(&["http://a"]);
        let a = endpoints.pick(None, None, Instant::now());
        for i in 0..2 * LEARNED_MAX {
            endpoints.succeeded(&a, Some(&route(&format!("s{i}"))), Some(&format!("http://n{i}")));
        }
        assert_eq!(endpoints.learned().nodes.len(), LEARNED_MAX);
        for i in 0..ROUTES_MAX + 10 {
            endpoints.succeeded(&a, Some(&route(&format!("t{i}"))), Some("http://a"));
        }
        assert_eq!(endpoints.learned().owners.len(), ROUTES_MAX);
    }
}
