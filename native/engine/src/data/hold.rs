//! Holding a connection until the pod's workload, policies and certificate are there, and refusing it when they do not come.
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use trackbed_contract::tables::{bounds, errors};
use trackbed_decide::{Local, Refusal, Status, World};
use trackbed_tls::Certified;

use crate::worker::shared::{Pod, Shared};

/// Before the first Welcome there are no settings to say otherwise.
const DEFAULT_HOLD: Duration = Duration::from_millis(bounds::HOLD_MILLISECONDS as u64);

/// A pod that may take part: by this snapshot of the world, as this workload, with this certificate. Not to be kept: it holds the snapshot.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) local: Local,
    pub(crate) certified: Arc<Certified>,
    world: Arc<Option<World>>,
}

impl Ready {
    /// What `ready` found it by. The fallback is never used: without a world nothing is ready.
    pub(crate) fn world(&self) -> Option<&World> {
        self.world.as_ref().as_ref()
    }
}

/// The pod as it is now, or what is missing.
pub(crate) fn ready(shared: &Shared, pod: &Pod) -> Result<Ready, Refusal> {
    if shared.pods.load().get(&pod.local.uid).is_none_or(|held| held.cookie != pod.cookie) {
        return Err(missing(errors::POD_LEFT, "the pod has left the mesh".into()));
    }
    let snapshot = shared.world.load_full();
    let world = snapshot.as_ref().as_ref().ok_or_else(|| missing(errors::WORKLOAD_UNKNOWN, "the director has said nothing yet".into()))?;
    let local = world.local(&pod.local)?;
    if let Some(name) = world.missing_policies(&local.workload).first() {
        return Err(missing(errors::POLICY_UNKNOWN, format!("policy {name} is named by {} and not known", local.workload.uid)));
    }
    let certified = shared.certified(local.identity());
    let certified =
        certified.ok_or_else(|| missing(errors::IDENTITY_MISSING, format!("no valid certificate for {} yet", local.identity())))?;
    Ok(Ready { local, certified, world: snapshot })
}

/// Waits for `ready`, at most for the hold time of the mesh.
pub(crate) async fn hold(shared: &Shared, pod: impl Fn() -> Arc<Pod>) -> Result<Ready, Refusal> {
    hold_for(shared, pod, |_| Ok(())).await
}

/// The same, and for what else the connection needs of the pod.
pub(crate) async fn hold_for(
    shared: &Shared,
    pod: impl Fn() -> Arc<Pod>,
    also: impl Fn(&Pod) -> Result<(), Refusal>,
) -> Result<Ready, Refusal> {
    // Nearly always everything is there, and nobody needs to listen for the bell.
    let now = pod();
    if let Ok(ready) = ready(shared, &now).and_then(|ready| also(&now).map(|()| ready)) {
        return Ok(ready);
    }
    let deadline = Instant::now() + hold_time(shared);
    let mut bell = shared.bell.subscribe();
    loop {
        let pod = pod();
        let missing = match ready(shared, &pod).and_then(|ready| also(&pod).map(|()| ready)) {
            Ok(ready) => return Ok(ready),
            Err(gone) if gone.code == errors::POD_LEFT => return Err(gone),
            Err(missing) => missing,
        };
        if !matches!(tokio::time::timeout_at(deadline, bell.changed()).await, Ok(Ok(()))) {
            return Err(missing);
        }
    }
}

fn hold_time(shared: &Shared) -> Duration {
    shared.world.load().as_ref().as_ref().map_or(DEFAULT_HOLD, |world| world.settings().hold)
}

pub(crate) fn missing(code: &'static str, reason: String) -> Refusal {
    Refusal { code, reason, policy: None, status: Status::Unavailable }
}
