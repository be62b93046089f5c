//! Policy and identity on live connections: a rule, an address or a certificate that changes cuts what it no longer allows.
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use trackbed_contract::engine::{Direction, MeshSettings, Verdict, from_engine};
use trackbed_contract::istio::workload::TunnelProtocol;

use crate::lab::{Fabric, of_workload};
use crate::mesh::{Mesh, closed, deny};
use crate::{PATIENCE, PORT};

#[test]
fn a_deny_policy_cuts_a_live_connection_with_a_reset_and_names_itself() {
    let Some(mesh) = Mesh::new() else { return };
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    client.echo("before").unwrap();
    mesh.state(&[deny("no-web", &mesh.web.identity())]);
    assert!(client.is_reset());
    let flow = mesh.two.director.flow("the cut", closed(Direction::Inbound));
    assert_eq!(
        (flow.verdict(), flow.policy.as_str(), flow.code.as_str(), flow.reset),
        (Verdict::Denied, "shop/no-web", "E_POLICY_DENIED", true)
    );
    assert!(mesh.web.is_turned_away(&mesh.api.v4, PORT), "and new ones are refused");
    mesh.one.director.flow("refusal", |flow| flow.code == "E_TUNNEL_PEER_REFUSED");
    mesh.state(&[]);
    let mut again = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    again.seen_as().unwrap();
}

#[test]
fn what_a_denied_client_says_at_once_is_heard_by_nobody() {
    let Some(mesh) = Mesh::new() else { return };
    let heard = mesh.api.hears(9000);
    let said = |text: &str| {
        let mut client = mesh.web.connect(&mesh.api.v4, 9000)?;
        client.0.write_all(text.as_bytes())?;
        client.0.shutdown(Shutdown::Write)?;
        client.0.read_to_end(&mut Vec::new())
    };
    said("before").unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), b"before");
    // The tunnel is there, so the words go along with CONNECT.
    mesh.state(&[deny("no-web", &mesh.web.identity())]);
    for _ in 0..5 {
        let error = said("secret").unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::NotConnected), "{error}");
    }
    mesh.one.director.flow("refusal", |flow| flow.code == "E_TUNNEL_PEER_REFUSED");
    mesh.state(&[]);
    said("after").unwrap();
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap(), b"after", "nothing was heard in between");
}

#[test]
fn a_deny_does_not_wait_for_an_application_that_does_not_answer() {
    let Some(mesh) = Mesh::new() else { return };
    mesh.api.nft("table inet silent { chain in { type filter hook input priority 0; iifname lo tcp dport 9998 drop; }; }");
    let mut client = mesh.web.connect(&mesh.api.v4, 9998).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !mesh.two.get("/metrics").contains("\ntrackbed_connections 1\n") {
        assert!(Instant::now() < deadline, "it is being dialled: {}", mesh.two.get("/metrics"));
        std::thread::yield_now();
    }
    let start = Instant::now();
    mesh.state(&[deny("no-web", &mesh.web.identity())]);
    assert!(client.is_reset());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    let flow = mesh.two.director.flow("the cut", closed(Direction::Inbound));
    assert_eq!((flow.verdict(), flow.policy.as_str(), flow.code.as_str()), (Verdict::Denied, "shop/no-web", "E_POLICY_DENIED"));
}

#[test]
fn an_address_that_changes_hands_is_neither_kept_nor_trusted() {
    let Some(mesh) = Mesh::new() else { return };
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    // Another workload is said to have the address now, while the old pod still answers there.
    let mut other = mesh.api.workload("two", TunnelProtocol::Hbone);
    (other.uid, other.name, other.service_account) = ("Kubernetes//Pod/shop/other".into(), "other".into(), "other".into());
    mesh.one.director.state(vec![of_workload(&mesh.web.workload("one", TunnelProtocol::Hbone)), of_workload(&other)]);
    assert!(client.is_reset());
    assert!(mesh.web.is_turned_away(&mesh.api.v4, PORT));
    mesh.one.director.flow("refusal", |flow| flow.code == "E_IDENTITY_MISMATCH");
}

#[test]
fn a_certificate_is_renewed_at_half_life_and_its_end_cuts_and_refuses() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, api, node) = (
        fabric.pod("web"),
        fabric.pod("api"),
        fabric.node_with(MeshSettings { node: "one".into(), hold_milliseconds: 200, ..MeshSettings::default() }),
    );
    node.director.certificate_life(Some(Duration::from_secs(3)));
    node.director.state([&web, &api].map(|pod| of_workload(&pod.workload("one", TunnelProtocol::Hbone))).to_vec());
    api.serve(PORT);
    node.enrol(&[&web, &api]);
    let mut client = web.connect(&api.v4, PORT).unwrap();
    client.seen_as().unwrap();
    let requests = || node.director.count(|message| matches!(message, from_engine::Message::CertificateRequest(_)));
    let deadline = Instant::now() + PATIENCE;
    while requests() < 6 {
        assert!(Instant::now() < deadline, "{} requests", requests());
        std::thread::sleep(Duration::from_millis(20));
    }
    client.echo("alive through two renewals").unwrap();
    node.director.certificate_life(None);
    assert!(client.is_reset());
    let flow = node.director.flow("the end", closed(Direction::Outbound));
    assert_eq!(flow.code, "E_IDENTITY_MISSING");
    assert!(web.is_turned_away(&api.v4, PORT));
    node.director.pod_state(&web.uid(), |state| !state.identity && state.code == "E_IDENTITY_REFUSED");
    node.director.certificate_life(Some(Duration::from_hours(1)));
    node.director.ready(&web.uid());
    node.director.ready(&api.uid());
    web.connect(&api.v4, PORT).unwrap().seen_as().unwrap();
}
