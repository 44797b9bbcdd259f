//! What an earlier release left behind.

use crate::state::kv::Read;
use crate::state::record::Applied;
use crate::state::table::{AppliedTable, Table};
use crate::store::keys::Family;
use crate::store::rocks;
use crate::store::state::StateDb;

/// The families before there were segments.
const EARLIER: usize = 12;

#[test]
fn a_state_without_the_families_of_this_release_opens_and_gets_them() {
    let temp = tempfile::tempdir().unwrap();
    let (path, copy) = (temp.path().join("state"), temp.path().join("snapshot"));
    let names: Vec<_> = Family::ALL[..EARLIER]
        .iter()
        .map(|family| family.name())
        .collect();
    let applied = Applied::default();
    let db = rocks::open(&path, &names).unwrap();
    let system = rocks::family(&db, Family::System.name()).unwrap();
    db.put_cf(system, AppliedTable::key(&()), AppliedTable::encode(&applied))
        .unwrap();
    let checkpoint = rocksdb::checkpoint::Checkpoint::new(&db).unwrap();
    checkpoint.create_checkpoint(&copy).unwrap();
    drop(checkpoint);
    drop(db);

    // As the files of a snapshot that arrives: looked into, then opened.
    let looked_into = StateDb::open_read_only(&copy).unwrap();
    assert_eq!(looked_into.applied().unwrap(), applied);
    drop(looked_into);
    for path in [path, copy] {
        let state = StateDb::open(&path).unwrap();
        assert_eq!(state.applied().unwrap(), applied);
        for family in Family::ALL {
            let rows = usize::from(family == Family::System);
            assert_eq!(state.scan(family, &[], None, 10).unwrap().len(), rows);
        }
    }
}
