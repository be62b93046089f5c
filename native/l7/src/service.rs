//! What is known of one service, in the form in which requests and connections are matched.
use crate::backend::Backends;
use crate::invalid::{At, Invalid, Parsed, each, set};
use crate::rule::{HttpRule, HttpRules};
use crate::stream_rules::{StreamRule, StreamRules};
use crate::{BackendKey, Served};
use std::collections::HashMap;
use std::sync::Arc;
use trackbed_contract::route;

#[derive(Debug)]
pub(crate) struct Service {
    ports: Box<[Arc<Port>]>,
    /// For ports that nothing is said of.
    name: Arc<str>,
    /// It has an Access.
    pub(crate) guarded: bool,
}

#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    pub(crate) protocol: route::Protocol,
    producer: Option<Rules>,
    consumers: HashMap<Box<str>, Rules>,
    /// To the service's own endpoints: in force where no route is attached.
    pub(crate) own: Own,
}

#[derive(Debug)]
pub(crate) enum Rules {
    Http(HttpRules),
    Tls(StreamRules),
    Tcp(StreamRules),
}

#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) http: Arc<HttpRule>,
    pub(crate) stream: Arc<StreamRule>,
}

impl Service {
    pub(crate) fn parse(from: &route::Routes) -> Parsed<Self> {
        let name: Arc<str> = service_name(&from.service).at("service")?;
        let ports = each("ports", &from.ports, |port| Ok(Arc::new(Port::parse(port, &name)?)))?;
        let twice = ports.iter().enumerate().find(|(index, port)| ports[..*index].iter().any(|earlier| earlier.number == port.number));
        if let Some((_, port)) = twice {
            return Err(Invalid::because(format!("port {} is there twice", port.number))).at("ports");
        }
        Ok(Self { ports, name, guarded: from.guarded })
    }

    /// One of them, or all.
    pub(crate) fn ports(&self, number: Option<u16>) -> impl Iterator<Item = &Arc<Port>> {
        self.ports.iter().filter(move |port| number.is_none_or(|number| port.number == number))
    }

    pub(crate) fn port(&self, number: u16) -> Arc<Port> {
        let known = self.ports.iter().find(|port| port.number == number);
        known.map_or_else(|| Arc::new(Port::unnamed(number, &self.name)), Arc::clone)
    }
}

impl Port {
    fn parse(from: &route::Port, service: &Arc<str>) -> Parsed<Self> {
        let number = port_number(from.port).at("port")?;
        let protocol = route::Protocol::try_from(from.protocol).map_err(|_| Invalid::because("is not known")).at("protocol")?;
        let producer = from.producer.as_ref().map(Rules::parse).transpose().at("producer")?;
        let consumer = |(namespace, rules): (&String, &route::RuleSet)| {
            Ok((namespace.as_str().into(), Rules::parse(rules).at(&format!("consumers[{namespace}]"))?))
        };
        let consumers = from.consumers.iter().map(consumer).collect::<Parsed<_>>()?;
        Ok(Self { number, protocol, producer, consumers, own: Own::of(number, service, protocol) })
    }

    /// Carried as TCP.
    fn unnamed(number: u16, service: &Arc<str>) -> Self {
        let protocol = route::Protocol::Tcp;
        Self { number, protocol, producer: None, consumers: HashMap::new(), own: Own::of(number, service, protocol) }
    }

    /// Whatever is spoken there goes to the pod itself.
    pub(crate) fn of_pod(pod: &Served) -> Self {
        let protocol = route::Protocol::Unspecified;
        Self { number: pod.port, protocol, producer: None, consumers: HashMap::new(), own: Own::of(pod.port, &pod.service, protocol) }
    }

    /// The consumer's own routes instead of the producer's, never both. None: no route is attached.
    pub(crate) fn rules(&self, namespace: Option<&str>) -> Option<&Rules> {
        namespace.and_then(|namespace| self.consumers.get(namespace)).or(self.producer.as_ref())
    }
}

impl Rules {
    fn parse(from: &route::RuleSet) -> Parsed<Self> {
        use route::rule_set::Kind;
        match set("kind", from.kind.as_ref())? {
            Kind::Http(rules) => HttpRules::parse(rules).map(Self::Http).at("http"),
            Kind::Tls(rules) => StreamRules::parse(rules).map(Self::Tls).at("tls"),
            Kind::Tcp(rules) => StreamRules::parse(rules).map(Self::Tcp).at("tcp"),
        }
    }
}

impl Own {
    fn of(port: u16, service: &Arc<str>, protocol: route::Protocol) -> Self {
        // A client may speak either version on a port that is declared HTTP; the service is then taken to do so too.
        let protocol = match protocol {
            route::Protocol::Http2 | route::Protocol::Grpc => protocol,
            _ => route::Protocol::Unspecified,
        };
        let backends = || Backends::only(BackendKey { service: Arc::clone(service), port }, protocol);
        Self { http: Arc::new(HttpRule::to(backends())), stream: Arc::new(StreamRule::to(backends())) }
    }
}

/// "namespace/hostname"
pub(crate) fn service_name(name: &str) -> Parsed<Arc<str>> {
    match name.split_once('/') {
        Some((namespace, hostname)) if !namespace.is_empty() && !hostname.is_empty() => Ok(name.into()),
        _ => Err(Invalid::because(format!("{name:?} is not namespace/hostname"))),
    }
}

pub(crate) fn port_number(port: u32) -> Parsed<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0).ok_or_else(|| Invalid::because(format!("{port} is not a port")))
}
