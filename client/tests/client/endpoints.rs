//! Several endpoints, owners that are learned, and retries that know their budget.

use millrace_api::grpc::ErrorDetail;
use millrace_client::{AppendSessionOptions, Batch, Client, RetryPolicy, Stream};
use tonic::{Code, Status};

use super::append::quick;
use crate::support::fake::{Fake, refusal};

const NOBODY: &str = "http://127.0.0.1:1";

fn stream_of(endpoints: &[&str], retry: RetryPolicy) -> Stream {
    let client = Client::builder()
        .endpoints(endpoints.iter().copied())
        .retry(retry)
        .seed(0);
    let client = client.build().unwrap();
    client.basin("some-basin").unwrap().stream("s").unwrap()
}

fn hot() -> Status {
    let detail = ErrorDetail {
        code: "hot_server".into(),
        retryable: true,
        ..Default::default()
    };
    refusal(Code::Unavailable, &detail)
}

#[tokio::test]
async fn an_endpoint_that_is_away_costs_one_try() {
    let fake = Fake::start().await;
    let stream = stream_of(&[NOBODY, fake.url()], quick());
    // Also an append: it was not sent to nobody.
    stream.append(Batch::new(["x"]).unwrap()).await.unwrap();
    stream.check_tail().await.unwrap();
    assert_eq!(fake.calls(), 2);
    assert_eq!(fake.state().log.len(), 1);
}

#[tokio::test]
async fn calls_go_to_the_owner_that_a_reply_names_until_it_fails() {
    let frontend = Fake::start().await;
    let owner = Fake::start().await;
    frontend.state().owner = Some(owner.url().to_owned());
    let stream = stream_of(&[frontend.url()], quick());
    stream.check_tail().await.unwrap();
    stream.check_tail().await.unwrap();
    assert_eq!((frontend.calls(), owner.calls()), (1, 1));
    owner.state().refuse_all = Some(hot());
    frontend.state().owner = None;
    stream.check_tail().await.unwrap();
    stream.check_tail().await.unwrap();
    assert_eq!((frontend.calls(), owner.calls()), (3, 2));
}

#[tokio::test]
async fn sessions_move_to_the_owner_before_they_begin() {
    let frontend = Fake::start().await;
    let owner = Fake::start().await;
    frontend.state().owner = Some(owner.url().to_owned());
    let stream = stream_of(&[frontend.url()], quick());
    let session = stream.append_session(AppendSessionOptions::default()).unwrap();
    let _ticket = session.submit(Batch::new(["x"]).unwrap()).await.unwrap();
    session.close().await.unwrap();
    assert_eq!((frontend.state().log.len(), owner.state().log.len()), (0, 1));
}

#[tokio::test]
async fn an_owner_that_cannot_be_reached_from_here_is_done_without() {
    let frontend = Fake::start().await;
    frontend.state().owner = Some(NOBODY.to_owned());
    let stream = stream_of(&[frontend.url()], quick());
    let session = stream.append_session(AppendSessionOptions::default()).unwrap();
    let _ticket = session.submit(Batch::new(["x"]).unwrap()).await.unwrap();
    session.close().await.unwrap();
    stream.check_tail().await.unwrap();
    assert_eq!(frontend.state().log.len(), 1);
}

#[tokio::test]
async fn an_outage_is_not_made_worse_than_the_budget_allows() {
    let fake = Fake::start().await;
    fake.state().refuse_all = Some(hot());
    let policy = RetryPolicy {
        attempts_max: 10,
        budget: 5,
        ..quick()
    };
    let stream = stream_of(&[fake.url()], policy);
    for _ in 0..20 {
        let error = stream.check_tail().await.unwrap_err();
        assert!(error.retryable() && !error.may_have_happened());
        assert_eq!(error.code(), Some("hot_server"));
    }
    assert_eq!(fake.calls(), 25, "20 calls and 5 retries");
}

#[tokio::test]
async fn what_cannot_succeed_is_not_tried_again() {
    let fake = Fake::start().await;
    let detail = ErrorDetail {
        code: "stream_not_found".into(),
        ..Default::default()
    };
    fake.state().refuse_all = Some(refusal(Code::NotFound, &detail));
    let stream = stream_of(&[fake.url()], quick());
    let error = stream.check_tail().await.unwrap_err();
    assert_eq!(error.code(), Some("stream_not_found"));
    assert!(!error.retryable());
    assert_eq!(fake.calls(), 1);
}
