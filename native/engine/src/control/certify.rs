//! Certificates on their way: asked for over the director's stream, checked, published, left with the keeper.
use std::time::Instant;

use trackbed_contract::Identity;
use trackbed_contract::engine::{CertificateReply, from_engine};

use super::identities::Outcome;
use super::{Control, identity_key};

impl Control {
    pub(super) fn ask_for_certificates(&mut self) {
        if self.outbox.is_none() {
            return;
        }
        for request in self.identities.due(Instant::now()) {
            self.tell(from_engine::Message::CertificateRequest(request));
        }
    }

    pub(super) async fn certified(&mut self, reply: &CertificateReply) {
        match self.identities.reply(reply, Instant::now()) {
            Outcome::Certified { certified, key, reply } => {
                let uri = certified.identity().to_string();
                self.safe.put_blob(&identity_key(&uri), [&key[..], &reply[..]]);
                tracing::info!(target: "identity", identity = uri, serial = certified.serial(), "certificate accepted");
                self.publish_identities();
                self.recheck(None).await;
            }
            Outcome::Failed { identity, trouble } => {
                let message = format!("no certificate for {identity}: {}", trouble.reason);
                self.shared.reports.event("warn", &trouble.code, "", message);
            }
            Outcome::Stale => tracing::debug!(target: "identity", id = reply.request_id, "a reply that nobody waits for"),
        }
        self.tell_changes();
    }

    pub(super) fn leave_identity(&mut self, identity: &Identity, uid: &str) {
        if self.identities.remove(identity, uid) {
            self.forget_identity(identity);
        }
    }

    pub(super) fn forget_identity(&mut self, identity: &Identity) {
        self.identities.forget(identity);
        self.safe.drop_prefix(&identity_key(identity.as_str()));
        self.publish_identities();
    }
}
