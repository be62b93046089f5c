//! What must hold for any bytes of a peer: an oracle for each fuzz target. `run.ts` has libFuzzer look for bytes that break one; the tests
//! here hold them against the seeds and against everything that was ever found.
#![forbid(unsafe_code)]
#![allow(clippy::missing_panics_doc, clippy::expect_used, clippy::cast_possible_truncation)] // a panic is the finding

mod authority;
mod frames;
mod hpack;
mod observe;
mod record;
mod script;
pub mod seeds;
mod talk;

pub use authority::authority;
pub use hpack::hpack;
pub use observe::observe;
pub use record::record;

/// A hostile peer, or two of ours.
pub fn h2(data: &[u8]) {
    let mut script = script::Script::new(data);
    match script.byte() {
        Some(first) if first & 1 == 0 => frames::frames(&mut script),
        Some(_) => talk::talk(&mut script),
        None => {}
    }
}
