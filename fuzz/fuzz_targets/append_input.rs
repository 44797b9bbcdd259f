//! Any bytes are a batch, or refused, exactly where the generated decoder agrees; a batch's records encode as the
//! generated encoder has them, and the scanner finds each of them again.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace_api::batch::{AppendBatch, AppendError};
use millrace_api::proto;
use millrace_api::scan::RecordScanner;
use prost::Message;

fuzz_target!(|data: &[u8]| {
    let generated = proto::AppendInput::decode(data);
    let batch = match (AppendBatch::decode(Bytes::copy_from_slice(data)), &generated) {
        (Ok(batch), Ok(_)) => batch,
        (Err(AppendError::Invalid(_)), Ok(_)) | (Err(AppendError::BadProto(_)), Err(_)) => return,
        (ours, generated) => panic!("{ours:?} but {generated:?}"),
    };
    let records = generated.expect("matched above").records;
    let mut encoded = Vec::new();
    let mut expected = proto::ReadBatch::default();
    for (index, record) in records.into_iter().enumerate() {
        let (seq_num, timestamp) = (index as u64, record.timestamp.unwrap_or(0));
        batch.encode_record(index, seq_num, timestamp, &mut encoded);
        expected.records.push(proto::SequencedRecord {
            seq_num,
            timestamp,
            headers: record.headers,
            body: record.body,
        });
    }
    assert!(encoded == expected.encode_to_vec());
    assert!(encoded.len() <= batch.encoded_len_max());
    let spans: Vec<_> = RecordScanner::new(&encoded)
        .collect::<Result<_, _>>()
        .expect("just encoded");
    assert_eq!(spans.len(), batch.len());
    assert_eq!(
        spans.iter().map(|span| span.metered_bytes).sum::<usize>(),
        batch.metered_bytes()
    );
});
