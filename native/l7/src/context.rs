//! What all connections of one worker share: the table in force, the pool of upstream connections, budgets, and what was learnt of ports.
use crate::admission::Live;
use crate::balancing::Balancers;
use crate::batch::Batch;
use crate::budget::Budgets;
use crate::learnt::Learnt;
use crate::pool::Pool;
use crate::{Report, Served, Table, Upstream};
use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

pub struct Context<U: Upstream> {
    pub(crate) upstream: U,
    pub(crate) report: Rc<dyn Report>,
    /// What tells `report` of requests.
    pub(crate) batch: Rc<Batch>,
    pub(crate) pool: Rc<Pool<U::Io>>,
    pub(crate) budgets: Budgets<Served>,
    pub(crate) balancers: Balancers<U>,
    /// Copies under way.
    pub(crate) mirrors: Cell<usize>,
    /// Requests that are held back on purpose.
    pub(crate) delayed: Cell<usize>,
    /// Questions to external authorization under way.
    pub(crate) checks: Cell<usize>,
    pub(crate) learnt: Learnt,
    /// What policies may cut.
    pub(crate) live: Rc<Live>,
    table: RefCell<Arc<Table>>,
    /// How many there were.
    tables: Cell<u64>,
    leaving: Cell<bool>,
    draining: watch::Sender<bool>,
}

impl<U: Upstream> Context<U> {
    pub fn new(upstream: U, report: Box<dyn Report>) -> Rc<Self> {
        let report: Rc<dyn Report> = Rc::from(report);
        Rc::new(Self {
            upstream,
            batch: Batch::new(Rc::clone(&report)),
            report,
            pool: Rc::new(Pool::new()),
            budgets: Budgets::default(),
            balancers: Balancers::default(),
            mirrors: Cell::new(0),
            delayed: Cell::new(0),
            checks: Cell::new(0),
            learnt: Learnt::default(),
            live: Rc::default(),
            table: RefCell::default(),
            tables: Cell::new(0),
            leaving: Cell::new(false),
            draining: watch::Sender::new(false),
        })
    }

    /// From now on every request is matched by this table, also on connections that are open; what is denied by it now is cut.
    pub fn replace(&self, table: Arc<Table>) {
        self.tables.set(self.tables.get() + 1);
        let before = self.table.replace(table);
        let now = self.table();
        if !before.guards_alike(&now) {
            self.live.decide_again(&now);
        }
    }

    /// Requests that are over and were not told of yet are told of now.
    pub fn tell(&self) {
        self.batch.tell();
    }

    /// The workload is gone, or is reached in another way now: idle connections to it are closed, those in use are not used again.
    pub fn retire(&self, uid: &str) {
        self.pool.retire(uid);
    }

    /// The worker will drain soon: an answer of HTTP/1 is the last of its connection from now on, so that whoever keeps asking goes elsewhere by
    /// itself. A connection that is closed while it is idle may lose the request that is on its way.
    pub fn leave(&self) {
        self.leaving.set(true);
        self.batch.leave();
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Requests under way are answered, then their connections are closed (HTTP/1: `Connection: close`, HTTP/2: GOAWAY). Bounding the time that
    /// this may take is the caller's; whatever is carried without HTTP goes on until then.
    pub fn drain(&self) {
        self.leave();
        self.draining.send_replace(true);
    }

    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.draining.subscribe()
    }

    /// Of the table that is in force.
    pub(crate) fn table_number(&self) -> u64 {
        self.tables.get()
    }

    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }
}

impl<U: Upstream> fmt::Debug for Context<U> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").finish_non_exhaustive()
    }
}
