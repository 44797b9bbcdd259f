//! The Express zones: how each node sees them, and another store in the place of one.

use anyhow::{Context, bail};

use super::Session;
use crate::admin::client::Seen;
use crate::admin::pb;
use crate::admin::render::{self, ZoneJson};

/// How one member sees the zones.
struct Answer {
    node: u64,
    address: String,
    zones: pb::ListZonesResponse,
}

impl Session {
    pub(super) async fn zones(&mut self) -> anyhow::Result<bool> {
        let seen = self.client.look().await?;
        let answers = self.ask_members(&seen).await?;
        let unsettled = answers.iter().map(|answer| answer.zones.unsettled_channels).max();
        let answers: Vec<_> = answers.into_iter().map(|it| (it.node, it.zones)).collect();
        let zones = ZoneJson::merged(&answers);
        self.print(&zones, &render::zones(&zones))?;
        if let Some(unsettled) = unsettled.filter(|unsettled| *unsettled > 0) {
            self.progress.note(&format!(
                "{unsettled} channels still have records in a store that was replaced: lose no other zone before they are \
                 flushed"
            ));
        }
        Ok(true)
    }

    /// Those that answer.
    async fn ask_members(&mut self, seen: &Seen) -> anyhow::Result<Vec<Answer>> {
        let mut answers = Vec::new();
        for member in seen.best().nodes.iter().filter(|node| node.member) {
            let (node, address) = (member.node, member.cluster_address.clone());
            let asked = self.client.ask(&address, async |mut admin| {
                admin.list_zones(pb::ListZonesRequest::default()).await
            });
            match asked.await {
                Ok(zones) => answers.push(Answer { node, address, zones }),
                Err(status) => {
                    let why = self.client.why(&status);
                    self.progress
                        .note(&format!("node {node} does not say how it sees the zones: {why}"));
                }
            }
        }
        match answers.iter().any(|answer| !answer.zones.zones.is_empty()) {
            true => Ok(answers),
            false => {
                bail!(
                    "no node that answers has Express zones: they are named with --express when a node is started"
                )
            }
        }
    }

    pub(super) async fn replace_zone(&mut self, zone: u32) -> anyhow::Result<bool> {
        let seen = self.led().await?;
        let answers = self.ask_members(&seen).await?;
        let address = has_another(&answers, zone)?;
        let request = pb::ReplaceZoneRequest { zone };
        let asked = self
            .client
            .ask(&address, async |mut admin| admin.replace_zone(request).await);
        let replaced = match asked.await {
            Ok(replaced) => replaced,
            // Whether it was decided, `zones` tells; the same may be asked again.
            Err(status) => bail!(
                "zone {zone} is not replaced: {address}: {}",
                self.client.why(&status)
            ),
        };
        self.progress.note(&format!(
            "zone {zone} has a new store, of generation {}: channels begin new epochs and flush what is older",
            replaced.r#gen
        ));
        loop {
            let seen = self.led().await?;
            let asked = self.client.ask(seen.address(), async |mut admin| {
                let count_segments_of = Some(zone);
                admin.list_zones(pb::ListZonesRequest { count_segments_of }).await
            });
            let unsettled = match asked.await {
                Ok(answer) if answer.unsettled_channels == 0 && answer.lacking_segments == 0 => break,
                Ok(answer) if answer.unsettled_channels == 0 => format!(
                    "zone {zone} lacks {} segment objects that the former store of it had, or more",
                    answer.lacking_segments
                ),
                Ok(answer) => format!(
                    "{} channels still have records in the former store of zone {zone}",
                    answer.unsettled_channels
                ),
                Err(status) => self.client.why(&status),
            };
            self.wait(&unsettled).await.context(
                "it is replaced, and goes on without this command: `millrace cluster zones` tells when it is done",
            )?;
        }
        let done = Replaced {
            zone,
            generation: replaced.r#gen,
        };
        let text = format!("zone {zone} is replaced; it is safe to lose one zone again\n");
        self.print(&done, &text)?;
        Ok(true)
    }
}

/// A node that has another store for the zone than the one that was written to.
fn has_another(answers: &[Answer], number: u32) -> anyhow::Result<String> {
    let views = answers.iter().filter_map(|answer| {
        let zone = answer.zones.zones.iter().find(|zone| zone.zone == number)?;
        Some((answer, zone))
    });
    let views: Vec<_> = views.collect();
    if views.is_empty() {
        bail!("there is no Express zone {number}: they are numbered 1 to 3, in the order of --express");
    }
    let another = views
        .iter()
        .find(|(_, zone)| matches!(zone.state.as_str(), "blank" | "foreign"));
    match (another, views.iter().find(|(_, zone)| zone.state != "ok")) {
        (Some((answer, _)), _) => Ok(answer.address.clone()),
        (None, None) => {
            bail!("the store of zone {number} is the one that was written to: nothing is to be replaced")
        }
        (None, Some((answer, zone))) => bail!(
            "no node has another store for zone {number}: as node {} sees it, it is {}{}{}. Configure an empty store on \
             every node, or start the node whose disk it is with an empty one",
            answer.node,
            zone.state,
            if zone.why.is_empty() { "" } else { ": " },
            zone.why
        ),
    }
}

/// `zones replace --json`, once it is safe.
#[derive(serde::Serialize)]
struct Replaced {
    zone: u32,
    generation: String,
}
