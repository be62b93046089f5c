//! What happens to a new pod when nobody answers: the daemon's last word about its namespace decides, and doubt refuses.
use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use crate::tables::product;

/// The mesh must never keep the cluster from healing itself.
const ALWAYS_PASS: [&str; 2] = [product::CONTROL_PLANE_NAMESPACE, "kube-system"];

/// The file that the daemon writes. Whether a namespace is enrolled, or has pods in the cluster that are by a label of their own.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    kind: String,
    format: u32,
    namespaces: BTreeMap<String, bool>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    NotEnrolled,
    Enrolled,
    /// Why nobody can say.
    Unknown(String),
}

pub(crate) fn always_passes(namespace: &str) -> bool {
    ALWAYS_PASS.contains(&namespace)
}

pub(crate) fn decide(path: &Path, namespace: &str) -> Decision {
    match read(path) {
        Ok(file) => match file.namespaces.get(namespace) {
            Some(false) => Decision::NotEnrolled,
            Some(true) => Decision::Enrolled,
            None => Decision::Unknown(format!("{} does not name it", path.display())),
        },
        Err(reason) => Decision::Unknown(format!("{} {reason}", path.display())),
    }
}

fn read(path: &Path) -> Result<File, String> {
    let text = std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))?;
    let file: File = serde_json::from_slice(&text).map_err(|error| format!("is damaged: {error}"))?;
    if file.kind != "trackbed-namespaces" || file.format != 1 {
        return Err(format!("has kind {:?} and format {}, not trackbed-namespaces 1", file.kind, file.format));
    }
    Ok(file)
}
