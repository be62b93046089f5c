//! What would become of a request that was recorded, at the waypoint of its service.
use trackbed_contract::Identity;
use trackbed_contract::tables::errors;
use trackbed_decide::{Judgement, Verdict};
use trackbed_l7::{Recorded, Replayed};

use super::Mesh;
use super::line::Replay;

/// And what would have to be known where it is not decided.
pub(super) fn replay(mesh: &Mesh, question: &Replay) -> Result<(Judgement, Vec<String>), String> {
    let identity = question.identity.as_deref().map(Identity::parse).transpose();
    let identity = identity.map_err(|error| format!("identity {:?}: {error}", question.identity))?;
    let recorded = Recorded {
        identity: identity.as_ref(),
        address: question.address,
        service: &question.service,
        port: question.port,
        method: question.method.as_deref(),
        authority: question.authority.as_deref(),
        path: question.path.as_deref(),
        token_passed: question.token_passed,
    };
    // A client may have sent what no request is: it was answered then, and cannot be asked again.
    let replayed = match mesh.routes.table().replay(&recorded) {
        Ok(replayed) => replayed,
        Err(reason) => return Ok((Judgement::new(Verdict::Failed, errors::DESTINATION_REFUSED, reason), Vec::new())),
    };
    let Replayed { decided, depends } = replayed;
    let judgement = if depends.is_empty() {
        super::request::judgement(decided)
    } else {
        Judgement::new(Verdict::Depends, "", format!("it depends on {}", depends.join(", ")))
    };
    Ok((judgement, depends))
}
