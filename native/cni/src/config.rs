//! The configuration on stdin: read for the little that concerns us, passed through for the rest.
use std::{net::IpAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    answer::Failure,
    tables::{paths, product, wire::CNI_VERSIONS},
};

/// Oldest first.
pub(crate) fn versions() -> Vec<&'static str> {
    CNI_VERSIONS.split(' ').collect()
}

pub(crate) fn newest() -> &'static str {
    CNI_VERSIONS.rsplit(' ').next().unwrap_or(CNI_VERSIONS)
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    pub(crate) cni_version: String,
    pub(crate) prev_result: Option<Value>,
    /// Socket of the daemon, where it is not at its usual place.
    socket: Option<PathBuf>,
    /// File of the daemon's last decisions, likewise.
    decisions: Option<PathBuf>,
    /// How long a new pod waits for a daemon that is away, where it is not the usual time.
    coming_milliseconds: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Addresses {
    #[serde(default)]
    ips: Vec<AssignedIp>,
    #[serde(default)]
    interfaces: Vec<Interface>,
}

#[derive(Debug, Deserialize)]
struct AssignedIp {
    address: String,
    interface: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Interface {
    #[serde(default)]
    sandbox: String,
}

impl Config {
    pub(crate) fn parse(input: &[u8]) -> Result<Self, Failure> {
        let config: Self = serde_json::from_slice(input)
            .map_err(|error| Failure::undecodable(format!("the CNI configuration on stdin is not understood: {error}")))?;
        if versions().contains(&config.cni_version.as_str()) {
            return Ok(config);
        }
        let known = versions().join(", ");
        Err(Failure::version(format!("CNI version {:?} is not supported; {} speaks {known}", config.cni_version, paths::CNI_PLUGIN)))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| [paths::RUN, paths::CNI_SOCKET].iter().collect())
    }

    pub(crate) fn decisions(&self) -> PathBuf {
        self.decisions.clone().unwrap_or_else(|| [paths::CNI_STATE, paths::CNI_DECISIONS].iter().collect())
    }

    pub(crate) fn coming(&self) -> Option<Duration> {
        self.coming_milliseconds.map(Duration::from_millis)
    }

    /// What the plugins before us made. We set up no interface, so without them there is nothing to capture.
    pub(crate) fn previous(&self) -> Result<&Value, Failure> {
        self.prev_result.as_ref().filter(|result| !result.is_null()).ok_or_else(|| {
            Failure::config(format!(
                "prevResult is missing: {} must be chained after a plugin that makes the pod's interface",
                product::NAME
            ))
        })
    }

    /// The pod's addresses: those on an interface inside the sandbox, or on none that is named.
    pub(crate) fn addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        let result = self.previous()?;
        let wrong = |what: String| Failure::undecodable(format!("prevResult is not understood: {what}"));
        let found: Addresses = serde_json::from_value(result.clone()).map_err(|error| wrong(error.to_string()))?;
        let inside = |ip: &AssignedIp| {
            ip.interface.and_then(|index| found.interfaces.get(index)).is_none_or(|interface| !interface.sandbox.is_empty())
        };
        let parse = |ip: &AssignedIp| {
            let address = ip.address.split('/').next().unwrap_or_default();
            address.parse::<IpAddr>().map_err(|_| wrong(format!("ips[].address {:?} is no address", ip.address)))
        };
        found.ips.iter().filter(|ip| inside(ip)).map(parse).collect()
    }
}

/// The version to answer in when the rest of the configuration may not be understood.
pub(crate) fn version_of(input: &[u8]) -> &'static str {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        cni_version: String,
    }
    let asked = serde_json::from_slice::<Version>(input).map(|version| version.cni_version).unwrap_or_default();
    versions().into_iter().find(|known| *known == asked).unwrap_or(newest())
}
