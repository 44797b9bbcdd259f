//! The settings of the Express zones.

use std::time::Duration;

use millrace_api::config::StorageClass;
use millrace_api::id::NodeId;

use super::{ConfigError, Settings};
use crate::cluster::ClusterConfig;
use crate::zones::{EXPRESS_ZONES, zone_numbers};

const LINGER_DEFAULT: Duration = Duration::from_millis(1);
/// What the URL of a node's disk begins with.
const DISK: &str = "disk://";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpressConfig {
    /// In the order of the zones' numbers, three and all different.
    pub zones: Vec<ExpressZone>,
    /// The place of the zone that reads ask first.
    pub near: Option<usize>,
    /// The number of a zone whose store is lost, and replaced by an empty one at this start.
    pub replace: Option<u32>,
    pub linger: Duration,
}

/// Where a zone is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExpressZone {
    Url(String),
    /// The disk of a node of the cluster.
    Disk(NodeId),
}

/// `None` where nothing asks for Express.
pub(super) fn resolve(
    settings: &Settings,
    cluster: Option<&ClusterConfig>,
) -> Result<Option<ExpressConfig>, ConfigError> {
    let Some(list) = &settings.express else {
        return match (
            settings.express_near,
            settings.express_linger,
            settings.express_replace,
        ) {
            (None, None, None) => Ok(None),
            _ => Err(invalid(
                "express-near, express-linger and express-replace go with express",
            )),
        };
    };
    let zones = list.split(',').map(|url| parse(url.trim(), cluster));
    let zones = zones.collect::<Result<Vec<_>, _>>()?;
    if zones.len() != EXPRESS_ZONES {
        return Err(invalid(format!(
            "express names {EXPRESS_ZONES} zones, URL,URL,URL, not {}",
            zones.len()
        )));
    }
    for (at, zone) in zones.iter().enumerate() {
        let in_memory = matches!(zone, ExpressZone::Url(url) if url.starts_with("memory:"));
        if zones[..at].contains(zone) && !in_memory {
            return Err(invalid(format!(
                "express names one store twice, as zone {}",
                at + 1
            )));
        }
    }
    let own = cluster.map(|cluster| ExpressZone::Disk(cluster.node));
    let near = match settings.express_near {
        Some(near) if (1..=EXPRESS_ZONES).contains(&near) => Some(near - 1),
        Some(near) => {
            return Err(invalid(format!(
                "express-near is 1 to {EXPRESS_ZONES}, not {near}"
            )));
        }
        None => own.and_then(|own| zones.iter().position(|zone| *zone == own)),
    };
    let replace = settings.express_replace;
    if let Some(number) = replace {
        if cluster.is_some() {
            return Err(invalid(format!(
                "express-replace is for a node that is alone: ask a cluster with `millrace cluster zones replace {number}`"
            )));
        }
        if !zone_numbers(StorageClass::Express).contains(&number) {
            return Err(invalid(format!(
                "express-replace is 1 to {EXPRESS_ZONES}, not {number}"
            )));
        }
    }
    Ok(Some(ExpressConfig {
        zones,
        near,
        replace,
        linger: settings.express_linger.unwrap_or(LINGER_DEFAULT),
    }))
}

fn parse(url: &str, cluster: Option<&ClusterConfig>) -> Result<ExpressZone, ConfigError> {
    let Some(node) = url.strip_prefix(DISK) else {
        // What kinds there are is up to whoever opens it; the text may hold secrets.
        return match url::Url::parse(url) {
            Ok(_) => Ok(ExpressZone::Url(url.to_owned())),
            Err(error) => Err(invalid(format!("express: a zone's URL is not one: {error}"))),
        };
    };
    if cluster.is_none() {
        return Err(invalid("express: disk://NODE is for nodes of a cluster"));
    }
    let node = node.trim_end_matches('/').parse();
    let node = node.map_err(|_| invalid("express: disk://NODE takes the number of a node"))?;
    Ok(ExpressZone::Disk(NodeId(node)))
}

fn invalid(why: impl Into<String>) -> ConfigError {
    ConfigError::Invalid(why.into())
}

#[cfg(test)]
mod tests {
    use super::super::NodeConfig;
    use super::*;

    fn cluster(node: u64) -> Settings {
        Settings {
            node_id: Some(node),
            cluster_addr: Some(([127, 0, 0, 1], 7002).into()),
            cluster_plain: Some(true),
            ..Settings::default()
        }
    }

    fn express(settings: Settings, list: &str) -> Result<Option<ExpressConfig>, ConfigError> {
        let express = Some(list.into());
        NodeConfig::resolve(Settings { express, ..settings }).map(|config| config.express)
    }

    #[test]
    fn three_stores_make_express_and_the_own_disk_is_near() {
        let config = express(cluster(2), "disk://1,disk://2, disk://3")
            .unwrap()
            .unwrap();
        assert_eq!(config.zones[2], ExpressZone::Disk(NodeId(3)));
        assert_eq!((config.near, config.linger), (Some(1), LINGER_DEFAULT));
        let files = express(Settings::default(), "file:///a,file:///b,s3://c?region=eu").unwrap();
        assert_eq!(files.unwrap().near, None);
        assert_eq!(NodeConfig::resolve(Settings::default()).unwrap().express, None);
    }

    #[test]
    fn zones_that_cannot_be_are_refused_with_a_reason() {
        let refused = |settings, list| express(settings, list).unwrap_err().to_string();
        let alone = Settings::default;
        assert!(refused(alone(), "file:///a,file:///b").contains("not 2"));
        assert!(refused(alone(), "file:///a,file:///b,file:///a").contains("twice"));
        assert!(refused(alone(), "disk://1,disk://2,disk://3").contains("cluster"));
        assert!(refused(cluster(1), "disk://1,disk://2,disk://x").contains("number"));
        assert!(refused(alone(), "a,b,c").contains("not one"));
        let near = Settings {
            express_near: Some(4),
            ..Settings::default()
        };
        assert!(refused(near, "file:///a,file:///b,file:///c").contains("1 to 3"));
        let replacing = |number, settings| Settings {
            express_replace: Some(number),
            ..settings
        };
        assert!(refused(replacing(4, alone()), "file:///a,file:///b,file:///c").contains("1 to 3"));
        assert!(refused(replacing(1, cluster(1)), "disk://1,disk://2,disk://3").contains("zones replace 1"));
    }
}
