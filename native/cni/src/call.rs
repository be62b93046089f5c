//! One call of the runtime: which container of which pod, from the environment that the CNI specification defines.
use std::{net::IpAddr, path::Path};

use serde::Serialize;

use crate::answer::Failure;

/// The body of /cni/add, /cni/check and /cni/del.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Call {
    pub(crate) container_id: String,
    /// Without symbolic links, so that it means the same below another root. Empty when a namespace is already gone (DEL).
    pub(crate) netns: String,
    pub(crate) if_name: String,
    pub(crate) pod_namespace: String,
    pub(crate) pod_name: String,
    pub(crate) pod_uid: String,
    pub(crate) ips: Vec<IpAddr>,
}

impl Call {
    /// None when this is no pod of Kubernetes: then it is none of ours.
    pub(crate) fn from_environment(environment: impl Fn(&str) -> Option<String>) -> Result<Option<Self>, Failure> {
        let given = |name: &str| environment(name).filter(|value| !value.is_empty());
        let arguments = given("CNI_ARGS").unwrap_or_default();
        let argument = |name: &str| arguments.split(';').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name);
        let value = |name: &str| argument(name).map(|(_, value)| value.to_owned()).unwrap_or_default();
        let (pod_namespace, pod_name, pod_uid) = (value("K8S_POD_NAMESPACE"), value("K8S_POD_NAME"), value("K8S_POD_UID"));
        if pod_namespace.is_empty() && pod_name.is_empty() {
            return Ok(None);
        }
        for (name, value) in [("K8S_POD_NAMESPACE", &pod_namespace), ("K8S_POD_NAME", &pod_name), ("K8S_POD_UID", &pod_uid)] {
            if value.is_empty() {
                return Err(Failure::environment(format!("CNI_ARGS {arguments:?} lacks {name}")));
            }
        }
        let needed = |name: &str| given(name).ok_or_else(|| Failure::environment(format!("{name} is not set")));
        Ok(Some(Self {
            container_id: needed("CNI_CONTAINERID")?,
            netns: given("CNI_NETNS").map(|path| resolved(&path)).unwrap_or_default(),
            if_name: given("CNI_IFNAME").unwrap_or_default(),
            pod_namespace,
            pod_name,
            pod_uid,
            ips: Vec::new(),
        }))
    }

    pub(crate) fn pod(&self) -> String {
        format!("{}/{}", self.pod_namespace, self.pod_name)
    }
}

/// A path that cannot be resolved is given as it is: the daemon names it when it does not find it either.
fn resolved(path: &str) -> String {
    Path::new(path).canonicalize().ok().and_then(|path| path.into_os_string().into_string().ok()).unwrap_or_else(|| path.to_owned())
}
