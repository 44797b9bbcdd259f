//! The Express zones: how each node sees them, and another store in the place of one.

use anyhow::{Context, bail};
use tonic::Code;

use super::Session;
use crate::admin::pb;
use crate::admin::render::{self, ZoneJson};

impl Session {
    pub(super) async fn zones(&mut self) -> anyhow::Result<bool> {
        let seen = self.client.look().await?;
        let members: Vec<_> = seen.best().nodes.iter().filter(|node| node.member).collect();
        let mut answers = Vec::new();
        for member in members {
            let asked = self.client.ask(&member.cluster_address, async |mut admin| {
                admin.list_zones(pb::ListZonesRequest {}).await
            });
            match asked.await {
                Ok(answer) => answers.push((member.node, answer)),
                Err(status) => {
                    let why = self.client.why(&status);
                    self.progress.note(&format!(
                        "node {} does not say how it sees the zones: {why}",
                        member.node
                    ));
                }
            }
        }
        if answers.iter().all(|(_, answer)| answer.zones.is_empty()) {
            bail!(
                "no node that answers has Express zones: they are named with --express when a node is started"
            );
        }
        let unsettled = answers.iter().map(|(_, answer)| answer.unsettled_channels).max();
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

    pub(super) async fn replace_zone(&mut self, zone: u32) -> anyhow::Result<bool> {
        let request = pb::ReplaceZoneRequest { zone };
        let what = format!("zone {zone} is not replaced");
        let seen = self.led().await?;
        let asked = self.client.ask(seen.address(), async |mut admin| {
            admin.replace_zone(request).await
        });
        let replaced = match asked.await {
            Ok(replaced) => replaced,
            // Accepted by an attempt whose answer was lost, or under way.
            Err(status) if super::again(&status) => {
                let call = |mut admin: pb::admin_client::AdminClient<_>| async move {
                    admin.replace_zone(request).await
                };
                self.insist(&what, call).await?
            }
            Err(status) if status.code() == Code::Unimplemented => {
                bail!("{what}: the leader is of an earlier release")
            }
            Err(status) => bail!("{what}: {}", self.client.why(&status)),
        };
        self.progress.note(&format!(
            "zone {zone} has a new store, under generation {}: channels begin new epochs and flush what is older",
            replaced.r#gen
        ));
        loop {
            let seen = self.led().await?;
            let asked = self.client.ask(seen.address(), async |mut admin| {
                admin.list_zones(pb::ListZonesRequest {}).await
            });
            let unsettled = match asked.await {
                Ok(answer) if answer.unsettled_channels == 0 => break,
                Ok(answer) => format!(
                    "{} channels still have records in the former store of zone {zone}",
                    answer.unsettled_channels
                ),
                Err(status) => self.client.why(&status),
            };
            self.wait(&unsettled)
                .await
                .context("it is replaced, and goes on without this command: `millrace cluster zones` tells when it is done")?;
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

/// `zones replace --json`, once it is safe.
#[derive(serde::Serialize)]
struct Replaced {
    zone: u32,
    generation: String,
}
