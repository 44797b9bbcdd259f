//! The W3C trace context of the caller, sent with each call.

use tonic::metadata::MetadataMap;

/// Puts `traceparent`, and `tracestate` if there is one, into the call's metadata: of the current `tracing` span if an
/// OpenTelemetry layer gives it an identity, else of the current OpenTelemetry context. Without either nothing is put
/// there.
#[cfg(feature = "trace-context")]
pub(crate) fn inject(metadata: &mut MetadataMap) {
    use opentelemetry::Context;
    use opentelemetry::trace::TraceContextExt;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    let of_span = tracing::Span::current().context();
    let current = Context::current();
    let contexts = [of_span.span(), current.span()];
    let valid = contexts
        .iter()
        .map(|span| span.span_context())
        .find(|span| span.is_valid());
    if let Some(span) = valid {
        put(span, metadata);
    }
}

#[cfg(feature = "trace-context")]
fn put(span: &opentelemetry::trace::SpanContext, metadata: &mut MetadataMap) {
    use tonic::metadata::MetadataValue;

    let parent = format!(
        "00-{}-{}-{:02x}",
        span.trace_id(),
        span.span_id(),
        span.trace_flags().to_u8()
    );
    let state = span.trace_state().header();
    for (key, value) in [("traceparent", parent), ("tracestate", state)] {
        if value.is_empty() {
            continue;
        }
        if let Ok(value) = MetadataValue::try_from(value) {
            metadata.insert(key, value);
        }
    }
}

#[cfg(not(feature = "trace-context"))]
pub(crate) fn inject(_: &mut MetadataMap) {}

#[cfg(all(test, feature = "trace-context"))]
mod tests {
    use opentelemetry::Context;
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};

    use super::*;

    #[test]
    fn the_current_trace_is_sent_as_w3c_has_it_and_nothing_without_one() {
        let mut metadata = MetadataMap::new();
        inject(&mut metadata);
        assert!(metadata.is_empty());
        let span = SpanContext::new(
            TraceId::from(0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c),
            SpanId::from(0xb7ad_6b71_6920_3331),
            TraceFlags::SAMPLED,
            true,
            TraceState::from_key_value([("vendor", "1")]).unwrap(),
        );
        let _entered = Context::new().with_remote_span_context(span).attach();
        inject(&mut metadata);
        assert_eq!(
            metadata.get("traceparent").unwrap(),
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        );
        assert_eq!(metadata.get("tracestate").unwrap(), "vendor=1");
    }
}
