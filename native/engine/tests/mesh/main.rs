//! The engine as a process: driven by a test director, between pods that are real network namespaces.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up shall stop")]
mod director;
mod lab;
mod mesh;
#[path = "../../../netns/tests/net/mod.rs"]
mod net;

mod contract;
mod deaths;
mod limits;
mod names;
mod observe;
mod paths;
mod pods;
mod policy;
mod recording;
mod waypoint;

use std::time::Duration;

/// Everything here answers within milliseconds; a busy machine gets this long.
const PATIENCE: Duration = Duration::from_secs(20);
const PORT: u16 = 8080;
