//! What ends a tunnel by time: a PING without answer, and the end of a certificate.
use std::time::{Duration, SystemTime};

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

use crate::limits::Limits;

/// The wall clock may jump while we sleep: it is looked at again at least this often.
const CLOCK_CHECK: Duration = Duration::from_secs(30);

/// Returns only when the peer is gone, with the reason. `first` bounds the first answer: until then the peer has not spoken HTTP/2 at all.
pub(crate) async fn keepalive(pings: Option<PingPong>, limits: &Limits, first: Option<Duration>) -> String {
    let Some(mut pings) = pings else {
        return std::future::pending().await; // never so: we are the only ones to take it
    };
    if first.is_none() {
        sleep(limits.ping_interval).await;
    }
    let mut patience = first.unwrap_or(limits.ping_timeout);
    loop {
        match timeout(patience, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return error.to_string(),
            Err(_) => return format!("no answer to PING within {} ms", patience.as_millis()),
        }
        patience = limits.ping_timeout;
        sleep(limits.ping_interval).await;
    }
}

/// Returns once `end` has passed on the wall clock.
pub(crate) async fn until(end: SystemTime) {
    loop {
        match end.duration_since(SystemTime::now()) {
            Ok(left) if !left.is_zero() => sleep(left.min(CLOCK_CHECK)).await,
            _ => return,
        }
    }
}
