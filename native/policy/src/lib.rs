//! The one L4 authorization evaluator: policies compiled strictly from the wire, and the verdict over a connection.
#![forbid(unsafe_code)]

mod evaluate;
mod parse;
mod policy;
mod why;

pub use evaluate::{Candidate, Considered, Decision, Effect, Evaluation, PolicyRef, Refused, evaluate, explain, keeps_out};
pub use parse::{PolicyError, Problem};
pub use policy::{Action, Connection, Intermediary, Policy, Rejected, Scope};
pub use why::{Miss, RuleSaid};
