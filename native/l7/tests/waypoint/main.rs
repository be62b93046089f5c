//! A waypoint's HTTP half against real TCP servers and clients in this process.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
mod access;
mod balancing;
mod differential;
mod envoy;
mod external;
mod limits;
mod mirrors;
mod nginx;
mod onward;
mod outliers;
mod peers;
mod replay;
mod retries;
mod routing;
mod shaping;
mod streams;
mod strict;
mod support;
mod tokens;
mod versions;
