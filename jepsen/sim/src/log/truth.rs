//! What everybody was told, and whether it stays true.

use std::collections::BTreeMap;

use millrace_api::id::Epoch;

use crate::findings::Findings;

/// A record and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub place: u64,
    pub id: u64,
}

pub struct Truth {
    /// By place: the record, and the epoch that acknowledged it.
    acknowledged: BTreeMap<u64, (u64, Epoch)>,
    /// What the latest active epoch found: readers have seen that.
    found: Vec<Record>,
    found_by: Epoch,
    recoveries: u64,
    /// The number of the last owner that has acknowledged something.
    last_writer: u64,
    findings: Findings,
}

impl Truth {
    /// Nothing yet.
    pub fn new(findings: Findings) -> Self {
        Self {
            acknowledged: BTreeMap::new(),
            found: Vec::new(),
            found_by: Epoch(0),
            recoveries: 0,
            last_writer: 0,
            findings,
        }
    }

    /// The epoch is active, and this is all that was before it.
    pub fn recovered(&mut self, epoch: Epoch, found: Vec<Record>) {
        self.recoveries += 1;
        for (place, record) in (0..).zip(&found) {
            if record.place != place {
                let at = record.place;
                return self.wrong(format!("epoch {epoch} finds record {at} where {place} is to be"));
            }
        }
        for (place, (id, by)) in &self.acknowledged {
            let there = found.get(*place as usize).map(|record| record.id);
            if there != Some(*id) {
                return self.wrong(format!(
                    "lost: record {place}, acknowledged in epoch {by}, is not what epoch {epoch} finds"
                ));
            }
        }
        if epoch < self.found_by {
            return;
        }
        if !found.starts_with(&self.found) {
            return self.wrong(format!(
                "epoch {epoch} does not find what epoch {} found and showed",
                self.found_by
            ));
        }
        (self.found, self.found_by) = (found, epoch);
    }

    /// The owner told somebody that these are durable.
    pub fn acknowledged_by(&mut self, owner: u64, epoch: Epoch, records: &[Record]) {
        self.last_writer = self.last_writer.max(owner);
        for Record { place, id } in records.iter().copied() {
            let before = self.acknowledged.insert(place, (id, epoch));
            if let Some((other, by)) = before.filter(|(other, _)| *other != id) {
                return self.wrong(format!(
                    "place {place} was acknowledged to record {other} by epoch {by}, and to {id} by epoch {epoch}"
                ));
            }
            let found = self.found.get(place as usize).map(|record| record.id);
            if epoch < self.found_by && found != Some(id) {
                return self.wrong(format!(
                    "lost: epoch {epoch} acknowledges record {place}, which epoch {} did not find",
                    self.found_by
                ));
            }
        }
    }

    /// Whether an owner of this number or a later one has acknowledged something, if only its first chunk.
    pub fn has_written_since(&self, owner: u64) -> bool {
        self.last_writer >= owner
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    pub fn recoveries(&self) -> u64 {
        self.recoveries
    }

    fn wrong(&self, text: String) {
        self.findings.add(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;

    fn truth() -> (Truth, Findings) {
        let findings = Findings::new(Trace::new(false));
        (Truth::new(findings.clone()), findings)
    }

    fn records(ids: &[u64]) -> Vec<Record> {
        (0..)
            .zip(ids)
            .map(|(place, id)| Record { place, id: *id })
            .collect()
    }

    #[test]
    fn an_acknowledged_record_that_is_not_found_again_is_found_missing() {
        let (mut truth, findings) = truth();
        truth.acknowledged_by(1, Epoch(1), &records(&[7, 8]));
        truth.recovered(Epoch(2), records(&[7, 8, 9]));
        assert!(findings.list().is_empty());
        truth.recovered(Epoch(3), records(&[7]));
        assert_eq!(findings.list().len(), 1);
    }

    #[test]
    fn a_late_acknowledgement_of_what_a_later_epoch_did_not_find_is_found() {
        let (mut truth, findings) = truth();
        truth.recovered(Epoch(2), records(&[7]));
        truth.acknowledged_by(1, Epoch(1), &records(&[7]));
        assert!(findings.list().is_empty());
        truth.acknowledged_by(1, Epoch(1), &[Record { place: 1, id: 8 }]);
        assert_eq!(findings.list().len(), 1);
    }

    #[test]
    fn what_one_epoch_showed_and_the_next_does_not_find_is_found() {
        let (mut truth, findings) = truth();
        truth.recovered(Epoch(2), records(&[7, 8]));
        truth.recovered(Epoch(3), records(&[7]));
        assert_eq!(findings.list().len(), 1);
    }
}
