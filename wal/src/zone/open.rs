//! From a URL to a store.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use super::{
    Blocking, LocalStore, MemoryStore, ObjectStoreOptions, ObjectStoreZone, Shape, ShapedStore, StoreError,
    ZoneStore,
};

/// What a store may need besides its URL.
#[derive(Clone)]
pub struct StoreEnvOptions {
    /// Credentials and settings under the names that the stores' own tools read: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`, `GOOGLE_SERVICE_ACCOUNT`, `AZURE_STORAGE_ACCOUNT_KEY` and so on. Others are
    /// ignored. What the URL says wins.
    pub env: BTreeMap<String, String>,
    /// Where a local store does its work.
    pub blocking: Blocking,
    /// As [`ObjectStoreOptions::create_timeout`].
    pub create_timeout: Duration,
}

impl Default for StoreEnvOptions {
    fn default() -> Self {
        Self {
            env: BTreeMap::new(),
            blocking: Blocking::default(),
            create_timeout: ObjectStoreOptions::default().create_timeout,
        }
    }
}

impl fmt::Debug for StoreEnvOptions {
    /// Names only: values are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreEnvOptions")
            .field("env", &self.env.keys().collect::<Vec<_>>())
            .field("blocking", &self.blocking)
            .field("create_timeout", &self.create_timeout)
            .finish()
    }
}

/// Opens a zone store. Makes no request, except that a directory is created; see [`preflight`](super::preflight).
///
/// - `memory://` a new, empty store with each call
/// - `file:///directory`; this and the former with `?shape=…` as slow as a store far away, see [`Shape`]
/// - `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, each with settings in the query, under the
///   names of `object_store`'s configuration: for S3 `endpoint`, `region`, `allow_http`, `access_key_id`,
///   `secret_access_key`, `virtual_hosted_style_request` and more. One is our own: `list_ordered=true` for a store known
///   to list keys in byte order (assumed of AWS, Google and Azure, and of no custom endpoint).
///
/// An error never shows the query, which may hold secrets.
pub fn open_url(url: &str, options: &StoreEnvOptions) -> Result<Arc<dyn ZoneStore>, StoreError> {
    let parsed = Url::parse(url)
        .map_err(|error| StoreError::Invalid(format!("the store's URL is not one: {error}")))?;
    match parsed.scheme() {
        "memory" => shaped(&parsed, Arc::new(MemoryStore::new())),
        "file" => open_file(&parsed, options),
        "s3" | "gs" | "az" => open_object(&parsed, options),
        scheme => Err(StoreError::Invalid(format!(
            "stores of scheme {scheme:?} are not known"
        ))),
    }
}

fn open_file(url: &Url, options: &StoreEnvOptions) -> Result<Arc<dyn ZoneStore>, StoreError> {
    let path = url
        .to_file_path()
        .map_err(|()| StoreError::Invalid("file:// takes an absolute path: file:///directory".into()))?;
    // What is wrong with the URL is said before a directory is made.
    shape(url)?;
    shaped(url, Arc::new(LocalStore::open(path, options.blocking)?))
}

fn shape(url: &Url) -> Result<Option<Shape>, StoreError> {
    let mut shape = None;
    for (name, value) in url.query_pairs() {
        shape = (name == "shape").then(|| Shape::parse(&value)).flatten();
        if shape.is_none() {
            return Err(StoreError::Invalid(format!(
                "{}:// takes one setting, shape=standard, shape=express or shape=PUT/PUT99,GET/GET99 in milliseconds",
                url.scheme()
            )));
        }
    }
    Ok(shape)
}

fn shaped(url: &Url, store: Arc<dyn ZoneStore>) -> Result<Arc<dyn ZoneStore>, StoreError> {
    Ok(match shape(url)? {
        Some(shape) => {
            // Every run with one store is slow in the same way, and no two stores are.
            let seed = u64::from(crc32c::crc32c(url.as_str().as_bytes()));
            Arc::new(ShapedStore::new(store, shape, seed))
        }
        None => store,
    })
}

/// Settings in the order in which they are applied: the environment's, then the URL's.
struct Settings {
    env: Vec<(String, String)>,
    url: Vec<(String, String)>,
}

fn open_object(url: &Url, options: &StoreEnvOptions) -> Result<Arc<dyn ZoneStore>, StoreError> {
    let invalid = |why: &str| StoreError::Invalid(format!("{}: {why}", url.scheme()));
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(
            "credentials do not go before the bucket; use the query or the environment",
        ));
    }
    let bucket = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| invalid("the URL names no bucket"))?;
    let prefix = match url.path().trim_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    let mut list_ordered = None;
    let mut settings = Settings {
        env: options
            .env
            .iter()
            .map(|(name, value)| (name.to_ascii_lowercase(), value.clone()))
            .collect(),
        url: Vec::new(),
    };
    for (name, value) in url.query_pairs() {
        match &*name {
            "list_ordered" => list_ordered = Some(value == "true"),
            _ => settings.url.push((name.to_ascii_lowercase(), value.into_owned())),
        }
    }
    let custom = settings
        .url
        .iter()
        .chain(&settings.env)
        .any(|(name, _)| name.contains("endpoint") || name.contains("s3_express"));
    let open = |purpose| match url.scheme() {
        "s3" => s3(bucket, &settings, purpose),
        "gs" => gcs(bucket, &settings, purpose),
        _ => azure(bucket, &settings, purpose),
    };
    let zone_options = ObjectStoreOptions {
        create_timeout: options.create_timeout,
        list_ordered: list_ordered.unwrap_or(!custom),
    };
    let name = format!("{}://{bucket}/{prefix}", url.scheme());
    let zone = ObjectStoreZone::new(
        name,
        open(Purpose::Create)?,
        open(Purpose::Other)?,
        &prefix,
        zone_options,
    )?;
    Ok(Arc::new(zone.with_uploads(open(Purpose::Upload)?)))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// Never retries.
    Create,
    /// Takes as long as megabytes take on a slow line.
    Upload,
    Other,
}

impl Purpose {
    fn config(self) -> RetryConfig {
        let backoff = BackoffConfig {
            init_backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(1),
            base: 2.0,
        };
        let max_retries = if self == Self::Create { 0 } else { 3 };
        RetryConfig {
            backoff,
            max_retries,
            retry_timeout: Duration::from_secs(10),
        }
    }

    /// Creates are timed by the zone, by their size.
    fn client(self) -> ClientOptions {
        let client = ClientOptions::new()
            .with_connect_timeout(Duration::from_secs(2))
            .with_pool_idle_timeout(Duration::from_secs(30));
        match self {
            Self::Create => client
                .with_timeout_disabled()
                .with_read_timeout(Duration::from_secs(30)),
            // The client counts the time for sending a body as time without an answer.
            Self::Upload => client
                .with_timeout(Duration::from_secs(60))
                .with_read_timeout(Duration::from_secs(60)),
            Self::Other => client
                .with_timeout(Duration::from_secs(60))
                .with_read_timeout(Duration::from_secs(5)),
        }
    }
}

/// Applies every setting that the builder knows. An unknown name in the URL is an error, in the environment it is
/// somebody else's.
macro_rules! configured {
    ($builder:expr, $settings:expr, $env_prefixes:expr) => {{
        let mut builder = $builder;
        for (name, value) in &$settings.env {
            if $env_prefixes.iter().any(|prefix: &&str| name.starts_with(prefix))
                && let Ok(key) = name.parse()
            {
                builder = builder.with_config(key, value);
            }
        }
        for (name, value) in &$settings.url {
            let key = name.parse().map_err(|_| {
                StoreError::Invalid(format!("the store's URL has an unknown setting {name:?}"))
            })?;
            builder = builder.with_config(key, value);
        }
        builder
    }};
}

fn s3(bucket: &str, settings: &Settings, purpose: Purpose) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let builder = AmazonS3Builder::new()
        .with_client_options(purpose.client())
        // Chunks carry CRCs of their own; hashing them once more for the signature costs more than all else.
        .with_unsigned_payload(true)
        .with_disable_bulk_delete(true);
    let builder = configured!(builder, settings, ["aws_"])
        .with_bucket_name(bucket)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_retry(purpose.config());
    Ok(Arc::new(builder.build().map_err(refused)?))
}

fn gcs(bucket: &str, settings: &Settings, purpose: Purpose) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let builder = GoogleCloudStorageBuilder::new().with_client_options(purpose.client());
    let builder = configured!(builder, settings, ["google_"])
        .with_bucket_name(bucket)
        .with_retry(purpose.config());
    Ok(Arc::new(builder.build().map_err(refused)?))
}

fn azure(container: &str, settings: &Settings, purpose: Purpose) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let builder = MicrosoftAzureBuilder::new().with_client_options(purpose.client());
    let builder = configured!(builder, settings, ["azure_"])
        .with_container_name(container)
        .with_retry(purpose.config());
    Ok(Arc::new(builder.build().map_err(refused)?))
}

/// The builders' messages may quote a setting's value, which may be a secret.
fn refused(_: object_store::Error) -> StoreError {
    StoreError::Invalid("the store's settings do not go together or have a bad value".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(env: &[(&str, &str)]) -> StoreEnvOptions {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        StoreEnvOptions {
            env,
            ..StoreEnvOptions::default()
        }
    }

    #[test]
    fn every_scheme_opens() {
        let root = tempfile::tempdir().expect("a directory");
        let aws = options(&[
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("PATH", "/bin"),
        ]);
        for url in [
            "memory://".to_owned(),
            format!("file://{}/zone", root.path().display()),
            format!("file://{}/zone?shape=standard", root.path().display()),
            "memory://?shape=5/20,3".to_owned(),
            "s3://bucket/some/prefix?region=eu-west-1".to_owned(),
            "s3://bucket?endpoint=http://127.0.0.1:9&region=x&allow_http=true&access_key_id=a&secret_access_key=hidden"
                .to_owned(),
            "az://container/p?account_name=acc&access_key=aGlkZGVu".to_owned(),
        ] {
            let store = open_url(&url, &aws).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert!(!format!("{store:?}").contains("hidden"), "{store:?}");
        }
        assert!(!format!("{aws:?}").contains("hidden"));
    }

    #[test]
    fn a_bad_url_is_refused_without_showing_its_secrets() {
        for url in [
            "hidden",
            "s3:///hidden",
            "s3://hidden:hidden@bucket/",
            "s3://bucket?unknown_setting=hidden",
            "s3://bucket?allow_http=hidden",
            "s3://bucket/bad%20prefix/hidden?secret_access_key=hidden",
            "file://relative/path",
            "file:///tmp?secret=hidden",
            "file:///tmp?shape=hidden",
            "memory://?shape=1,2&secret=hidden",
            "ftp://host",
            "az://container?access_key=hidden",
        ] {
            let error = open_url(url, &options(&[])).expect_err(url);
            assert!(matches!(error, StoreError::Invalid(_)), "{url}: {error}");
            assert!(
                !error.to_string().contains("hidden") || url.contains("prefix"),
                "{url}: {error}"
            );
        }
    }
}
