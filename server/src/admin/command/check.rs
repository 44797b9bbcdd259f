//! Compares the metadata of all replicas.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{PAUSE, Session};
use crate::admin::pb;
use tokio::time::Instant;

/// A member that does not answer so often is not waited for.
const ATTEMPTS_MAX: u32 = 6;

impl Session {
    pub(super) async fn check(&mut self) -> anyhow::Result<bool> {
        self.progress.say("every replica reads its metadata");
        let compared = self.insist("comparing", |mut admin| async move {
            admin.compare_state(pb::CompareStateRequest {}).await
        });
        let pb::CompareStateResponse {
            index,
            checksum,
            compared_at,
        } = compared.await?;
        let seen = self.led().await?;
        let members = seen.best().nodes.iter().filter(|node| node.member);
        let members: BTreeMap<u64, String> = members
            .map(|node| (node.node, node.cluster_address.clone()))
            .collect();
        let (agree, silent) = self.wait_compared(&members, compared_at).await;
        let checksum = format!("{checksum:08x}");
        let mut text = format!(
            "{} of {} replicas agree: checksum {checksum} at entry {index}\n",
            agree.len(),
            members.len()
        );
        for (node, why) in &silent {
            text += &format!(
                "node {node} has not compared: {why}. It does so when it gets there; one that differs stops, and its log \
                 says so\n"
            );
        }
        let json = json!({
            "index": index, "checksum": checksum, "agree": agree,
            "not_compared": silent.keys().collect::<Vec<_>>(),
        });
        self.print(&json, &text)?;
        Ok(silent.is_empty())
    }

    /// Members that have applied the entry, and why others have not. A member that differs never does.
    async fn wait_compared(
        &mut self,
        members: &BTreeMap<u64, String>,
        at: u64,
    ) -> (BTreeSet<u64>, BTreeMap<u64, String>) {
        let mut agree = BTreeSet::new();
        let mut attempts: BTreeMap<u64, u32> = BTreeMap::new();
        loop {
            let mut silent = BTreeMap::new();
            let mut hope = false;
            for (node, address) in members.iter().filter(|(node, _)| !agree.contains(*node)) {
                match self.client.describe(address).await {
                    Ok(answer) if answer.node == *node && answer.applied_index >= at => continue,
                    Ok(answer) if answer.node == *node => {
                        hope = true;
                        silent.insert(*node, format!("it is at entry {}", answer.applied_index));
                    }
                    Ok(answer) => {
                        silent.insert(*node, format!("node {} is at its address", answer.node));
                    }
                    Err(status) => {
                        let failed = attempts.entry(*node).or_insert(0);
                        *failed += 1;
                        hope |= *failed < ATTEMPTS_MAX;
                        silent.insert(*node, self.client.why(&status));
                    }
                }
            }
            agree = members
                .keys()
                .copied()
                .filter(|node| !silent.contains_key(node))
                .collect();
            if silent.is_empty() || !hope || Instant::now() + PAUSE >= self.client.deadline {
                return (agree, silent);
            }
            let list: Vec<String> = silent.keys().map(|node| format!("node {node}")).collect();
            self.progress.say(&format!("waiting for {}", list.join(", ")));
            tokio::time::sleep(PAUSE).await;
        }
    }
}
