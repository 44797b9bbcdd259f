//! Random commands over few names, so that they meet, and what must hold after each.

use std::collections::{BTreeMap, BTreeSet};

use millrace_api::config::*;
use millrace_api::id::*;
use millrace_api::name::{BasinName, FencingToken};
use millrace_api::position::StreamPosition;
use proptest::prelude::*;

use super::harness::*;
use super::random_segments;
use crate::command::*;
use crate::query::View;
use crate::state::kv::Read;
use crate::state::record::*;
use crate::state::table::*;

fn basin(n: u8) -> BasinName {
    BasinName::new(format!("basin-{n:02}")).unwrap()
}

fn stream(n: u8) -> millrace_api::name::StreamName {
    stream_name(&format!("s{n}"))
}

fn mode() -> impl Strategy<Value = CreateMode> {
    prop_oneof![
        proptest::option::of(0u8..2).prop_map(|key| CreateMode::CreateOnly {
            request_key: key.map(|key| [key; 32])
        }),
        Just(CreateMode::Ensure),
        Just(CreateMode::Auto),
    ]
}

fn stream_config() -> impl Strategy<Value = StreamConfig> {
    (
        proptest::option::of(prop_oneof![
            Just(StorageClass::Standard),
            Just(StorageClass::Express)
        ]),
        proptest::option::of(prop_oneof![
            (0u64..3).prop_map(RetentionPolicy::Age),
            Just(RetentionPolicy::Infinite)
        ]),
        proptest::option::of(prop_oneof![
            Just(TimestampingMode::ClientPrefer),
            Just(TimestampingMode::ClientRequire),
            Just(TimestampingMode::Arrival)
        ]),
        proptest::option::of(any::<bool>()),
        proptest::option::of(0u64..3),
    )
        .prop_map(
            |(storage_class, retention, mode, uncapped, min_age)| StreamConfig {
                storage_class,
                // An age of 0 is refused, and not encoded.
                retention: retention.filter(|policy| *policy != RetentionPolicy::Age(0)),
                timestamping_mode: mode,
                timestamping_uncapped: uncapped,
                delete_on_empty_min_age_secs: min_age,
            },
        )
}

fn patch<T: Clone + std::fmt::Debug>(value: Option<T>, clear: bool) -> Patch<T> {
    match (value, clear) {
        (Some(value), _) => Patch::Set(value),
        (None, true) => Patch::Clear,
        (None, false) => Patch::Keep,
    }
}

fn stream_change() -> impl Strategy<Value = StreamReconfiguration> {
    (stream_config(), any::<[bool; 5]>()).prop_map(|(config, clear)| StreamReconfiguration {
        storage_class: patch(config.storage_class, clear[0]),
        retention: patch(config.retention, clear[1]),
        timestamping_mode: patch(config.timestamping_mode, clear[2]),
        timestamping_uncapped: patch(config.timestamping_uncapped, clear[3]),
        delete_on_empty_min_age_secs: patch(config.delete_on_empty_min_age_secs, clear[4]),
    })
}

fn cipher() -> impl Strategy<Value = Option<Cipher>> {
    proptest::option::of(prop_oneof![Just(Cipher::Aegis256), Just(Cipher::Aes256Gcm)])
}

fn basin_config() -> impl Strategy<Value = BasinConfig> {
    (stream_config(), cipher(), any::<[bool; 2]>()).prop_map(|(default, stream_cipher, flags)| BasinConfig {
        default_stream_config: default,
        stream_cipher,
        create_stream_on_append: flags[0],
        create_stream_on_read: flags[1],
    })
}

fn naming() -> BoxedStrategy<Command> {
    let names = (0u8..2, 0u8..4, 1u128..9, 0u64..100);
    prop_oneof![
        3 => (names.clone(), basin_config(), mode(), proptest::option::of("[a-c]")).prop_map(
            |((b, _, id, now_ms), config, mode, location)| CreateBasin {
                name: basin(b), id: BasinId(id), config, location, mode, now_ms
            }.into()
        ),
        1 => (names.clone(), stream_change(), cipher(), any::<[bool; 2]>()).prop_map(
            |((b, ..), change, cipher, flags)| ReconfigureBasin {
                name: basin(b),
                change: BasinReconfiguration {
                    default_stream_config: patch(Some(change).filter(|_| flags[0]), flags[1]),
                    stream_cipher: patch(cipher, flags[0]),
                    create_stream_on_append: Some(flags[1]),
                    create_stream_on_read: None,
                }
            }.into()
        ),
        1 => names.clone().prop_map(|(b, _, _, now_ms)| DeleteBasin { name: basin(b), now_ms }.into()),
        2 => (1u128..9, 0u32..3).prop_map(|(id, limit)| {
            MarkBasinStreams { basin: BasinId(id), limit, now_ms: 5 }.into()
        }),
        2 => (1u128..9).prop_map(|id| PurgeBasin { basin: BasinId(id) }.into()),
        9 => (names.clone(), stream_config(), mode()).prop_map(|((b, s, id, now_ms), config, mode)| {
            CreateStream { basin: basin(b), name: stream(s), id: StreamId(id), config, mode, now_ms }.into()
        }),
        2 => (names.clone(), stream_change()).prop_map(|((b, s, ..), change)| {
            ReconfigureStream { basin: basin(b), name: stream(s), change }.into()
        }),
        3 => names.prop_map(|(b, s, _, now_ms)| {
            DeleteStream { basin: basin(b), name: stream(s), now_ms }.into()
        }),
        3 => (1u128..9).prop_map(|id| PurgeStream { stream: StreamId(id) }.into()),
    ]
    .boxed()
}

fn owning() -> BoxedStrategy<Command> {
    let channel = (1u32..3).prop_map(ChannelId);
    let epoch = (1u64..6).prop_map(Epoch);
    let owner = (1u64..3, 1u128..4).prop_map(|(node, n)| (NodeId(node), Incarnation(n)));
    prop_oneof![
        1 => (0u32..2, 1u128..3).prop_map(|(zone, g)| RegisterZone { zone, gen_id: ZoneGen(g), replaces: None }.into()),
        1 => (1u128..3).prop_map(|cell_id| InitCell { cell_id }.into()),
        4 => (owner.clone(), any::<bool>()).prop_map(|((node, incarnation), proves_old_dead)| {
            RegisterNode {
                node, incarnation, zone: "z".into(), address: "a".into(), proves_old_dead, now_ms: 1
            }.into()
        }),
        1 => (owner.clone(), 1u64..3).prop_map(|((node, incarnation), term)| {
            ExpireNode { node, incarnation, term }.into()
        }),
        2 => channel.clone().prop_map(|channel| {
            CreateChannel { channel, class: StorageClass::Standard }.into()
        }),
        6 => (channel.clone(), owner.clone()).prop_map(|(channel, (node, incarnation))| {
            AssignChannel { channel, node, incarnation, gens: vec![ZoneGen(1)] }.into()
        }),
        2 => (channel.clone(), owner, epoch.clone(), proptest::option::of(0u64..4)).prop_map(
            |(channel, (node, incarnation), epoch, end)| ReleaseChannels {
                node,
                incarnation,
                channels: vec![ReleasedChannel { channel, epoch, sealed_end: end.map(ChunkSeq) }],
            }.into()
        ),
        9 => (channel.clone(), epoch.clone(), epoch.clone(), 0u64..3, 0u64..3).prop_map(
            |(channel, epoch, by, end, adopted)| {
                SealEpoch { channel, epoch, by, end: ChunkSeq(end), adopted }.into()
            }
        ),
        6 => (channel, epoch).prop_map(|(channel, epoch)| ActivateChannel { channel, epoch }.into()),
    ]
    .boxed()
}

fn placing() -> BoxedStrategy<Command> {
    let place = (1u128..9, 1u32..3, 1u64..4, 1u64..80)
        .prop_map(|(s, c, e, l)| (StreamId(s), ChannelId(c), Epoch(e), StreamletId(l)));
    prop_oneof![
        5 => place.clone().prop_map(|(stream, channel, ..)| ActivateStream { stream, channel }.into()),
        3 => place.clone().prop_map(|(stream, channel, epoch, streamlet)| {
            CloseStreamlet { stream, streamlet, channel, epoch }.into()
        }),
        6 => (place, 0u64..9, 0u64..9, proptest::option::of(0u64..9)).prop_map(
            |((stream, channel, epoch, streamlet), tail, trim, seq_num)| DeactivateStream {
                stream, streamlet, channel, epoch,
                tail: StreamPosition::new(tail, tail),
                flushed: tail,
                fencing: Fencing { token: FencingToken::new("t").unwrap(), seq_num },
                trim,
                forgotten: tail,
                now_ms: tail,
            }.into()
        ),
    ]
    .boxed()
}

/// A command that may or may not make sense.
pub fn command() -> BoxedStrategy<Command> {
    prop_oneof![5 => naming(), 4 => owning(), 4 => placing(), 6 => random_segments::flushing()].boxed()
}

/// Commands that first make a world in which the rest often succeeds.
pub fn commands(count: usize) -> BoxedStrategy<Vec<Command>> {
    let world = |(): ()| -> Vec<Command> {
        let mut list: Vec<Command> = vec![
            RegisterZone {
                zone: 0,
                gen_id: ZoneGen(1),
                replaces: None,
            }
            .into(),
        ];
        for n in 1..3u32 {
            list.push(
                RegisterNode {
                    proves_old_dead: false,
                    ..register(n.into(), n.into())
                }
                .into(),
            );
            let channel = ChannelId(n);
            list.push(
                CreateChannel {
                    channel,
                    class: StorageClass::Standard,
                }
                .into(),
            );
            list.push(
                AssignChannel {
                    channel,
                    ..assign_with(n)
                }
                .into(),
            );
            list.push(
                ActivateChannel {
                    channel,
                    epoch: Epoch(1),
                }
                .into(),
            );
        }
        list.push(
            CreateBasin {
                name: basin(0),
                ..create_basin(BasinConfig::default())
            }
            .into(),
        );
        for n in 0..3u8 {
            let stream = create_stream(&format!("s{n}"), 1 + u128::from(n));
            list.push(
                CreateStream {
                    basin: basin(0),
                    ..stream
                }
                .into(),
            );
            list.push(
                ActivateStream {
                    stream: StreamId(1 + u128::from(n)),
                    channel: ChannelId(1),
                }
                .into(),
            );
        }
        list
    };
    (
        Just(()).prop_map(world),
        proptest::collection::vec(command(), 0..count),
    )
        .prop_map(|(mut world, rest)| {
            world.extend(rest);
            world
        })
        .boxed()
}

fn assign_with(n: u32) -> AssignChannel {
    AssignChannel {
        channel: ChannelId(n),
        node: NodeId(n.into()),
        incarnation: Incarnation(n.into()),
        gens: vec![ZoneGen(1)],
    }
}

/// Makes most guesses at numbers that the state hands out right.
pub fn steer(model: &mut Model, mut command: Command) -> Command {
    let view = View::new(&model.state);
    let open = |stream| view.stream_by_id(stream).unwrap().and_then(|stream| stream.open);
    let channel = |channel| view.channel(channel).unwrap();
    match &mut command {
        Command::DeactivateStream(c) if c.streamlet.0 % 4 > 0 => {
            if let Some(open) = open(c.stream) {
                (c.streamlet, c.channel) = (open.streamlet, open.channel);
                c.epoch = channel(open.channel).unwrap().epoch;
                c.tail = view.stream_by_id(c.stream).unwrap().unwrap().tail;
                (c.flushed, c.forgotten) = (c.tail.seq_num, c.tail.seq_num);
                c.trim = c.trim.min(c.tail.seq_num);
                c.fencing.seq_num = c.fencing.seq_num.filter(|seq| *seq < c.tail.seq_num);
            }
        }
        Command::CloseStreamlet(c) if c.streamlet.0 % 4 > 0 => {
            if let Some(open) = open(c.stream) {
                (c.streamlet, c.channel) = (open.streamlet, open.channel);
                c.epoch = channel(open.channel).unwrap().epoch;
            }
        }
        Command::SealEpoch(c) if c.epoch.0 % 4 > 0 => {
            if let Some(channel) = channel(c.channel) {
                (c.epoch, c.by) = (Epoch(channel.sealed_through.0 + 1), channel.epoch);
                let sealed = channel.epochs.iter().find(|(epoch, _)| *epoch == c.epoch);
                if let Some((_, state)) = sealed.filter(|(_, state)| !state.activated) {
                    c.adopted = c.adopted.min(state.adopted);
                    c.end = ChunkSeq(state.adopted - c.adopted);
                }
            }
        }
        Command::ActivateChannel(c) if c.epoch.0 % 4 > 0 => {
            c.epoch = channel(c.channel).map_or(c.epoch, |channel| channel.epoch);
        }
        other => random_segments::steer(view, &mut model.written, other),
    }
    command
}

/// Everything in a state that the invariants speak of.
struct Seen {
    streams: BTreeMap<StreamId, StreamRecord>,
    channels: BTreeMap<ChannelId, ChannelRecord>,
    objects: random_segments::Objects,
}

/// Every row of a table.
pub fn all<T: Table>(state: &dyn Read) -> Rows<T> {
    state.rows::<T>(&[], None, usize::MAX).unwrap()
}

/// Checks the state by itself.
fn check(model: &Model) -> Seen {
    let state: &dyn Read = &model.state;
    let streams: BTreeMap<StreamId, StreamRecord> = all::<Streams>(state).into_iter().collect();
    let names = all::<StreamNames>(state);
    assert_eq!(names.len(), streams.len(), "every stream has one name");
    for ((basin, name), entry) in names {
        let stream = &streams[&entry.id];
        assert_eq!(
            (stream.basin, &stream.name),
            (basin, &name),
            "a name leads to its stream"
        );
        assert_eq!(entry.deleted_at_ms, stream.deletion.map(|d| d.at_ms));
        assert_eq!(
            (entry.cipher, entry.created_at_ms),
            (stream.cipher, stream.created_at_ms)
        );
        assert!(
            state.row::<BasinIds>(&basin).unwrap().is_some(),
            "a stream has a basin"
        );
        assert!(stream.trim <= stream.tail.seq_num && stream.config.retention != RetentionPolicy::Age(0));
    }
    let basins = all::<Basins>(state);
    assert_eq!(
        basins.len(),
        all::<BasinIds>(state).len(),
        "every basin has one id"
    );
    let mut deleting = BTreeSet::new();
    for (name, basin) in basins {
        assert_eq!(
            state.row::<BasinIds>(&basin.id).unwrap(),
            Some(name),
            "an id leads to its basin"
        );
        deleting.extend(basin.deleted_at_ms.map(|_| basin.id));
    }
    let queued: BTreeSet<_> = all::<DeletingBasins>(state)
        .into_iter()
        .map(|(id, _)| id)
        .collect();
    assert_eq!(queued, deleting, "every deleting basin is queued, and no other");

    let open: BTreeSet<_> = streams
        .values()
        .filter_map(|s| s.open.map(|o| (o.channel, s.id, o.streamlet)))
        .collect();
    let indexed: BTreeSet<_> = all::<ChannelStreamlets>(state)
        .into_iter()
        .map(|((c, s), l)| (c, s, l))
        .collect();
    assert_eq!(indexed, open, "the channels know their open streamlets");
    let marked: BTreeSet<_> = streams
        .values()
        .filter_map(|s| s.deletion.map(|d| (d.log_index, s.id)))
        .collect();
    let queued: BTreeSet<_> = all::<DeletingStreams>(state)
        .into_iter()
        .map(|(key, ())| key)
        .collect();
    assert_eq!(queued, marked, "every deleting stream is queued, and no other");

    let channels = View::new(state).channels().unwrap();
    for channel in &channels {
        assert!(channel.sealed_through <= channel.epoch);
        let kept = channel.epoch.0 + 1 - channel.checkpoint.epoch.0;
        assert_eq!(
            channel.epochs.len() as u64,
            kept,
            "epochs from the checkpoint on are dense"
        );
        for (epoch, state) in &channel.epochs {
            assert_eq!(
                state.seal.is_some(),
                *epoch <= channel.sealed_through,
                "sealed oldest first"
            );
        }
        let activated = channel
            .epochs
            .iter()
            .filter(|(_, state)| state.activated && state.seal.is_none());
        assert!(activated.count() <= 1, "one epoch at a time is open");
    }
    let channels = channels
        .into_iter()
        .map(|channel| (channel.channel, channel))
        .collect();
    let objects = random_segments::check(state, &model.written, &streams);
    Seen {
        streams,
        channels,
        objects,
    }
}

/// Checks one step.
fn check_step(before: &Seen, after: &Seen) {
    random_segments::check_step(&before.objects, &after.objects);
    for (id, was) in &before.channels {
        let is = &after.channels[id];
        assert!(
            is.epoch >= was.epoch && is.epoch.0 <= was.epoch.0 + 1,
            "epochs grow by one"
        );
        if let (Some(old), Some(new)) = (was.owner, is.owner) {
            assert!(old == new, "an owner is followed by none before another");
        }
        assert!(is.checkpoint >= was.checkpoint, "a checkpoint never moves back");
        let counts = [
            (is.flush_seq, was.flush_seq),
            (is.merge_seq, was.merge_seq),
            (is.pack_seq, was.pack_seq),
        ];
        for (is, was) in counts {
            assert!(
                is == was || is.0 == was.0 + 1,
                "flushes, merges and indexes are counted"
            );
        }
        for (epoch, state) in was.epochs.iter().filter(|(_, state)| state.seal.is_some()) {
            let now = is.epochs.iter().find(|(e, _)| e == epoch).map(|(_, state)| state);
            let kept = *epoch >= is.checkpoint.epoch;
            assert_eq!(now, Some(state).filter(|_| kept), "what is sealed stays as it is");
        }
    }
    for (id, was) in &before.streams {
        match after.streams.get(id) {
            Some(is) => {
                assert!(is.tail >= was.tail && is.trim >= was.trim && is.forgotten >= was.forgotten);
                assert!(
                    is.fencing.seq_num >= was.fencing.seq_num,
                    "no old token comes back"
                );
                assert_eq!(
                    (is.cipher, &is.name, is.basin),
                    (was.cipher, &was.name, was.basin)
                );
                assert!(
                    was.deletion.is_none() || is.deletion == was.deletion,
                    "a mark stays"
                );
            }
            None => {
                let mark = was.deletion.expect("only a deleting stream goes");
                if let Some(open) = was.open {
                    let ended = before.channels[&open.channel].sealed_through >= mark.channel_epoch;
                    assert!(ended, "nobody can answer for a stream that goes");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_sequence_of_commands_breaks_an_invariant(commands in commands(120)) {
        let mut model = Model::default();
        let mut before = check(&model);
        for command in commands {
            let command = steer(&mut model, command);
            let _ = model.run(command);
            let after = check(&model);
            check_step(&before, &after);
            before = after;
        }
    }
}

/// The generator is worth nothing if it never gets anywhere.
#[test]
fn random_commands_reach_deep_states() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut accepted: BTreeMap<&'static str, u32> = BTreeMap::new();
    let (mut flushed, mut dropped, mut replaced, mut packed, mut unpacked) = (0, 0, 0, 0, 0);
    for _ in 0..60 {
        let mut model = Model::default();
        for command in commands(120).new_tree(&mut runner).unwrap().current() {
            let name = command.name();
            let command = steer(&mut model, command);
            let segments = all::<Segments>(&model.state).len();
            let answer = model.run(command);
            *accepted.entry(name).or_default() += u32::from(answer.is_ok());
            match answer {
                Ok(Response::Flushed(_)) => flushed += all::<Segments>(&model.state).len() - segments,
                Ok(Response::SegmentsDropped(step)) => dropped += step.dropped,
                Ok(Response::Merged(merged)) => replaced += merged.replaced,
                Ok(Response::ChainPacked(step)) => packed += step.segments,
                Ok(Response::ChainUnpacked(step)) => unpacked += step.segments,
                _ => {}
            }
        }
    }
    assert_eq!(accepted.len(), 29, "every command was tried: {accepted:?}");
    assert!(
        accepted.values().all(|count| *count > 0),
        "every command was accepted: {accepted:?}"
    );
    assert!(
        flushed > 100 && dropped > 20 && replaced > 20 && packed > 20 && unpacked > 10,
        "{flushed} segments came, {dropped} went, {replaced} were merged, {packed} packed, {unpacked} unpacked"
    );
}
