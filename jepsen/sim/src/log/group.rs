//! The metadata group: one state in memory, changed by the same rules as any replica's.

use std::cell::RefCell;
use std::rc::Rc;

use anyhow::anyhow;
use async_trait::async_trait;
use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Incarnation, NodeId, ZoneGen};
use millrace_raft::apply::{advance, apply};
use millrace_raft::command::{
    ActivateChannel, AssignChannel, Command, CreateChannel, ExpireNode, InitCell, RegisterNode, RegisterZone,
    Response, SealEpoch,
};
use millrace_raft::query::{ChannelRecord, View};
use millrace_raft::refused::Refused;
use millrace_raft::state::memory::MemoryState;
use millrace_raft::state::record::LogPosition;
use millrace_raft::state::txn::Txn;
use millrace_wal::{ChannelHistory, SealedEpoch, UnsealedEpoch};

pub const CHANNEL: ChannelId = ChannelId(1);

pub struct Group {
    state: MemoryState,
    index: u64,
}

impl Group {
    /// A cell with these zones and one channel of nobody.
    pub fn new(gens: &[ZoneGen]) -> anyhow::Result<Self> {
        let mut group = Self {
            state: MemoryState::default(),
            index: 0,
        };
        group.must(InitCell { cell_id: 1 })?;
        for (zone, gen_id) in (0..).zip(gens) {
            group.register_zone(zone, *gen_id)?;
        }
        group.must(CreateChannel {
            channel: CHANNEL,
            class: StorageClass::Standard,
        })?;
        Ok(group)
    }

    pub fn register_zone(&mut self, zone: u32, gen_id: ZoneGen) -> anyhow::Result<()> {
        self.must(RegisterZone {
            zone,
            gen_id,
            replaces: None,
        })
    }

    /// The channel is the node's from now on, whoever had it; its history as of then.
    pub fn take(&mut self, node: u64, gens: Vec<ZoneGen>) -> anyhow::Result<ChannelHistory> {
        let life = |node: u64| (NodeId(node), Incarnation(u128::from(node)));
        if let Some(owner) = self.record()?.owner {
            self.must(ExpireNode {
                node: owner.node,
                incarnation: owner.incarnation,
                term: 1,
            })?;
        }
        let (node, incarnation) = life(node);
        self.must(RegisterNode {
            node,
            incarnation,
            zone: String::new(),
            address: String::new(),
            proves_old_dead: false,
            now_ms: 0,
        })?;
        self.must(AssignChannel {
            channel: CHANNEL,
            node,
            incarnation,
            gens,
        })?;
        Ok(history(&self.record()?))
    }

    /// Whether the epoch may sequence.
    pub fn activate(&mut self, epoch: Epoch) -> anyhow::Result<Result<Response, Refused>> {
        self.apply(ActivateChannel {
            channel: CHANNEL,
            epoch,
        })
    }

    pub fn seal(&mut self, seal: SealEpoch) -> anyhow::Result<Result<Response, Refused>> {
        self.apply(seal)
    }

    pub fn sealed(&self, epoch: Epoch) -> anyhow::Result<Option<SealedEpoch>> {
        let sealed = history(&self.record()?).sealed;
        Ok(sealed.into_iter().find(|sealed| sealed.epoch == epoch))
    }

    fn record(&self) -> anyhow::Result<ChannelRecord> {
        let record = View::new(&self.state).channel(CHANNEL)?;
        record.ok_or_else(|| anyhow!("there is no channel"))
    }

    fn must(&mut self, command: impl Into<Command>) -> anyhow::Result<()> {
        match self.apply(command)? {
            Ok(_) => Ok(()),
            Err(refused) => Err(anyhow!("{refused}")),
        }
    }

    fn apply(&mut self, command: impl Into<Command>) -> anyhow::Result<Result<Response, Refused>> {
        self.index += 1;
        let at = LogPosition {
            term: 1,
            node: 1,
            index: self.index,
        };
        let mut txn = Txn::new(&self.state);
        let applied = apply(&mut txn, &command.into(), at)?;
        advance(&mut txn, at, None)?;
        let changes = txn.into_changes();
        self.state.commit(changes);
        Ok(applied)
    }
}

fn history(record: &ChannelRecord) -> ChannelHistory {
    let sealed = record.sealed().map(|(epoch, _, seal)| SealedEpoch {
        epoch,
        end: seal.end,
        by: seal.by,
        adopted: seal.adopted,
    });
    let unsealed = record.unsealed_earlier().map(|(epoch, state)| UnsealedEpoch {
        epoch,
        activated: state.activated,
        adopted: (state.adopted > 0).then_some(state.adopted),
        gens: state.gens.clone(),
    });
    ChannelHistory {
        channel: record.channel,
        checkpoint: (record.checkpoint.epoch, record.checkpoint.slot),
        sealed: sealed.collect(),
        unsealed: unsealed.collect(),
        current: record.epoch,
        gens: record.gens.clone(),
    }
}

pub use self::judge::GroupJudge;

mod judge {
    //! The group as a recovery asks it: late, and with answers that get lost.

    use std::time::Duration;

    use millrace_wal::{Judge, JudgeError};
    use tokio::sync::{mpsc, oneshot};
    use tokio::time::sleep;

    use super::*;
    use crate::log::World;

    type Asked = (Question, oneshot::Sender<Result<Option<SealedEpoch>, JudgeError>>);

    enum Question {
        Seal(SealEpoch),
        Verdict(Epoch),
    }

    /// Asks over a channel: a recovery may be sent between threads, and the group may not.
    pub struct GroupJudge(mpsc::Sender<Asked>);

    impl GroupJudge {
        pub fn new(world: &Rc<World>) -> Self {
            let (ask, mut asked) = mpsc::channel::<Asked>(16);
            let world = world.clone();
            tokio::task::spawn_local(async move {
                while let Some((question, answer)) = asked.recv().await {
                    sleep(world.pause(1..10)).await;
                    let decided = decide(&world.group, &question);
                    let lost = world.draw().is_multiple_of(8);
                    let decided = match lost {
                        true => Err(JudgeError::Retry("no answer".into())),
                        false => decided,
                    };
                    sleep(world.pause(1..10)).await;
                    // Whoever asked may have ended.
                    let _ = answer.send(decided);
                }
            });
            Self(ask)
        }

        async fn ask(&self, question: Question) -> Result<Option<SealedEpoch>, JudgeError> {
            let gone = || JudgeError::Retry("the group is gone".into());
            let (answer, answered) = oneshot::channel();
            self.0.send((question, answer)).await.map_err(|_| gone())?;
            match tokio::time::timeout(Duration::from_secs(5), answered).await {
                Ok(Ok(answer)) => answer,
                _ => Err(gone()),
            }
        }
    }

    fn decide(group: &RefCell<Group>, question: &Question) -> Result<Option<SealedEpoch>, JudgeError> {
        let broken = |error: anyhow::Error| JudgeError::Retry(error.to_string());
        match question {
            Question::Verdict(epoch) => group.borrow().sealed(*epoch).map_err(broken),
            Question::Seal(seal) => match group.borrow_mut().seal(seal.clone()).map_err(broken)? {
                Ok(Response::EpochSealed(sealed)) => Ok(Some(SealedEpoch {
                    epoch: seal.epoch,
                    end: sealed.end,
                    by: sealed.by,
                    adopted: sealed.adopted,
                })),
                Ok(other) => Err(JudgeError::Refused(format!("{other:?}"))),
                Err(refused) => Err(JudgeError::Refused(refused.to_string())),
            },
        }
    }

    #[async_trait]
    impl Judge for GroupJudge {
        async fn seal_epoch(
            &self,
            channel: ChannelId,
            epoch: Epoch,
            end: ChunkSeq,
            by: Epoch,
            adopted: u64,
        ) -> Result<ChunkSeq, JudgeError> {
            let seal = SealEpoch {
                channel,
                epoch,
                end,
                by,
                adopted,
            };
            let sealed = self.ask(Question::Seal(seal)).await?;
            sealed
                .map(|sealed| sealed.end)
                .ok_or_else(|| JudgeError::Retry("no verdict".into()))
        }

        async fn verdict(
            &self,
            _channel: ChannelId,
            epoch: Epoch,
        ) -> Result<Option<SealedEpoch>, JudgeError> {
            self.ask(Question::Verdict(epoch)).await
        }
    }
}
