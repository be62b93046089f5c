//! Connections to endpoints that wait for the next request: the one used last first, so that those too many grow old and go.
use crate::ConnectError;
use crate::limits::{IDLE, IDLE_OF_ENDPOINT, IDLE_SWEEP, STREAMS};
use crate::link::{Http1, Http2, Terms};
use crate::traffic::Wanted;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use tokio::time::timeout;

/// Uid and address: a workload that comes back under another address is reached anew.
pub(crate) type Key = (Arc<str>, SocketAddr);

pub(crate) struct Pool<Io> {
    places: RefCell<HashMap<Key, Rc<Place<Io>>>>,
    idle: Cell<usize>,
    sweeping: Cell<bool>,
}

/// All connections to one endpoint. Gone from the pool, it takes nothing back.
pub(crate) struct Place<Io> {
    key: Key,
    http1: RefCell<Vec<(Http1<Io>, Instant)>>,
    http2: RefCell<Vec<Shared>>,
    /// Held while a shared connection is made: a hundred requests at once need one, not a hundred.
    pub(crate) dialing: Mutex<()>,
    /// How often that failed, and how the last time: those who waited for it have failed with it.
    failures: RefCell<(u64, Option<ConnectError>)>,
    /// Idle connections are let go where others wait for one.
    yields: Cell<bool>,
}

struct Shared {
    link: Http2,
    terms: Terms,
    /// One more owner for each stream that is open.
    streams: Rc<()>,
    used: Instant,
}

impl<Io: 'static> Pool<Io> {
    pub(crate) fn new() -> Self {
        Self { places: RefCell::default(), idle: Cell::new(0), sweeping: Cell::new(false) }
    }

    pub(crate) fn place(self: &Rc<Self>, key: &Key) -> Rc<Place<Io>> {
        if let Some(place) = self.places.borrow().get(key) {
            return Rc::clone(place);
        }
        let place = Rc::new(Place::new(key.clone()));
        self.places.borrow_mut().insert(key.clone(), Rc::clone(&place));
        self.sweep_from_now_on();
        place
    }

    /// Newest first. It may have been closed by the other end since.
    pub(crate) fn take(&self, place: &Place<Io>) -> Option<Http1<Io>> {
        loop {
            let (link, since) = place.http1.borrow_mut().pop()?;
            self.idle.set(self.idle.get() - 1);
            let now = Instant::now();
            if !link.sender.is_closed() && link.terms.lasts(now) && now.saturating_duration_since(since) < link.terms.idle_time() {
                link.terms.used();
                return Some(link);
            }
        }
    }

    /// After its request. Kept where there is room, and where the endpoint is still one.
    pub(crate) fn give(self: &Rc<Self>, place: &Weak<Place<Io>>, link: Http1<Io>) {
        let Some(place) = place.upgrade() else { return };
        let full = self.idle.get() >= IDLE || place.http1.borrow().len() >= IDLE_OF_ENDPOINT;
        if full || link.sender.is_closed() || !link.terms.lasts(Instant::now()) || link.terms.breaker().is_wanted() {
            return;
        }
        if let Some(wanted) = link.terms.breaker().wanted()
            && !place.yields.replace(true)
        {
            spawn_local(yields(Rc::downgrade(self), place.key.clone(), wanted));
        }
        place.http1.borrow_mut().push((link, Instant::now()));
        self.idle.set(self.idle.get() + 1);
    }

    /// The endpoint is gone, or reached in another way.
    pub(crate) fn retire(&self, uid: &str) {
        self.drop_places(|(of, _), _| &**of == uid);
    }

    fn drop_places(&self, gone: impl Fn(&Key, &Rc<Place<Io>>) -> bool) {
        let mut idle = self.idle.get();
        self.places.borrow_mut().retain(|key, place| {
            let gone = gone(key, place);
            if gone {
                idle -= place.http1.borrow().len();
            }
            !gone
        });
        self.idle.set(idle);
    }

    fn sweep_from_now_on(self: &Rc<Self>) {
        if self.sweeping.replace(true) {
            return;
        }
        let pool = Rc::downgrade(self);
        spawn_local(async move {
            loop {
                tokio::time::sleep(IDLE_SWEEP).await;
                let Some(pool) = pool.upgrade() else { return };
                pool.sweep(Instant::now());
                if pool.places.borrow().is_empty() {
                    pool.sweeping.set(false);
                    return;
                }
            }
        });
    }

    fn sweep(&self, now: Instant) {
        for place in self.places.borrow().values() {
            let mut links = place.http1.borrow_mut();
            let before = links.len();
            links.retain(|(link, since)| {
                !link.sender.is_closed() && link.terms.lasts(now) && now.saturating_duration_since(*since) < link.terms.idle_time()
            });
            self.idle.set(self.idle.get() - (before - links.len()));
            let open = |shared: &Shared| {
                Rc::strong_count(&shared.streams) > 1 || now.saturating_duration_since(shared.used) < shared.terms.idle_time()
            };
            place.http2.borrow_mut().retain(|shared| !shared.link.sender.is_closed() && shared.terms.lasts(now) && open(shared));
        }
        // Nobody holds it and it holds nothing.
        self.drop_places(|_, place| Rc::strong_count(place) == 1 && Rc::weak_count(place) == 0 && place.is_empty());
    }
}

impl<Io> Place<Io> {
    fn new(key: Key) -> Self {
        Self {
            key,
            http1: RefCell::default(),
            http2: RefCell::default(),
            dialing: Mutex::new(()),
            failures: RefCell::default(),
            yields: Cell::new(false),
        }
    }

    fn is_empty(&self) -> bool {
        self.http1.borrow().is_empty() && self.http2.borrow().is_empty()
    }

    /// A shared connection with a stream to spare; the stream is open until what comes with it is dropped.
    pub(crate) fn share(&self) -> Option<(Http2, Rc<()>)> {
        let mut all = self.http2.borrow_mut();
        let now = Instant::now();
        // What is let go here ends with its last stream.
        all.retain(|shared| !shared.link.sender.is_closed() && shared.terms.lasts(now));
        let shared = all.iter_mut().find(|shared| Rc::strong_count(&shared.streams) <= STREAMS as usize)?;
        shared.used = now;
        shared.terms.used();
        Some((shared.link.clone(), Rc::clone(&shared.streams)))
    }

    pub(crate) fn add(&self, link: Http2, terms: Terms) -> (Http2, Rc<()>) {
        let streams = Rc::new(());
        terms.used();
        self.http2.borrow_mut().push(Shared { link: link.clone(), terms, streams: Rc::clone(&streams), used: Instant::now() });
        (link, streams)
    }

    pub(crate) fn failures(&self) -> u64 {
        self.failures.borrow().0
    }

    pub(crate) fn failed(&self, error: ConnectError) -> ConnectError {
        let mut failures = self.failures.borrow_mut();
        *failures = (failures.0 + 1, Some(error.clone()));
        error
    }

    /// The failure that somebody else met since there were `before`.
    pub(crate) fn failed_since(&self, before: u64) -> Option<ConnectError> {
        let failures = self.failures.borrow();
        if failures.0 > before { failures.1.clone() } else { None }
    }
}

/// Lets an idle connection go whenever a thread waits for one that the backend's limit does not give. Ends with the place.
async fn yields<Io: 'static>(pool: Weak<Pool<Io>>, key: Key, wanted: Wanted) {
    loop {
        let wanted = timeout(IDLE_SWEEP, wanted.again()).await.is_ok();
        let Some(pool) = pool.upgrade() else { return };
        let Some(place) = pool.places.borrow().get(&key).cloned() else { return };
        if wanted {
            drop(pool.take(&place));
        }
    }
}
