//! Notices of changes in a pod's namespace, merged so that one replacement of the rules is one notice.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use trackbed_contract::engine::{Drift, DriftKind};
use trackbed_netns::Watch;

use super::Event;

/// Long enough for the hundred messages of one `nft -f`, short enough that a repair begins at once.
const MERGE: Duration = Duration::from_millis(20);
/// A watch whose sockets fail is tried again after this pause, with an overflow notice, because something may have been missed.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs until it is aborted.
pub(super) async fn watch(uid: Arc<str>, cookie: u64, mut watch: Watch, events: mpsc::Sender<Event>) {
    loop {
        let mut merged: BTreeMap<i32, Drift> = BTreeMap::new();
        let mut merge = |kind: DriftKind, pid, process| {
            let drift = Drift { uid: uid.to_string(), kind: kind.into(), pid, process };
            // The first with a name is the most telling.
            merged
                .entry(kind.into())
                .and_modify(|known| {
                    if known.pid == 0 {
                        *known = drift.clone();
                    }
                })
                .or_insert(drift);
        };
        match watch.next().await {
            Ok(notice) => {
                merge(notice.kind.into(), notice.pid, notice.process);
                let until = tokio::time::Instant::now() + MERGE;
                while let Ok(Ok(notice)) = tokio::time::timeout_at(until, watch.next()).await {
                    merge(notice.kind.into(), notice.pid, notice.process);
                }
            }
            Err(error) => {
                tracing::error!(target: "drift", %uid, %error, "changes in the pod's namespace may go unnoticed");
                tokio::time::sleep(PAUSE).await;
                merge(DriftKind::Overflow, 0, String::new());
            }
        }
        if events.send(Event::Drift { uid: Arc::clone(&uid), cookie, drifts: merged.into_values().collect() }).await.is_err() {
            return;
        }
    }
}
