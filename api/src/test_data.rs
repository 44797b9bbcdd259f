//! Generators that the tests of several modules share.

use bytes::{BufMut, Bytes};
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use crate::command::Command;
use crate::name::FencingToken;
use crate::proto;

pub(crate) fn small_bytes(len_max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..=len_max).prop_map(Bytes::from)
}

/// Numbers of every encoded length, zero among them.
pub(crate) fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..=64u32).prop_map(|(n, shift)| n.checked_shr(shift).unwrap_or(0))
}

fn header(name_len_min: usize) -> impl Strategy<Value = proto::Header> {
    let name = vec(any::<u8>(), name_len_min..200).prop_map(Bytes::from);
    (name, small_bytes(200)).prop_map(|(name, value)| proto::Header { name, value })
}

fn data_record(name_len_min: usize) -> impl Strategy<Value = proto::AppendRecord> {
    (
        proptest::option::of(number()),
        vec(header(name_len_min), 0..4),
        small_bytes(300),
    )
        .prop_map(|(timestamp, headers, body)| proto::AppendRecord {
            timestamp,
            headers,
            body,
        })
}

fn command_record() -> impl Strategy<Value = proto::AppendRecord> {
    prop_oneof![
        "[a-zé]{0,18}".prop_map(|token| Command::Fence(FencingToken::new(token).unwrap()).to_record()),
        number().prop_map(|seq_num| Command::Trim(seq_num).to_record()),
    ]
}

fn input_of(record: impl Strategy<Value = proto::AppendRecord>) -> impl Strategy<Value = proto::AppendInput> {
    let token = proptest::option::of("[a-zé]{0,18}");
    (vec(record, 1..8), proptest::option::of(number()), token).prop_map(
        |(records, match_seq_num, fencing_token)| proto::AppendInput {
            records,
            match_seq_num,
            fencing_token,
        },
    )
}

/// Inputs that every stream takes.
pub(crate) fn valid_input() -> impl Strategy<Value = proto::AppendInput> {
    input_of(prop_oneof![4 => data_record(1), 1 => command_record()])
}

/// Inputs some of which are invalid.
pub(crate) fn any_input() -> impl Strategy<Value = proto::AppendInput> {
    input_of(prop_oneof![3 => data_record(1), 1 => data_record(0), 1 => command_record()])
}

pub(crate) fn sequenced_records() -> impl Strategy<Value = Vec<proto::SequencedRecord>> {
    let record = (number(), number(), data_record(0)).prop_map(|(seq_num, timestamp, record)| {
        proto::SequencedRecord {
            seq_num,
            timestamp,
            headers: record.headers,
            body: record.body,
        }
    });
    vec(record, 0..8)
}

pub(crate) fn encode_records(records: &[proto::SequencedRecord]) -> Vec<u8> {
    proto::ReadBatch {
        records: records.to_vec(),
        tail: None,
    }
    .encode_to_vec()
}

/// One way in which an encoder may differ from the canonical one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Quirk {
    Unknown,
    UnknownGroup,
    Repeated,
    Reversed,
    LongLength,
    ExplicitDefaults,
}

pub(crate) fn quirks() -> impl Strategy<Value = Vec<Quirk>> {
    use Quirk::*;
    proptest::sample::subsequence(
        vec![
            Unknown,
            UnknownGroup,
            Repeated,
            Reversed,
            LongLength,
            ExplicitDefaults,
        ],
        0..=6,
    )
}

/// The same message, as an encoder with these quirks writes it.
pub(crate) fn encode_oddly(input: &proto::AppendInput, quirks: &[Quirk]) -> Vec<u8> {
    let records = input.records.iter().map(|record| {
        let headers = record.headers.iter().map(|header| {
            odd_message(
                vec![
                    odd_bytes(1, &header.name, quirks),
                    odd_bytes(2, &header.value, quirks),
                ],
                quirks,
            )
        });
        let mut fields: Vec<Vec<u8>> = Vec::new();
        fields.extend(record.timestamp.map(|timestamp| odd_varint(1, timestamp, quirks)));
        fields.extend(headers.map(|header| nested(2, &header, quirks)));
        fields.push(odd_bytes(3, &record.body, quirks));
        reverse_singles(&mut fields, record.headers.len(), quirks);
        nested(1, &odd_message(fields, quirks), quirks)
    });
    let mut fields: Vec<Vec<u8>> = records.collect();
    fields.extend(input.match_seq_num.map(|n| odd_varint(2, n, quirks)));
    fields.extend(
        input
            .fencing_token
            .as_ref()
            .map(|token| nested(3, token.as_bytes(), quirks)),
    );
    odd_message(fields, quirks)
}

fn has(quirks: &[Quirk], f: fn(&Quirk) -> bool) -> bool {
    quirks.iter().any(f)
}

/// Body first, then the headers in their order, with the timestamp between them where there are several.
fn reverse_singles(fields: &mut [Vec<u8>], header_count: usize, quirks: &[Quirk]) {
    if has(quirks, |q| matches!(q, Quirk::Reversed)) {
        fields.rotate_right(1);
        let with_timestamp = fields.len() - header_count == 2;
        if with_timestamp && header_count > 1 {
            fields.swap(1, 2);
        }
    }
}

fn odd_message(fields: Vec<Vec<u8>>, quirks: &[Quirk]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields {
        if has(quirks, |q| matches!(q, Quirk::Unknown)) {
            out.extend_from_slice(&[
                15 << 3,
                1,
                (14 << 3) | 2,
                2,
                0x0a,
                0xff,
                (13 << 3) | 5,
                1,
                2,
                3,
                4,
            ]);
        }
        out.extend_from_slice(&field);
    }
    if has(quirks, |q| matches!(q, Quirk::UnknownGroup)) {
        out.extend_from_slice(&[(12 << 3) | 3, (11 << 3) | 3, 8, 1, (11 << 3) | 4, (12 << 3) | 4]);
    }
    out
}

fn odd_varint(field: u8, value: u64, quirks: &[Quirk]) -> Vec<u8> {
    let mut out = Vec::new();
    if has(quirks, |q| matches!(q, Quirk::Repeated)) {
        out.extend_from_slice(&[field << 3, 77]);
    }
    out.push(field << 3);
    prost::encoding::encode_varint(value, &mut out);
    out
}

fn odd_bytes(field: u8, value: &[u8], quirks: &[Quirk]) -> Vec<u8> {
    let mut out = Vec::new();
    if has(quirks, |q| matches!(q, Quirk::Repeated)) {
        out.extend_from_slice(&[(field << 3) | 2, 1, b'x']);
    }
    let explicit = has(quirks, |q| matches!(q, Quirk::ExplicitDefaults | Quirk::Repeated));
    if explicit || !value.is_empty() {
        out.extend_from_slice(&nested(field, value, quirks));
    }
    out
}

fn nested(field: u8, message: &[u8], quirks: &[Quirk]) -> Vec<u8> {
    let mut out = vec![(field << 3) | 2];
    match has(quirks, |q| matches!(q, Quirk::LongLength)) {
        false => prost::encoding::encode_varint(message.len() as u64, &mut out),
        true => {
            let len = message.len() as u64;
            out.put_slice(&[
                len as u8 | 0x80,
                (len >> 7) as u8 | 0x80,
                (len >> 14) as u8 | 0x80,
                0,
            ]);
        }
    }
    out.extend_from_slice(message);
    out
}
