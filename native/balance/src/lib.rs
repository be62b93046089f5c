//! Endpoint choice. On a node, for connections: locality rank first, then the less loaded of two drawn by weight ([`pick`]). In a waypoint, for
//! requests: by the backend's algorithm, without endpoints that turned out to be outliers ([`Group`]).
#![forbid(unsafe_code)]

mod ewma;
mod group;
mod hash;
mod load;
mod maglev;
mod outlier;
mod pick;
mod rank;
mod ring;
mod slow_start;

pub use group::{Algorithm, Balancing, Group, Member, Seat, Turn, Wish, session};
pub use hash::hash;
pub use load::{EJECTION_AFTER_FAILURES, Load};
pub use maglev::{MAGLEV_SIZE, MAGLEV_SIZE_MAX, is_prime};
pub use outlier::{Board, Cause, Detection, Ejection, Met, Roster, SuccessRate};
pub use pick::{Endpoint, pick};
pub use rank::{Mode, Place, Scope, rank};
pub use ring::{RING_SIZE, RING_SIZE_MAX};
pub use slow_start::SlowStart;
