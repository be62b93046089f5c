//! HTTP/2 and gRPC as others understand them: h2spec's cases, and grpc-go's interoperability tests at both ends.
use crate::support::*;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use trackbed_contract::route::Protocol;

/// None where there is no Go to build them with.
fn peer(name: &str) -> Option<PathBuf> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.cache/peers").join(name);
    if path.exists() {
        return Some(path);
    }
    skipped(&format!("{name} is not there: make peers"));
    None
}

/// Its exit, and what it said. The waypoint runs in this thread.
async fn said(mut command: Command) -> (bool, String) {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn every_case_of_h2spec_passes() {
    let Some(h2spec) = peer("h2spec") else { return };
    run(async {
        let waypoint = waypoint(port(Protocol::Http2, None)).await;
        // Some cases want a body, and let it come byte by byte.
        let own = backend_that("own", |seen| async move {
            http::Response::new(body(if seen.method == http::Method::HEAD { "" } else { "the body that it wants" }))
        })
        .await;
        waypoint.backend(SERVICE, &own);
        let mut command = Command::new(h2spec);
        command.args(["--host", "127.0.0.1", "--port", &waypoint.address.port().to_string(), "--timeout", "5"]);
        let (passed, text) = said(command).await;
        assert!(passed && text.contains(" 0 skipped, 0 failed"), "{text}");
        assert!(text.contains("tests, ") && !text.contains(" 0 tests"), "{text}");
    });
}

#[test]
fn grpc_of_others_passes_its_interoperability_tests() {
    let Some(grpc) = peer("grpc") else { return };
    run(async {
        let waypoint = waypoint(port(Protocol::Grpc, None)).await;
        let mut server = Running(Command::new(&grpc).arg("server").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut address = String::new();
        BufReader::new(server.0.stdout.take().unwrap()).read_line(&mut address).unwrap();
        waypoint.endpoint(SERVICE, PORT, "grpc-go", address.trim().parse().unwrap());
        let mut command = Command::new(&grpc);
        command.args(["client", &waypoint.address.to_string()]);
        let (passed, text) = said(command).await;
        assert!(passed, "{text}");
        assert_eq!(text.lines().count(), 14, "{text}");
        let requests = waypoint.ledger().requests.borrow();
        let statuses: Vec<_> = requests.iter().filter_map(|told| told.grpc_status).collect();
        assert!([0, 2, 12].iter().all(|status| statuses.contains(status)), "{statuses:?}");
    });
}
