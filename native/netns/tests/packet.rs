//! Claims about packets with descriptors and sealed memory.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::fs::{fcntl_add_seals, ftruncate};
use trackbed_netns::{
    PacketSocket, memory,
    packet::{self, MAX_FDS, recv_with_fds, send_with_fds},
};

#[test]
fn packets_keep_their_bounds_and_bring_their_descriptors() {
    let (one, other) = packet::pair().expect("pair");
    let state = memory::write_sealed("state", b"one").expect("memory");
    let many: Vec<BorrowedFd<'_>> = std::iter::repeat_n(state.as_fd(), MAX_FDS).collect();
    send_with_fds(&one, b"first", &many).expect("send");
    send_with_fds(&one, b"second", &[]).expect("send");
    let first = recv_with_fds(&other, 64, MAX_FDS).expect("receive").expect("open");
    assert_eq!((first.bytes.as_slice(), first.fds.len()), (&b"first"[..], MAX_FDS));
    for fd in &first.fds {
        assert_eq!(memory::read_sealed(fd, 16).expect("the same file"), b"one");
    }
    let second = recv_with_fds(&other, 64, MAX_FDS).expect("receive").expect("open");
    assert_eq!((second.bytes.as_slice(), second.fds.len()), (&b"second"[..], 0));
    drop(one);
    assert!(recv_with_fds(&other, 64, 0).expect("end").is_none());
}

#[test]
fn what_is_over_a_bound_is_refused_on_both_sides() {
    let (one, other) = packet::pair().expect("pair");
    let file: OwnedFd = File::open("/dev/null").expect("open").into();
    let many: Vec<BorrowedFd<'_>> = std::iter::repeat_n(file.as_fd(), MAX_FDS + 1).collect();
    assert_eq!(send_with_fds(&one, b"x", &many).expect_err("too many").kind(), ErrorKind::InvalidInput);
    assert_eq!(send_with_fds(&one, b"", &[]).expect_err("empty").kind(), ErrorKind::InvalidInput);
    send_with_fds(&one, b"12345", &[]).expect("send");
    assert_eq!(recv_with_fds(&other, 4, 0).expect_err("too long").kind(), ErrorKind::InvalidData);
    send_with_fds(&one, b"1234", &[file.as_fd()]).expect("send");
    assert_eq!(recv_with_fds(&other, 4, 0).expect_err("a descriptor").kind(), ErrorKind::InvalidData);
    send_with_fds(&one, b"1234", &[]).expect("the connection lives on");
    assert_eq!(recv_with_fds(&other, 4, 0).expect("receive").expect("open").bytes, b"1234");
}

#[tokio::test]
async fn a_full_queue_makes_the_sender_wait_and_loses_nothing() {
    let (one, other) = packet::pair().expect("pair");
    let (one, other) = (PacketSocket::new(one).expect("socket"), PacketSocket::new(other).expect("socket"));
    let count = 2000_u32;
    let sender = async {
        for number in 0..count {
            one.send(&number.to_be_bytes().repeat(64), &[]).await.expect("send");
        }
        drop(one);
    };
    let receiver = async {
        let mut next = 0_u32;
        while let Some(packet) = other.recv(256, 0).await.expect("receive") {
            assert_eq!(packet.bytes, next.to_be_bytes().repeat(64));
            next += 1;
        }
        next
    };
    assert_eq!(tokio::join!(sender, receiver).1, count);
}

#[test]
fn sealed_memory_cannot_change_and_unsealed_memory_is_refused() {
    let sealed = memory::write_sealed("keeper", b"secret").expect("memory");
    let copy = sealed.try_clone().expect("dup");
    assert!(File::from(copy.try_clone().expect("dup")).write_all(b"x").is_err());
    assert!(ftruncate(&copy, 0).is_err());
    assert!(fcntl_add_seals(&copy, rustix::fs::SealFlags::FUTURE_WRITE).is_err());
    assert_eq!(memory::read_sealed(&copy, 6).expect("read"), b"secret");
    assert_eq!(memory::read_sealed(&sealed, 6).expect("read again, whatever the offset"), b"secret");
    assert_eq!(memory::read_sealed(&sealed, 5).expect_err("limit").kind(), ErrorKind::InvalidData);
    let open = rustix::fs::memfd_create("open", rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING).expect("memory");
    assert_eq!(memory::read_sealed(&open, 6).expect_err("not sealed").kind(), ErrorKind::InvalidData);
    let file: OwnedFd = File::open("/dev/null").expect("open").into();
    assert_eq!(memory::read_sealed(&file, 6).expect_err("no memory file").kind(), ErrorKind::InvalidData);
}
