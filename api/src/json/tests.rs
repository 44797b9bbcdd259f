use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::batch::AppendError;
use crate::config::{self, Cipher, Patch, StorageClass, TimestampingMode};
use crate::name::FencingToken;
use crate::position::StreamPosition;
use crate::test_data::{encode_records, sequenced_records, small_bytes};
use crate::{proto, record};

fn from<T: DeserializeOwned>(value: Value) -> Result<T, BadJson> {
    parse(value.to_string().as_bytes())
}

fn to(value: &impl Serialize) -> Value {
    serde_json::from_slice(&to_vec(value)).unwrap()
}

#[test]
fn stream_configuration_has_its_documented_form() {
    let json = json!({
        "storage_class": "express",
        "retention_policy": {"age": 60},
        "timestamping": {"mode": "client-require", "uncapped": true},
        "delete_on_empty": {"min_age_secs": 0},
    });
    let config = config::StreamConfig {
        storage_class: Some(StorageClass::Express),
        retention: Some(config::RetentionPolicy::Age(60)),
        timestamping_mode: Some(TimestampingMode::ClientRequire),
        timestamping_uncapped: Some(true),
        delete_on_empty_min_age_secs: Some(0),
    };
    assert_eq!(
        config::StreamConfig::from(from::<StreamConfig>(json.clone()).unwrap()),
        config
    );
    assert_eq!(to(&StreamConfig::from(config)), json);
    let infinite = json!({"retention_policy": {"infinite": {}}});
    let parsed = config::StreamConfig::from(from::<StreamConfig>(infinite.clone()).unwrap());
    assert_eq!(parsed.retention, Some(config::RetentionPolicy::Infinite));
    assert_eq!(to(&StreamConfig::from(parsed)), infinite);
}

#[test]
fn missing_and_null_members_of_a_configuration_are_not_chosen() {
    let empty = config::StreamConfig::default();
    for json in [
        json!({}),
        json!({"storage_class": null, "retention_policy": null, "timestamping": null, "delete_on_empty": null}),
        json!({"timestamping": {}}),
        json!({"timestamping": {"mode": null, "uncapped": null}, "future": [1, {}]}),
    ] {
        assert_eq!(
            config::StreamConfig::from(from::<StreamConfig>(json).unwrap()),
            empty
        );
    }
    assert_eq!(to(&StreamConfig::from(empty)), json!({}));
    let off = from::<StreamConfig>(json!({"delete_on_empty": {}})).unwrap();
    assert_eq!(
        config::StreamConfig::from(off).delete_on_empty_min_age_secs,
        Some(0)
    );
}

#[test]
fn api_043_every_configuration_word_is_the_documented_one() {
    for (class, word) in [
        (StorageClass::Standard, "standard"),
        (StorageClass::Express, "express"),
    ] {
        assert_eq!(to(&class), json!(word));
    }
    for (mode, word) in [
        (TimestampingMode::ClientPrefer, "client-prefer"),
        (TimestampingMode::ClientRequire, "client-require"),
        (TimestampingMode::Arrival, "arrival"),
    ] {
        assert_eq!(to(&mode), json!(word));
        assert_eq!(from::<TimestampingMode>(json!(word)).unwrap(), mode);
    }
    for (cipher, word) in [
        (Cipher::Aegis256, "aegis-256"),
        (Cipher::Aes256Gcm, "aes-256-gcm"),
    ] {
        assert_eq!(to(&cipher), json!(word));
        assert_eq!(from::<Cipher>(json!(word)).unwrap(), cipher);
    }
}

#[test]
fn api_006_wrong_types_and_negative_numbers_are_bad_json() {
    for json in [
        json!({"storage_class": "fast"}),
        json!({"retention_policy": {"age": -1}}),
        json!({"retention_policy": {"age": "60"}}),
        json!({"retention_policy": {"age": 1.5}}),
        json!({"retention_policy": {"infinite": 1}}),
        json!({"retention_policy": {}}),
        json!({"timestamping": 1}),
        json!([]),
        json!({"delete_on_empty": {"min_age_secs": -1}}),
        json!({"delete_on_empty": {"min_age_secs": null}}),
    ] {
        let error = from::<StreamConfig>(json.clone()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::BadJson, "{json}");
    }
    for json in [
        json!({"retention_policy": {"age": -1}}),
        json!({"delete_on_empty": {"min_age_secs": "1"}}),
    ] {
        assert!(from::<StreamReconfiguration>(json.clone()).is_err(), "{json}");
    }
}

#[test]
fn api_031_044_retention_age_0_is_json_but_invalid() {
    let config = from::<StreamConfig>(json!({"retention_policy": {"age": 0}})).unwrap();
    assert!(config::StreamConfig::from(config).validate().is_err());
}

#[test]
fn api_023_041_reconfiguration_keeps_clears_and_sets() {
    let change =
        |json: Value| config::StreamReconfiguration::from(from::<StreamReconfiguration>(json).unwrap());
    let keep = config::StreamReconfiguration::default();
    assert_eq!(change(json!({})), keep);
    assert_eq!(change(json!({"timestamping": {}, "delete_on_empty": {}})), keep);
    assert_eq!(
        change(
            json!({"storage_class": "standard", "retention_policy": null, "timestamping": {"mode": null}})
        ),
        config::StreamReconfiguration {
            storage_class: Patch::Set(StorageClass::Standard),
            retention: Patch::Clear,
            timestamping_mode: Patch::Clear,
            ..keep
        }
    );
    assert_eq!(
        change(json!({"timestamping": null, "delete_on_empty": null})),
        config::StreamReconfiguration {
            timestamping_mode: Patch::Clear,
            timestamping_uncapped: Patch::Clear,
            delete_on_empty_min_age_secs: Patch::Clear,
            ..keep
        }
    );
    assert_eq!(
        change(json!({"timestamping": {"uncapped": false}, "delete_on_empty": {"min_age_secs": 0}})),
        config::StreamReconfiguration {
            timestamping_uncapped: Patch::Set(false),
            delete_on_empty_min_age_secs: Patch::Set(0),
            ..keep
        }
    );
}

#[test]
fn basin_reconfiguration_switches_have_no_null() {
    let change = |json: Value| from::<BasinReconfiguration>(json).map(config::BasinReconfiguration::from);
    assert!(change(json!({"create_stream_on_append": null})).is_err());
    assert!(change(json!({"create_stream_on_read": null})).is_err());
    let set = change(json!({
        "default_stream_config": {"storage_class": "standard"},
        "stream_cipher": null,
        "create_stream_on_read": true,
    }));
    let expected = config::BasinReconfiguration {
        default_stream_config: Patch::Set(config::StreamReconfiguration {
            storage_class: Patch::Set(StorageClass::Standard),
            ..config::StreamReconfiguration::default()
        }),
        stream_cipher: Patch::Clear,
        create_stream_on_append: None,
        create_stream_on_read: Some(true),
    };
    assert_eq!(set.unwrap(), expected);
    assert_eq!(
        change(json!({})).unwrap(),
        config::BasinReconfiguration::default()
    );
    assert_eq!(
        change(json!({"default_stream_config": null}))
            .unwrap()
            .default_stream_config,
        Patch::Clear
    );
}

#[test]
fn basin_configuration_round_trips_and_names_every_member() {
    let json = json!({
        "default_stream_config": {"storage_class": "standard"},
        "stream_cipher": "aegis-256",
        "create_stream_on_append": true,
        "create_stream_on_read": false,
    });
    let config = config::BasinConfig::from(from::<BasinConfig>(json.clone()).unwrap());
    assert_eq!(to(&BasinConfig::from(config)), json);
    let nothing = json!({
        "default_stream_config": null,
        "stream_cipher": null,
        "create_stream_on_append": false,
        "create_stream_on_read": false,
    });
    assert_eq!(to(&BasinConfig::from(config::BasinConfig::default())), nothing);
    assert_eq!(
        from::<BasinConfig>(nothing).unwrap(),
        from::<BasinConfig>(json!({})).unwrap()
    );
}

#[test]
fn api_007_missing_body_is_no_body() {
    for body in ["", " \n", "null"] {
        assert_eq!(
            parse_optional::<EnsureBasinRequest>(body.as_bytes()).unwrap(),
            None
        );
    }
    let empty = parse_optional::<EnsureBasinRequest>(b"{}").unwrap();
    assert_eq!(empty, Some(EnsureBasinRequest::default()));
    assert!(parse_optional::<EnsureBasinRequest>(b"[").is_err());
    assert!(parse::<EnsureBasinRequest>(b"").is_err());
}

#[test]
fn invalid_name_in_a_body_is_bad_json() {
    assert!(from::<CreateBasinRequest>(json!({"basin": "short"})).is_err());
    assert!(from::<CreateBasinRequest>(json!({})).is_err());
    assert!(from::<CreateStreamRequest>(json!({"stream": ".."})).is_err());
    let request =
        from::<CreateBasinRequest>(json!({"basin": "my-basin-1", "scope": "older-clients-send-it"}));
    assert_eq!(request.unwrap().basin.as_str(), "my-basin-1");
    assert!(
        from::<CreateStreamRequest>(json!({"stream": "a/é", "config": null}))
            .unwrap()
            .config
            .is_none()
    );
}

#[test]
fn api_016_infos_have_their_documented_form() {
    let basin = BasinInfo::new("my-basin-1".parse().unwrap(), None, Rfc3339(0), None);
    let json = json!({
        "name": "my-basin-1",
        "location": null,
        "created_at": "1970-01-01T00:00:00Z",
        "deleted_at": null,
        "state": "active",
    });
    assert_eq!(to(&basin), json);
    assert_eq!(from::<BasinInfo>(json).unwrap(), basin);
    let deleted = Some(Rfc3339(1_700_000_000_123));
    let basin = BasinInfo::new(
        "my-basin-1".parse().unwrap(),
        Some("here".into()),
        Rfc3339(0),
        deleted,
    );
    assert_eq!(to(&basin)["state"], "deleting");
    assert_eq!(to(&basin)["deleted_at"], "2023-11-14T22:13:20.123Z");
    let stream = StreamInfo {
        name: "s".parse().unwrap(),
        created_at: Rfc3339(1),
        deleted_at: None,
        cipher: Some(Cipher::Aes256Gcm),
    };
    let json = json!({
        "name": "s", "created_at": "1970-01-01T00:00:00.001Z", "deleted_at": null, "cipher": "aes-256-gcm"
    });
    assert_eq!(to(&stream), json);
    let page = ListStreamsResponse {
        streams: vec![stream],
        has_more: true,
    };
    assert_eq!(to(&page), json!({"streams": [json], "has_more": true}));
    assert_eq!(
        to(&ListBasinsResponse {
            basins: vec![],
            has_more: false
        }),
        json!({"basins": [], "has_more": false})
    );
}

#[test]
fn times_survive_their_text_and_the_far_future_has_one() {
    for ms in [
        0,
        1,
        999,
        1000,
        951_782_400_000,
        1_709_164_800_001,
        253_402_300_799_999,
    ] {
        assert_eq!(
            from::<Rfc3339>(json!(Rfc3339(ms).to_string())).unwrap(),
            Rfc3339(ms)
        );
    }
    assert_eq!(Rfc3339(951_782_400_000).to_string(), "2000-02-29T00:00:00Z");
    assert_eq!(Rfc3339(u64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
    assert_eq!(
        from::<Rfc3339>(json!("1970-01-01T01:00:00.0019+01:00")).unwrap(),
        Rfc3339(1)
    );
    assert!(from::<Rfc3339>(json!("1969-12-31T00:00:00Z")).is_err());
    assert!(from::<Rfc3339>(json!("yesterday")).is_err());
}

#[test]
fn error_bodies_have_their_documented_form() {
    let body = ErrorBody::new(ErrorCode::StreamNotFound, "no stream `s`");
    assert_eq!(
        to(&body),
        json!({"code": "stream_not_found", "message": "no stream `s`"})
    );
    let fence = ConditionFailed::FencingTokenMismatch(FencingToken::new("t").unwrap());
    assert_eq!(to(&fence), json!({"fencing_token_mismatch": "t"}));
    assert_eq!(
        to(&ConditionFailed::SeqNumMismatch(7)),
        json!({"seq_num_mismatch": 7})
    );
    assert_eq!(
        from::<ConditionFailed>(json!({"seq_num_mismatch": 7})).unwrap(),
        ConditionFailed::SeqNumMismatch(7)
    );
    let tail = TailResponse {
        tail: StreamPosition::new(u64::MAX, 2),
    };
    assert_eq!(to(&tail), json!({"tail": {"seq_num": u64::MAX, "timestamp": 2}}));
}

#[test]
fn append_ack_has_three_positions_in_both_forms() {
    let ack = AppendAck {
        start: StreamPosition::new(0, 0),
        end: StreamPosition::new(2, 5),
        tail: StreamPosition::new(3, 6),
    };
    let json = json!({
        "start": {"seq_num": 0, "timestamp": 0},
        "end": {"seq_num": 2, "timestamp": 5},
        "tail": {"seq_num": 3, "timestamp": 6},
    });
    assert_eq!(to(&ack), json);
    assert_eq!(AppendAck::from(proto::AppendAck::from(ack)), ack);
}

#[test]
fn api_082_formats_have_aliases_and_bad_base64_is_invalid() {
    for (value, format) in [
        ("raw", Some(Format::Raw)),
        ("json", Some(Format::Raw)),
        ("base64", Some(Format::Base64)),
        ("json-binsafe", Some(Format::Base64)),
        ("RAW", None),
        ("", None),
    ] {
        assert_eq!(Format::parse(value), format);
    }
    let input = |body: &str| from::<AppendInput>(json!({"records": [{"body": body}]})).unwrap();
    let batch = input("/wA=").into_batch(Format::Base64).unwrap();
    assert_eq!(&batch.record(0).body[..], [0xff, 0]);
    assert_eq!(
        &input("/wA=").into_batch(Format::Raw).unwrap().record(0).body[..],
        b"/wA="
    );
    for bad in ["/wA", "%", "_wA="] {
        let error = input(bad).into_batch(Format::Base64).unwrap_err();
        assert!(matches!(error, AppendError::Invalid(_)), "{bad}");
    }
}

#[test]
fn append_input_has_its_documented_form() {
    let batch = from::<AppendInput>(json!({
        "records": [{"timestamp": 0, "headers": [["a", "1"], ["a", ""]], "body": "é"}, {}],
        "match_seq_num": 0,
        "fencing_token": "",
    }));
    let batch = batch.unwrap().into_batch(Format::Raw).unwrap();
    assert_eq!(batch.timestamps().collect::<Vec<_>>(), [Some(0), None]);
    assert_eq!(batch.record(0).headers.len(), 2);
    assert_eq!(batch.record(0).headers[1].name, "a");
    assert_eq!(batch.metered_bytes(), 8 + 4 + 3 + 2 + 8);
    assert_eq!(batch.match_seq_num(), Some(0));
    assert_eq!(batch.fencing_token(), Some(&FencingToken::default()));
    for bad in [
        json!({}),
        json!({"records": null}),
        json!({"records": {}}),
        json!({"records": [{"headers": [["a"]]}]}),
        json!({"records": [{"headers": [["a", "b", "c"]]}]}),
        json!({"records": [{"timestamp": -1}]}),
        json!({"records": [{"body": 1}]}),
        json!({"records": [], "match_seq_num": "0"}),
    ] {
        assert!(from::<AppendInput>(bad.clone()).is_err(), "{bad}");
    }
}

#[test]
fn records_beyond_the_limit_are_checked_and_dropped() {
    let input = |last: Value| {
        let mut records = vec![json!({}); 3000];
        records.push(last);
        from::<AppendInput>(json!({"records": records}))
    };
    let parsed = input(json!({})).unwrap();
    assert_eq!(parsed.records.len(), 1001);
    assert!(matches!(
        parsed.into_batch(Format::Raw),
        Err(AppendError::Invalid(_))
    ));
    assert!(input(json!(1)).is_err());
    let exact = from::<AppendInput>(json!({"records": vec![json!({}); 1000]})).unwrap();
    assert_eq!(exact.into_batch(Format::Raw).unwrap().len(), 1000);
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    for body in [
        format!("{{\"unknown\":{deep}}}"),
        format!("{{\"records\":{deep}}}"),
        deep,
    ] {
        let _ = parse::<StreamConfig>(body.as_bytes());
        let _ = parse::<StreamReconfiguration>(body.as_bytes());
        assert!(parse::<AppendInput>(body.as_bytes()).is_err());
    }
}

#[test]
fn api_126_empty_headers_and_bodies_are_left_out_and_bad_utf8_is_replaced() {
    let records = [
        record::SequencedRecord {
            seq_num: 0,
            timestamp: 0,
            headers: vec![],
            body: Bytes::new(),
        },
        record::SequencedRecord {
            seq_num: 1,
            timestamp: u64::MAX,
            headers: vec![record::Header {
                name: Bytes::new(),
                value: Bytes::from_static(b"\"fence\""),
            }],
            body: Bytes::from_static(b"a\xff\n"),
        },
    ];
    let encoded = encode_records(&records);
    let mut out = Vec::new();
    write_read_batch(&mut out, [&encoded[..]], None, Format::Raw).unwrap();
    let expected = "{\"records\":[{\"seq_num\":0,\"timestamp\":0},\
         {\"seq_num\":1,\"timestamp\":18446744073709551615,\
         \"headers\":[[\"\",\"\\\"fence\\\"\"]],\"body\":\"a\u{fffd}\\n\"}]}";
    assert_eq!(str::from_utf8(&out).unwrap(), expected);
    out.clear();
    write_read_batch(&mut out, [], Some(StreamPosition::new(2, 3)), Format::Base64).unwrap();
    assert_eq!(out, b"{\"records\":[],\"tail\":{\"seq_num\":2,\"timestamp\":3}}");
}

fn text_of(records: &[record::SequencedRecord], format: Format) -> Vec<SequencedRecord> {
    let record = |record: &record::SequencedRecord| SequencedRecord {
        seq_num: record.seq_num,
        timestamp: record.timestamp,
        headers: record
            .headers
            .iter()
            .map(|h| (format.encode(&h.name), format.encode(&h.value)))
            .collect(),
        body: format.encode(&record.body),
    };
    records.iter().map(record).collect()
}

fn any_change() -> impl Strategy<Value = config::StreamReconfiguration> {
    fn patch<T: Clone + std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Patch<T>> {
        (0..3, value).prop_map(|(kind, value)| match kind {
            0 => Patch::Keep,
            1 => Patch::Clear,
            _ => Patch::Set(value),
        })
    }
    let policy = prop_oneof![
        any::<u64>().prop_map(config::RetentionPolicy::Age),
        Just(config::RetentionPolicy::Infinite)
    ];
    let mode = prop::sample::select(vec![TimestampingMode::ClientPrefer, TimestampingMode::Arrival]);
    (
        patch(Just(StorageClass::Standard)),
        patch(policy),
        patch(mode),
        patch(any::<bool>()),
        patch(any::<u64>()),
    )
        .prop_map(
            |(storage_class, retention, timestamping_mode, timestamping_uncapped, min_age)| {
                config::StreamReconfiguration {
                    storage_class,
                    retention,
                    timestamping_mode,
                    timestamping_uncapped,
                    delete_on_empty_min_age_secs: min_age,
                }
            },
        )
}

proptest! {
    #[test]
    fn written_read_batches_read_back(
        parts in vec(sequenced_records(), 0..4),
        tail in proptest::option::of((any::<u64>(), any::<u64>())),
        base64: bool,
    ) {
        let format = if base64 { Format::Base64 } else { Format::Raw };
        let tail = tail.map(|(seq_num, timestamp)| StreamPosition { seq_num, timestamp });
        let encoded: Vec<_> = parts.iter().map(|part| encode_records(part)).collect();
        let mut out = Vec::new();
        write_read_batch(&mut out, encoded.iter().map(|part| &part[..]), tail, format).unwrap();
        let batch = ReadBatch { records: text_of(&parts.concat(), format), tail };
        prop_assert_eq!(&parse::<ReadBatch>(&out).unwrap(), &batch);
        prop_assert_eq!(to_vec(&batch), out);
    }

    #[test]
    fn bytes_survive_base64_and_text_survives_raw(bytes in small_bytes(100), text in "\\PC{0,40}") {
        let mut out = Vec::new();
        Format::Base64.write(&mut out, &bytes);
        prop_assert_eq!(&Format::Base64.decode(parse(&out).unwrap()).unwrap(), &bytes);
        prop_assert_eq!(parse::<String>(&out).unwrap(), Format::Base64.encode(&bytes));
        out.clear();
        Format::Raw.write(&mut out, text.as_bytes());
        prop_assert_eq!(Format::Raw.decode(parse(&out).unwrap()).unwrap(), text);
    }

    #[test]
    fn damaged_records_write_json_or_nothing(
        records in sequenced_records(),
        index in any::<prop::sample::Index>(),
        bit in 0..8u8,
    ) {
        let mut encoded = encode_records(&records);
        prop_assume!(!encoded.is_empty());
        let index = index.index(encoded.len());
        encoded[index] ^= 1 << bit;
        let mut out = b"kept".to_vec();
        match write_read_batch(&mut out, [&encoded[..]], None, Format::Raw) {
            Ok(()) => prop_assert!(parse::<ReadBatch>(&out[4..]).is_ok()),
            Err(_) => prop_assert_eq!(out, b"kept"),
        }
    }

    #[test]
    fn reconfigurations_survive_their_json(change in any_change()) {
        let json = StreamReconfiguration::from(change);
        let parsed = parse::<StreamReconfiguration>(&to_vec(&json)).unwrap();
        prop_assert_eq!(config::StreamReconfiguration::from(parsed), change);
    }

    #[test]
    fn mutilated_bodies_are_read_or_refused(cut in any::<prop::sample::Index>(), byte: u8) {
        let body = br#"{"records":[{"timestamp":1,"headers":[["a","b"]],"body":"c"}],"match_seq_num":1,"fencing_token":"t"}"#;
        let mut body = body.to_vec();
        let index = cut.index(body.len());
        let _ = parse::<AppendInput>(&body[..index]);
        body[index] = byte;
        if let Ok(input) = parse::<AppendInput>(&body) {
            let _ = input.into_batch(Format::Base64);
        }
    }
}
