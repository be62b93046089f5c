//! Closed-loop load: connections that ask again as soon as they were answered, which is as much as can be asked. An open loop would have to open a connection for
//! each request that is late, and where client, waypoint and server share two CPUs that alone makes the next one late.
use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::offer::{ANSWER_BYTES, Got, PATIENCE, understood};
use crate::Failure;

const CONNECTIONS: usize = 32;
const HEAD: &[u8] = b"GET /bench HTTP/1.1\r\nHost: bench.test\r\n\r\n";

/// How many requests of a time were answered, and how.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) admitted: Cell<usize>,
    pub(super) refused: Cell<usize>,
    pub(super) others: Cell<usize>,
}

/// Those that were sent from `from` to `until`, both since the load began.
pub(super) fn hammer(to: SocketAddr, from: Duration, until: Duration) -> Result<Rc<Answers>, Failure> {
    let answers = Rc::<Answers>::default();
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let start = Instant::now();
        let mut connections = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let answers = Rc::clone(&answers);
            connections.spawn_local(async move {
                let mut stream = TcpStream::connect(to).await?;
                stream.set_nodelay(true)?;
                loop {
                    let sent = start.elapsed();
                    if sent >= until {
                        return Ok::<_, std::io::Error>(());
                    }
                    let status = timeout(PATIENCE, ask(&mut stream)).await??;
                    let count = match status {
                        200 => &answers.admitted,
                        429 => &answers.refused,
                        _ => &answers.others,
                    };
                    count.set(count.get() + usize::from(sent >= from));
                }
            });
        }
        while let Some(done) = connections.join_next().await {
            done??;
        }
        Ok::<_, Failure>(())
    })?;
    Ok(answers)
}

async fn ask(stream: &mut TcpStream) -> std::io::Result<u16> {
    stream.write_all(HEAD).await?;
    let (mut buffer, mut have, mut got) = ([0; ANSWER_BYTES], 0, Got::default());
    loop {
        match stream.read(&mut buffer[have..]).await? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            count => have += count,
        }
        if understood(&buffer[..have], &mut got).is_some() {
            return Ok(got.status);
        }
    }
}
