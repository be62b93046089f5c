//! Claims about the engine's sockets under the rules of an enrolled pod, IPv4 and IPv6 alike.
mod net;

use std::{
    collections::HashSet,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener},
};

use net::{OUTSIDE_V4, OUTSIDE_V6, POD_V4, POD_V6, accept, any, app_connect, app_listener, at, captured_pod, connected, exchange, nobody};
use socket2::SockRef;
use trackbed_netns::{
    Netns,
    socket::{self, Peer},
};

const FAMILIES: [(&str, &str); 2] = [(POD_V4, OUTSIDE_V4), (POD_V6, OUTSIDE_V6)];
const APP_PORT: u16 = 8000;

fn engine_listeners(pod: &Netns, port: u16) -> [TcpListener; 2] {
    any(port).map(|address| socket::listen_tcp(pod, address, Peer::Network).expect("listen"))
}

fn of(listeners: &[TcpListener; 2], address: SocketAddr) -> &TcpListener {
    let [v4, v6] = listeners;
    if address.is_ipv4() { v4 } else { v6 }
}

#[test]
fn an_app_s_connection_is_captured_and_its_destination_known() {
    let Some(pair) = captured_pod() else { return };
    let outbound = engine_listeners(&pair.pod, 15001);
    // The last two addresses exist nowhere.
    for destination in [at(OUTSIDE_V4, 80), at(OUTSIDE_V6, 80), at("10.1.2.3", 443), at("fd00:1::5", 443)] {
        let app = app_connect(&pair.pod, destination).expect("captured");
        let (captured, from) = accept(of(&outbound, destination));
        assert_eq!(socket::original_destination(&captured, from).expect("original"), destination);
        assert_eq!(from, app.local_addr().expect("address"), "and the source is the app's, never mapped");
        exchange(&app, &captured);
    }
}

#[test]
fn a_connection_from_outside_is_captured_and_its_destination_known() {
    let Some(pair) = captured_pod() else { return };
    let inbound = engine_listeners(&pair.pod, 15006);
    for (pod, outside) in FAMILIES {
        let _app = app_listener(&pair.pod, at(pod, APP_PORT));
        let client = app_connect(&pair.outside, at(pod, APP_PORT)).expect("captured");
        let (captured, from) = accept(of(&inbound, at(pod, 0)));
        assert_eq!(socket::original_destination(&captured, from).expect("original"), at(pod, APP_PORT));
        assert_eq!(from.ip(), at(outside, 0).ip());
        exchange(&client, &captured);
    }
}

#[test]
fn a_straight_connection_shows_our_own_port_or_nothing() {
    let Some(pair) = captured_pod() else { return };
    let outbound = engine_listeners(&pair.pod, 15001);
    for (pod, _) in FAMILIES {
        let _app = app_connect(&pair.pod, at(pod, 15001)).expect("direct");
        let (accepted, from) = accept(of(&outbound, at(pod, 0)));
        match socket::original_destination(&accepted, from) {
            Ok(destination) => assert_eq!(destination.port(), 15001),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound),
        }
    }
}

#[test]
fn marked_connections_pass_and_unmarked_ones_are_captured() {
    let Some(pair) = captured_pod() else { return };
    let outbound = engine_listeners(&pair.pod, 15001);
    for (pod, outside) in FAMILIES {
        let destination = at(outside, APP_PORT);
        let server = app_listener(&pair.outside, destination);
        let marked = connected(socket::connect_marked(&pair.pod, destination, Peer::Network).expect("socket")).expect("connects");
        let (accepted, from) = accept(&server);
        assert_eq!(from.ip(), at(pod, 0).ip());
        exchange(&marked, &accepted);
        assert!(nobody(of(&outbound, destination)));

        let unmarked = connected(socket::connect_unmarked(&pair.pod, destination).expect("socket")).expect("connects");
        exchange(&unmarked, &accept(of(&outbound, destination)).0);
        assert!(nobody(&server));
    }
}

#[test]
fn a_pod_with_several_addresses_dials_from_the_one_that_is_asked_for() {
    let Some(pair) = captured_pod() else { return };
    let second = "10.200.9.9";
    net::run(&pair.pod, &format!("ip addr add {second}/32 dev lo"));
    net::run(&pair.outside, &format!("ip route add {second} via {POD_V4}"));
    let server = app_listener(&pair.outside, at(OUTSIDE_V4, APP_PORT));
    for source in [second, POD_V4] {
        let source = at(source, 0).ip();
        let dialled = socket::connect_from(&pair.pod, source, at(OUTSIDE_V4, APP_PORT), Peer::Network).expect("socket");
        let dialled = connected(dialled).expect("connects");
        let (accepted, from) = accept(&server);
        assert_eq!(from.ip(), source);
        exchange(&dialled, &accepted);
    }
    let error =
        socket::connect_from(&pair.pod, at("10.200.9.10", 0).ip(), at(OUTSIDE_V4, APP_PORT), Peer::Network).expect_err("not the pod's");
    assert_eq!(error.source.kind(), ErrorKind::AddrNotAvailable);
}

#[test]
fn the_app_sees_the_client_s_address_whoever_the_client_is() {
    let Some(pair) = captured_pod() else { return };
    for (pod, client) in [(POD_V4, "10.200.0.7"), (POD_V4, OUTSIDE_V4), (POD_V4, POD_V4), (POD_V6, "fd99:9::7"), (POD_V6, POD_V6)] {
        // Once on the address and once on the wildcard.
        for listen in [pod, if pod == POD_V4 { "0.0.0.0" } else { "::" }] {
            let app = app_listener(&pair.pod, at(listen, APP_PORT));
            let source = at(client, 0).ip();
            let spoofed = connected(socket::connect_spoofed(&pair.pod, source, at(pod, APP_PORT)).expect("socket")).expect("connects");
            let (accepted, from) = accept(&app);
            assert_eq!(from.ip(), source);
            assert_eq!(spoofed.local_addr().expect("address"), from);
            exchange(&spoofed, &accepted);
            // The app's end first: the port is free for the next round.
            drop(accepted);
            assert_eq!((&spoofed).read(&mut [0; 1]).expect("end"), 0);
        }
    }
}

/// A destination outside the pod is the caller's mistake; bound to `lo` it stays without consequence.
#[test]
fn a_foreign_source_does_not_leave_the_pod() {
    let Some(pair) = captured_pod() else { return };
    net::nft(
        &pair.outside,
        "table inet seen { counter syn {}; chain in { type filter hook prerouting priority -300; tcp dport 8000 counter name syn; }; }",
    );
    let attempt = socket::connect_spoofed(&pair.pod, at("10.200.0.7", 0).ip(), at(OUTSIDE_V4, APP_PORT));
    // What follows on the same link arrives after it.
    let _server = app_listener(&pair.outside, at(OUTSIDE_V4, 8001));
    let _after = connected(socket::connect_marked(&pair.pod, at(OUTSIDE_V4, 8001), Peer::Network).expect("socket")).expect("connects");
    assert!(net::output(&pair.outside, "nft list counter inet seen syn").contains("packets 0"));
    drop(attempt);
}

#[test]
fn a_connection_to_the_pod_s_own_application_never_goes_to_somebody_else_s() {
    let Some(pair) = captured_pod() else { return };
    let _elsewhere = app_listener(&pair.outside, at(OUTSIDE_V4, APP_PORT));
    let error = socket::connect_own(&pair.pod, at(OUTSIDE_V4, APP_PORT)).expect_err("not the pod's address");
    assert_eq!(error.source.kind(), ErrorKind::AddrNotAvailable);
    let app = app_listener(&pair.pod, at(POD_V4, APP_PORT));
    connected(socket::connect_own(&pair.pod, at(POD_V4, APP_PORT)).expect("socket")).expect("connects");
    assert_eq!(accept(&app).1.ip(), at(POD_V4, 0).ip());
}

#[test]
fn an_app_that_refuses_is_seen_as_refusing() {
    let Some(pair) = captured_pod() else { return };
    for (pod, client) in [(POD_V4, "10.200.0.7"), (POD_V6, "fd99:9::7")] {
        let error = match socket::connect_spoofed(&pair.pod, at(client, 0).ip(), at(pod, 9)) {
            Ok(stream) => connected(stream).expect_err("nobody listens"),
            Err(error) => error.source,
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    }
}

/// 100 local ports and 300 connections that the engine closes first: without reuse of TIME_WAIT the 101st would fail.
/// IPv6 needs a rule that routes what is bound to `lo` there.
#[test]
fn spoofed_ports_are_reused_from_time_wait() {
    for (pod, client) in [(POD_V4, "10.200.0.7"), (POD_V6, "fd99:9::7")] {
        let Some(pair) = captured_pod() else { return };
        net::run(&pair.pod, "ip -6 rule add fwmark 0x539/0xfff oif lo pref 32764 lookup 100");
        net::run(&pair.pod, "sysctl -qw net.ipv4.ip_local_port_range=20000\t20099");
        let app = app_listener(&pair.pod, at(pod, APP_PORT));
        let mut ports = HashSet::new();
        let deadline = std::time::Instant::now() + net::PATIENCE;
        let mut made = 0;
        while made < 300 {
            let opened = socket::connect_spoofed(&pair.pod, at(client, 0).ip(), at(pod, APP_PORT)).map_err(|error| error.source);
            match opened.and_then(connected) {
                Ok(spoofed) => {
                    let (mut accepted, from) = accept(&app);
                    ports.insert(from.port());
                    drop(spoofed);
                    assert_eq!(accepted.read(&mut [0; 1]).expect("end"), 0);
                    made += 1;
                }
                // A TIME_WAIT is reused after one second.
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
                    assert!(std::time::Instant::now() < deadline, "ports were not reused after {made} connections");
                    std::thread::yield_now();
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(ports.len() <= 100);
    }
}

#[test]
fn a_reset_arrives_as_a_reset() {
    let Some(pair) = captured_pod() else { return };
    let outbound = engine_listeners(&pair.pod, 15001);
    for destination in [at("10.1.2.3", 443), at("fd00:1::5", 443)] {
        let mut app = app_connect(&pair.pod, destination).expect("captured");
        let (mut captured, _) = accept(of(&outbound, destination));
        captured.write_all(b"last words").expect("write");
        let mut words = [0; 10];
        app.read_exact(&mut words).expect("written bytes come first");
        socket::reset(captured).expect("reset");
        assert_eq!(app.read(&mut [0; 1]).expect_err("reset").kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_socket_waits_for_its_peer_as_long_as_that_peer_may_take() {
    let Some(pair) = captured_pod() else { return };
    for (port, peer) in [(8001, Peer::Application), (8002, Peer::Network), (8003, Peer::Engine)] {
        let listener = socket::listen_tcp(&pair.pod, at("127.0.0.1", port), peer).expect("listen");
        let _app = app_connect(&pair.pod, at("127.0.0.1", port)).expect("connects");
        let (accepted, _) = accept(&listener);
        let dialled = socket::connect_marked(&pair.pod, at(OUTSIDE_V4, 9), peer).expect("socket");
        for stream in [&accepted, &dialled] {
            let options = SockRef::from(stream);
            assert!(options.tcp_nodelay().expect("option"));
            assert_eq!(options.keepalive().expect("option"), peer != Peer::Application, "{peer:?}");
            if peer != Peer::Application {
                assert_eq!(options.tcp_keepalive_time().expect("option"), socket::KEEPALIVE_IDLE);
            }
            let timeout = options.tcp_user_timeout().expect("option");
            assert_eq!(timeout, (peer == Peer::Engine).then_some(socket::USER_TIMEOUT), "{peer:?} may stop reading");
            let congestion = options.tcp_congestion().expect("option");
            assert!(congestion.starts_with(b"cubic"), "{}", String::from_utf8_lossy(&congestion));
        }
        assert_eq!(SockRef::from(&accepted).mark().expect("mark"), 0, "an accepted socket is not marked");
        assert_eq!(SockRef::from(&dialled).mark().expect("mark"), 0x539);
    }
}
