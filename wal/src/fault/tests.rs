use super::*;
use crate::zone::MemoryStore;

fn store() -> (Arc<MemoryStore>, FaultStore<MemoryStore>, Faults) {
    let inner = Arc::new(MemoryStore::new());
    let faults = Faults::new(1);
    (Arc::clone(&inner), FaultStore::new(inner, faults.clone()), faults)
}

fn body() -> Payload {
    Payload::from(Bytes::from_static(b"body"))
}

#[tokio::test]
async fn without_faults_the_wrapper_keeps_every_promise() {
    let (_, store, _) = store();
    crate::conformance::suite(Arc::new(store)).await;
}

#[tokio::test(start_paused = true)]
async fn delays_break_no_promise() {
    let (_, store, faults) = store();
    let delay = Fault::Delay {
        least: Duration::from_millis(1),
        most: Duration::from_millis(30),
    };
    faults.add(Rule::new(delay));
    crate::conformance::suite(Arc::new(store)).await;
}

#[tokio::test]
async fn a_failure_before_has_no_effect_and_one_after_has() {
    let (inner, store, faults) = store();
    faults.add(
        Rule::new(Fault::FailBefore)
            .op(Op::Create)
            .key(|key| key == "a")
            .times(1),
    );
    faults.add(Rule::new(Fault::FailAfter).op(Op::Create).key(|key| key == "b"));
    assert!(store.create("a", &body()).await.is_err());
    assert_eq!(inner.object_count(), 0);
    assert!(store.create("b", &body()).await.is_err());
    assert_eq!(inner.object_count(), 1);
    assert_eq!(store.create("a", &body()).await, Ok(CreateOutcome::Created));
}

#[tokio::test]
async fn a_duplicated_create_turns_success_into_exists() {
    let (_, store, faults) = store();
    faults.add(Rule::new(Fault::Duplicate).op(Op::Create));
    assert_eq!(store.create("a", &body()).await, Ok(CreateOutcome::Exists));
}

#[tokio::test]
async fn an_upload_fails_before_or_after_its_effect_and_may_be_repeated() {
    let (inner, store, faults) = store();
    faults.add(Rule::new(Fault::FailBefore).op(Op::Upload).times(1));
    assert!(store.upload("a", &body()).await.is_err());
    assert_eq!(inner.object_count(), 0);
    faults.add(Rule::new(Fault::FailAfter).op(Op::Upload).times(1));
    assert!(store.upload("a", &body()).await.is_err());
    assert_eq!(inner.object_count(), 1);
    faults.add(Rule::new(Fault::Duplicate).op(Op::Upload));
    assert_eq!(store.upload("a", &body()).await, Ok(()));
    assert_eq!(inner.object_count(), 1);
}

#[tokio::test]
async fn a_stalled_create_lands_although_its_caller_is_gone() {
    let (inner, store, faults) = store();
    let gate = faults.stall(Rule::default().op(Op::Create), false);
    let caller = tokio::spawn(async move { store.create("a", &body()).await });
    gate.reached(1).await;
    caller.abort();
    assert!(caller.await.is_err());
    assert_eq!(inner.object_count(), 0);
    gate.open();
    while inner.object_count() == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_store_refuses_or_hangs() {
    let (inner, store, faults) = store();
    faults.cut(Cut::Refusing);
    assert!(store.create("a", &body()).await.is_err());
    faults.cut(Cut::Silent);
    let limit = Duration::from_secs(3600);
    assert!(
        tokio::time::timeout(limit, store.create("a", &body()))
            .await
            .is_err()
    );
    faults.heal();
    assert_eq!(inner.object_count(), 0);
    assert_eq!(store.create("a", &body()).await, Ok(CreateOutcome::Created));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_faults() {
    let run = async || {
        let (_, store, faults) = store();
        faults.add(Rule::new(Fault::FailBefore).chance(0.5));
        faults.add(Rule::new(Fault::Damage).op(Op::Get).chance(0.5));
        let mut seen = Vec::new();
        for i in 0..50 {
            seen.push(format!("{:?}", store.create(&format!("k{i}"), &body()).await));
            seen.push(format!(
                "{:?}",
                store.get(&format!("k{i}"), ReadRange::Full).await
            ));
        }
        seen
    };
    let first = run().await;
    assert_eq!(first, run().await);
    assert!(
        first.iter().any(|seen| seen.contains("Created")) && first.iter().any(|seen| seen.contains("Err"))
    );
}
