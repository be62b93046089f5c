//! What passes through one connection, looked at for its protocol and, where a pod of it is observed, for its requests.
use std::cell::{Cell, RefCell};
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use trackbed_contract::engine::Observe;
use trackbed_hbone::{Side, Tap};
use trackbed_observe::{Depth, Exchange, GaveUp, Observer, Protocol};

use super::flow::Known;
use super::histogram::Numbers;
use super::ledger::Ledger;
use super::observed::Answer;

/// Of so many connections one is observed where a pod is sampled.
const SAMPLE: u32 = 10;

/// What the bytes of a connection told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(super) protocol: Option<Protocol>,
    pub(super) server_name: Option<Box<str>>,
}

#[derive(Debug)]
pub(crate) struct Watch {
    /// None when it is over, or nothing has passed.
    observer: RefCell<Option<Box<Observer>>>,
    over: Cell<bool>,
    seen: RefCell<Seen>,
    requests: Option<Box<Requests>>,
}

/// Where requests are counted.
#[derive(Debug)]
struct Requests {
    ledger: Rc<Ledger>,
    /// As source, as destination, or both of a relay.
    reporters: Vec<Reporter>,
}

#[derive(Debug)]
struct Reporter {
    known: Arc<Known>,
    sampled: bool,
    /// What the last one counted in: most are alike.
    last: RefCell<Option<(Answer, Arc<Numbers>)>>,
}

impl Watch {
    /// Of a connection between these, as their pods are observed; None where nothing is to be looked at.
    pub(crate) fn new<'a>(ledger: &Rc<Ledger>, ends: impl Iterator<Item = (&'a Arc<Known>, Observe)> + Clone) -> Option<Rc<Self>> {
        if ends.clone().all(|(_, observe)| observe == Observe::Off) {
            return None;
        }
        let drawn = std::cell::OnceCell::new();
        let counts = |observe| match observe {
            Observe::Full => true,
            // Both ends of a relay draw the same lot.
            Observe::Sampled => *drawn.get_or_init(|| fastrand::u32(..SAMPLE) == 0),
            Observe::Off | Observe::Unspecified => false,
        };
        let reporters: Vec<_> = ends
            .filter(|(_, observe)| counts(*observe))
            .map(|(known, observe)| Reporter { known: Arc::clone(known), sampled: observe == Observe::Sampled, last: RefCell::default() })
            .collect();
        let requests = (!reporters.is_empty()).then(|| Box::new(Requests { ledger: Rc::clone(ledger), reporters }));
        Some(Rc::new(Self { observer: RefCell::default(), over: Cell::new(false), seen: RefCell::default(), requests }))
    }

    /// Nothing more is to be learned.
    pub(crate) fn is_over(&self) -> bool {
        self.over.get()
    }

    /// The connection has ended.
    pub(crate) fn end(&self) -> Seen {
        if self.observer.borrow().is_some() {
            self.look(|observer, tell| observer.end(Instant::now(), tell));
        }
        self.seen.take()
    }

    fn look(&self, look: impl FnOnce(&mut Observer, &mut dyn FnMut(Exchange))) {
        if self.over.get() {
            return;
        }
        let mut place = self.observer.borrow_mut();
        let depth = if self.requests.is_some() { Depth::Requests } else { Depth::Protocol };
        let observer = place.get_or_insert_with(|| Box::new(Observer::new(depth)));
        look(observer, &mut |exchange| {
            if let Some(requests) = &self.requests {
                requests.count(&exchange);
            }
        });
        if observer.is_over() {
            *self.seen.borrow_mut() = Seen { protocol: observer.protocol(), server_name: observer.server_name().map(Into::into) };
            if let Some(requests) = &self.requests {
                requests.over(observer.protocol(), observer.gave_up());
            }
            self.over.set(true);
            *place = None;
        }
    }
}

impl Tap for Watch {
    fn moved(&self, from: Side, offset: u64, pieces: &[IoSlice<'_>], count: usize) -> bool {
        let now = Instant::now();
        self.look(|observer, tell| {
            let (mut offset, mut left) = (offset, count);
            for piece in pieces {
                let bytes = &piece[..piece.len().min(left)];
                observer.feed(from, offset, bytes, now, tell);
                offset += bytes.len() as u64;
                left -= bytes.len();
            }
        });
        !self.over.get()
    }

    fn finished(&self, from: Side, _: u64) {
        self.look(|observer, tell| observer.finished(from, Instant::now(), tell));
    }
}

impl Requests {
    fn count(&self, exchange: &Exchange) {
        for reporter in &self.reporters {
            let answer = Answer::of(exchange, reporter.sampled);
            let mut last = reporter.last.borrow_mut();
            match &*last {
                Some((same, numbers)) if *same == answer => numbers.add(exchange.duration),
                _ => {
                    let numbers = self.ledger.observed(&reporter.known, answer);
                    numbers.add(exchange.duration);
                    *last = Some((answer, numbers));
                }
            }
        }
    }

    fn over(&self, protocol: Option<Protocol>, gave_up: Option<GaveUp>) {
        if let Some(Protocol::Http1 | Protocol::Http2 | Protocol::Grpc | Protocol::WebSocket) = protocol {
            self.ledger.shared().observed.followed(gave_up);
        }
    }
}

/// A watch and a recording of one connection.
#[derive(Debug)]
struct Both(Rc<Watch>, Rc<dyn Tap>);

impl Tap for Both {
    fn moved(&self, from: Side, offset: u64, pieces: &[IoSlice<'_>], count: usize) -> bool {
        self.0.moved(from, offset, pieces, count);
        self.1.moved(from, offset, pieces, count)
    }

    fn finished(&self, from: Side, offset: u64) {
        self.0.finished(from, offset);
        self.1.finished(from, offset);
    }
}

/// What is told of a connection's bytes: the watch while it wants them, and who records it.
pub(crate) fn tap(watch: Option<Rc<Watch>>, recorder: Option<Rc<dyn Tap>>) -> Option<Rc<dyn Tap>> {
    match (watch.filter(|watch| !watch.is_over()), recorder) {
        (Some(watch), Some(recorder)) => Some(Rc::new(Both(watch, recorder))),
        (Some(watch), None) => Some(watch),
        (None, recorder) => recorder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every connection of a pod that is not off holds one.
    #[test]
    fn what_an_idle_connection_keeps_for_it_is_small() {
        assert!(size_of::<Watch>() <= 80, "{}", size_of::<Watch>());
    }
}
