//! What the mesh leaves in a network namespace, taken out of it: the table first, in one transaction, then rules and routes, then what iptables made.
use std::{fs::File, io, os::fd::AsFd, path::Path, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{
    iptables,
    netlink::{self, Family},
};
use crate::tables::marks;

const TABLE: &str = "trackbed";
const HOST_TABLE: &str = "trackbed_host";

/// True when something was there. Works in a thread of its own, so that nothing else ever runs in the pod's namespace.
pub(super) fn remove(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    let work = thread::spawn(move || {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
        remove_here()
    });
    work.join().map_err(|_| io::Error::other("the thread inside the namespace panicked"))?
}

fn remove_here() -> io::Result<bool> {
    let mut removed = netlink::delete_table(TABLE)?;
    for family in [Family::V4, Family::V6] {
        for mark in [marks::REPLY, marks::ENGINE] {
            removed |= netlink::delete_rules(family, mark)?;
        }
        removed |= netlink::delete_routes(family)?;
    }
    // Last: it needs programs that may be missing, and what can be done without them shall be done.
    removed |= iptables::remove_chains()?;
    Ok(removed)
}

pub(super) fn remove_host() -> io::Result<bool> {
    let removed = netlink::delete_table(HOST_TABLE)?;
    Ok(iptables::remove_chains()? || removed)
}
