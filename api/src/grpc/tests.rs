use bytes::{Buf, Bytes, BytesMut};
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::batch::AppendBatch;
use crate::config::{self, Patch, RetentionPolicy};
use crate::name::{BasinName, StreamName};
use crate::position::StreamPosition;
use crate::proto;
use crate::read::{self, ReadLimits, ReadStart};
use crate::test_data::{encode_records, number, sequenced_records, valid_input};

/// `ReadResponse` and `AppendRequest` as a plain generator has them.
#[derive(Clone, PartialEq, Message)]
struct PlainReadResponse {
    #[prost(message, optional, tag = "1")]
    batch: Option<proto::ReadBatch>,
}

#[derive(Clone, PartialEq, Message)]
struct PlainAppendRequest {
    #[prost(string, tag = "1")]
    basin: String,
    #[prost(string, tag = "2")]
    stream: String,
    #[prost(message, optional, tag = "3")]
    input: Option<proto::AppendInput>,
}

fn tail() -> impl Strategy<Value = Option<StreamPosition>> {
    let position =
        (number(), number()).prop_map(|(seq_num, timestamp)| StreamPosition::new(seq_num, timestamp));
    proptest::option::of(position)
}

/// `encoded` in pieces that are cut anywhere.
fn pieces(encoded: &Bytes, cuts: &[prop::sample::Index]) -> Vec<Bytes> {
    let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(encoded.len() + 1)).collect();
    at.extend([0, encoded.len()]);
    at.sort_unstable();
    at.windows(2)
        .map(|pair| encoded.slice(pair[0]..pair[1]))
        .collect()
}

#[test]
fn a_decoded_batch_is_a_slice_of_the_received_buffer() {
    let records = Bytes::from(vec![7; 100]);
    let encoded = Bytes::from(ReadResponse::new(vec![records], None).encode_to_vec());
    let within = encoded.as_ptr_range();
    let batch = ReadResponse::decode(encoded.clone()).unwrap().into_batch_bytes();
    assert!(within.contains(&batch.as_ptr()));
    assert_eq!(batch.len(), 100);
}

#[test]
fn a_heartbeat_has_an_empty_batch_and_not_none() {
    let encoded = ReadResponse::default().encode_to_vec();
    let plain = PlainReadResponse::decode(&encoded[..]).unwrap();
    assert_eq!(plain.batch, Some(proto::ReadBatch::default()));
    assert_eq!(ReadResponse::decode(&[][..]).unwrap(), ReadResponse::default());
}

#[test]
fn a_batch_that_comes_in_two_fields_is_merged() {
    let one = |seq_num| {
        let record = proto::SequencedRecord {
            seq_num,
            ..Default::default()
        };
        ReadResponse::new(vec![encode_records(&[record]).into()], None).encode_to_vec()
    };
    let both = [one(1), one(2)].concat();
    let batch = ReadResponse::decode(&both[..]).unwrap().decode_batch().unwrap();
    let plain = PlainReadResponse::decode(&both[..]).unwrap().batch.unwrap();
    assert_eq!(batch, plain);
    assert_eq!(batch.records.len(), 2);
}

#[test]
fn descriptors_are_those_of_the_proto_files() {
    let files = file_names(FILE_DESCRIPTOR_SET);
    for name in [
        "s2/v1/s2.proto",
        "millrace/v1/stream.proto",
        "millrace/v1/account.proto",
    ] {
        assert!(files.iter().any(|file| file == name), "{name} in {files:?}");
    }
    let text = String::from_utf8_lossy(FILE_DESCRIPTOR_SET);
    assert!(text.contains(".s2.v1.AppendInput") && text.contains(".s2.v1.ReadBatch"));
}

/// Names of the files in an encoded `FileDescriptorSet`.
fn file_names(set: &[u8]) -> Vec<String> {
    #[derive(Clone, PartialEq, Message)]
    struct Set {
        #[prost(message, repeated, tag = "1")]
        file: Vec<File>,
    }
    #[derive(Clone, PartialEq, Message)]
    struct File {
        #[prost(string, tag = "1")]
        name: String,
    }
    let set = Set::decode(set).unwrap();
    set.file.into_iter().map(|file| file.name).collect()
}

#[test]
fn values_that_no_enum_has_are_refused() {
    for number in [0, -1, 99] {
        let class = StreamConfig {
            storage_class: Some(number),
            ..Default::default()
        };
        assert!(config::StreamConfig::try_from(class).is_err(), "{number}");
        let mode = StreamConfig {
            timestamping_mode: Some(number),
            ..Default::default()
        };
        assert!(config::StreamConfig::try_from(mode).is_err(), "{number}");
        let cleared = StreamReconfiguration {
            set: None,
            clear: vec![number],
        };
        assert!(
            config::StreamReconfiguration::try_from(cleared).is_err(),
            "{number}"
        );
        let basin = BasinConfig {
            stream_cipher: Some(number),
            ..Default::default()
        };
        assert!(config::BasinConfig::try_from(basin).is_err(), "{number}");
    }
}

#[test]
fn a_field_both_set_and_cleared_is_refused() {
    let all = config::StreamConfig {
        storage_class: Some(config::StorageClass::Standard),
        retention: Some(RetentionPolicy::Infinite),
        timestamping_mode: Some(config::TimestampingMode::Arrival),
        timestamping_uncapped: Some(true),
        delete_on_empty_min_age_secs: Some(0),
    };
    for number in 1..=5 {
        let change = StreamReconfiguration {
            set: Some(all.into()),
            clear: vec![number],
        };
        let refused = config::StreamReconfiguration::try_from(change).unwrap_err();
        assert!(refused.to_string().contains("both set and cleared"), "{refused}");
    }
    let twice = StreamReconfiguration {
        set: None,
        clear: vec![1, 1],
    };
    let change = config::StreamReconfiguration::try_from(twice).unwrap();
    assert_eq!(change.storage_class, Patch::Clear);
}

#[test]
fn a_detail_is_found_among_others_and_its_absence_is_none() {
    let detail = ErrorDetail {
        code: "stream_not_found".into(),
        reason: Some(error_detail::Reason::SeqNumMismatch(0)),
        ..Default::default()
    };
    let bytes = encode_status_details(5, "no such stream", &detail);
    assert_eq!(decode_status_details(&bytes), Some(detail));
    assert_eq!(decode_status_details(b""), None);
    assert_eq!(decode_status_details(b"\xff\xff"), None);
}

fn any_stream_config() -> impl Strategy<Value = config::StreamConfig> {
    let class = prop_oneof![
        Just(config::StorageClass::Standard),
        Just(config::StorageClass::Express)
    ];
    let retention = prop_oneof![
        number().prop_map(RetentionPolicy::Age),
        Just(RetentionPolicy::Infinite)
    ];
    let mode = prop_oneof![
        Just(config::TimestampingMode::ClientPrefer),
        Just(config::TimestampingMode::ClientRequire),
        Just(config::TimestampingMode::Arrival)
    ];
    use proptest::option::of;
    (
        of(class),
        of(retention),
        of(mode),
        of(any::<bool>()),
        of(number()),
    )
        .prop_map(
            |(
                storage_class,
                retention,
                timestamping_mode,
                timestamping_uncapped,
                delete_on_empty_min_age_secs,
            )| {
                config::StreamConfig {
                    storage_class,
                    retention,
                    timestamping_mode,
                    timestamping_uncapped,
                    delete_on_empty_min_age_secs,
                }
            },
        )
}

fn any_cipher() -> impl Strategy<Value = config::Cipher> {
    prop_oneof![Just(config::Cipher::Aegis256), Just(config::Cipher::Aes256Gcm)]
}

fn any_stream_change() -> impl Strategy<Value = config::StreamReconfiguration> {
    fn patch<T>(value: Option<T>, clear: bool) -> Patch<T> {
        match value {
            Some(value) => Patch::Set(value),
            None if clear => Patch::Clear,
            None => Patch::Keep,
        }
    }
    (any_stream_config(), any::<[bool; 5]>()).prop_map(|(set, clear)| config::StreamReconfiguration {
        storage_class: patch(set.storage_class, clear[0]),
        retention: patch(set.retention, clear[1]),
        timestamping_mode: patch(set.timestamping_mode, clear[2]),
        timestamping_uncapped: patch(set.timestamping_uncapped, clear[3]),
        delete_on_empty_min_age_secs: patch(set.delete_on_empty_min_age_secs, clear[4]),
    })
}

fn any_basin_config() -> impl Strategy<Value = config::BasinConfig> {
    let cipher = proptest::option::of(any_cipher());
    (any_stream_config(), cipher, any::<bool>(), any::<bool>()).prop_map(
        |(default_stream_config, stream_cipher, create_stream_on_append, create_stream_on_read)| {
            config::BasinConfig {
                default_stream_config,
                stream_cipher,
                create_stream_on_append,
                create_stream_on_read,
            }
        },
    )
}

fn any_patch<T: Clone + std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Patch<T>> {
    prop_oneof![Just(Patch::Keep), Just(Patch::Clear), value.prop_map(Patch::Set)]
}

fn any_basin_change() -> impl Strategy<Value = config::BasinReconfiguration> {
    use proptest::option::of;
    let parts = (
        any_patch(any_stream_change()),
        any_patch(any_cipher()),
        of(any::<bool>()),
        of(any::<bool>()),
    );
    parts.prop_map(
        |(default_stream_config, stream_cipher, create_stream_on_append, create_stream_on_read)| {
            config::BasinReconfiguration {
                default_stream_config,
                stream_cipher,
                create_stream_on_append,
                create_stream_on_read,
            }
        },
    )
}

fn any_read() -> impl Strategy<Value = read::ReadRequest> {
    use proptest::option::of;
    let start = prop_oneof![
        number().prop_map(ReadStart::SeqNum),
        number().prop_map(ReadStart::Timestamp),
        number().prop_map(ReadStart::TailOffset)
    ];
    let limits = (of(any::<usize>()), of(any::<usize>()), of(number()));
    (start, any::<bool>(), limits, of(any::<u32>()))
        .prop_map(|(start, clamp, (count, bytes, until), wait)| read::ReadRequest {
            start,
            clamp,
            limits: ReadLimits { count, bytes, until },
            wait: wait.map(|ms| std::time::Duration::from_millis(ms.into())),
        })
        .prop_filter("until is after a timestamp", |request| {
            !matches!((request.start, request.limits.until), (ReadStart::Timestamp(from), Some(until)) if until <= from)
        })
}

proptest! {
    #[test]
    fn read_responses_are_those_of_a_plain_encoder(
        records in sequenced_records(),
        tail in tail(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let parts = pieces(&encode_records(&records).into(), &cuts);
        let response = ReadResponse::new(parts, tail);
        let plain = PlainReadResponse {
            batch: Some(proto::ReadBatch { records, tail: tail.map(Into::into) }),
        };
        let encoded = Bytes::from(response.encode_to_vec());
        prop_assert_eq!(response.encoded_len(), encoded.remaining());
        prop_assert_eq!(&encoded, &plain.encode_to_vec());
        let pieces = response.clone().into_parts(BytesMut::from("prefix"));
        prop_assert_eq!(pieces.concat(), [b"prefix", &encoded[..]].concat());
        let decoded = ReadResponse::decode(encoded).unwrap();
        prop_assert_eq!(&decoded, &response);
        prop_assert_eq!(Some(decoded.decode_batch().unwrap()), plain.batch);
    }

    #[test]
    fn append_inputs_are_on_the_wire_as_declared(input in valid_input()) {
        let plain = PlainAppendRequest {
            basin: "b".into(),
            stream: "s".into(),
            input: Some(input.clone()),
        };
        let request = AppendRequest {
            basin: "b".into(),
            stream: "s".into(),
            input: input.encode_to_vec().into(),
        };
        prop_assert_eq!(request.encode_to_vec(), plain.encode_to_vec());
        let decoded = AppendRequest::decode(Bytes::from(plain.encode_to_vec())).unwrap();
        let batch = AppendBatch::decode(decoded.input).unwrap();
        prop_assert_eq!(batch.len(), input.records.len());
    }

    #[test]
    fn damaged_read_responses_are_read_or_refused(
        records in sequenced_records(),
        at: prop::sample::Index,
        byte: u8,
    ) {
        let mut encoded = ReadResponse::new(vec![encode_records(&records).into()], None).encode_to_vec();
        let at = at.index(encoded.len());
        encoded[at] = byte;
        if let Ok(response) = ReadResponse::decode(Bytes::from(encoded)) {
            let _ = response.decode_batch();
        }
    }

    #[test]
    fn stream_configurations_survive_their_message(config in any_stream_config()) {
        let message = StreamConfig::decode(&StreamConfig::from(config).encode_to_vec()[..]).unwrap();
        prop_assert_eq!(config::StreamConfig::try_from(message), Ok(config));
    }

    #[test]
    fn basin_configurations_survive_their_message(config in any_basin_config()) {
        let message = BasinConfig::decode(&BasinConfig::from(config).encode_to_vec()[..]).unwrap();
        prop_assert_eq!(config::BasinConfig::try_from(message), Ok(config));
    }

    #[test]
    fn stream_changes_survive_their_message(change in any_stream_change()) {
        let encoded = StreamReconfiguration::from(change).encode_to_vec();
        let message = StreamReconfiguration::decode(&encoded[..]).unwrap();
        prop_assert_eq!(config::StreamReconfiguration::try_from(message), Ok(change));
    }

    #[test]
    fn basin_changes_do_the_same_after_their_message(
        change in any_basin_change(),
        current in any_basin_config(),
    ) {
        let encoded = BasinReconfiguration::from(change).encode_to_vec();
        let message = BasinReconfiguration::decode(&encoded[..]).unwrap();
        let decoded = config::BasinReconfiguration::try_from(message).unwrap();
        prop_assert_eq!(decoded.apply(&current), change.apply(&current));
    }

    #[test]
    fn reads_survive_their_message(request in any_read()) {
        let basin = BasinName::new("some-basin").unwrap();
        let stream = StreamName::new("s").unwrap();
        let encoded = ReadRequest::new(&basin, &stream, &request).encode_to_vec();
        let message = ReadRequest::decode(&encoded[..]).unwrap();
        prop_assert_eq!(read::ReadRequest::try_from(&message), Ok(request));
    }
}
