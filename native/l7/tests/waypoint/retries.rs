//! Tries beside the first, times that are over, and the budget of both.
use crate::support::*;
use trackbed_contract::route::Protocol;
use trackbed_l7::{Flag, Outcome};

#[test]
fn what_no_endpoint_heard_is_tried_elsewhere_without_a_rule() {
    run(async {
        let waypoint = waypoint(port(Protocol::Http, None)).await;
        let alive = backend("alive").await;
        waypoint.endpoint(SERVICE, PORT, "dead", nobody().await);
        waypoint.backend(SERVICE, &alive);
        let mut client = waypoint.http1().await;
        for _ in 0..4 {
            let got = client.send(get("/").method("POST").body(body("once")).unwrap()).await;
            assert_eq!((got.header("x-backend"), got.body.as_str()), ("alive", "once"));
        }
        assert_eq!(alive.seen.borrow().len(), 4);
        assert!(waypoint.endpoints.observed.borrow().contains(&("dead".into(), Outcome::Unreachable)));
        assert!(waypoint.ledger.requests.borrow().iter().any(|told| told.retries == 1 && told.flags.is_empty()));
    });
}

#[test]
fn a_backend_that_nobody_reaches_is_unavailable() {
    run(async {
        let waypoint = waypoint(port(Protocol::Http, None)).await;
        waypoint.endpoint(SERVICE, PORT, "dead", nobody().await);
        assert_eq!(waypoint.http1().await.get("/").await.status, 503);
        let told = waypoint.told().await;
        assert_eq!((told.retries, told.flags), (2, vec![Flag::ConnectFailure]));
        assert_eq!(waypoint.endpoints.connects.get(), 3);
    });
}
