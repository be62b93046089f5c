//! Claims about namespaces as values.
mod net;

use std::{
    fs::File,
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
};

use net::{app_connect, at, namespace, pod};
use trackbed_netns::{
    Netns, NetnsError,
    socket::{self, Peer},
};

#[test]
fn two_namespaces_have_two_cookies_that_stay() {
    let (Some(one), Some(other)) = (namespace(), namespace()) else { return };
    assert_ne!(one.cookie(), 0);
    assert_ne!(one.cookie(), other.cookie());
    let again = Netns::from_fd(one.as_fd().try_clone_to_owned().expect("dup")).expect("namespace");
    assert_eq!(again.cookie(), one.cookie());
}

#[test]
fn a_thread_is_back_after_work_after_a_panic_and_after_nesting() {
    let (Some(one), Some(other)) = (namespace(), namespace()) else { return };
    let here = Netns::current().expect("current").cookie();
    let inside = one.enter(|| {
        let nested = other.enter(|| Netns::current().expect("current").cookie()).expect("enter");
        (nested, Netns::current().expect("current").cookie())
    });
    assert_eq!(inside.expect("enter"), (other.cookie(), one.cookie()));
    assert_eq!(Netns::current().expect("current").cookie(), here);
    let panicked = catch_unwind(AssertUnwindSafe(|| one.enter(|| panic!("inside"))));
    assert!(panicked.is_err());
    assert_eq!(Netns::current().expect("current").cookie(), here);
}

#[test]
fn only_network_namespaces_are_taken() {
    if namespace().is_none() {
        return;
    }
    let mount: OwnedFd = File::open("/proc/self/ns/mnt").expect("open").into();
    let file: OwnedFd = File::open("/proc/self/status").expect("open").into();
    let socket: OwnedFd = TcpListener::bind("127.0.0.1:0").expect("bind").into();
    for fd in [mount, file, socket] {
        assert!(matches!(Netns::from_fd(fd), Err(NetnsError::NotANamespace)));
    }
}

#[test]
fn addresses_are_those_of_the_namespace_and_unusable_ones_do_not_count() {
    let Some(pair) = pod() else { return };
    for address in [net::POD_V4, net::POD_V6, "127.0.0.1", "::1"] {
        assert!(pair.pod.holds(at(address, 0).ip()).expect("list"), "{address}");
    }
    for address in [net::OUTSIDE_V4, net::OUTSIDE_V6, "10.77.1.3"] {
        assert!(!pair.pod.holds(at(address, 0).ip()).expect("list"), "{address}");
    }
    // Without nodad an address is tentative at first; while its link has no carrier it stays so.
    net::run(&pair.outside, "ip link set veth0 down");
    net::run(&pair.pod, "ip addr add fd77:1::9/64 dev eth0");
    let address = at("fd77:1::9", 0).ip();
    let held = pair.pod.addresses().expect("list").into_iter().find(|held| held.address == address).expect("listed");
    assert!(!held.usable);
    assert_eq!(held.prefix, 64);
    assert!(!pair.pod.holds(address).expect("list"));
}

#[test]
fn a_listener_is_reachable_inside_only() {
    let (Some(one), Some(other)) = (namespace(), namespace()) else { return };
    for ip in ["127.0.0.1", "::1"] {
        let listener = socket::listen_tcp(&one, at(ip, 0), Peer::Application).expect("listen");
        let address = listener.local_addr().expect("address");
        let inside = app_connect(&one, address).expect("inside");
        net::exchange(&inside, &net::accept(&listener).0);
        assert!(app_connect(&other, address).is_err());
        assert!(TcpStream::connect(address).is_err());
        assert!(net::nobody(&listener));
    }
}

#[test]
fn a_listener_on_a_taken_port_names_step_and_address() {
    let Some(netns) = namespace() else { return };
    let _app = net::app_listener(&netns, at("0.0.0.0", 15001));
    let error = socket::listen_tcp(&netns, at("0.0.0.0", 15001), Peer::Network).expect_err("taken");
    assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
    assert!(error.to_string().contains("0.0.0.0:15001"), "{error}");
    socket::listen_tcp(&netns, at("::", 15001), Peer::Network).expect("the other family is free, since IPv6 sockets are IPv6 only");
}
