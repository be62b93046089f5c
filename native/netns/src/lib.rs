//! Work inside the network namespaces of pods: sockets made there, notices from there, descriptors passed between processes.
//!
//! A socket belongs for ever to the namespace it was made in, so only its making happens inside; everything after works from outside.

pub mod datagram;
pub mod frames;
pub mod handover;
pub mod memory;
pub mod namespace;
mod netlink;
pub mod packet;
pub mod sniff;
pub mod socket;
mod sys;
pub mod watch;

pub use handover::{Handover, HandoverError, HandoverListener};
pub use namespace::{InterfaceAddress, Netns, NetnsError};
pub use packet::{Packet, PacketSocket};
pub use socket::SocketError;
pub use watch::{Notice, NoticeKind, Watch};
