//! Who may call what at a waypoint: the policies of one service over requests, with what only HTTP knows.
mod compile;
mod condition;
mod index;
mod onward;
mod partly;
mod policies;
mod subject;
mod template;
mod token;

pub use partly::{Bounds, Unknown};
pub use policies::{Ask, Policies, PolicyTold, RuleTold};
pub use subject::{Host, Http, Paths, Subject};
pub use token::Token;
