//! Connections that are open and silent.
use std::io::{self, BufRead};
use std::net::SocketAddr;
use std::time::Duration;

use crate::exchange::{echo, open};
use crate::socket;

/// A held connection that does not answer for this long counts as dead.
const SILENCE: Duration = Duration::from_secs(5);

/// Opens and holds connections and prints how many are open; each line on standard input asks for one echo on every one of them, and the
/// answer says how many still live. Ends with standard input.
pub(crate) fn hold(to: SocketAddr, connections: usize) -> io::Result<()> {
    let mut held = Vec::with_capacity(connections);
    for _ in 0..connections {
        let mut stream = open(to, socket::ECHO)?;
        echo::<100>(&mut stream)?;
        stream.set_read_timeout(Some(SILENCE))?;
        held.push(stream);
    }
    println!("{{\"open\":{}}}", held.len());
    for line in io::stdin().lock().lines() {
        line?;
        // A dead connection stays dead: what failed once is dropped and never counted again.
        held.retain_mut(|stream| echo::<100>(stream).is_ok());
        println!("{{\"alive\":{}}}", held.len());
    }
    Ok(())
}
