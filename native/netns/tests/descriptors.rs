//! Claims about descriptors; alone in its process, because it counts them.
mod net;

use std::{
    fs::File,
    os::fd::{AsFd, OwnedFd},
};

use trackbed_netns::{
    Netns, Watch, memory,
    packet::{self, recv_with_fds, send_with_fds},
    socket,
};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("proc").count()
}

#[test]
fn nothing_leaks_over_many_rounds() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    let _context = runtime.enter();
    let round = || {
        let Some(netns) = net::namespace() else { return };
        let listener = socket::listen_tcp(&netns, net::at("127.0.0.1", 0), socket::Peer::Application).expect("listen");
        let address = listener.local_addr().expect("address");
        let _dns = socket::listen_dns_udp(&netns, net::at("::", 15053)).expect("dns");
        let _watch = Watch::new(&netns).expect("watch");
        let _open = net::app_connect(&netns, address).expect("connect");
        let refused = socket::connect_spoofed(&netns, net::at("10.9.9.9", 0).ip(), net::at("127.0.0.1", 1));
        drop(refused);
        netns.addresses().expect("addresses");
        assert!(Netns::from_fd(listener.into()).is_err());

        let (one, other) = packet::pair().expect("pair");
        let file: OwnedFd = File::open("/dev/null").expect("open").into();
        send_with_fds(&one, b"x", &[file.as_fd(), file.as_fd()]).expect("send");
        assert!(recv_with_fds(&other, 16, 1).is_err(), "two where one is allowed");
        send_with_fds(&one, &[0; 17], &[file.as_fd()]).expect("send");
        assert!(recv_with_fds(&other, 16, 1).is_err(), "too long");
        let sealed = memory::write_sealed("test", b"state").expect("memory");
        memory::read_sealed(&sealed, 16).expect("read");
    };
    round();
    let before = open_descriptors();
    for _ in 0..25 {
        round();
    }
    assert_eq!(open_descriptors(), before);
}
