//! The one authorization evaluator: policies compiled strictly from the wire, and the verdict over a connection at its destination's node, or over a request
//! at a waypoint.
#![forbid(unsafe_code)]

mod access;
mod evaluate;
mod parse;
pub mod path;
mod policy;
mod why;

pub use access::{Ask, Bounds, Host, Http, Paths, Policies, PolicyTold, RuleTold, Subject, Token, Unknown};
pub use evaluate::{Candidate, Considered, Decision, Effect, Evaluation, PolicyRef, Refused, evaluate, explain, keeps_out};
pub use parse::{PolicyError, Problem};
pub use policy::{Action, Connection, Intermediary, Policy, Rejected, Scope};
pub use why::{Miss, RuleSaid};
