//! Spans of requests on their way to a collector, by OTLP over gRPC: bounded, the oldest dropped and counted, never waited for.
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;
use trackbed_l7::RequestRecord;

use super::access;
use super::collector;
use super::otlp::{
    EXPORT, ExportRequest, ExportResponse, KeyValue, Kind, Resource, ResourceSpans, Scope, ScopeSpans, Span, Status, StatusCode,
};
use super::requests::{Ends, flags};
use crate::cli::waypoint::Traces;
use crate::clock;
use crate::worker::shared::Shared;

/// Some seconds of requests that are all traced; about 1 KiB each.
const CAPACITY: usize = 2048;
/// Of one message: far below the 4 MiB that collectors take.
const BATCH: usize = 512;
/// Spans gather for this long: a collector is asked once a second, not for each request.
const GATHER: Duration = Duration::from_secs(1);
/// A collector that has not answered by then has not got the batch.
const LIMIT: Duration = Duration::from_secs(10);
/// After a failure nothing is tried for this long, doubled up to the second.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A share of one, in the unit of shares.
pub(crate) const WHOLE: u32 = 1_000_000;

#[derive(Debug)]
pub(crate) struct Spans {
    /// Of requests whose client has no trace, so many of `WHOLE` begin one.
    share: u32,
    waiting: Mutex<VecDeque<Span>>,
    filled: Notify,
    pub(super) exported: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Spans {
    pub(crate) fn new(share: u32) -> Self {
        Self { share, waiting: Mutex::default(), filled: Notify::new(), exported: AtomicU64::new(0), dropped: AtomicU64::new(0) }
    }

    /// Whoever began the trace has decided for all who take part.
    pub(super) fn wants(&self, asked: Option<bool>) -> bool {
        asked.unwrap_or_else(|| fastrand::u32(..WHOLE) < self.share)
    }

    pub(super) fn push(&self, span: Span) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() == CAPACITY {
            waiting.pop_front();
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        let first = waiting.is_empty();
        waiting.push_back(span);
        drop(waiting);
        if first {
            self.filled.notify_one();
        }
    }

    fn take(&self) -> Vec<Span> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.len().min(BATCH);
        waiting.drain(..count).collect()
    }
}

/// A request that is over, as a span; None if it is not traced.
pub(super) fn of(record: &RequestRecord<'_>, ends: &Ends) -> Option<Span> {
    let span = record.span?;
    let end = u64::try_from(clock::nanoseconds(record.ended)).unwrap_or_default();
    let route = access::route(record.route);
    let path = record.path.split('?').next().unwrap_or_default();
    let mut attributes = vec![
        KeyValue::text("http.request.method", record.method.as_str()),
        KeyValue::text("url.path", path),
        KeyValue::text("server.address", record.authority),
        KeyValue::number("http.response.status_code", record.status),
        KeyValue::text("client.address", record.client.address.ip().to_string()),
        KeyValue::text("trackbed.service", &*record.served.service),
        KeyValue::text("trackbed.route", route),
        KeyValue::text("response_flags", flags(record.flags)),
        KeyValue::number("http.request.resend_count", record.retries),
        KeyValue::text("guid:x-request-id", record.request_id),
    ];
    attributes.extend(record.client.identity.as_ref().map(|identity| KeyValue::text("source.principal", identity.as_str())));
    attributes.extend(record.backend.map(|backend| KeyValue::text("trackbed.backend", &*backend.service)));
    attributes.extend(ends.destination.as_ref().map(|workload| KeyValue::text("upstream.workload", &*workload.name)));
    attributes.extend(record.endpoint.map(|(_, address)| KeyValue::text("network.peer.address", address.to_string())));
    attributes.extend(record.grpc_status.map(|status| KeyValue::number("rpc.grpc.status_code", status)));
    let failed = record.status == 0 || record.status >= 500;
    Some(Span {
        trace: span.trace.to_be_bytes().to_vec(),
        id: span.id.to_be_bytes().to_vec(),
        parent: span.parent.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default(),
        // Never the path: names are for grouping.
        name: if route.is_empty() { record.method.to_string() } else { format!("{} {route}", record.method) },
        kind: Kind::Server.into(),
        start_time_unix_nano: end.saturating_sub(u64::try_from(record.duration.as_nanos()).unwrap_or_default()),
        end_time_unix_nano: end,
        attributes,
        status: Some(Status { message: String::new(), code: if failed { StatusCode::Error } else { StatusCode::Unset }.into() }),
        flags: 1,
    })
}

/// Sends for the life of the process. What a collector does not take is dropped and counted: requests go on without it.
pub(crate) async fn export(traces: Traces, shared: Arc<Shared>) {
    let Some(spans) = &shared.spans else { return };
    let mut client = Grpc::new(collector::channel(&traces, LIMIT));
    let mut pause = FIRST_PAUSE;
    loop {
        let batch = spans.take();
        let count = batch.len() as u64;
        if count == 0 {
            spans.filled.notified().await;
            tokio::time::sleep(GATHER).await;
            continue;
        }
        match send(&mut client, batch, &shared).await {
            Ok(rejected) => {
                spans.exported.fetch_add(count.saturating_sub(rejected), Ordering::Relaxed);
                spans.dropped.fetch_add(rejected.min(count), Ordering::Relaxed);
                pause = FIRST_PAUSE;
            }
            Err(status) => {
                spans.dropped.fetch_add(count, Ordering::Relaxed);
                tracing::warn!(target: "traces", code = ?status.code(), reason = status.message(), spans = count, "the collector did not take them");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// How many of them the collector refused.
async fn send(client: &mut Grpc<Channel>, spans: Vec<Span>, shared: &Shared) -> Result<u64, tonic::Status> {
    client.ready().await.map_err(|error| tonic::Status::unavailable(error.to_string()))?;
    let scope = Scope { name: "trackbed".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() };
    let resource_spans = vec![ResourceSpans {
        resource: Some(Resource { attributes: resource(shared) }),
        scope_spans: vec![ScopeSpans { scope: Some(scope), spans }],
    }];
    let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
    let answer = client.unary(Request::new(ExportRequest { resource_spans }), PathAndQuery::from_static(EXPORT), codec).await?;
    let refused = answer.into_inner().partial_success.map_or(0, |partial| partial.rejected_spans);
    Ok(u64::try_from(refused).unwrap_or_default())
}

/// Who says all this: the waypoint, named as proxies of meshes are.
fn resource(shared: &Shared) -> Vec<KeyValue> {
    let pods = shared.pods.load();
    let Some(pod) = pods.first() else { return vec![KeyValue::text("service.name", "waypoint")] };
    vec![
        KeyValue::text("service.name", format!("{}.{}", pod.identity.service_account(), pod.local.namespace)),
        KeyValue::text("k8s.namespace.name", &*pod.local.namespace),
        KeyValue::text("k8s.pod.name", &*pod.local.name),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_that_does_not_listen_costs_the_oldest_spans_and_they_are_counted() {
        let spans = Spans::new(0);
        for number in 0..CAPACITY as u64 + 10 {
            spans.push(Span { start_time_unix_nano: number, ..Span::default() });
        }
        assert_eq!(spans.dropped.load(Ordering::Relaxed), 10);
        let batch = spans.take();
        assert_eq!((batch.len(), batch[0].start_time_unix_nano), (BATCH, 10));
    }

    #[test]
    fn who_began_the_trace_decides_and_otherwise_the_share() {
        for (share, asked, wanted) in [(0, None, false), (WHOLE, None, true), (0, Some(true), true), (WHOLE, Some(false), false)] {
            assert_eq!(Spans::new(share).wants(asked), wanted, "{share} {asked:?}");
        }
        let half = Spans::new(WHOLE / 2);
        let begun = (0..1000).filter(|_| half.wants(None)).count();
        assert!((300..700).contains(&begun), "{begun}");
    }
}
