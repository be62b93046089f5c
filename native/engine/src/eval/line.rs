//! The lines that `eval` reads and writes: each an object with one key that says what it is. What is not known is an error.
use std::net::IpAddr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use trackbed_contract::engine::{self, MeshSettings, ResourceType, StateDelta};
use trackbed_decide::{Judgement, Prospect};

use super::request::RequestTold;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Line {
    /// Begins an empty mesh. Not answered.
    Settings(MeshLine),
    /// Changes it as a StateDelta would.
    State(State),
    Connect(Connect),
    Admit(Admit),
    Replay(Replay),
}

/// MeshSettings as far as they decide anything here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct MeshLine {
    trust_domain: String,
    cluster_domain: String,
    #[serde(default)]
    network: String,
    #[serde(default)]
    encrypt_same_node: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct State {
    #[serde(default)]
    reset: bool,
    #[serde(default)]
    upsert: Vec<Resource>,
    #[serde(default)]
    remove: Vec<Key>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Resource {
    r#type: Type,
    name: String,
    version: String,
    /// The encoded message, Base64 with padding.
    body: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Key {
    r#type: Type,
    name: String,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Type {
    Address,
    Authorization,
    /// For waypoints.
    Routes,
    Access,
}

/// What becomes of a connection, and why.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Connect {
    pub(super) id: String,
    pub(super) source: Source,
    /// An address or a name.
    pub(super) host: String,
    pub(super) port: u16,
    /// What a waypoint on the way would be asked.
    #[serde(default)]
    pub(super) request: Option<Request>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Request {
    pub(super) method: String,
    /// With the query.
    pub(super) path: String,
    /// Name and value.
    #[serde(default)]
    pub(super) headers: Vec<(String, String)>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Source {
    /// Its uid.
    Workload(String),
    /// Of somebody outside the mesh.
    Address(IpAddr),
}

/// Whether the workload's own engine admits a client: the verdict alone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Admit {
    pub(super) id: String,
    /// spiffe://…; null = plaintext.
    pub(super) identity: Option<String>,
    /// Null = not known.
    pub(super) address: Option<IpAddr>,
    /// Uid of the destination.
    pub(super) workload: String,
    /// Where its application listens.
    pub(super) port: u16,
}

/// Whether a waypoint would admit a request that was recorded: null = the record does not say.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Replay {
    pub(super) id: String,
    /// spiffe://…; null = the client had none.
    pub(super) identity: Option<String>,
    pub(super) address: Option<IpAddr>,
    /// "namespace/hostname"; "*" = a pod by its own address.
    pub(super) service: Arc<str>,
    pub(super) port: Option<u16>,
    pub(super) method: Option<String>,
    pub(super) authority: Option<String>,
    /// Without the query, otherwise as the client sent it.
    pub(super) path: Option<String>,
    /// Token rules are the same as when they let it pass.
    pub(super) token_passed: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Answer {
    State {
        rejected: Vec<Rejected>,
    },
    Connect {
        id: String,
        #[serde(flatten)]
        answer: Box<Prospect>,
        requests: Vec<RequestTold>,
    },
    Admit {
        id: String,
        #[serde(flatten)]
        answer: Judgement,
    },
    Replay {
        id: String,
        #[serde(flatten)]
        answer: Judgement,
        /// What would have to be known.
        depends: Vec<String>,
    },
}

/// A resource that cannot be used, as Applied would name it.
#[derive(Debug, Serialize)]
pub(super) struct Rejected {
    name: String,
    code: String,
    reason: String,
}

impl From<engine::Rejected> for Rejected {
    fn from(engine::Rejected { name, code, reason, .. }: engine::Rejected) -> Self {
        Self { name, code, reason }
    }
}

impl From<MeshLine> for MeshSettings {
    fn from(line: MeshLine) -> Self {
        let MeshLine { trust_domain, cluster_domain, network, encrypt_same_node } = line;
        Self { trust_domain, cluster_domain, network, encrypt_same_node, ..Self::default() }
    }
}

impl From<Type> for ResourceType {
    fn from(of: Type) -> Self {
        match of {
            Type::Address => Self::Address,
            Type::Authorization => Self::Authorization,
            Type::Routes => Self::Routes,
            Type::Access => Self::Access,
        }
    }
}

impl State {
    pub(super) fn delta(self, generation: u64) -> Result<StateDelta, String> {
        let upsert = self.upsert.into_iter().map(|Resource { r#type, name, version, body }| {
            let body = STANDARD.decode(body).map_err(|error| format!("body of {name}: {error}"))?;
            Ok(engine::Resource { r#type: ResourceType::from(r#type).into(), name, version, body })
        });
        let remove =
            self.remove.into_iter().map(|Key { r#type, name }| engine::ResourceKey { r#type: ResourceType::from(r#type).into(), name });
        Ok(StateDelta { generation, reset: self.reset, upsert: upsert.collect::<Result<_, String>>()?, remove: remove.collect() })
    }
}
