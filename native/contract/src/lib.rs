//! What the engine shares with the TypeScript side: messages and tables generated from `proto/`, and the identities of the mesh.

/// `proto/engine.proto`: the contract with the director.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]
pub mod engine {
    include!("gen/trackbed.engine.v1.rs");
}

/// `proto/route.proto`: what a waypoint knows about the services that it serves.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]
pub mod route {
    include!("gen/trackbed.route.v1.rs");
}

/// `proto/traffic.proto`: what a waypoint does when it gets too much.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]
pub mod traffic {
    include!("gen/trackbed.traffic.v1.rs");
}

/// `proto/authorization.proto`: who may call what at a waypoint.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]
pub mod authorization {
    include!("gen/trackbed.authorization.v1.rs");
}

/// `proto/envoy/authorization.proto`: Envoy's protocol of external authorization.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]
pub mod ext_authz {
    include!("gen/envoy.service.auth.v3.rs");
}

/// Istio's messages for node proxies. The module names are the proto packages': generated code refers to `super::workload`.
#[allow(clippy::all, clippy::pedantic, missing_debug_implementations, unreachable_pub)]
pub mod istio {
    pub mod workload {
        include!("gen/istio.workload.rs");
    }
    pub mod security {
        include!("gen/istio.security.rs");
    }
}

pub mod identity;
pub mod tables;

pub use identity::{Identity, IdentityError, TrustDomain};
