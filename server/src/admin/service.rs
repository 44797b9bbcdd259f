//! Answers operators, on every node. Knows of the cluster from the time at which its metadata are open, so that one
//! that waits for others can say so; what needs the complete node is refused until there is one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use millrace_api::id::NodeId;
use millrace_api::limits::LIST_PAGE_MAX;
use millrace_api::name::BasinName;
use millrace_raft::error::MetaError;
use millrace_raft::group::{MemberSlot, Meta, Role};
use millrace_raft::query::View as StateView;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::pb::{self, admin_server};
use super::view::{self, Led, View};
use crate::control::Control;
use crate::frontend::service::Lifecycle;
use crate::storage::caretaker::{Caretaker, SweepEvents, VerifyEvents};
use crate::zones::express::{ExpressZones, ZoneView};
use crate::zones::replace::{ReplaceError, unsettled};

/// Answered without it, a leader says that it cannot confirm that it leads.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(2);

/// What a complete node adds to what its metadata say.
pub struct AdminParts {
    pub control: Control,
    pub lifecycle: Lifecycle,
    pub storage: Caretaker,
    pub express: Option<ExpressZones>,
}

/// Where the service finds the node: empty while it starts, and after it has stopped.
#[derive(Clone, Default)]
pub struct AdminSlot {
    parts: Arc<ArcSwapOption<AdminParts>>,
}

impl AdminSlot {
    /// The node is there, until `stop`; nothing of it is kept alive afterwards.
    pub fn fill(&self, parts: AdminParts, stop: CancellationToken) {
        self.parts.store(Some(Arc::new(parts)));
        let slot = self.clone();
        tokio::spawn(async move {
            stop.cancelled().await;
            slot.parts.store(None);
        });
    }
}

/// What a node answers to operators.
pub struct AdminService {
    /// The cluster's name.
    pub cluster: String,
    pub member: MemberSlot,
    pub node: AdminSlot,
}

type Answer<T> = Result<Response<T>, Status>;

impl AdminService {
    fn meta(&self) -> Result<Meta, Status> {
        let member = self.member.member();
        member.ok_or_else(|| Status::unavailable("the node is starting or stopping"))
    }

    fn node(&self) -> Result<Arc<AdminParts>, Status> {
        let parts = self.node.parts.load_full();
        parts.ok_or_else(|| Status::unavailable("the node is starting or stopping"))
    }

    fn own(&self) -> Result<NodeId, Status> {
        let identity = self.member.identity();
        let identity = identity.ok_or_else(|| Status::unavailable("the node is starting"))?;
        Ok(identity.node)
    }

    /// What this node knows as the leader; to be asked after its leadership was confirmed.
    fn led(&self, meta: &Meta, own: NodeId, view: &View) -> Led {
        let parts = self.node.parts.load_full();
        let observed = parts.and_then(|parts| parts.control.observed_nodes(&view.records));
        let members = || view.members.iter().map(|member| member.node);
        Led {
            observed: observed.unwrap_or_default(),
            answering: members()
                .filter(|node| *node == own || meta.answers(*node))
                .collect(),
            lags: members()
                .filter(|node| *node != own)
                .filter_map(|node| Some((node, meta.lag(node)?)))
                .collect(),
        }
    }

    async fn describe_now(&self) -> Result<pb::DescribeResponse, Status> {
        let (meta, own) = (self.meta()?, self.own()?);
        let mut metrics = meta.metrics();
        let mut remark = waiting(&meta, own);
        let mut leads = false;
        if metrics.role == Role::Leader {
            match tokio::time::timeout(CONFIRM_TIMEOUT, meta.confirm_leadership()).await {
                Ok(Ok(_)) => leads = true,
                Ok(Err(_)) | Err(_) => {
                    remark = "it believes that it leads, but too few voters confirm that".into();
                }
            }
            metrics = meta.metrics();
        }
        let state = meta.state();
        let (records, channels) = state
            .at_once(|state| Ok((state.nodes()?, state.channels()?)))
            .map_err(|error: MetaError| status(error))?;
        let active = channels
            .iter()
            .filter(|channel| channel.owner.is_some() && channel.activated)
            .count();
        let mut view = View {
            members: meta.members(),
            records,
            owners: channels
                .iter()
                .map(|channel| channel.owner.map(|owner| owner.node))
                .collect(),
            led: None,
        };
        if leads {
            view.led = Some(self.led(&meta, own, &view));
        }
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(pb::DescribeResponse {
            cluster: self.cluster.clone(),
            cluster_id: cluster_id(&meta),
            node: own.0,
            term: metrics.term,
            // One that cannot confirm it is none.
            leader: metrics.leader.filter(|leader| leads || *leader != own.0),
            leads,
            applied_index: meta.applied_index(),
            nodes: view.nodes(),
            channels: count(view.owners.len()),
            channels_owned: count(view.owners.iter().flatten().count()),
            channels_active: count(active),
            serving: self.node.parts.load().is_some(),
            remark,
        })
    }

    /// Voters that would be left without the node, and how many of them answer. As this node knows, which leads.
    fn left_without(&self, meta: &Meta, own: NodeId, node: NodeId) -> (usize, usize) {
        let members = meta.members();
        let left = members
            .iter()
            .filter(|member| member.voter && member.node != node)
            .map(|member| member.node);
        left.fold((0, 0), |(all, answering), left| {
            let answers = left == own || meta.answers(left);
            (all + 1, answering + usize::from(answers))
        })
    }

    /// The voter that is to lead when nobody is named: one that drains only if there is no other.
    fn next_leader(&self, meta: &Meta) -> Result<NodeId, Status> {
        if meta.metrics().role != Role::Leader {
            return Err(Status::failed_precondition(
                "only the leader knows which voter is best: name one, or ask the leader",
            ));
        }
        let parts = self.node.parts.load_full();
        let records = meta.state().nodes().map_err(|error| status(error.into()))?;
        let observed = parts.and_then(|parts| parts.control.observed_nodes(&records));
        let draining = |node: NodeId| {
            let observed = observed.as_ref().and_then(|observed| observed.get(&node));
            observed.is_some_and(|observed| observed.draining)
        };
        meta.successor(draining)
            .ok_or_else(|| Status::failed_precondition("no other voter answers the leader"))
    }
}

#[async_trait]
impl admin_server::Admin for AdminService {
    async fn describe(&self, _: Request<pb::DescribeRequest>) -> Answer<pb::DescribeResponse> {
        Ok(Response::new(self.describe_now().await?))
    }

    async fn list_channels(&self, _: Request<pb::ListChannelsRequest>) -> Answer<pb::ListChannelsResponse> {
        let meta = self.meta()?;
        let parts = self.node.parts.load_full();
        let loads = parts.and_then(|parts| parts.control.observed_loads());
        let state = meta.state();
        let listed = blocking(move || {
            state.at_once(|state| {
                let channels = state.channels()?;
                let described = channels.iter().map(|channel| {
                    let open = state.open_streamlets_count(channel.channel)?;
                    Ok(view::channel(channel, open, loads.as_ref()))
                });
                described.collect::<Result<Vec<_>, MetaError>>()
            })
        });
        Ok(Response::new(pb::ListChannelsResponse {
            channels: listed.await?,
        }))
    }

    async fn list_streams(
        &self,
        request: Request<pb::ListStreamsRequest>,
    ) -> Answer<pb::ListStreamsResponse> {
        let meta = self.meta()?;
        let request = request.into_inner();
        let basin = BasinName::new(request.basin.clone())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let state = meta.state();
        let listed = blocking(move || state.at_once(|state| streams(&state, &basin, &request)));
        let listed = listed.await?;
        let listed = listed.ok_or_else(|| Status::not_found("there is no such basin"))?;
        Ok(Response::new(listed))
    }

    async fn add(&self, request: Request<pb::AddRequest>) -> Answer<pb::AddResponse> {
        let pb::AddRequest { node, address } = request.into_inner();
        let added = self.meta()?.add_learner(NodeId(node), &address).await;
        added.map_err(status)?;
        tracing::info!(node, address, "an operator has added a node");
        Ok(Response::new(pb::AddResponse {}))
    }

    async fn promote(&self, request: Request<pb::PromoteRequest>) -> Answer<pb::PromoteResponse> {
        let pb::PromoteRequest { node } = request.into_inner();
        self.meta()?.promote(NodeId(node)).await.map_err(status)?;
        tracing::info!(node, "an operator has given a node a vote");
        Ok(Response::new(pb::PromoteResponse {}))
    }

    async fn remove(&self, request: Request<pb::RemoveRequest>) -> Answer<pb::RemoveResponse> {
        let pb::RemoveRequest { node } = request.into_inner();
        let (meta, own) = (self.meta()?, self.own()?);
        if meta.metrics().role == Role::Leader {
            let (left, answering) = self.left_without(&meta, own, NodeId(node));
            if left == 0 {
                return Err(Status::failed_precondition(format!(
                    "node {node} is the last voter: give another one a vote first"
                )));
            }
            if answering <= left / 2 {
                return Err(Status::failed_precondition(format!(
                    "without node {node}, {answering} of the {left} voters that are left would answer, which is no \
                     majority: bring one back first, or add a node and give it a vote"
                )));
            }
        }
        meta.remove(NodeId(node)).await.map_err(status)?;
        tracing::info!(node, "an operator has removed a node");
        Ok(Response::new(pb::RemoveResponse {}))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Answer<pb::TransferLeaderResponse> {
        let meta = self.meta()?;
        let to = match request.into_inner().to {
            Some(to) => NodeId(to),
            None => self.next_leader(&meta)?,
        };
        meta.transfer_leader(to).await.map_err(status)?;
        tracing::info!(%to, "an operator has had another node lead");
        Ok(Response::new(pb::TransferLeaderResponse { leader: to.0 }))
    }

    async fn set_aside(&self, request: Request<pb::SetAsideRequest>) -> Answer<pb::SetAsideResponse> {
        let pb::SetAsideRequest { node, aside } = request.into_inner();
        let own = self.own()?;
        if node != own.0 {
            return Err(Status::failed_precondition(format!(
                "this is node {own}, not node {node}"
            )));
        }
        self.node()?.lifecycle.set_aside(aside);
        tracing::info!(aside, "an operator says whether this node is to own channels");
        Ok(Response::new(pb::SetAsideResponse {}))
    }

    async fn compare_state(&self, _: Request<pb::CompareStateRequest>) -> Answer<pb::CompareStateResponse> {
        let meta = self.meta()?;
        let computed = meta.compare_state().await.map_err(status)?;
        Ok(Response::new(pb::CompareStateResponse {
            index: computed.index,
            checksum: computed.checksum,
            // The comparison is among what this state contains.
            compared_at: meta.applied_index(),
        }))
    }

    type VerifyStream = VerifyEvents;

    async fn verify(&self, request: Request<pb::VerifyRequest>) -> Answer<VerifyEvents> {
        let pb::VerifyRequest { repair } = request.into_inner();
        Ok(Response::new(self.node()?.storage.verify(repair)?))
    }

    type SweepStream = SweepEvents;

    async fn sweep(&self, request: Request<pb::SweepRequest>) -> Answer<SweepEvents> {
        let pb::SweepRequest { dry_run } = request.into_inner();
        Ok(Response::new(self.node()?.storage.sweep(dry_run)?))
    }

    async fn list_zones(&self, request: Request<pb::ListZonesRequest>) -> Answer<pb::ListZonesResponse> {
        let pb::ListZonesRequest { count_segments_of } = request.into_inner();
        let (meta, node) = (self.meta()?, self.node()?);
        let state = meta.state();
        let unsettled = blocking(move || Ok(state.at_once(|view| unsettled(&view))?)).await?;
        let views = node.express.as_ref().map(ExpressZones::views).unwrap_or_default();
        Ok(Response::new(pb::ListZonesResponse {
            zones: views.iter().map(zone).collect(),
            unsettled_channels: u32::try_from(unsettled.len()).unwrap_or(u32::MAX),
            lacking_segments: match count_segments_of {
                // What they flush until then is in the former stores.
                Some(zone) if unsettled.is_empty() => node.storage.lacking_segments(zone).await?,
                _ => 0,
            },
        }))
    }

    async fn replace_zone(
        &self,
        request: Request<pb::ReplaceZoneRequest>,
    ) -> Answer<pb::ReplaceZoneResponse> {
        let pb::ReplaceZoneRequest { zone } = request.into_inner();
        let node = self.node()?;
        let express = node
            .express
            .as_ref()
            .ok_or_else(|| Status::failed_precondition("this node has no Express zones (--express)"))?;
        let zone_gen = express.replace(zone).await.map_err(|error| match error {
            ReplaceError::Meta(error) => status(error),
            error => Status::failed_precondition(error.to_string()),
        })?;
        let r#gen = zone_gen.to_string();
        Ok(Response::new(pb::ReplaceZoneResponse { r#gen }))
    }
}

fn zone(view: &ZoneView) -> pb::Zone {
    pb::Zone {
        zone: view.number,
        store: view.store.clone(),
        r#gen: view
            .zone_gen
            .map(|zone_gen| zone_gen.to_string())
            .unwrap_or_default(),
        state: view.state.name().into(),
        why: view.state.why().into(),
        lagging_bytes: view.lagging_bytes,
        repair_backlog: view.backlog,
        repaired: view.repaired,
    }
}

/// What a node waits for that belongs to no group.
fn waiting(meta: &Meta, own: NodeId) -> String {
    let said = meta.introduction();
    match (said.initialized, said.peers.is_empty()) {
        (true, _) => String::new(),
        (false, true) => {
            format!("its directory is fresh: it waits for `millrace cluster add {own} HOST:PORT`")
        }
        (false, false) => "its directory is fresh: it waits for the other nodes of its --peers".into(),
    }
}

fn cluster_id(meta: &Meta) -> String {
    let cluster = meta.introduction().identity.cluster;
    cluster.map(|cluster| cluster.to_string()).unwrap_or_default()
}

/// One page; `None` if there is no such basin.
fn streams(
    state: &StateView<'_>,
    basin: &BasinName,
    request: &pb::ListStreamsRequest,
) -> Result<Option<pb::ListStreamsResponse>, MetaError> {
    let Some(basin) = state.basin(basin)? else {
        return Ok(None);
    };
    let limit = (request.limit as usize).min(LIST_PAGE_MAX);
    let page = state.list_streams(basin.id, &request.prefix, &request.start_after, limit)?;
    let mut owners = BTreeMap::new();
    let mut streams = Vec::with_capacity(page.items.len());
    for entry in page.items {
        let open = state.stream_by_id(entry.id)?.and_then(|stream| stream.open);
        let owner = match open {
            None => None,
            Some(open) => match owners.get(&open.channel) {
                Some(owner) => *owner,
                None => {
                    let owner = state.channel(open.channel)?.and_then(|channel| channel.owner);
                    *owners
                        .entry(open.channel)
                        .or_insert(owner.map(|owner| owner.node))
                }
            },
        };
        let kind = match (entry.deleted_at_ms, open) {
            (Some(_), _) => pb::StreamState::Deleting,
            (None, Some(_)) => pb::StreamState::Active,
            (None, None) => pb::StreamState::Dormant,
        };
        streams.push(pb::Stream {
            name: entry.name.to_string(),
            id: entry.id.to_string(),
            state: kind.into(),
            channel: open.map(|open| open.channel.0),
            owner: owner.map(|owner| owner.0),
            streamlet: open.map(|open| open.streamlet.0),
        });
    }
    Ok(Some(pb::ListStreamsResponse {
        streams,
        has_more: page.has_more,
    }))
}

/// Reads of many rows, away from the threads that consensus needs.
async fn blocking<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, MetaError> + Send + 'static,
) -> Result<T, Status> {
    match tokio::task::spawn_blocking(read).await {
        Ok(read) => read.map_err(status),
        Err(_) => Err(Status::unavailable("the node is stopping")),
    }
}

fn status(error: MetaError) -> Status {
    let text = error.to_string();
    match error {
        MetaError::Refused(_) => Status::failed_precondition(text),
        MetaError::Retry(_) | MetaError::Closed(_) => Status::unavailable(text),
        MetaError::Unknown(_) => Status::unknown(text),
        MetaError::Invalid(_) | MetaError::Unusable(_) | MetaError::Store(_) => Status::internal(text),
    }
}
