//! Basins and streams that a file declares: created where they are missing, converged where they differ. Nothing
//! that the file does not name is touched.

use std::path::Path;
use std::time::Duration;

use millrace_api::config::{BasinConfig, RetentionPolicy, StorageClass, StreamConfig, TimestampingMode};
use millrace_api::name::{BasinName, InvalidName, StreamName};
use serde::Deserialize;

use crate::config::{ConfigError, read_toml};
use crate::error::ServiceError;
use crate::frontend::service::Frontend;
use crate::frontend::service::types::{CreateBasin, ProvisionOutcome};

/// The file as a whole; TOML, or JSON if its name ends in `.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    #[serde(default)]
    basins: Vec<Basin>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Basin {
    name: String,
    #[serde(default)]
    config: BasinSettings,
    #[serde(default)]
    streams: Vec<Stream>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stream {
    name: String,
    #[serde(default)]
    config: StreamSettings,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BasinSettings {
    #[serde(default)]
    default_stream_config: StreamSettings,
    #[serde(default)]
    create_stream_on_append: bool,
    #[serde(default)]
    create_stream_on_read: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamSettings {
    storage_class: Option<StorageClassName>,
    /// `infinite`, or an age such as `7d`.
    retention_policy: Option<String>,
    #[serde(default)]
    timestamping: Timestamping,
    #[serde(default)]
    delete_on_empty: DeleteOnEmpty,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Timestamping {
    mode: Option<TimestampingModeName>,
    uncapped: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteOnEmpty {
    #[serde(default, with = "humantime_serde::option")]
    min_age: Option<Duration>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StorageClassName {
    Standard,
    Express,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum TimestampingModeName {
    ClientPrefer,
    ClientRequire,
    Arrival,
}

#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("init file: {0}")]
    Json(#[from] serde_json::Error),
    #[error("init file: {0}")]
    Name(#[from] InvalidName),
    #[error("init file: retention_policy {0:?} is neither \"infinite\" nor an age such as \"7d\"")]
    Retention(String),
    #[error("init file: {name}: {cause}")]
    Refused { name: String, cause: ServiceError },
}

/// What applying a declaration did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Converged {
    pub created: usize,
    pub updated: usize,
    pub unchanged: usize,
}

impl Declaration {
    pub fn read(path: &Path) -> Result<Self, InitError> {
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(path).map_err(|cause| ConfigError::Unreadable {
                path: path.to_owned(),
                cause,
            })?;
            return Ok(serde_json::from_str(&text)?);
        }
        Ok(read_toml(path)?)
    }

    /// Makes it so. What was done before a failure stays done; applying again goes on.
    pub async fn apply(&self, frontend: &Frontend) -> Result<Converged, InitError> {
        let mut converged = Converged::default();
        for basin in &self.basins {
            let name = BasinName::new(&basin.name)?;
            let request = CreateBasin {
                config: basin.config.to_config()?,
                ..CreateBasin::default()
            };
            let done = frontend.ensure_basin(name.clone(), request).await;
            converged.count(done.map_err(|cause| refused(&basin.name, cause))?.outcome);
            for stream in &basin.streams {
                let config = stream.config.to_config()?;
                let done = frontend
                    .ensure_stream(&name, StreamName::new(&stream.name)?, config)
                    .await;
                converged.count(done.map_err(|cause| refused(&stream.name, cause))?.outcome);
            }
        }
        Ok(converged)
    }
}

impl Converged {
    fn count(&mut self, outcome: ProvisionOutcome) {
        *match outcome {
            ProvisionOutcome::Created => &mut self.created,
            ProvisionOutcome::Updated => &mut self.updated,
            ProvisionOutcome::Noop => &mut self.unchanged,
        } += 1;
    }
}

fn refused(name: &str, cause: ServiceError) -> InitError {
    InitError::Refused {
        name: name.to_owned(),
        cause,
    }
}

impl BasinSettings {
    fn to_config(&self) -> Result<BasinConfig, InitError> {
        Ok(BasinConfig {
            default_stream_config: self.default_stream_config.to_config()?,
            stream_cipher: None,
            create_stream_on_append: self.create_stream_on_append,
            create_stream_on_read: self.create_stream_on_read,
        })
    }
}

impl StreamSettings {
    fn to_config(&self) -> Result<StreamConfig, InitError> {
        Ok(StreamConfig {
            storage_class: self.storage_class.map(|class| match class {
                StorageClassName::Standard => StorageClass::Standard,
                StorageClassName::Express => StorageClass::Express,
            }),
            retention: self.retention_policy.as_deref().map(retention).transpose()?,
            timestamping_mode: self.timestamping.mode.map(|mode| match mode {
                TimestampingModeName::ClientPrefer => TimestampingMode::ClientPrefer,
                TimestampingModeName::ClientRequire => TimestampingMode::ClientRequire,
                TimestampingModeName::Arrival => TimestampingMode::Arrival,
            }),
            timestamping_uncapped: self.timestamping.uncapped,
            delete_on_empty_min_age_secs: self.delete_on_empty.min_age.map(|age| age.as_secs()),
        })
    }
}

fn retention(text: &str) -> Result<RetentionPolicy, InitError> {
    if text.eq_ignore_ascii_case("infinite") {
        return Ok(RetentionPolicy::Infinite);
    }
    let age = humantime::parse_duration(text).map_err(|_| InitError::Retention(text.to_owned()))?;
    Ok(RetentionPolicy::Age(age.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_json_declare_the_same() {
        let toml: Declaration = toml::from_str(
            r#"
            [[basins]]
            name = "my-basin"
            config = { create_stream_on_append = true, default_stream_config = { retention_policy = "10days" } }

            [[basins.streams]]
            name = "events"
            config = { storage_class = "standard", delete_on_empty = { min_age = "1h" } }
            "#,
        )
        .unwrap();
        let json: Declaration = serde_json::from_str(
            r#"{"basins": [{"name": "my-basin", "config": {"create_stream_on_append": true,
                "default_stream_config": {"retention_policy": "10days"}},
                "streams": [{"name": "events", "config": {"storage_class": "standard",
                "delete_on_empty": {"min_age": "1h"}}}]}]}"#,
        )
        .unwrap();
        assert_eq!(format!("{toml:?}"), format!("{json:?}"));
        let config = toml.basins[0].config.to_config().unwrap();
        assert_eq!(
            config.default_stream_config.retention,
            Some(RetentionPolicy::Age(864_000))
        );
    }

    #[test]
    fn misspelt_field_is_refused() {
        assert!(toml::from_str::<Declaration>("[[basins]]\nname = 'my-basin'\nstream = []").is_err());
        assert!(retention("soon").is_err());
    }
}
