//! What a request meets before anything is done for it: rate limits, load shedding, faults on purpose, and how large it may be.
use crate::ahead::Ahead;
use crate::limits::DELAYED;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::traffic::{Abort, About, Scope};
use crate::{Context, Flag, Upstream};
use http::StatusCode;
use http_body::Body;
use std::cell::Cell;
use tokio::time::{Instant, sleep};

/// Rate limits come first: what they refuse is not to take room from others. Faults are for what would have been sent on.
pub(crate) async fn restrain<U: Upstream>(
    context: &Context<U>,
    scope: &Scope,
    about: &About<'_>,
    incoming: &Ahead,
    record: &mut Record,
) -> Result<(), Refusal> {
    let now = Instant::now().into_std();
    if let Err(exceeded) = scope.take(about, now) {
        record.limited_by = Some(exceeded.limiter.name().into());
        let refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, Flag::RateLimited, "there are more requests than are admitted");
        return Err(Refusal { retry_after: exceeded.wait, ..refusal });
    }
    if scope.most_body_bytes.is_some_and(|most| incoming.size_hint().lower() > most) {
        return Err(too_large());
    }
    match scope.admit(about, now) {
        Ok(pass) => record.pass = pass,
        Err(gate) => {
            record.limited_by = Some(gate.name().into());
            return Err(Refusal::unavailable(Flag::Overloaded, "more requests are under way than are admitted"));
        }
    }
    let Some(fault) = &scope.fault else { return Ok(()) };
    if let Some(delay) = fault.delay()
        && context.delayed.get() < DELAYED
    {
        record.flag(Flag::Delayed);
        let _held = Held::back(&context.delayed);
        sleep(delay).await;
    }
    match fault.abort() {
        None => Ok(()),
        Some(Abort { status, grpc }) => Err(Refusal { grpc, ..Refusal::new(status, Flag::FaultInjected, "a fault was injected") }),
    }
}

pub(crate) fn too_large() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, Flag::TooLarge, "the request's body is larger than what is admitted")
}

/// One of those that are held back; its client may go away meanwhile.
struct Held<'a>(&'a Cell<usize>);

impl<'a> Held<'a> {
    fn back(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
