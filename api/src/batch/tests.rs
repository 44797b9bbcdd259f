use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX};
use crate::test_data::{any_input, encode_oddly, number, quirks, valid_input};

fn record(headers: &[(&'static str, &'static str)], body: impl Into<Bytes>) -> proto::AppendRecord {
    let header = |&(name, value): &(&'static str, &'static str)| proto::Header {
        name: Bytes::from_static(name.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
    };
    proto::AppendRecord {
        timestamp: None,
        headers: headers.iter().map(header).collect(),
        body: body.into(),
    }
}

fn input(records: Vec<proto::AppendRecord>) -> proto::AppendInput {
    proto::AppendInput {
        records,
        ..proto::AppendInput::default()
    }
}

fn decode(input: &proto::AppendInput) -> Result<AppendBatch, AppendError> {
    AppendBatch::decode(input.encode_to_vec().into())
}

fn is_invalid(result: Result<AppendBatch, AppendError>) -> bool {
    matches!(&result, Err(error @ AppendError::Invalid(_)) if error.code() == ErrorCode::Invalid)
}

#[test]
fn api_064_a_batch_has_1_to_1000_records() {
    let records = |n| input(vec![record(&[], ""); n]);
    assert!(is_invalid(AppendBatch::decode(Bytes::new())));
    assert_eq!(decode(&records(1)).unwrap().len(), 1);
    assert_eq!(decode(&records(1000)).unwrap().len(), 1000);
    assert!(is_invalid(decode(&records(1001))));
}

#[test]
fn api_065_metered_size_is_exact_to_the_byte() {
    let headers = &[("name", "value"), ("n", "")];
    let overhead = 8 + 4 + 10;
    let exact = input(vec![record(headers, vec![7; BATCH_METERED_BYTES_MAX - overhead])]);
    assert_eq!(decode(&exact).unwrap().metered_bytes(), BATCH_METERED_BYTES_MAX);
    assert!(is_invalid(decode(&input(vec![record(
        headers,
        vec![7; BATCH_METERED_BYTES_MAX - overhead + 1]
    )]))));
    let half = BATCH_METERED_BYTES_MAX / 2 - 8;
    assert!(
        decode(&input(vec![
            record(&[], vec![7; half]),
            record(&[], vec![7; half])
        ]))
        .is_ok()
    );
    assert!(is_invalid(decode(&input(vec![
        record(&[], vec![7; half]),
        record(&[], vec![7; half + 1])
    ]))));
}

#[test]
fn api_066_067_conditions_keep_zero_and_empty_apart_from_absent() {
    let mut input = input(vec![record(&[], "")]);
    let batch = decode(&input).unwrap();
    assert_eq!((batch.match_seq_num(), batch.fencing_token()), (None, None));
    input.match_seq_num = Some(0);
    input.fencing_token = Some(String::new());
    let batch = decode(&input).unwrap();
    assert_eq!(batch.match_seq_num(), Some(0));
    assert_eq!(batch.fencing_token(), Some(&FencingToken::default()));
}

#[test]
fn api_070_fencing_token_has_at_most_36_bytes() {
    let mut input = input(vec![record(&[], "")]);
    input.fencing_token = Some("x".repeat(36));
    assert!(decode(&input).is_ok());
    input.fencing_token = Some("x".repeat(37));
    assert!(is_invalid(decode(&input)));
    assert!(is_invalid(decode(&self::input(vec![record(
        &[("", "fence")],
        vec![b'x'; 37]
    )]))));
    assert!(is_invalid(decode(&self::input(vec![record(
        &[("", "fence")],
        vec![0xff]
    )]))));
}

#[test]
fn api_072_073_a_batch_with_a_malformed_command_is_invalid() {
    let good = record(&[], "data");
    for bad in [
        record(&[("", "unknown")], ""),
        record(&[("", "trim")], "1234567"),
        record(&[("", "fence"), ("a", "b")], ""),
        record(&[("a", "b"), ("", "fence")], ""),
    ] {
        assert!(is_invalid(decode(&input(vec![good.clone(), bad]))));
    }
}

#[test]
fn commands_come_with_their_index() {
    let fence = Command::Fence(FencingToken::new("t").unwrap());
    let trim = Command::Trim(9);
    let records = vec![
        record(&[], "a"),
        fence.to_record(),
        record(&[("a", "")], "b"),
        trim.to_record(),
    ];
    let batch = decode(&input(records)).unwrap();
    assert_eq!(batch.commands(), [(1, fence), (3, trim)]);
    assert_eq!(batch.metered_bytes(), 9 + 16 + 12 + 22);
}

#[test]
fn bytes_that_are_not_protobuf_are_bad_proto_even_when_a_limit_breaks_first() {
    let mut bytes = input(vec![record(&[], ""); 1001]).encode_to_vec();
    bytes.push(0x0a);
    let error = AppendBatch::decode(bytes.into()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::BadProto);
}

#[test]
fn record_that_no_frame_could_carry_back_is_invalid() {
    // Headers of one byte each double in size: 4 metered, 8 encoded.
    let headers = |n| input(vec![record(&vec![("a", "b"); n], "")]);
    let most = (BATCH_METERED_BYTES_MAX - 8) / 4;
    assert!(is_invalid(decode(&headers(most))));
    assert!(decode(&headers(most - 10)).is_ok());
}

#[test]
fn unknown_fields_may_nest_as_deep_as_the_generated_decoder_allows() {
    for depth in [90, 98, 99, 100, 101, 120] {
        let mut bytes = input(vec![record(&[], "")]).encode_to_vec();
        bytes.extend(std::iter::repeat_n((9u8 << 3) | 3, depth));
        bytes.extend(std::iter::repeat_n((9u8 << 3) | 4, depth));
        let expected = proto::AppendInput::decode(&bytes[..]).is_ok();
        assert_eq!(AppendBatch::decode(bytes.into()).is_ok(), expected, "{depth}");
    }
}

/// These bytes are stored: an encoder that writes others breaks every store that exists.
#[test]
fn encoded_record_has_the_bytes_of_the_first_format() {
    let batch = decode(&input(vec![
        record(&[("n", "v"), ("m", "")], "body"),
        record(&[], ""),
    ]))
    .unwrap();
    let mut out = Vec::new();
    batch.encode_record(0, 1, 300, &mut out);
    batch.encode_record(1, 0, 0, &mut out);
    let first = b"\x0a\x18\x08\x01\x10\xac\x02\x1a\x06\x0a\x01n\x12\x01v\x1a\x03\x0a\x01m\x22\x04body";
    assert_eq!(out, [&first[..], b"\x0a\x00"].concat());
}

/// What the batch must say about itself, worked out on the decoded values.
fn expected(input: &proto::AppendInput) -> Result<Vec<(usize, Command)>, ()> {
    let metered: usize = input.records.iter().map(|record| record.metered_bytes()).sum();
    let count_ok = (1..=BATCH_RECORDS_MAX).contains(&input.records.len());
    if !count_ok || metered > BATCH_METERED_BYTES_MAX {
        return Err(());
    }
    if input.fencing_token.as_ref().is_some_and(|token| token.len() > 36) {
        return Err(());
    }
    let mut commands = Vec::new();
    for (index, record) in input.records.iter().enumerate() {
        let headers = record.headers.iter().map(|h| (&h.name[..], &h.value[..]));
        if let Some(command) = Command::of(headers, &record.body).map_err(drop)? {
            commands.push((index, command));
        }
    }
    Ok(commands)
}

/// Decodes both ways and compares everything.
fn check_against_generated(bytes: Vec<u8>) -> Result<(), TestCaseError> {
    let batch = AppendBatch::decode(bytes.clone().into());
    let Ok(input) = proto::AppendInput::decode(&bytes[..]) else {
        prop_assert!(matches!(batch, Err(AppendError::BadProto(_))));
        return Ok(());
    };
    let Ok(commands) = expected(&input) else {
        prop_assert!(is_invalid(batch));
        return Ok(());
    };
    let batch = batch.map_err(|error| TestCaseError::fail(error.to_string()))?;
    prop_assert_eq!(batch.commands(), commands);
    prop_assert_eq!(batch.match_seq_num(), input.match_seq_num);
    prop_assert_eq!(
        batch.fencing_token().map(|t| t.to_string()),
        input.fencing_token.clone()
    );
    prop_assert_eq!(
        batch.metered_bytes(),
        input.records.iter().map(|r| r.metered_bytes()).sum::<usize>()
    );
    prop_assert_eq!(
        batch.timestamps().collect::<Vec<_>>(),
        input.records.iter().map(|r| r.timestamp).collect::<Vec<_>>()
    );
    let records: Vec<_> = (0..batch.len()).map(|index| batch.record(index)).collect();
    prop_assert_eq!(records, input.records);
    Ok(())
}

/// The records of a reply, encoded from the batch and by the generated encoder.
fn both_encodings(
    input: &proto::AppendInput,
    batch: &AppendBatch,
    positions: &[(u64, u64)],
) -> (Vec<u8>, Vec<u8>) {
    let mut ours = Vec::new();
    let mut records = Vec::new();
    for (index, record) in input.records.iter().enumerate() {
        let (seq_num, timestamp) = positions[index % positions.len()];
        batch.encode_record(index, seq_num, timestamp, &mut ours);
        records.push(proto::SequencedRecord {
            seq_num,
            timestamp,
            headers: record.headers.clone(),
            body: record.body.clone(),
        });
    }
    (ours, proto::ReadBatch { records, tail: None }.encode_to_vec())
}

proptest! {
    #[test]
    fn encoded_records_equal_the_generated_encoders(
        input in valid_input(),
        quirks in quirks(),
        positions in vec((number(), number()), 1..4),
    ) {
        let batch = AppendBatch::decode(encode_oddly(&input, &quirks).into()).unwrap();
        let (ours, generated) = both_encodings(&input, &batch, &positions);
        prop_assert_eq!(&ours, &generated);
        prop_assert!(ours.len() <= batch.encoded_len_max());
        let (widest, _) = both_encodings(&input, &batch, &[(u64::MAX, u64::MAX)]);
        prop_assert_eq!(widest.len(), batch.encoded_len_max());
    }

    #[test]
    fn odd_encodings_are_the_same_batch(input in any_input(), quirks in quirks()) {
        let bytes = encode_oddly(&input, &quirks);
        prop_assert_eq!(&proto::AppendInput::decode(&bytes[..]).unwrap(), &input);
        check_against_generated(bytes)?;
    }

    #[test]
    fn decoded_values_pass_the_same_gate(input in any_input()) {
        let through_bytes = decode(&input);
        let through_values = AppendBatch::from_proto(input);
        prop_assert_eq!(through_bytes.is_ok(), through_values.is_ok());
        prop_assert_eq!(through_bytes.err(), through_values.err());
    }

    #[test]
    fn truncated_input_reads_as_the_generated_decoder_reads_it(input in any_input(), quirks in quirks()) {
        let bytes = encode_oddly(&input, &quirks);
        for len in (0..bytes.len()).step_by(1 + bytes.len() / 200) {
            check_against_generated(bytes[..len].to_vec())?;
        }
    }

    #[test]
    fn damaged_input_reads_as_the_generated_decoder_reads_it(
        input in any_input(),
        quirks in quirks(),
        damage in vec((any::<prop::sample::Index>(), 0..8u8), 1..4),
    ) {
        let mut bytes = encode_oddly(&input, &quirks);
        for (index, bit) in damage {
            let index = index.index(bytes.len());
            bytes[index] ^= 1 << bit;
        }
        check_against_generated(bytes)?;
    }

    #[test]
    fn garbage_reads_as_the_generated_decoder_reads_it(bytes in vec(any::<u8>(), 0..64)) {
        check_against_generated(bytes)?;
    }

    #[test]
    fn garbage_of_likely_bytes_reads_as_the_generated_decoder_reads_it(
        bytes in vec(prop::sample::select(vec![0, 1, 2, 4, 8, 0x0a, 0x10, 0x12, 0x1a, 0x0b, 0x0c, 0x80, 0xff]), 0..32),
    ) {
        check_against_generated(bytes)?;
    }
}
