//! Whether a waypoint is to be sent requests, told to whoever asks for `/healthz/ready`.
use std::sync::Arc;
use std::time::Instant;

use super::Control;

impl Control {
    pub(super) fn tell_readiness(&self) {
        if self.is_waypoint() {
            self.say(self.missing());
        }
    }

    /// From now on nobody new is to be sent here.
    pub(super) fn leave(&self) {
        self.say("stopping".to_owned());
    }

    fn say(&self, why: String) {
        if **self.shared.unready.load() == why {
            return;
        }
        if why.is_empty() {
            tracing::info!(target: "health", "ready");
        } else {
            tracing::warn!(target: "health", why, "not ready");
        }
        self.shared.unready.store(Arc::new(why));
    }

    /// What a client would miss. Losing the director takes nothing away: the last state stays in force.
    fn missing(&self) -> String {
        if !self.synced {
            return "control has not said everything yet".to_owned();
        }
        let Some(entry) = self.pods.values().next() else { return "control has not said which pod this is".to_owned() };
        let state = entry.state(self.state.world(), &self.identities, Instant::now());
        let lacks = [
            (entry.leaving.is_some(), "leaving"),
            (!state.listening, "not listening yet"),
            (!state.identity, "no certificate yet"),
            (!state.policy, "its workload or a policy is not known yet"),
        ];
        match lacks.into_iter().find(|(lacks, _)| *lacks) {
            None => String::new(),
            Some(_) if !state.reason.is_empty() => state.reason,
            Some((_, what)) => what.to_owned(),
        }
    }
}
