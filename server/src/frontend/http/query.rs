//! Query strings.

use axum::extract::{FromRequestParts, Query};
use axum::http::request::Parts;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::App;
use super::failure::Failure;
use crate::frontend::service::types::ListRequest;

/// A query that decodes; what does not is answered with the API's own error body.
pub(super) struct Parsed<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Parsed<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let Query(value) = Query::<T>::from_request_parts(parts, app)
            .await
            .map_err(|rejection| Failure::bad_query(rejection.body_text()))?;
        Ok(Self(value))
    }
}

/// Of the two list calls.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListQuery {
    prefix: String,
    start_after: String,
    limit: Option<u64>,
}

impl ListQuery {
    /// Parts of basin names: nothing that no basin's name can contain or begin with.
    pub fn of_basins(self) -> Result<ListRequest, Failure> {
        let request = self.request();
        request.check_basins().map_err(Failure::bad_query)?;
        Ok(request)
    }

    pub fn of_streams(self) -> Result<ListRequest, Failure> {
        let request = self.request();
        request.check_streams().map_err(Failure::bad_query)?;
        Ok(request)
    }

    fn request(self) -> ListRequest {
        let limit = self.limit.unwrap_or_default();
        ListRequest {
            prefix: self.prefix,
            start_after: self.start_after,
            // What does not fit means the maximum, as zero does.
            limit: usize::try_from(limit).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Uri;
    use millrace_api::read::ReadQuery;

    use super::*;

    fn parse<T: DeserializeOwned>(query: &str) -> Option<T> {
        let uri: Uri = format!("/?{query}").parse().unwrap();
        Query::try_from_uri(&uri).ok().map(|Query(value)| value)
    }

    #[test]
    fn api_005_unparsable_values_are_refused() {
        assert!(parse::<ReadQuery>("seq_num=0&clamp=true&wait=60").is_some());
        for query in [
            "seq_num=-1",
            "seq_num=x",
            "seq_num=",
            "clamp=1",
            "wait=4294967296",
            "count=1.5",
            "until=1&until=2",
        ] {
            assert!(parse::<ReadQuery>(query).is_none(), "{query}");
        }
        assert!(parse::<ListQuery>("limit=-1").is_none());
    }

    #[test]
    fn api_029_any_limit_is_taken() {
        let limit = |query| parse::<ListQuery>(query).unwrap().of_streams().unwrap().limit;
        assert_eq!(limit(""), 0);
        assert_eq!(limit("limit=0"), 0);
        assert_eq!(limit("limit=7"), 7);
        assert_eq!(limit("limit=5000"), 5000);
    }

    #[test]
    fn prefixes_are_parts_of_names() {
        let basins = |query| parse::<ListQuery>(query).unwrap().of_basins();
        assert_eq!(basins("prefix=my-&start_after=a").unwrap().prefix, "my-");
        assert!(basins("prefix=My").is_err());
        assert!(basins("start_after=-a").is_err());
        let streams = |query: &str| parse::<ListQuery>(query).unwrap().of_streams();
        assert_eq!(streams("prefix=a%2Fb%20c").unwrap().prefix, "a/b c");
        assert!(streams(&format!("prefix={}", "x".repeat(513))).is_err());
    }
}
