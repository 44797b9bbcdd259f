//! The caller's trace goes along.

use millrace_client::Client;
use opentelemetry::Context;
use opentelemetry::trace::{
    FutureExt, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
};

use super::append::quick;
use crate::support::fake::Fake;

#[tokio::test]
async fn a_call_carries_the_trace_that_it_is_made_in() {
    let fake = Fake::start().await;
    let client = Client::builder()
        .endpoints([fake.url()])
        .retry(quick())
        .build()
        .unwrap();
    let stream = client.basin("some-basin").unwrap().stream("s").unwrap();
    stream.check_tail().await.unwrap();
    assert_eq!(fake.state().traceparent, None);
    let span = SpanContext::new(
        TraceId::from(1),
        SpanId::from(2),
        TraceFlags::SAMPLED,
        true,
        TraceState::default(),
    );
    let context = Context::new().with_remote_span_context(span);
    stream.check_tail().with_context(context).await.unwrap();
    let sent = fake.state().traceparent.clone().unwrap();
    assert_eq!(sent, "00-00000000000000000000000000000001-0000000000000002-01");
}
