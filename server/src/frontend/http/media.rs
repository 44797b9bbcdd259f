//! Media types, and what a request's headers say about them.

use axum::http::{HeaderMap, HeaderName, header};

pub(super) const JSON: &str = "application/json";
pub(super) const PROTOBUF: &str = "application/protobuf";
const PROTOBUF_ALIAS: &str = "application/x-protobuf";
pub(super) const S2S: &str = "s2s/proto";
pub(super) const EVENT_STREAM: &str = "text/event-stream";

/// How the records of a call travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// A session, in both directions or one.
    S2s,
    EventStream,
    Unary(Encoding),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    Json,
    Protobuf,
}

/// What a body is said to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ContentType {
    Absent,
    Json,
    Protobuf,
    S2s,
    Other,
}

pub(super) fn content_type(headers: &HeaderMap) -> ContentType {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return ContentType::Absent;
    };
    let essence = value.to_str().map(essence).unwrap_or_default();
    match essence {
        _ if is(essence, JSON) || is_json_suffixed(essence) => ContentType::Json,
        _ if is_protobuf(essence) => ContentType::Protobuf,
        _ if is(essence, S2S) => ContentType::S2s,
        _ => ContentType::Other,
    }
}

/// A session by its content type, also on GET; else events, else protobuf, else JSON, whatever is accepted first.
pub(super) fn read_protocol(headers: &HeaderMap) -> Protocol {
    if content_type(headers) == ContentType::S2s {
        return Protocol::S2s;
    }
    if accepts(headers, |essence| is(essence, EVENT_STREAM)) {
        return Protocol::EventStream;
    }
    Protocol::Unary(reply_encoding(headers))
}

/// What the reply to a unary call is written in.
pub(super) fn reply_encoding(headers: &HeaderMap) -> Encoding {
    match accepts(headers, is_protobuf) {
        true => Encoding::Protobuf,
        false => Encoding::Json,
    }
}

fn accepts(headers: &HeaderMap, wanted: impl Fn(&str) -> bool) -> bool {
    list(headers, header::ACCEPT).any(|range| !refused(range) && wanted(essence(range)))
}

fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
}

/// Weight zero says "anything but this".
fn refused(range: &str) -> bool {
    range.split(';').skip(1).any(|parameter| {
        let mut parts = parameter.splitn(2, '=');
        let name = parts.next().unwrap_or_default().trim();
        let weight = parts.next().and_then(|value| value.trim().parse::<f32>().ok());
        name.eq_ignore_ascii_case("q") && weight == Some(0.0)
    })
}

fn essence(value: &str) -> &str {
    value.split(';').next().unwrap_or_default().trim()
}

fn is(essence: &str, media_type: &str) -> bool {
    essence.eq_ignore_ascii_case(media_type)
}

fn is_protobuf(essence: &str) -> bool {
    is(essence, PROTOBUF) || is(essence, PROTOBUF_ALIAS)
}

/// As in `application/merge-patch+json`.
fn is_json_suffixed(essence: &str) -> bool {
    essence.len() > 5
        && essence.is_char_boundary(essence.len() - 5)
        && is(&essence[essence.len() - 5..], "+json")
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(HeaderName, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn session_precedes_events_precede_protobuf_precedes_json() {
        let all = [
            (header::CONTENT_TYPE, "s2s/proto"),
            (header::ACCEPT, "application/protobuf, text/event-stream"),
        ];
        assert_eq!(read_protocol(&headers(&all)), Protocol::S2s);
        assert_eq!(read_protocol(&headers(&all[1..])), Protocol::EventStream);
        for (accept, encoding) in [
            ("application/x-protobuf", Encoding::Protobuf),
            ("Application/Protobuf; q=0.5", Encoding::Protobuf),
            ("application/protobuf;q=0, */*", Encoding::Json),
            ("*/*", Encoding::Json),
            ("application/json", Encoding::Json),
            ("", Encoding::Json),
        ] {
            let headers = headers(&[(header::ACCEPT, accept)]);
            assert_eq!(read_protocol(&headers), Protocol::Unary(encoding), "{accept}");
        }
        assert_eq!(read_protocol(&HeaderMap::new()), Protocol::Unary(Encoding::Json));
    }

    #[test]
    fn content_types_are_known_with_parameters_and_in_any_case() {
        for (value, expected) in [
            ("application/json", ContentType::Json),
            ("application/json; charset=utf-8", ContentType::Json),
            ("application/merge-patch+json", ContentType::Json),
            ("APPLICATION/X-PROTOBUF", ContentType::Protobuf),
            ("s2s/proto", ContentType::S2s),
            ("text/plain", ContentType::Other),
            ("", ContentType::Other),
        ] {
            assert_eq!(
                content_type(&headers(&[(header::CONTENT_TYPE, value)])),
                expected,
                "{value}"
            );
        }
        assert_eq!(content_type(&HeaderMap::new()), ContentType::Absent);
    }
}
