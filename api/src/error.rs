//! The error codes of the S2 v1 API: status, whether a client may retry, and whether the server promises that
//! nothing was applied. One table; everything that answers a client goes through it.

use std::fmt;

macro_rules! error_codes {
    ($($variant:ident $text:literal $status:literal $retry:ident $effect:ident;)*) => {
        /// A machine-readable code. The text and the status are those that S2 SDKs match on.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($variant),* }

        impl ErrorCode {
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant),*];

            /// The `code` field of an error body.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text),* }
            }

            /// The HTTP status that goes with the code.
            pub const fn status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status),* }
            }

            /// Whether the same request may succeed later without change.
            pub const fn retryable(self) -> bool {
                match self { $(ErrorCode::$variant => error_codes!(@$retry)),* }
            }

            /// Whether the request may have been applied although it failed. `false` is a promise.
            pub const fn may_have_happened(self) -> bool {
                match self { $(ErrorCode::$variant => error_codes!(@$effect)),* }
            }
        }
    };
    (@retry) => { true };
    (@final) => { false };
    (@none) => { false };
    (@maybe) => { true };
}

error_codes! {
    AccessTokenNotFound "access_token_not_found" 404 final none;
    Authn "authn" 401 final none;
    BadFrame "bad_frame" 400 final none;
    BadHeader "bad_header" 400 final none;
    BadJson "bad_json" 400 final none;
    BadPath "bad_path" 400 final none;
    BadProto "bad_proto" 400 final none;
    BadQuery "bad_query" 400 final none;
    BasinDeletionPending "basin_deletion_pending" 409 final none;
    BasinNotFound "basin_not_found" 404 final none;
    ClientHangup "client_hangup" 499 final maybe;
    DecryptionFailed "decryption_failed" 400 final none;
    HotServer "hot_server" 502 retry none;
    Invalid "invalid" 422 final none;
    NotImplemented "not_implemented" 501 final none;
    Other "other" 500 retry maybe;
    PermissionDenied "permission_denied" 403 final none;
    QuotaExhausted "quota_exhausted" 403 final none;
    RateLimited "rate_limited" 429 retry none;
    RequestTimeout "request_timeout" 408 retry maybe;
    ResourceAlreadyExists "resource_already_exists" 409 final none;
    ServerDraining "server_draining" 503 retry none;
    Storage "storage" 500 retry maybe;
    StreamDeletionPending "stream_deletion_pending" 409 final none;
    StreamNotFound "stream_not_found" 404 final none;
    TransactionConflict "transaction_conflict" 409 retry none;
    Unavailable "unavailable" 503 retry maybe;
    UpstreamTimeout "upstream_timeout" 504 retry maybe;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_statuses_are_errors() {
        let texts: std::collections::BTreeSet<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        assert!(ErrorCode::ALL.iter().all(|c| (400..600).contains(&c.status())));
    }

    #[test]
    fn retryable_codes_that_promise_no_effect_are_the_safe_ones() {
        let safe: Vec<_> = ErrorCode::ALL
            .iter()
            .filter(|c| c.retryable() && !c.may_have_happened())
            .map(|c| c.as_str())
            .collect();
        assert_eq!(
            safe,
            [
                "hot_server",
                "rate_limited",
                "server_draining",
                "transaction_conflict"
            ]
        );
    }
}
