use millrace_api::config::*;
use millrace_api::id::{BasinId, StreamId};
use millrace_api::name::BasinName;

use super::harness::*;
use crate::command::*;

fn key(byte: u8) -> CreateMode {
    CreateMode::CreateOnly {
        request_key: Some([byte; 32]),
    }
}

fn basin_with(default: StreamConfig) -> Model {
    let mut model = Model::default();
    model.ok(create_basin(BasinConfig {
        default_stream_config: default,
        ..Default::default()
    }));
    model
}

fn age(secs: u64) -> StreamConfig {
    StreamConfig {
        retention: Some(RetentionPolicy::Age(secs)),
        ..Default::default()
    }
}

fn with(mode: CreateMode, config: StreamConfig) -> CreateStream {
    CreateStream {
        mode,
        config,
        ..create_stream("s", 99)
    }
}

fn change_basin(model: &mut Model, change: BasinReconfiguration) {
    model.ok(ReconfigureBasin {
        name: basin_name(),
        change,
    });
}

fn reconfigure(change: StreamReconfiguration) -> ReconfigureStream {
    ReconfigureStream {
        basin: basin_name(),
        name: stream_name("s"),
        change,
    }
}

#[test]
fn a_stream_resolves_what_it_asked_for_over_basin_over_system() {
    let mut model = basin_with(StreamConfig {
        storage_class: Some(StorageClass::Standard),
        ..age(60)
    });
    let made = model.ok(with(
        key(1),
        StreamConfig {
            timestamping_uncapped: Some(true),
            ..age(90)
        },
    ));
    let wanted = ResolvedStreamConfig {
        storage_class: StorageClass::Standard,
        retention: RetentionPolicy::Age(90),
        timestamping_uncapped: true,
        ..Default::default()
    };
    assert_eq!((made.outcome, made.stream.config), (Outcome::Created, wanted));
    assert_eq!((made.stream.tail.seq_num, made.stream.trim), (0, 0));
}

#[test]
fn a_replay_succeeds_whatever_happened_to_basin_and_stream() {
    let mut model = basin_with(age(60));
    model.ok(CreateStream {
        id: StreamId(1),
        ..with(key(1), StreamConfig::default())
    });
    let clear = BasinReconfiguration {
        default_stream_config: Patch::Clear,
        ..Default::default()
    };
    change_basin(&mut model, clear);
    model.ok(with(CreateMode::Ensure, age(30)));
    let replay = model.ok(with(key(1), StreamConfig::default()));
    assert_eq!((replay.outcome, replay.stream.id), (Outcome::Noop, StreamId(1)));
    assert_eq!(replay.stream.config.retention, RetentionPolicy::Age(30));
    assert_eq!(
        model.code(with(key(2), StreamConfig::default())),
        "resource_already_exists"
    );
    let none = CreateMode::CreateOnly { request_key: None };
    assert_eq!(
        model.code(with(none, StreamConfig::default())),
        "resource_already_exists"
    );
}

#[test]
fn ensure_is_a_noop_when_the_effective_configuration_matches() {
    let mut model = basin_with(age(60));
    assert_eq!(model.ok(create_stream("s", 1)).outcome, Outcome::Created);
    assert_eq!(model.ok(with(CreateMode::Ensure, age(60))).outcome, Outcome::Noop);
    assert_eq!(
        model
            .ok(with(CreateMode::Ensure, StreamConfig::default()))
            .outcome,
        Outcome::Noop
    );
    assert_eq!(
        model.ok(with(CreateMode::Ensure, age(61))).outcome,
        Outcome::Updated
    );
}

#[test]
fn ensure_keeps_an_explicit_zero_against_a_basin_default() {
    let mut model = basin_with(StreamConfig {
        delete_on_empty_min_age_secs: Some(50),
        ..Default::default()
    });
    let zero = StreamConfig {
        delete_on_empty_min_age_secs: Some(0),
        ..Default::default()
    };
    let made = model.ok(with(CreateMode::Ensure, zero));
    assert_eq!(made.stream.config.delete_on_empty_min_age_secs, 0);
    let unset = model.ok(CreateStream {
        id: StreamId(5),
        ..with(CreateMode::Ensure, StreamConfig::default())
    });
    assert_eq!(
        (unset.outcome, unset.stream.config.delete_on_empty_min_age_secs),
        (Outcome::Updated, 50)
    );
}

#[test]
fn a_patch_clears_to_the_basin_default_and_keeps_the_rest() {
    let mut model = basin_with(age(60));
    let asked = StreamConfig {
        storage_class: Some(StorageClass::Standard),
        ..age(90)
    };
    model.ok(with(key(1), asked));
    let clear = StreamReconfiguration {
        retention: Patch::Clear,
        ..Default::default()
    };
    let cleared = model.ok(reconfigure(clear)).stream.config;
    assert_eq!(cleared.retention, RetentionPolicy::Age(60));
    assert_eq!(cleared.storage_class, StorageClass::Standard);
    assert_eq!(model.ok(reconfigure(Default::default())).outcome, Outcome::Noop);
    let zero = StreamReconfiguration {
        retention: Patch::Set(RetentionPolicy::Age(0)),
        ..Default::default()
    };
    assert_eq!(model.code(reconfigure(zero)), "invalid");
    assert_eq!(model.code(create_stream_zero()), "invalid");
}

fn create_stream_zero() -> CreateStream {
    CreateStream {
        config: age(0),
        ..create_stream("other", 7)
    }
}

#[test]
fn every_field_round_trips_by_create_and_patch() {
    let mut model = basin_with(StreamConfig::default());
    let mut n = 0;
    for storage_class in [StorageClass::Standard, StorageClass::Express] {
        for retention in [RetentionPolicy::Age(5), RetentionPolicy::Infinite] {
            for mode in [
                TimestampingMode::ClientPrefer,
                TimestampingMode::ClientRequire,
                TimestampingMode::Arrival,
            ] {
                for (uncapped, min_age) in [(false, 0), (true, 9)] {
                    n += 1;
                    let wanted = ResolvedStreamConfig {
                        storage_class,
                        retention,
                        timestamping_mode: mode,
                        timestamping_uncapped: uncapped,
                        delete_on_empty_min_age_secs: min_age,
                    };
                    let name = format!("s{n}");
                    model.ok(CreateStream {
                        config: wanted.into(),
                        ..create_stream(&name, n)
                    });
                    assert_eq!(model.stream(&name).unwrap().config, wanted);
                    let patched = format!("p{n}");
                    model.ok(create_stream(&patched, 1000 + n));
                    let change = StreamReconfiguration {
                        storage_class: Patch::Set(storage_class),
                        retention: Patch::Set(retention),
                        timestamping_mode: Patch::Set(mode),
                        timestamping_uncapped: Patch::Set(uncapped),
                        delete_on_empty_min_age_secs: Patch::Set(min_age),
                    };
                    let name = stream_name(&patched);
                    model.ok(ReconfigureStream {
                        basin: basin_name(),
                        name,
                        change,
                    });
                    assert_eq!(model.stream(&patched).unwrap().config, wanted);
                }
            }
        }
    }
}

#[test]
fn the_cipher_is_fixed_when_the_stream_is_created() {
    let mut model = basin_with(StreamConfig::default());
    model.ok(create_stream("s", 1));
    let cipher = Patch::Set(Cipher::Aes256Gcm);
    change_basin(
        &mut model,
        BasinReconfiguration {
            stream_cipher: cipher,
            ..Default::default()
        },
    );
    model.ok(with(CreateMode::Ensure, age(5)));
    assert_eq!(model.stream("s").unwrap().cipher, None);
    model.ok(create_stream("t", 2));
    assert_eq!(model.stream("t").unwrap().cipher, Some(Cipher::Aes256Gcm));
    let listed = model.view().list_streams(BasinId(1), "", "", 0).unwrap().items;
    assert_eq!(
        listed.iter().map(|s| s.cipher).collect::<Vec<_>>(),
        [None, Some(Cipher::Aes256Gcm)]
    );
}

#[test]
fn auto_creation_answers_what_is_there_as_it_is() {
    let mut model = basin_with(age(60));
    let made = model.ok(CreateStream {
        id: StreamId(1),
        ..with(CreateMode::Auto, StreamConfig::default())
    });
    assert_eq!(
        (made.outcome, made.stream.config.retention),
        (Outcome::Created, RetentionPolicy::Age(60))
    );
    let found = model.ok(with(CreateMode::Auto, StreamConfig::default()));
    assert_eq!((found.outcome, found.stream), (Outcome::Noop, made.stream));
    model.ok(DeleteBasin {
        name: basin_name(),
        now_ms: 1,
    });
    assert_eq!(
        model.ok(with(CreateMode::Auto, StreamConfig::default())).outcome,
        Outcome::Noop
    );
    let other = CreateStream {
        mode: CreateMode::Auto,
        ..create_stream("other", 5)
    };
    assert_eq!(model.code(other), "basin_deletion_pending");
}

#[test]
fn unknown_names_are_not_found() {
    let mut model = Model::default();
    assert_eq!(model.code(create_stream("s", 1)), "basin_not_found");
    assert_eq!(model.code(delete_stream("s")), "basin_not_found");
    model.ok(create_basin(BasinConfig::default()));
    assert_eq!(model.code(reconfigure(Default::default())), "stream_not_found");
    assert_eq!(model.code(delete_stream("s")), "stream_not_found");
    let elsewhere = BasinName::new("basin-two").unwrap();
    assert_eq!(
        model.code(CreateStream {
            basin: elsewhere,
            ..create_stream("s", 1)
        }),
        "basin_not_found"
    );
}

#[test]
fn a_deleting_stream_takes_no_change_but_another_delete() {
    let mut model = basin_with(StreamConfig::default());
    model.ok(CreateStream {
        mode: key(1),
        ..create_stream("s", 1)
    });
    assert_eq!(model.ok(delete_stream("s")).outcome, Outcome::Updated);
    let repeated = model.ok(DeleteStream {
        now_ms: 999,
        ..delete_stream("s")
    });
    assert_eq!(
        (repeated.outcome, repeated.stream.deletion.unwrap().at_ms),
        (Outcome::Noop, 300)
    );
    for mode in [key(1), CreateMode::Ensure, CreateMode::Auto] {
        assert_eq!(
            model.code(with(mode, StreamConfig::default())),
            "stream_deletion_pending"
        );
    }
    assert_eq!(
        model.code(reconfigure(Default::default())),
        "stream_deletion_pending"
    );
    let activate = ActivateStream {
        stream: StreamId(1),
        channel: CHANNEL,
    };
    assert_eq!(model.code(activate), "stream_deletion_pending");
    let listed = model.view().list_streams(BasinId(1), "", "", 0).unwrap().items;
    assert_eq!(listed[0].deleted_at_ms, Some(300));
}

#[test]
fn a_deleting_basin_takes_no_new_and_no_changed_stream() {
    let mut model = basin_with(StreamConfig::default());
    model.ok(create_stream("s", 1));
    model.ok(DeleteBasin {
        name: basin_name(),
        now_ms: 1,
    });
    let pending = "basin_deletion_pending";
    assert_eq!(model.code(create_stream("t", 2)), pending);
    assert_eq!(model.code(with(CreateMode::Ensure, age(5))), pending);
    assert_eq!(model.code(reconfigure(Default::default())), pending);
    assert_eq!(model.ok(delete_stream("s")).outcome, Outcome::Updated);
}

#[test]
fn late_work_for_an_old_stream_does_not_touch_its_successor() {
    let mut model = basin_with(StreamConfig::default());
    model.ok(create_stream("s", 1));
    assert_eq!(model.code(PurgeStream { stream: StreamId(1) }), "hot_server");
    model.ok(delete_stream("s"));
    model.ok(PurgeStream { stream: StreamId(1) });
    assert_eq!(model.stream("s"), None);
    model.ok(create_stream("s", 2));
    model.ok(PurgeStream { stream: StreamId(1) });
    assert_eq!(model.stream("s").unwrap().id, StreamId(2));
    assert!(model.view().deleting_streams(None, 10).unwrap().is_empty());
}

#[test]
fn an_id_in_use_is_refused() {
    let mut model = basin_with(StreamConfig::default());
    model.ok(create_stream("s", 1));
    assert_eq!(model.code(create_stream("t", 1)), "transaction_conflict");
}

#[test]
fn pages_of_streams_miss_and_repeat_nothing() {
    let mut model = basin_with(StreamConfig::default());
    let mut names: Vec<String> = (0..25).map(|n| format!("log/{n}")).collect();
    names.push("zz \u{1F600}".into());
    for (n, name) in names.iter().enumerate() {
        model.ok(create_stream(name, n as u128 + 1));
    }
    names.sort();
    let mut listed: Vec<String> = Vec::new();
    loop {
        let after = listed.last().cloned().unwrap_or_default();
        let page = model.view().list_streams(BasinId(1), "", &after, 4).unwrap();
        listed.extend(page.items.iter().map(|s| s.name.to_string()));
        if !page.has_more {
            break;
        }
    }
    assert_eq!(listed, names);
    let past = model.view().list_streams(BasinId(1), "log/", "zzz", 4).unwrap();
    assert!(past.items.is_empty() && !past.has_more);
    assert!(
        model
            .view()
            .list_streams(BasinId(2), "", "", 0)
            .unwrap()
            .items
            .is_empty()
    );
}
