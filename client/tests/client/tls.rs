//! Whom a client trusts.

use millrace_client::{Client, Error, Tls};

use super::append::quick;
use crate::support::fake::Fake;

#[tokio::test]
async fn only_a_server_with_a_certificate_of_the_given_authority_is_talked_to() {
    // More than one provider is linked into the test, and the server's side wants one to be chosen; the client has its own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.pem();
    let fake = Fake::start_with_tls(&certificate, &certified.signing_key.serialize_pem()).await;
    let check_tail = async |authority: &str| {
        let client = Client::builder().endpoints([fake.url()]).retry(quick());
        let client = client.tls(Tls::ca_pem(authority)).build().unwrap();
        let stream = client.basin("some-basin").unwrap().stream("s").unwrap();
        stream.check_tail().await
    };
    check_tail(&certificate).await.unwrap();
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let error = check_tail(&other.cert.pem()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
    assert_eq!(fake.calls(), 1);
}
