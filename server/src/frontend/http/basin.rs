//! Which basin a request is about.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri, header};
use millrace_api::name::BasinName;

use super::failure::Failure;
use super::{App, headers};

/// The basin of a request about streams: from the `s2-basin` header, or the host's first label where a domain is
/// configured. Where both are given they agree.
pub(super) struct Basin(pub BasinName);

impl FromRequestParts<App> for Basin {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let from_header = headers::text(&parts.headers, &headers::BASIN)?;
        let host = host(&parts.uri, &parts.headers);
        let label = app
            .basin_domain
            .as_deref()
            .zip(host)
            .and_then(|(domain, host)| label(&host, domain));
        let name = match (from_header, label) {
            (Some(header), Some(label)) if header != label => {
                return Err(Failure::bad_header(
                    "the s2-basin header and the host name different basins",
                ));
            }
            (Some(name), _) => name.to_owned(),
            (None, Some(label)) => label,
            (None, None) => return Err(Failure::bad_header("the s2-basin header is missing")),
        };
        BasinName::new(&name)
            .map(Self)
            .map_err(|error| Failure::bad_header(format!("s2-basin: {error}")))
    }
}

/// The host that the request was sent to, without port, in lower case.
fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = match uri.host() {
        Some(host) => host,
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    Some(without_port.trim_end_matches('.').to_ascii_lowercase())
}

/// What stands before `.domain`. More than one label is none of our hosts' names and so no basin.
fn label(host: &str, domain: &str) -> Option<String> {
    let label = host.strip_suffix(domain)?.strip_suffix('.')?;
    (!label.is_empty() && !label.contains('.')).then(|| label.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn host_of(uri: &'static str, header: Option<&'static str>) -> Option<String> {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(header::HOST, HeaderValue::from_static(value));
        }
        host(&Uri::from_static(uri), &headers)
    }

    #[test]
    fn host_is_found_in_either_version_of_http() {
        assert_eq!(
            host_of("/v1/streams", Some("A.b.example:8080")).as_deref(),
            Some("a.b.example")
        );
        assert_eq!(
            host_of("http://a.b.example:80/v1", None).as_deref(),
            Some("a.b.example")
        );
        assert_eq!(
            host_of("http://a.b.example./v1", Some("other")).as_deref(),
            Some("a.b.example")
        );
        assert_eq!(host_of("/v1/streams", None), None);
    }

    #[test]
    fn the_basin_is_exactly_one_label_below_the_domain() {
        let domain = "b.example.com";
        assert_eq!(
            label("my-basin-1.b.example.com", domain).as_deref(),
            Some("my-basin-1")
        );
        for host in [
            "b.example.com",
            ".b.example.com",
            "x.y.b.example.com",
            "xb.example.com",
            "localhost",
            "",
        ] {
            assert_eq!(label(host, domain), None, "{host}");
        }
    }
}
