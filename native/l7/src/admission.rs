//! What one request or connection was admitted on: decided again when policies change while it lasts, and cut when they deny it now.
use crate::access::Access;
use crate::record::Parties;
use crate::table::{Guard, Table};
use http::header::HOST;
use http::{HeaderMap, Method, Uri};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use trackbed_policy::{Ask, Decision, Evaluation, Host, Http, Paths, Policies, Refused, Subject, Token};

pub(crate) struct Admission {
    parties: Rc<Parties>,
    facts: Facts,
    cut: RefCell<Option<Refused>>,
    waker: Cell<Option<Waker>>,
    live: Rc<Live>,
    number: u64,
}

pub(crate) enum Facts {
    Request(Box<Request>),
    /// The client's TLS names a server, or nobody looked.
    Connection {
        server_name: Option<String>,
    },
}

pub(crate) struct Request {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    /// For the backend, where it is not the URI's.
    pub(crate) path: Option<String>,
    /// As they go on.
    pub(crate) headers: HeaderMap,
    pub(crate) token: Option<Arc<Token>>,
    /// None: it cannot be told behind so many proxies.
    pub(crate) remote_ip: Option<IpAddr>,
}

/// Those of one worker that last.
#[derive(Default)]
pub(crate) struct Live {
    all: RefCell<HashMap<u64, Weak<Admission>>>,
    next: Cell<u64>,
}

impl Live {
    pub(crate) fn begin(self: &Rc<Self>, parties: &Rc<Parties>, facts: Facts) -> Rc<Admission> {
        let number = self.next.get();
        self.next.set(number + 1);
        let admission = Admission {
            parties: Rc::clone(parties),
            facts,
            cut: RefCell::default(),
            waker: Cell::default(),
            live: Rc::clone(self),
            number,
        };
        let admission = Rc::new(admission);
        self.all.borrow_mut().insert(number, Rc::downgrade(&admission));
        admission
    }

    /// Decides all again. One whose access is gone was guarded once: it goes on only if its service is known to be free now.
    pub(crate) fn decide_again(&self, table: &Table) {
        let all: Vec<_> = self.all.borrow().values().filter_map(Weak::upgrade).collect();
        for admission in all {
            match table.guard(&admission.parties.served.service) {
                Guard::Nobody | Guard::Unknown => {}
                Guard::By(access) => admission.decide_again(&access),
            }
        }
    }
}

impl Admission {
    pub(crate) fn evaluate(&self, policies: &Policies) -> Evaluation {
        self.facts.of(&self.parties, |subject| policies.evaluate(subject))
    }

    /// Of a CUSTOM policy that holds of it.
    pub(crate) fn custom<T>(&self, policies: &Policies, told: impl FnOnce(&Ask<'_>) -> T) -> Option<T> {
        self.facts.of(&self.parties, |subject| policies.custom(subject).first().map(told))
    }

    fn decide_again(&self, access: &Access) {
        let Decision::Denied(refused) = self.evaluate(&access.policies).decision else { return };
        // The first reason is the one that counts.
        self.cut.borrow_mut().get_or_insert(refused);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Ready with the reason when it has to end.
    pub(crate) fn poll_cut(&self, cx: &Context<'_>) -> Poll<Refused> {
        if let Some(refused) = &*self.cut.borrow() {
            return Poll::Ready(refused.clone());
        }
        self.waker.set(Some(cx.waker().clone()));
        Poll::Pending
    }

    pub(crate) async fn until_cut(&self) -> Refused {
        poll_fn(|cx| self.poll_cut(cx)).await
    }
}

impl Facts {
    /// As policies see them.
    pub(crate) fn of<T>(&self, parties: &Parties, told: impl FnOnce(&Subject<'_>) -> T) -> T {
        let client = &parties.client;
        let subject = Subject {
            source: client.identity.as_ref(),
            source_ip: client.address.ip(),
            remote_ip: Some(client.address.ip()),
            destination_ip: client.addressed,
            destination_port: parties.served.port,
            server_name: None,
            http: None,
        };
        match self {
            Self::Connection { server_name } => told(&Subject { server_name: server_name.as_deref(), ..subject }),
            Self::Request(request) => {
                let host = request.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
                let http = Http {
                    host: &Host::of(host),
                    method: request.method.as_str(),
                    paths: &Paths::of(request.path.as_deref().unwrap_or(request.uri.path())),
                    headers: &request.headers,
                    token: request.token.as_deref(),
                };
                told(&Subject { remote_ip: request.remote_ip, http: Some(http), ..subject })
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.live.all.borrow_mut().remove(&self.number);
    }
}
