//! The W3C trace context of the caller's span, sent with each call.

use tonic::metadata::MetadataMap;

/// Puts `traceparent`, and `tracestate` if there is one, into the call's metadata. Without a span, or without an
/// OpenTelemetry layer that gives it an identity, nothing is put there.
#[cfg(feature = "trace-context")]
pub(crate) fn inject(metadata: &mut MetadataMap) {
    use opentelemetry::trace::TraceContextExt;
    use tonic::metadata::MetadataValue;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    let context = tracing::Span::current().context();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return;
    }
    let parent = format!(
        "00-{}-{}-{:02x}",
        span.trace_id(),
        span.span_id(),
        span.trace_flags().to_u8()
    );
    for (key, value) in [
        ("traceparent", parent),
        ("tracestate", span.trace_state().header()),
    ] {
        if let Ok(value) = MetadataValue::try_from(value)
            && !value.is_empty()
        {
            metadata.insert(key, value);
        }
    }
}

#[cfg(not(feature = "trace-context"))]
pub(crate) fn inject(_: &mut MetadataMap) {}
