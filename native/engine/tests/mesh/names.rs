//! Names of the mesh, answered in the pod.
use std::time::Instant;

use trackbed_contract::istio::workload::{NetworkAddress, Port, Service, TunnelProtocol};

use crate::PATIENCE;
use crate::lab::{self, Fabric, of_service, of_workload};

#[test]
fn names_of_the_mesh_are_answered_and_others_by_the_server_that_was_asked() {
    let Some(fabric) = Fabric::new() else { return };
    let (web, dns, node) = (fabric.pod("web"), fabric.pod("dns"), fabric.node("one"));
    let service = Service {
        name: "api".into(),
        namespace: "shop".into(),
        hostname: "api.shop.svc.cluster.local".into(),
        addresses: vec![NetworkAddress { network: String::new(), address: lab::bytes("10.96.0.10"), length: None }],
        ports: vec![Port { service_port: 80, target_port: 80, app_protocol: 0 }],
        ..Service::default()
    };
    node.director.state(vec![of_workload(&web.workload("one", TunnelProtocol::Hbone)), of_service(&service)]);
    node.enrol(&[&web]);
    // The server that the pod asks answers everything with one byte more than it was asked: recognisable.
    let server = dns.netns.enter(|| std::net::UdpSocket::bind("0.0.0.0:53")).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((count, from)) = server.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            let _ = server.send_to(&buffer[..count], from);
        }
    });
    let ask = |name: &str| {
        let mut query = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in name.split('.') {
            query.push(u8::try_from(label.len()).unwrap());
            query.extend(label.bytes());
        }
        query.extend([0, 0, 1, 0, 1]);
        let socket = web.netns.enter(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect((dns.v4.as_str(), 53)).unwrap();
        socket.send(&query).unwrap();
        let mut answer = [0; 512];
        let count = socket.recv(&mut answer).unwrap();
        (answer[..count].to_vec(), query.len())
    };
    let (answer, _) = ask("api.shop.svc.cluster.local");
    assert!(answer.windows(4).any(|window| window == [10, 96, 0, 10]), "{answer:?}");
    let (answer, asked) = ask("example.org");
    assert_eq!((answer.len(), &answer[6..8]), (asked, &[0, 0][..]), "as the server answered");
    let deadline = Instant::now() + PATIENCE;
    while !node.get("/metrics").contains("trackbed_dns_requests_total{outcome=\"answered\"} 1\n") {
        assert!(Instant::now() < deadline, "{}", node.get("/metrics"));
    }
}
