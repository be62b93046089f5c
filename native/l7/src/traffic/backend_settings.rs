//! What is in force for the requests that go to one backend, and what all threads know of it.
use super::about::About;
use super::affinity::{Hashing, Persistence};
use super::breaker::Breaker;
use crate::invalid::{At, Invalid, Parsed, each};
use crate::service::service_name;
use http::HeaderValue;
use std::sync::Arc;
use std::time::{Duration, Instant};
use trackbed_balance::{
    Algorithm, Balancing, Board, Detection, MAGLEV_SIZE, MAGLEV_SIZE_MAX, RING_SIZE, RING_SIZE_MAX, Roster, SlowStart, SuccessRate,
    is_prime,
};
use trackbed_contract::traffic;

/// Of one service: its entries by port, 0 for every port that has none.
#[derive(Debug)]
pub(super) struct BackendPorts(Box<[(u16, Arc<BackendSettings>)]>);

#[derive(Debug)]
pub(crate) struct BackendSettings {
    pub(crate) balancing: Balancing,
    hashing: Hashing,
    pub(crate) persistence: Option<Persistence>,
    pub(crate) board: Board,
    pub(crate) breaker: Breaker,
    pub(crate) connections: Connections,
    /// Nobody said anything of it.
    usual: bool,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Connections {
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) most_requests: Option<u32>,
    pub(crate) longest: Option<Duration>,
}

impl BackendPorts {
    /// Of what was in force before, what is known of the endpoints stays.
    pub(super) fn parse(name: &str, from: &traffic::BackendSettings, before: Option<&Self>, now: Instant) -> Parsed<Self> {
        service_name(&from.service).at("service")?;
        if from.service != name {
            return Err(Invalid::because(format!("the resource is named {name}"))).at("service");
        }
        let ports = each("ports", &from.ports, |port| {
            let number = u16::try_from(port.port).map_err(|_| Invalid::because(format!("{} is not a port", port.port))).at("port")?;
            let known = before.and_then(|before| before.exactly(number)).map(|known| Arc::clone(known.board.roster()));
            let settings = BackendSettings::parse(port, known.unwrap_or_else(|| Roster::new(now)))?;
            Ok((number, Arc::new(settings)))
        })?;
        let twice = ports.iter().enumerate().find(|(index, port)| ports[..*index].iter().any(|earlier| earlier.0 == port.0));
        match twice {
            Some((_, (number, _))) => Err(Invalid::because(format!("port {number} is there twice"))).at("ports"),
            None => Ok(Self(ports)),
        }
    }

    fn exactly(&self, port: u16) -> Option<&Arc<BackendSettings>> {
        self.0.iter().find(|(number, _)| *number == port).map(|(_, settings)| settings)
    }

    pub(super) fn of(&self, port: u16) -> Option<&Arc<BackendSettings>> {
        self.exactly(port).or_else(|| self.exactly(0))
    }
}

impl BackendSettings {
    /// For backends that nothing is said of.
    pub(crate) fn usual(now: Instant) -> Self {
        Self {
            balancing: Balancing::default(),
            hashing: Hashing::default(),
            persistence: None,
            board: Board::new(Detection::default(), Roster::new(now)),
            breaker: Breaker::default(),
            connections: Connections::default(),
            usual: true,
        }
    }

    pub(crate) fn is_usual(&self) -> bool {
        self.usual
    }

    fn parse(from: &traffic::BackendPort, roster: Arc<Roster>) -> Parsed<Self> {
        let (balancing, hashing) = from.load_balancer.as_ref().map_or(Ok(Default::default()), load_balancer).at("load_balancer")?;
        let persistence = from.session_persistence.as_ref().map(Persistence::parse).transpose().at("session_persistence")?;
        let detection = from.health_check.as_ref().map_or_else(Detection::default, detection);
        let connections = from.connections.unwrap_or_default();
        Ok(Self {
            balancing,
            hashing,
            persistence,
            board: Board::new(detection, roster),
            breaker: from.circuit_breaker.as_ref().map_or_else(Breaker::default, Breaker::new),
            connections: Connections {
                connect_timeout: time(connections.connect_timeout_milliseconds),
                idle_timeout: time(connections.idle_timeout_milliseconds),
                most_requests: Some(connections.max_requests_per_connection).filter(|most| *most > 0),
                longest: time(connections.max_connection_duration_milliseconds),
            },
            usual: false,
        })
    }

    /// With a cookie for the client, where it is given one.
    pub(crate) fn hash(&self, about: &About<'_>) -> (Option<u64>, Option<HeaderValue>) {
        if self.hashing.is_empty() { (None, None) } else { self.hashing.of(about) }
    }
}

fn load_balancer(from: &traffic::LoadBalancer) -> Parsed<(Balancing, Hashing)> {
    use traffic::Algorithm as Named;
    let named = Named::try_from(from.algorithm).map_err(|_| Invalid::because("is not known")).at("algorithm")?;
    let size = |otherwise: u32, most: u32| match from.table_size {
        0 => Ok(otherwise),
        size if size <= most => Ok(size),
        size => Err(Invalid::because(format!("{size} is more than {most}"))).at("table_size"),
    };
    let algorithm = match named {
        Named::Unspecified | Named::PeakEwma => Algorithm::PeakEwma,
        Named::RoundRobin => Algorithm::RoundRobin,
        Named::LeastRequest => Algorithm::LeastRequest,
        Named::Random => Algorithm::Random,
        Named::RingHash => Algorithm::RingHash(size(RING_SIZE, RING_SIZE_MAX)?),
        Named::Maglev => {
            let size = size(MAGLEV_SIZE, MAGLEV_SIZE_MAX)?;
            if !is_prime(size) {
                return Err(Invalid::because(format!("{size} is not a prime"))).at("table_size");
            }
            Algorithm::Maglev(size)
        }
    };
    let hashed = matches!(algorithm, Algorithm::RingHash(_) | Algorithm::Maglev(_));
    if from.hash.is_empty() == hashed {
        let reason = if hashed { "is empty, and the algorithm goes by it" } else { "is not empty, and the algorithm does not go by it" };
        return Err(Invalid::because(reason)).at("hash");
    }
    if hashed && from.slow_start.is_some() {
        return Err(Invalid::because("would move clients of an algorithm that goes by hashes")).at("slow_start");
    }
    let slow_start = from.slow_start.as_ref().map(slow_start).transpose().at("slow_start")?;
    Ok((Balancing { algorithm, slow_start }, Hashing::parse(&from.hash)?))
}

fn slow_start(from: &traffic::SlowStart) -> Parsed<SlowStart> {
    let window = time(from.window_milliseconds).ok_or_else(|| Invalid::because("is 0")).at("window_milliseconds")?;
    if !from.aggression.is_finite() || from.aggression < 0.0 {
        return Err(Invalid::because(format!("{} is not a positive number", from.aggression))).at("aggression");
    }
    if from.min_weight_percent > 100 {
        return Err(Invalid::because(format!("{} is more than 100", from.min_weight_percent))).at("min_weight_percent");
    }
    let aggression = if from.aggression > 0.0 { from.aggression } else { 1.0 };
    let least = if from.min_weight_percent == 0 { 10 } else { from.min_weight_percent };
    Ok(SlowStart { window, aggression, least: f64::from(least) / 100.0 })
}

fn detection(from: &traffic::HealthCheck) -> Detection {
    let some = |count: u32| (count > 0).then_some(count);
    let or = |given: u32, otherwise: u32| if given == 0 { otherwise } else { given };
    let split = from.split_external_local_origin_errors;
    let local = some(from.consecutive_local_origin_errors).or(split.then_some(5));
    let base = time(from.base_ejection_milliseconds).unwrap_or(Duration::from_secs(30));
    Detection {
        consecutive_5xx: some(from.consecutive_5xx_errors),
        consecutive_gateway: some(from.consecutive_gateway_errors),
        consecutive_local: local,
        split,
        success_rate: from.success_rate.as_ref().map(|rate| SuccessRate {
            minimum_hosts: or(rate.minimum_hosts, 5) as usize,
            request_volume: or(rate.request_volume, 100),
            stdev_factor: f64::from(or(rate.stdev_factor_thousandths, 1900)) / 1000.0,
        }),
        interval: time(from.interval_milliseconds).unwrap_or(Duration::from_secs(10)),
        base,
        longest: time(from.max_ejection_milliseconds).unwrap_or(Duration::from_mins(5)).max(base),
        max_percent: or(from.max_ejection_percent, 10),
        panic_percent: from.panic_threshold_percent,
        doubling: false,
    }
}

pub(super) fn time(milliseconds: u32) -> Option<Duration> {
    (milliseconds > 0).then(|| Duration::from_millis(milliseconds.into()))
}
