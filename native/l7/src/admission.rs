//! What one request or connection was admitted on: decided again when policies change while it lasts, and cut when they deny it now.
use crate::BackendKey;
use crate::record::Parties;
use crate::table::{Guard, Table};
use crate::tokens::Accepted;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, Method, Uri};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use trackbed_policy::{Ask, Decision, Evaluation, Host, Http, Paths, Policies, Refused, Subject, Token};

pub(crate) struct Admission {
    parties: Rc<Parties>,
    /// As it came, for the service that was addressed; None: nobody guarded that.
    came: Option<Facts>,
    /// As it goes on, for another service that a route sends it to.
    onward: OnceCell<Box<Onward>>,
    cut: RefCell<Option<Refused>>,
    waker: Cell<Option<Waker>>,
    live: Rc<Live>,
    number: u64,
}

pub(crate) struct Onward {
    pub(crate) backend: Arc<BackendKey>,
    pub(crate) facts: Facts,
    /// By a route of the backend's own namespace: policies that hold for both services are content with what they saw of it as it came.
    pub(crate) once: bool,
}

/// What policies are asked about.
#[derive(Clone, Copy)]
pub(crate) struct Destination<'a> {
    pub(crate) service: &'a str,
    pub(crate) port: u16,
    /// What the client addressed; None: a name, or it did not address this service.
    pub(crate) ip: Option<IpAddr>,
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
    pub(crate) fn begin(self: &Rc<Self>, parties: &Rc<Parties>, came: Option<Facts>) -> Rc<Admission> {
        let number = self.next.get();
        self.next.set(number + 1);
        let admission = Admission {
            parties: Rc::clone(parties),
            came,
            onward: OnceCell::new(),
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
            admission.decide_again(table);
        }
    }
}

impl Admission {
    /// Of the service that was addressed.
    pub(crate) fn evaluate(&self, policies: &Policies) -> Evaluation {
        match &self.came {
            Some(facts) => facts.of(&self.parties, Destination::addressed(&self.parties), |subject| policies.evaluate(subject)),
            None => Evaluation { decision: Decision::Allowed { by: None }, dry_run: Vec::new(), audit: None },
        }
    }

    /// Of a CUSTOM policy that holds of it.
    pub(crate) fn custom<T>(&self, policies: &Policies, told: impl FnOnce(&Ask<'_>) -> T) -> Option<T> {
        let facts = self.came.as_ref()?;
        facts.of(&self.parties, Destination::addressed(&self.parties), |subject| policies.custom(subject).first().map(told))
    }

    pub(crate) fn came(&self) -> Option<&Facts> {
        self.came.as_ref()
    }

    /// A route sends it to one service only.
    pub(crate) fn goes_on(&self, onward: Onward) {
        self.onward.get_or_init(|| Box::new(onward));
    }

    fn decide_again(&self, table: &Table) {
        let known = |guard: Guard| if let Guard::By(access) = guard { Some(access) } else { None };
        let addressed = known(table.guard(&self.parties.served.service));
        let refused = addressed.as_ref().and_then(|access| self.evaluate(&access.policies).decision.refused());
        let refused = refused.or_else(|| {
            let onward = self.onward.get()?;
            let access = known(table.guard_of_backend(&onward.backend.service))?;
            let came = self.came.as_ref().zip(addressed.as_ref().map(|access| &access.policies));
            onward.evaluate(&self.parties, came, &access.policies).decision.refused()
        });
        let Some(refused) = refused else { return };
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

impl Onward {
    /// `came`: what it was as it came, and the policies of the service that was addressed.
    pub(crate) fn evaluate(&self, parties: &Parties, came: Option<(&Facts, &Policies)>, policies: &Policies) -> Evaluation {
        self.facts.of(parties, Destination::onward(&self.backend), |goes| match came.filter(|_| self.once) {
            None => policies.evaluate(goes),
            Some((facts, met)) => facts.of(parties, Destination::addressed(parties), |came| policies.evaluate_onward((met, came), goes)),
        })
    }
}

impl<'a> Destination<'a> {
    pub(crate) fn addressed(parties: &'a Parties) -> Self {
        Self { service: &parties.served.service, port: parties.served.port, ip: parties.client.addressed }
    }

    pub(crate) fn onward(backend: &'a BackendKey) -> Self {
        Self { service: &backend.service, port: backend.port, ip: None }
    }
}

impl Facts {
    /// `path`: for the backend, where it is not the URI's.
    pub(crate) fn of_request(request: &Parts, path: Option<String>, accepted: Option<&Arc<Accepted>>, remote_ip: Option<IpAddr>) -> Self {
        Self::Request(Box::new(Request {
            method: request.method.clone(),
            uri: request.uri.clone(),
            path,
            headers: request.headers.clone(),
            token: accepted.map(|accepted| Arc::clone(&accepted.token)),
            remote_ip,
        }))
    }

    /// As policies see them.
    pub(crate) fn of<T>(&self, parties: &Parties, destination: Destination<'_>, told: impl FnOnce(&Subject<'_>) -> T) -> T {
        let client = &parties.client;
        let subject = Subject {
            source: client.identity.as_ref(),
            source_ip: client.address.ip(),
            remote_ip: Some(client.address.ip()),
            destination_ip: destination.ip,
            destination_port: destination.port,
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
