//! Requests that are over, told together. What is made of each (a line, counts, a flow record) is more code and data than the request itself
//! touches: done once for many it finds the caches warm, and no answer waits for it.
use crate::Report;
use crate::record::Over;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::sleep;

/// How long one may wait for others. A person sees no difference, and a busy thread wakes for it twenty times a second.
const GATHER: Duration = Duration::from_millis(50);
/// So many are told at once, so that no request waits long behind them: some 100 us.
const MOST: usize = 32;

pub(crate) struct Batch {
    report: Rc<dyn Report>,
    waiting: RefCell<Vec<Over>>,
    filled: Rc<Notify>,
    /// Somebody looks at the time.
    timed: Cell<bool>,
    /// The process ends soon: nothing waits any more.
    leaving: Cell<bool>,
}

impl Batch {
    pub(crate) fn new(report: Rc<dyn Report>) -> Rc<Self> {
        let waiting = RefCell::new(Vec::with_capacity(MOST));
        Rc::new(Self { report, waiting, filled: Rc::default(), timed: Cell::new(false), leaving: Cell::new(false) })
    }

    /// For somebody who will push, within the runtime: from the first on, what waits is told in time.
    pub(crate) fn shared(self: &Rc<Self>) -> Rc<Self> {
        if !self.timed.replace(true) {
            spawn_local(gather(Rc::downgrade(self), Rc::clone(&self.filled)));
        }
        Rc::clone(self)
    }

    pub(crate) fn leave(&self) {
        self.leaving.set(true);
        self.tell();
    }

    pub(crate) fn push(&self, over: Over) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.push(over);
        let count = waiting.len();
        drop(waiting);
        if count >= MOST || self.leaving.get() {
            self.tell();
        } else if count == 1 {
            self.filled.notify_one();
        }
    }

    pub(crate) fn tell(&self) {
        let mut told = self.waiting.replace(Vec::new());
        for over in told.drain(..) {
            self.report.request(&over.record());
        }
        // Its memory serves the next ones.
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            *waiting = told;
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.tell();
        self.filled.notify_one();
    }
}

async fn gather(batch: Weak<Batch>, filled: Rc<Notify>) {
    loop {
        filled.notified().await;
        sleep(GATHER).await;
        let Some(batch) = batch.upgrade() else { return };
        batch.tell();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use crate::{StreamRecord, record::tests::over};
    use tokio::runtime::{Builder, LocalOptions};

    #[derive(Default)]
    struct Paths(RefCell<Vec<String>>);

    struct Notes(Rc<Paths>);

    impl Report for Notes {
        fn request(&self, record: &crate::RequestRecord<'_>) {
            let [id, trace] = [record.request_id, record.traceparent];
            assert_eq!((record.authority, id, trace), ("cart", "", "00-1"));
            self.0.0.borrow_mut().push(record.path.to_owned());
        }

        fn connection(&self, _: &StreamRecord<'_>) {}
    }

    #[test]
    fn requests_are_told_in_their_order_when_there_are_many_when_time_is_over_and_at_the_end() {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build_local(LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let told: Rc<Paths> = Rc::default();
            let count = || told.0.borrow().len();
            let batch = Batch::new(Rc::new(Notes(Rc::clone(&told)))).shared();
            let push = |number: usize| batch.push(over(Rc::clone(&batch), ["cart", &format!("/{number}"), "", "00-1"]));
            (0..MOST - 1).for_each(push);
            assert_eq!(count(), 0);
            push(MOST - 1);
            assert_eq!(count(), MOST);
            push(MOST);
            let begun = tokio::time::Instant::now();
            while count() == MOST {
                sleep(Duration::from_millis(1)).await;
            }
            assert!((GATHER..2 * GATHER).contains(&begun.elapsed()), "{:?}", begun.elapsed());
            push(MOST + 1);
            batch.leave();
            assert_eq!(count(), MOST + 2);
            push(MOST + 2);
            assert_eq!(count(), MOST + 3, "nothing waits any more");
            let expected: Vec<_> = (0..MOST + 3).map(|number| format!("/{number}")).collect();
            assert_eq!(*told.0.borrow(), expected);
        });
    }

    #[test]
    fn what_waits_when_nobody_is_left_is_told_before_memory_goes() {
        let told: Rc<Paths> = Rc::default();
        let batch = Batch::new(Rc::new(Notes(Rc::clone(&told))));
        let other = Batch::new(Rc::new(Notes(Rc::default())));
        batch.push(over(other, ["cart", "/last", "", "00-1"]));
        drop(batch);
        assert_eq!(*told.0.borrow(), ["/last"]);
    }
}
