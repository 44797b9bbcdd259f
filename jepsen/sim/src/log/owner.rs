//! One owner of the channel: takes over, and writes until somebody else has.

use std::rc::Rc;

use bytes::BytesMut;
use millrace_api::id::{ChunkSeq, Epoch, Nonce, StreamId, StreamletId, WriterId};
use millrace_wal::{
    AckPrefix, ChunkBuilder, EpochWriter, Frame, FrameFlags, FrameHeader, FrameKind, FrameWriter, WriteEvent,
};
use rand::Rng;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep;

use super::World;
use super::group::{CHANNEL, GroupJudge};
use super::truth::Record;

/// Until it is fenced or overtaken.
pub async fn live(world: Rc<World>, number: u64) {
    if let Err(why) = work(&world, number).await {
        world.trace.line(&format!("owner {number} ends: {why:#}"));
    }
}

async fn work(world: &Rc<World>, number: u64) -> anyhow::Result<()> {
    let wal = world.wal(number)?;
    let history = world.group.borrow_mut().take(number, wal.gens())?;
    let (epoch, nonce) = (history.current, Nonce(u128::from(world.draw())));
    let mut shown = Vec::new();
    let judge = GroupJudge::new(world);
    let recovered = millrace_wal::recover(&wal, &history, &judge, nonce, |_, footer| {
        let records = footer.entries.iter();
        shown.extend(records.map(|entry| Record {
            place: entry.header.first_seq,
            id: entry.header.number,
        }));
    })
    .await?;
    if let Err(refused) = world.group.borrow_mut().activate(epoch)? {
        anyhow::bail!("{refused}");
    }
    let next = shown.len() as u64;
    world.truth.borrow_mut().recovered(epoch, shown);
    let (writer, events) = wal.writer(CHANNEL, epoch, nonce, recovered.next_slot);
    let mut owner = Writing {
        number,
        epoch,
        next,
        sent: Vec::new(),
        first_slot: recovered.next_slot,
        acknowledged: AckPrefix::new(recovered.next_slot),
        writer,
    };
    owner.run(world, events).await;
    Ok(())
}

struct Writing {
    number: u64,
    epoch: Epoch,
    /// The place of the next record.
    next: u64,
    /// Records of each slot from `first_slot` on.
    sent: Vec<Vec<Record>>,
    first_slot: ChunkSeq,
    acknowledged: AckPrefix,
    writer: EpochWriter,
}

impl Writing {
    async fn run(&mut self, world: &World, mut events: UnboundedReceiver<WriteEvent>) {
        // As every owner does: whoever else would write there is fenced.
        self.send(ChunkBuilder::new(), Vec::new());
        loop {
            let pause = world.pause(1..40);
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(WriteEvent::Durable { slot, .. }) => self.durable(world, slot),
                    Some(WriteEvent::Retrying { .. }) => {}
                    Some(WriteEvent::Fenced { .. }) | None => return,
                },
                () = sleep(pause) => {
                    if self.writer.free_slots() > 0 {
                        self.write(world);
                    }
                }
            }
        }
    }

    fn write(&mut self, world: &World) {
        let mut builder = ChunkBuilder::new();
        let count = world.rng.borrow_mut().random_range(1..4);
        let records = (0..count).map(|_| {
            let id = world.next_record.replace(world.next_record.get() + 1);
            let place = self.next;
            self.next += 1;
            builder.push(frame(place, id));
            Record { place, id }
        });
        let records = records.collect();
        self.send(builder, records);
    }

    fn send(&mut self, builder: ChunkBuilder, records: Vec<Record>) {
        self.writer.submit(builder);
        self.sent.push(records);
    }

    fn durable(&mut self, world: &World, slot: ChunkSeq) {
        let before = self.acknowledged.end();
        let Some(end) = self.acknowledged.durable(slot) else {
            return;
        };
        let mut truth = world.truth.borrow_mut();
        for slot in before.0..end.0 {
            let records = &self.sent[(slot - self.first_slot.0) as usize];
            truth.acknowledged_by(self.number, self.epoch, records);
        }
    }
}

fn frame(place: u64, id: u64) -> Frame {
    let mut buffer = BytesMut::new();
    let mut out = FrameWriter::begin(&mut buffer, 64);
    out.body().extend_from_slice(&id.to_le_bytes());
    out.finish(FrameHeader {
        kind: FrameKind::Records,
        flags: FrameFlags::NONE,
        stream: StreamId(1),
        streamlet: StreamletId(1),
        first_seq: place,
        record_count: 1,
        metered_bytes: 8,
        first_timestamp: 0,
        last_timestamp: 0,
        writer: WriterId(1),
        number: id,
        body_len: 0,
        body_crc: 0,
    })
}
