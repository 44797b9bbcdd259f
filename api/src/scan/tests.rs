use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;

use super::*;
use crate::record::SequencedRecord;
use crate::test_data::{encode_records, sequenced_records};

fn stream(sizes: &[usize]) -> Vec<SequencedRecord> {
    let record = |(index, &size): (usize, &usize)| SequencedRecord {
        seq_num: 10 + index as u64,
        timestamp: 100 + index as u64 / 2,
        headers: Vec::new(),
        body: vec![b'x'; size].into(),
    };
    sizes.iter().enumerate().map(record).collect()
}

fn limits(records: usize, metered_bytes: usize, until: Option<u64>) -> CutLimits {
    CutLimits {
        records,
        metered_bytes,
        until,
        ..CutLimits::default()
    }
}

#[test]
fn cut_stops_before_the_record_that_breaks_a_limit() {
    let encoded = encode_records(&stream(&[0, 2, 4, 6]));
    let cut = |limits| {
        let cut = cut(&encoded, &limits).unwrap();
        (cut.records, cut.metered_bytes, cut.stop)
    };
    assert_eq!(cut(CutLimits::default()), (4, 44, CutStop::Input));
    assert_eq!(cut(limits(3, 1000, None)), (3, 30, CutStop::Records));
    assert_eq!(cut(limits(4, 1000, None)), (4, 44, CutStop::Input));
    assert_eq!(cut(limits(0, 1000, None)), (0, 0, CutStop::Records));
    assert_eq!(cut(limits(9, 18, None)), (2, 18, CutStop::MeteredBytes));
    assert_eq!(cut(limits(9, 17, None)), (1, 8, CutStop::MeteredBytes));
    assert_eq!(cut(limits(9, 7, None)), (0, 0, CutStop::MeteredBytes));
    assert_eq!(cut(limits(9, 1000, Some(101))), (2, 18, CutStop::Until));
    assert_eq!(cut(limits(9, 1000, Some(100))), (0, 0, CutStop::Until));
    assert_eq!(cut(limits(9, 1000, Some(102))), (4, 44, CutStop::Input));
}

#[test]
fn cut_of_the_largest_accepted_records_fits_in_a_frame_with_a_tail() {
    let header = crate::record::Header {
        name: "a".into(),
        value: "b".into(),
    };
    let records: Vec<_> = (0..4)
        .map(|_| SequencedRecord {
            seq_num: u64::MAX,
            timestamp: u64::MAX,
            headers: vec![header.clone(); 65_534],
            body: "".into(),
        })
        .collect();
    let encoded = encode_records(&records);
    let cut = cut(&encoded, &CutLimits::default()).unwrap();
    assert_eq!((cut.records, cut.stop), (3, CutStop::EncodedBytes));
    assert!(
        cut.end + encode_tail(StreamPosition::new(u64::MAX, u64::MAX)).len() <= S2S_BODY_DECOMPRESSED_MAX
    );
}

#[test]
fn seek_finds_the_first_record_at_or_after() {
    let records = stream(&[1, 2, 3, 4]);
    let encoded = encode_records(&records);
    let start = |n: usize| encode_records(&records[..n]).len();
    assert_eq!(seek_seq_num(&encoded, 0).unwrap(), 0);
    assert_eq!(seek_seq_num(&encoded, 12).unwrap(), start(2));
    assert_eq!(seek_seq_num(&encoded, 14).unwrap(), encoded.len());
    assert_eq!(seek_timestamp(&encoded, 100).unwrap(), 0);
    assert_eq!(seek_timestamp(&encoded, 101).unwrap(), start(2));
    assert_eq!(seek_timestamp(&encoded, 102).unwrap(), encoded.len());
}

#[test]
fn scanner_says_where_it_broke_and_stops() {
    let good = encode_records(&stream(&[1, 1]));
    let mut bytes = good.clone();
    bytes.extend_from_slice(&encode_tail(StreamPosition::default()));
    let mut scanner = RecordScanner::new(&bytes);
    assert!(scanner.by_ref().take(2).all(|record| record.is_ok()));
    let error = scanner.next().unwrap().unwrap_err();
    assert_eq!((error.at, error.code()), (good.len(), ErrorCode::Storage));
    assert!(scanner.next().is_none());
}

#[test]
fn tail_behind_records_decodes_as_a_batch_with_both() {
    let records = stream(&[3]);
    for tail in [StreamPosition::default(), StreamPosition::new(u64::MAX, u64::MAX)] {
        let encoded = [encode_records(&records), encode_tail(tail).to_vec()].concat();
        let batch = proto::ReadBatch::decode(&encoded[..]).unwrap();
        assert_eq!(
            batch,
            proto::ReadBatch {
                records: records.clone(),
                tail: Some(tail.into())
            }
        );
        assert!(encode_tail(tail).len() <= TAIL_FIELD_LEN_MAX);
    }
}

proptest! {
    #[test]
    fn spans_are_the_records(records in sequenced_records()) {
        let encoded = encode_records(&records);
        let spans: Vec<_> = RecordScanner::new(&encoded).collect::<Result<_, _>>().unwrap();
        prop_assert_eq!(spans.len(), records.len());
        let mut at = 0;
        for (span, record) in spans.iter().zip(&records) {
            prop_assert_eq!(span.start, at);
            prop_assert_eq!(span.position(), record.position());
            prop_assert_eq!(span.metered_bytes, record.metered_bytes());
            let batch = proto::ReadBatch::decode(&encoded[span.start..span.end]).unwrap();
            prop_assert_eq!(&batch.records[..], std::slice::from_ref(record));
            at = span.end;
        }
        prop_assert_eq!(at, encoded.len());
    }

    #[test]
    fn cut_is_the_longest_prefix_within_the_limits(
        records in sequenced_records(),
        count in 0usize..9,
        bytes in 0usize..3000,
        encoded_bytes in 0usize..6000,
        until in proptest::option::of(crate::test_data::number()),
    ) {
        let encoded = encode_records(&records);
        let fits = |n: usize| {
            let taken = &records[..n];
            n <= count
                && taken.iter().map(|r| r.metered_bytes()).sum::<usize>() <= bytes
                && encode_records(taken).len() <= encoded_bytes
                && taken.iter().all(|r| until.is_none_or(|until| r.timestamp < until))
        };
        let longest = (0..=records.len()).take_while(|&n| fits(n)).last().unwrap();
        let cut = cut(&encoded, &CutLimits { records: count, metered_bytes: bytes, encoded_bytes, until }).unwrap();
        prop_assert_eq!(cut.records, longest);
        prop_assert_eq!(cut.end, encode_records(&records[..longest]).len());
        prop_assert_eq!(cut.metered_bytes, records[..longest].iter().map(|r| r.metered_bytes()).sum::<usize>());
        prop_assert_eq!(cut.last, records[..longest].last().map(|r| r.position()));
        prop_assert_eq!(cut.stop == CutStop::Input, longest == records.len());
    }

    #[test]
    fn truncation_is_noticed_unless_it_falls_between_records(records in sequenced_records()) {
        let encoded = encode_records(&records);
        let ends: Vec<_> = RecordScanner::new(&encoded).map(|span| span.unwrap().end).collect();
        for len in 1..encoded.len() {
            let ok = RecordScanner::new(&encoded[..len]).all(|span| span.is_ok());
            prop_assert_eq!(ok, ends.contains(&len));
        }
    }

    #[test]
    fn damage_gives_records_or_an_error_as_the_generated_decoder_has_it(
        records in sequenced_records(),
        damage in vec((any::<prop::sample::Index>(), 0..8u8), 1..3),
    ) {
        let mut encoded = encode_records(&records);
        prop_assume!(!encoded.is_empty());
        for (index, bit) in damage {
            let index = index.index(encoded.len());
            encoded[index] ^= 1 << bit;
        }
        if let Ok(spans) = RecordScanner::new(&encoded).collect::<Result<Vec<_>, _>>() {
            let batch = proto::ReadBatch::decode(&encoded[..]).unwrap();
            prop_assert_eq!(spans.len(), batch.records.len());
            for (span, record) in spans.iter().zip(&batch.records) {
                prop_assert_eq!(span.position(), record.position());
                prop_assert_eq!(span.metered_bytes, record.metered_bytes());
            }
        }
    }

    #[test]
    fn garbage_never_panics(bytes in vec(any::<u8>(), 0..64)) {
        let _ = RecordScanner::new(&bytes).count();
        let _ = cut(&bytes, &CutLimits::default());
        let _ = seek_seq_num(&bytes, 1);
    }
}
