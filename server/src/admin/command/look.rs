//! What only looks: status, nodes, channels, streams.

use anyhow::bail;
use tonic::Code;

use super::Session;
use crate::admin::client::Seen;
use crate::admin::pb;
use crate::admin::render::{self, ChannelJson, NodeJson, StatusJson, StreamJson};
use crate::admin::verdict::verdict;

/// Streams in one answer.
const PAGE: u32 = 1000;

impl Session {
    pub(super) async fn status(&mut self) -> anyhow::Result<bool> {
        let seen = self.client.look().await?;
        let verdict = verdict(&seen);
        let status = StatusJson::new(&seen, &verdict);
        self.print(&status, &status.text(&verdict))?;
        Ok(verdict.is_healthy())
    }

    /// What is known without a leader, too, with a word about that.
    async fn look(&mut self) -> anyhow::Result<Seen> {
        let seen = self.client.look().await?;
        if !seen.has_leader() {
            let verdict = verdict(&seen);
            let node = seen.best().node;
            self.progress
                .note(&format!("{verdict}. This is what node {node} knows:"));
        }
        Ok(seen)
    }

    pub(super) async fn nodes(&mut self, all: bool) -> anyhow::Result<bool> {
        let seen = self.look().await?;
        let best = seen.best();
        let shown = best
            .nodes
            .iter()
            .filter(|node| all || node.member || node.channels > 0);
        let nodes: Vec<NodeJson> = shown.map(|node| NodeJson::new(node, best.leader)).collect();
        self.print(&nodes, &render::nodes(&nodes))?;
        Ok(true)
    }

    pub(super) async fn channels(&mut self) -> anyhow::Result<bool> {
        let seen = self.look().await?;
        let request = pb::ListChannelsRequest {};
        let asked = self.client.ask(seen.address(), async |mut admin| {
            admin.list_channels(request).await
        });
        let listed = match asked.await {
            Ok(listed) => listed,
            Err(status) => bail!("{}: {}", seen.address(), self.client.why(&status)),
        };
        let channels: Vec<ChannelJson> = listed.channels.into_iter().map(ChannelJson::from).collect();
        self.print(&channels, &render::channels(&channels))?;
        Ok(true)
    }

    pub(super) async fn streams(&mut self, basin: &str, prefix: &str, limit: u64) -> anyhow::Result<bool> {
        let seen = self.look().await?;
        let mut streams: Vec<StreamJson> = Vec::new();
        let mut start_after = String::new();
        let mut more = true;
        while more && (limit == 0 || (streams.len() as u64) < limit) {
            let left = match limit {
                0 => PAGE,
                limit => u32::try_from(limit - streams.len() as u64)
                    .unwrap_or(u32::MAX)
                    .min(PAGE),
            };
            let request = pb::ListStreamsRequest {
                basin: basin.to_owned(),
                prefix: prefix.to_owned(),
                start_after: start_after.clone(),
                limit: left,
            };
            let asked = self.client.ask(seen.address(), async |mut admin| {
                admin.list_streams(request).await
            });
            let page = match asked.await {
                Ok(page) => page,
                Err(status) if status.code() == Code::NotFound => bail!("there is no basin {basin:?}"),
                Err(status) => bail!("{}: {}", seen.address(), self.client.why(&status)),
            };
            more = page.has_more && !page.streams.is_empty();
            if let Some(last) = page.streams.last() {
                start_after.clone_from(&last.name);
            }
            streams.extend(page.streams.into_iter().map(StreamJson::from));
        }
        self.print(&streams, &render::streams(&streams))?;
        if more {
            self.progress
                .note(&format!("there are more than {limit}: --prefix or --limit"));
        }
        Ok(true)
    }
}
