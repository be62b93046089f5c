//! Endpoint choice: locality rank first, then the less loaded of two drawn by weight.
#![forbid(unsafe_code)]

mod load;
mod pick;
mod rank;

pub use load::{EJECTION_AFTER_FAILURES, Load};
pub use pick::{Endpoint, pick};
pub use rank::{Mode, Place, Scope, rank};
