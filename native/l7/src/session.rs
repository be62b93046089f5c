//! What the requests of one client's connection have in common, and the rules that are in force for it right now.
use crate::admission::Admission;
use crate::backend::Backend;
use crate::balancing::Chosen;
use crate::carry::Carried;
use crate::guard::Upgrading;
use crate::left::Left;
use crate::record::Parties;
use crate::rule::HttpRule;
use crate::service::Port;
use crate::table::Guard;
use crate::{Client, Context, Served, Table, Upstream};
use http::HeaderValue;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::Notify;

/// A table, and what it says of the port and who guards it; None: nothing is known of the service.
struct Looked {
    table: Arc<Table>,
    port: Option<Arc<Port>>,
    guard: Guard,
}

pub(crate) struct Session<U: Upstream> {
    pub(crate) context: Rc<Context<U>>,
    pub(crate) parties: Rc<Parties>,
    /// Looked up again when the table was replaced.
    looked: RefCell<Option<Looked>>,
    /// Requests that the connection may have; None: without limit.
    most: Cell<Option<u32>>,
    asked: Cell<u32>,
    pub(crate) spent: Notify,
    /// Set by a request whose answer was 101.
    pub(crate) upgraded: RefCell<Option<Upgraded<U>>>,
    /// Of HTTP/1.1: who must be told what became of a wish to upgrade.
    pub(crate) upgrading: Rc<Upgrading>,
}

/// What goes on without HTTP.
pub(crate) struct Upgraded<U: Upstream> {
    pub(crate) backend: Left<U::Io>,
    pub(crate) held: Held<U>,
}

/// Whereto it goes on.
pub(crate) struct Held<U: Upstream> {
    pub(crate) rule: Arc<HttpRule>,
    pub(crate) backend: Arc<Backend>,
    pub(crate) endpoint: Chosen<U::Detail>,
    /// Of a service that is guarded.
    pub(crate) admission: Option<Rc<Admission>>,
}

impl<U: Upstream> Held<U> {
    pub(crate) fn carried(&self, parties: &Rc<Parties>) -> Carried<'_> {
        let mut carried = Carried::begin(parties, self.rule.name.as_ref());
        carried.admission.clone_from(&self.admission);
        carried.backend = Some(&self.backend);
        carried.endpoint = Some((Arc::clone(&self.endpoint.uid), self.endpoint.address));
        carried
    }
}

impl<U: Upstream> Session<U> {
    pub(crate) fn new(context: Rc<Context<U>>, client: Client, served: Served) -> Rc<Self> {
        // An address is always a value.
        let address = HeaderValue::from_str(&client.address.ip().to_string()).unwrap_or_else(|_| HeaderValue::from_static("unknown"));
        let (report, batch) = (Rc::clone(&context.report), context.batch.shared());
        let parties = Rc::new(Parties { client, address, served, report, batch });
        Rc::new(Self {
            context,
            parties,
            looked: RefCell::default(),
            most: Cell::new(None),
            asked: Cell::new(0),
            spent: Notify::new(),
            upgraded: RefCell::default(),
            upgrading: Rc::default(),
        })
    }

    /// A request on a connection that may have so many.
    pub(crate) fn asked(&self, most: Option<u32>) {
        self.asked.set(self.asked.get().saturating_add(1));
        let least = self.most.get().into_iter().chain(most).min();
        self.most.set(least);
        if self.is_spent() {
            self.spent.notify_one();
        }
    }

    /// There may be no more requests on it.
    pub(crate) fn is_spent(&self) -> bool {
        self.most.get().is_some_and(|most| self.asked.get() >= most)
    }

    /// None: nothing is known of the service any more.
    pub(crate) fn port(&self) -> Option<Arc<Port>> {
        self.look(|looked| looked.port.clone())
    }

    /// As `port` is of the same table, if there is no await in between.
    pub(crate) fn guard(&self) -> Guard {
        self.look(|looked| looked.guard.clone())
    }

    fn look<T>(&self, told: impl Fn(&Looked) -> T) -> T {
        let table = self.context.table();
        let mut looked = self.looked.borrow_mut();
        match &*looked {
            Some(looked) if Arc::ptr_eq(&looked.table, &table) => told(looked),
            _ => {
                let served = &self.parties.served;
                let port = match table.service(&served.service) {
                    Some(service) => Some(service.port(served.port)),
                    None => served.is_pod().then(|| Arc::new(Port::of_pod(served))),
                };
                let guard = table.guard(&served.service);
                told(looked.insert(Looked { table, port, guard }))
            }
        }
    }
}
