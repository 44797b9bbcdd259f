use millrace_api::config::*;
use millrace_api::id::BasinId;
use millrace_api::name::BasinName;

use super::harness::*;
use crate::command::*;

fn key(byte: u8) -> CreateMode {
    CreateMode::CreateOnly {
        request_key: Some([byte; 32]),
    }
}

fn config(age: u64) -> BasinConfig {
    BasinConfig {
        default_stream_config: StreamConfig {
            retention: Some(RetentionPolicy::Age(age)),
            ..Default::default()
        },
        ..Default::default()
    }
}

fn again(mode: CreateMode, config: BasinConfig) -> CreateBasin {
    CreateBasin {
        id: BasinId(99),
        mode,
        ..create_basin(config)
    }
}

fn delete() -> DeleteBasin {
    DeleteBasin {
        name: basin_name(),
        now_ms: 500,
    }
}

#[test]
fn create_answers_what_was_created() {
    let mut model = Model::default();
    let made = model.ok(create_basin(config(60)));
    assert_eq!(made.outcome, Outcome::Created);
    assert_eq!((made.basin.created_at_ms, made.basin.deleted_at_ms), (100, None));
    assert_eq!(
        model.view().basin(&basin_name()).unwrap(),
        Some(made.basin.clone())
    );
    assert_eq!(model.view().basin_by_id(BasinId(1)).unwrap(), Some(made.basin));
}

#[test]
fn the_same_request_is_a_noop_and_any_other_is_refused() {
    let mut model = Model::default();
    let first = model.ok(CreateBasin {
        mode: key(1),
        ..create_basin(config(60))
    });
    let replay = model.ok(again(key(1), config(60)));
    assert_eq!((replay.outcome, replay.basin), (Outcome::Noop, first.basin));
    let exists = "resource_already_exists";
    assert_eq!(model.code(again(key(2), config(60))), exists);
    assert_eq!(
        model.code(again(CreateMode::CreateOnly { request_key: None }, config(60))),
        exists
    );
}

#[test]
fn a_basin_without_key_is_matched_by_none() {
    let mut model = Model::default();
    model.ok(create_basin(config(60)));
    let none = CreateMode::CreateOnly { request_key: None };
    assert_eq!(model.code(again(none, config(60))), "resource_already_exists");
}

#[test]
fn the_same_proposal_twice_is_one_creation() {
    let mut model = Model::default();
    model.ok(create_basin(config(60)));
    assert_eq!(model.ok(create_basin(config(60))).outcome, Outcome::Created);
}

#[test]
fn replacing_and_changing_do_not_break_a_later_replay() {
    let mut model = Model::default();
    model.ok(CreateBasin {
        mode: key(1),
        ..create_basin(config(60))
    });
    model.ok(again(CreateMode::Ensure, config(90)));
    let change = BasinReconfiguration {
        create_stream_on_append: Some(true),
        ..Default::default()
    };
    model.ok(ReconfigureBasin {
        name: basin_name(),
        change,
    });
    assert_eq!(model.ok(again(key(1), config(60))).outcome, Outcome::Noop);
}

#[test]
fn ensure_creates_updates_or_does_nothing() {
    let mut model = Model::default();
    let ensure = |age| again(CreateMode::Ensure, config(age));
    assert_eq!(model.ok(ensure(60)).outcome, Outcome::Created);
    assert_eq!(
        model
            .ok(CreateBasin {
                id: BasinId(7),
                ..ensure(60)
            })
            .outcome,
        Outcome::Noop
    );
    assert_eq!(
        model
            .ok(CreateBasin {
                id: BasinId(7),
                ..ensure(90)
            })
            .outcome,
        Outcome::Updated
    );
}

#[test]
fn ensure_replaces_the_whole_configuration() {
    let mut model = Model::default();
    let rich = BasinConfig {
        stream_cipher: Some(Cipher::Aegis256),
        create_stream_on_append: true,
        create_stream_on_read: true,
        ..config(60)
    };
    model.ok(create_basin(rich));
    let replaced = model.ok(again(CreateMode::Ensure, BasinConfig::default()));
    assert_eq!(
        (replaced.outcome, replaced.basin.config),
        (Outcome::Updated, BasinConfig::default())
    );
}

#[test]
fn an_explicit_default_equals_what_was_not_chosen() {
    let mut model = Model::default();
    model.ok(create_basin(BasinConfig::default()));
    let explicit = StreamConfig {
        delete_on_empty_min_age_secs: Some(0),
        ..Default::default()
    };
    let config = BasinConfig {
        default_stream_config: explicit,
        ..Default::default()
    };
    assert_eq!(model.ok(again(CreateMode::Ensure, config)).outcome, Outcome::Noop);
}

#[test]
fn a_patch_changes_named_fields_only_and_null_clears() {
    let mut model = Model::default();
    let mut start = config(60);
    start.default_stream_config.storage_class = Some(StorageClass::Standard);
    model.ok(create_basin(start));
    let stream = StreamReconfiguration {
        retention: Patch::Clear,
        timestamping_uncapped: Patch::Set(true),
        ..Default::default()
    };
    let change = BasinReconfiguration {
        default_stream_config: Patch::Set(stream),
        ..Default::default()
    };
    let changed = model.ok(ReconfigureBasin {
        name: basin_name(),
        change,
    });
    assert_eq!(changed.outcome, Outcome::Updated);
    let wanted = StreamConfig {
        storage_class: Some(StorageClass::Standard),
        timestamping_uncapped: Some(true),
        ..Default::default()
    };
    assert_eq!(changed.basin.config.default_stream_config, wanted);
    let empty = ReconfigureBasin {
        name: basin_name(),
        change: Default::default(),
    };
    assert_eq!(model.ok(empty).outcome, Outcome::Noop);
}

#[test]
fn a_retention_age_of_zero_is_invalid() {
    let mut model = Model::default();
    assert_eq!(model.code(create_basin(config(0))), "invalid");
    model.ok(create_basin(config(60)));
    assert_eq!(model.code(again(CreateMode::Ensure, config(0))), "invalid");
    let zero = StreamReconfiguration {
        retention: Patch::Set(RetentionPolicy::Age(0)),
        ..Default::default()
    };
    let change = BasinReconfiguration {
        default_stream_config: Patch::Set(zero),
        ..Default::default()
    };
    assert_eq!(
        model.code(ReconfigureBasin {
            name: basin_name(),
            change
        }),
        "invalid"
    );
}

#[test]
fn the_location_of_a_basin_stays() {
    let mut model = Model::default();
    let located = |location: &str| Some(location.to_owned());
    model.ok(CreateBasin {
        location: located("here"),
        ..create_basin(config(60))
    });
    let ensure = again(CreateMode::Ensure, config(60));
    assert_eq!(
        model.code(CreateBasin {
            location: located("there"),
            ..ensure.clone()
        }),
        "invalid"
    );
    assert_eq!(
        model
            .ok(CreateBasin {
                location: located("here"),
                ..ensure.clone()
            })
            .outcome,
        Outcome::Noop
    );
    assert_eq!(model.ok(ensure).basin.location, located("here"));
}

#[test]
fn an_unknown_basin_is_not_found() {
    let mut model = Model::default();
    let change = Default::default();
    assert_eq!(
        model.code(ReconfigureBasin {
            name: basin_name(),
            change
        }),
        "basin_not_found"
    );
    assert_eq!(model.code(delete()), "basin_not_found");
}

#[test]
fn a_deleting_basin_takes_no_change_but_another_delete() {
    let mut model = Model::default();
    model.ok(CreateBasin {
        mode: key(1),
        ..create_basin(config(60))
    });
    let marked = model.ok(delete());
    assert_eq!(
        (marked.outcome, marked.basin.deleted_at_ms),
        (Outcome::Updated, Some(500))
    );
    let later = DeleteBasin {
        name: basin_name(),
        now_ms: 900,
    };
    let repeated = model.ok(later);
    assert_eq!(
        (repeated.outcome, repeated.basin.deleted_at_ms),
        (Outcome::Noop, Some(500))
    );
    let pending = "basin_deletion_pending";
    assert_eq!(model.code(again(key(1), config(60))), pending);
    assert_eq!(model.code(again(CreateMode::Ensure, config(60))), pending);
    let change = Default::default();
    assert_eq!(
        model.code(ReconfigureBasin {
            name: basin_name(),
            change
        }),
        pending
    );
}

#[test]
fn a_basin_is_purged_when_its_streams_are_and_then_starts_anew() {
    let mut model = Model::default();
    model.ok(create_basin(config(60)));
    for n in 0..5u128 {
        model.ok(create_stream(&format!("s{n}"), 10 + n));
    }
    let step = MarkBasinStreams {
        basin: BasinId(1),
        limit: 2,
        now_ms: 600,
    };
    model.refused(step.clone());
    model.ok(delete());
    let mut steps = Vec::new();
    loop {
        let marked = model.ok(step.clone());
        steps.push(marked.marked.len());
        if marked.done {
            break;
        }
        model.refused(PurgeBasin { basin: BasinId(1) });
    }
    assert_eq!(steps, [2, 2, 1]);
    assert!(model.ok(step.clone()).done);
    let queued = model.view().deleting_streams(None, 100).unwrap();
    assert_eq!(queued.len(), 5);
    let rest = model.view().deleting_streams(Some(queued[1].cursor), 2).unwrap();
    assert_eq!(rest, queued[2..4]);
    for one in queued {
        model.refused(PurgeBasin { basin: BasinId(1) });
        model.ok(PurgeStream {
            stream: one.stream.id,
        });
    }
    assert_eq!(model.view().deleting_basins().unwrap().len(), 1);
    model.ok(PurgeBasin { basin: BasinId(1) });
    model.ok(PurgeBasin { basin: BasinId(1) });
    assert!(model.view().deleting_basins().unwrap().is_empty());
    assert_eq!(model.view().basin(&basin_name()).unwrap(), None);

    let made = model.ok(again(key(3), config(60)));
    assert_eq!(made.outcome, Outcome::Created);
    assert!(
        model
            .view()
            .list_streams(made.basin.id, "", "", 0)
            .unwrap()
            .items
            .is_empty()
    );
    // Work for the old incarnation does not touch the new one.
    assert!(model.ok(step).done);
    model.ok(PurgeBasin { basin: BasinId(1) });
    assert!(model.view().basin(&basin_name()).unwrap().is_some());
}

#[test]
fn basins_are_listed_in_byte_order_with_prefix_start_and_limit() {
    let mut model = Model::default();
    let names = ["aaaaaaaa", "abcdefgh", "abcdefgi", "abcdefgz-0", "bbbbbbbb"];
    for (n, name) in names.iter().enumerate().rev() {
        let name = BasinName::new(name).unwrap();
        model.ok(CreateBasin {
            name,
            id: BasinId(n as u128),
            ..create_basin(config(60))
        });
    }
    let list = |prefix, after, limit| {
        let page = model.view().list_basins(prefix, after, limit).unwrap();
        let names: Vec<_> = page.items.iter().map(|basin| basin.name.to_string()).collect();
        (names, page.has_more)
    };
    assert_eq!(list("", "", 0), (names.map(str::to_owned).to_vec(), false));
    assert_eq!(list("", "", 5000).0.len(), 5);
    assert_eq!(
        list("abc", "", 2),
        (vec!["abcdefgh".into(), "abcdefgi".into()], true)
    );
    assert_eq!(list("abc", "abcdefgi", 2), (vec!["abcdefgz-0".into()], false));
    assert_eq!(list("abc", "aaa", 1), (vec!["abcdefgh".into()], true));
    assert_eq!(list("abc", "zzz", 1), (vec![], false));
    assert_eq!(list("", "abcdefgz-", 1), (vec!["abcdefgz-0".into()], true));
}
