//! Limits on what is under way at one backend, over all threads: beyond them the answer is no, at once.
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use trackbed_contract::traffic;

#[derive(Debug, Default)]
pub(crate) struct Breaker {
    parallel: Arc<Limit>,
    pending: Arc<Limit>,
    retries: Arc<Limit>,
    connections: Option<Arc<Connections>>,
}

/// A count and its limit; 0: none.
#[derive(Debug, Default)]
struct Limit {
    most: u32,
    now: AtomicU32,
}

/// One of a count, until it is dropped. None where there is no limit, for then nothing is counted.
#[derive(Debug)]
pub(crate) struct Counted(Option<Arc<Limit>>);

/// Connections that may be open, and requests that wait for one.
#[derive(Debug)]
struct Connections {
    permits: Arc<Semaphore>,
    waiting: AtomicU32,
    /// Somebody waits: whoever has an idle connection lets it go.
    wanted: tokio::sync::Notify,
}

#[derive(Debug, thiserror::Error)]
#[error("the backend's limit of {0} is reached")]
pub(crate) struct Open(pub(crate) &'static str);

impl Breaker {
    pub(super) fn new(from: &traffic::CircuitBreaker) -> Self {
        let limit = |most| Arc::new(Limit { most, now: AtomicU32::new(0) });
        let connections = (from.max_connections > 0).then(|| {
            let permits = Arc::new(Semaphore::new(from.max_connections as usize));
            Arc::new(Connections { permits, waiting: AtomicU32::new(0), wanted: tokio::sync::Notify::new() })
        });
        Self {
            parallel: limit(from.max_parallel_requests),
            pending: limit(from.max_pending_requests),
            retries: limit(from.max_parallel_retries),
            connections,
        }
    }

    pub(crate) fn request(&self) -> Result<Counted, Open> {
        Limit::count(&self.parallel, "parallel requests")
    }

    pub(crate) fn retry(&self) -> Result<Counted, Open> {
        Limit::count(&self.retries, "parallel retries")
    }

    /// While it waits for a connection.
    pub(crate) fn pending(&self) -> Result<Counted, Open> {
        Limit::count(&self.pending, "pending requests")
    }

    /// To be held by the connection. None: there is no limit.
    pub(crate) async fn connection(&self) -> Option<OwnedSemaphorePermit> {
        let connections = self.connections.as_ref()?;
        if let Ok(permit) = Arc::clone(&connections.permits).try_acquire_owned() {
            return Some(permit);
        }
        connections.waiting.fetch_add(1, Relaxed);
        let _waiting = Waiting(connections);
        connections.wanted.notify_waiters();
        // Nobody closes it.
        Arc::clone(&connections.permits).acquire_owned().await.ok()
    }

    /// Where connections are limited: to hear that somebody waits for one.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        self.connections.clone().map(Wanted)
    }

    /// Somebody waits for a connection: an idle one is not kept.
    pub(crate) fn is_wanted(&self) -> bool {
        self.connections.as_ref().is_some_and(|connections| connections.waiting.load(Relaxed) > 0)
    }
}

#[derive(Debug)]
pub(crate) struct Wanted(Arc<Connections>);

impl Wanted {
    pub(crate) async fn again(&self) {
        self.0.wanted.notified().await;
    }
}

struct Waiting<'a>(&'a Connections);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Relaxed);
    }
}

impl Limit {
    fn count(this: &Arc<Self>, what: &'static str) -> Result<Counted, Open> {
        if this.most == 0 {
            return Ok(Counted(None));
        }
        let counted = this.now.fetch_update(Relaxed, Relaxed, |now| (now < this.most).then_some(now + 1));
        counted.map(|_| Counted(Some(Arc::clone(this)))).map_err(|_| Open(what))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(limit) = &self.0 {
            limit.now.fetch_sub(1, Relaxed);
        }
    }
}
