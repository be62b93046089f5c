//! Everything that decides, pure: the mesh as one immutable snapshot, and where a connection goes, on which path, and whether it may.
#![forbid(unsafe_code)]

mod authority;
mod candidates;
mod decode;
mod endpoint;
mod explain;
mod inbound;
mod index;
mod local;
mod names;
mod outbound;
mod pod;
mod prospect;
mod refusal;
mod resource;
mod settings;
mod waypoint;
mod world;

pub use authority::{Authority, AuthorityError, Host};
pub use candidates::{Candidates, candidates};
pub use endpoint::Unusable;
pub use explain::{Explanation, Judged, Judgement, Verdict, admission, explain_inbound};
pub use inbound::{Admitted, inbound_plain, inbound_tunnel, recheck_inbound, relay_inbound};
pub use local::{Local, LocalPod};
pub use names::Answer;
pub use outbound::{Chooser, Outbound, Plain, Relay, Standing, Tunnel, outbound, recheck_outbound};
pub use prospect::{Client, EndpointSeen, Prospect, Resolution, Way, prospect};
pub use refusal::{Refusal, Status};
pub use resource::{Protocol, Service, Waypoint, WaypointTarget, Workload};
pub use settings::{Settings, SettingsError, is_own_port};
pub use waypoint::{Addressed, Served, inbound_waypoint, recheck_waypoint};
pub use world::World;
