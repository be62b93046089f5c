//! The endpoint for one try: who could be asked by the mesh's state, the one of them by the backend's settings, and what follows from how it went.
use crate::limits::BALANCED;
use crate::traffic::{BackendSettings, Counted, Open};
use crate::{BackendKey, Context, Endpoint, NoEndpoint, Outcome, Report, Upstream};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
pub(crate) use trackbed_balance::Met;
use trackbed_balance::{Group, Turn, Wish};

/// Of one thread: what it has seen of the endpoints of each backend.
pub(crate) struct Balancers<U: Upstream>(RefCell<HashMap<BackendKey, Rc<Balancer<U>>>>);

struct Balancer<U: Upstream> {
    candidates: U::Candidates,
    group: Group,
    settings: Arc<BackendSettings>,
    /// Of the table that the settings are of.
    table: u64,
}

/// An endpoint, and that a request is under way at it until this is dropped.
pub(crate) struct Chosen<D> {
    endpoint: Endpoint<D>,
    turn: Turn,
    /// When the request was sent: what a connection takes says little about the next request.
    begun: Cell<Instant>,
    /// Only the end of its answer says what that was worth.
    awaited: Cell<bool>,
    settings: Arc<BackendSettings>,
    _counted: Counted,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotChosen {
    #[error(transparent)]
    NoEndpoint(NoEndpoint),
    #[error(transparent)]
    Open(Open),
}

impl<D> Deref for Chosen<D> {
    type Target = Endpoint<D>;

    fn deref(&self) -> &Endpoint<D> {
        &self.endpoint
    }
}

impl<D> Chosen<D> {
    pub(crate) fn settings(&self) -> &Arc<BackendSettings> {
        &self.settings
    }

    pub(crate) fn sent(&self, now: Instant) {
        self.begun.set(now);
    }

    /// At the end of an answer that only began before: what it was worth.
    pub(crate) fn ended(&self, met: Met, report: &dyn Report, key: &BackendKey) {
        if self.awaited.take() {
            self.counts(met, report, key, Instant::now());
        }
    }

    fn counts(&self, met: Met, report: &dyn Report, key: &BackendKey, now: Instant) {
        let board = &self.settings.board;
        self.turn.counts(met, board, now).into_iter().chain(board.look(now)).for_each(|ejection| report.ejected(key, &ejection));
    }

    /// What a session with it is known by.
    pub(crate) fn session(&self) -> u64 {
        self.turn.session()
    }
}

impl<U: Upstream> Default for Balancers<U> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<U: Upstream> Balancers<U> {
    fn of(&self, context: &Context<U>, key: &BackendKey, now: Instant) -> Result<Rc<Balancer<U>>, NoEndpoint> {
        let upstream = &context.upstream;
        let known = self.0.borrow().get(key).cloned();
        if let Some(known) = &known
            && known.table == context.table_number()
            && upstream.are_current(key, &known.candidates)
        {
            return Ok(Rc::clone(known));
        }
        let candidates = upstream.candidates(key).inspect_err(|_| drop(self.0.borrow_mut().remove(key)))?;
        let settings = match (context.table().backend(&key.service, key.port), &known) {
            (Some(settings), _) => Arc::clone(settings),
            (None, Some(known)) if known.settings.is_usual() => Arc::clone(&known.settings),
            (None, _) => Arc::new(BackendSettings::usual(now)),
        };
        let before = known.as_ref().map(|known| &known.group);
        let group = Group::new(upstream.members(&candidates), settings.balancing, &settings.board, before, &mut fastrand::Rng::new(), now);
        let balancer = Rc::new(Balancer { candidates, group, settings, table: context.table_number() });
        let mut all = self.0.borrow_mut();
        if all.len() >= BALANCED && !all.contains_key(key) {
            // Who is asked again is known again; what is lost is what was seen of its endpoints.
            all.clear();
        }
        all.insert(key.clone(), Rc::clone(&balancer));
        Ok(balancer)
    }

    pub(crate) fn choose(
        &self,
        context: &Context<U>,
        key: &BackendKey,
        wish: &Wish<'_>,
        now: Instant,
    ) -> Result<Chosen<U::Detail>, NotChosen> {
        let balancer = self.of(context, key, now).map_err(NotChosen::NoEndpoint)?;
        let Balancer { candidates, group, settings, .. } = &*balancer;
        let counted = settings.breaker.request().map_err(NotChosen::Open)?;
        let members = context.upstream.members(candidates);
        let mut rng = fastrand::Rng::new();
        let mut index = group.choose(wish, &settings.board, &mut rng, now);
        let mut avoid: Option<Vec<Arc<str>>> = None;
        loop {
            let Some(chosen) = index else { return Err(NotChosen::NoEndpoint(NoEndpoint::None)) };
            if let Some(endpoint) = context.upstream.endpoint(candidates, chosen) {
                let settings = Arc::clone(settings);
                return Ok(Chosen {
                    endpoint,
                    turn: group.begin(chosen),
                    begun: Cell::new(now),
                    awaited: Cell::new(false),
                    settings,
                    _counted: counted,
                });
            }
            // Seldom: an address that somebody else claims by now, for example.
            let avoid = avoid.get_or_insert_with(|| wish.avoid.to_vec());
            if avoid.contains(&members[chosen].uid) {
                return Err(NotChosen::NoEndpoint(NoEndpoint::None));
            }
            avoid.push(Arc::clone(&members[chosen].uid));
            index = group.choose(&Wish { avoid, ..*wish }, &settings.board, &mut rng, now);
        }
    }
}

/// How its try went; to be told once.
pub(crate) fn observe<U: Upstream>(context: &Context<U>, key: &BackendKey, chosen: &Chosen<U::Detail>, outcome: Outcome, now: Instant) {
    context.upstream.observe(&chosen.endpoint, outcome);
    let took = now.saturating_duration_since(chosen.begun.get());
    let met = match outcome {
        Outcome::Unreachable | Outcome::Lost => Met::Failure,
        Outcome::Answered(status) => Met::Status(status),
        Outcome::Began => {
            chosen.turn.took(Met::Status(200), took, now);
            return chosen.awaited.set(true);
        }
    };
    chosen.turn.took(met, took, now);
    chosen.counts(met, &*context.report, key, now);
}
