//! Applications: each sends its part of a plan and checks what comes, on a socket or on a stream of the h2 crate.
use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::pin;

use bytes::Bytes;
use futures_util::future::{Either, select};
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use trackbed_hbone::pump;

use crate::plan::{Plan, Progress, Side};

/// The other end broke off.
#[derive(Debug, PartialEq, Eq)]
struct Broken;

fn other(side: Side) -> Side {
    if side == Side::Client { Side::Server } else { Side::Client }
}

/// Plays one side of a plan on a socket.
pub(crate) async fn socket(mut socket: TcpStream, plan: &Plan, side: Side, progress: &Progress) {
    let total = plan.reset.filter(|(who, _)| *who == side).map_or(plan.sends(side), |(_, after)| after);
    let breaks = plan.reset.is_some_and(|(who, _)| who == side);
    {
        let (mut read, mut write) = socket.split();
        let sending = async {
            let mut random = fastrand::Rng::with_seed(plan.seed);
            let mut sent = 0;
            while sent < total {
                let piece = plan.pattern(side, sent, random.usize(1..200_000).min(total - sent));
                write.write_all(piece).await.map_err(|_| Broken)?;
                sent += piece.len();
            }
            if breaks { Ok(()) } else { write.shutdown().await.map_err(|_| Broken) }
        };
        let receiving = async {
            let mut random = fastrand::Rng::with_seed(!plan.seed);
            let (mut memory, mut received) = (vec![0; 200_000], 0);
            let end = loop {
                if plan.stands == Some(side) && received > 0 {
                    progress.halfway().await;
                }
                let most = if random.u8(..4) == 0 { random.usize(1..2000) } else { random.usize(1..memory.len()) };
                match read.read(&mut memory[..most]).await {
                    Ok(0) => break Ok(()),
                    Ok(count) => {
                        plan.check(other(side), received, &memory[..count]);
                        received += count;
                        progress.note(plan, side, count, 0);
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
                        break Err(Broken);
                    }
                }
            };
            progress.note(plan, side, 0, plan.receives(side) - received);
            (received, end)
        };
        if breaks {
            match select(pin!(sending), pin!(receiving)).await {
                Either::Left(_) => {}
                Either::Right((_, sending)) => _ = sending.await,
            }
            progress.note(plan, side, 0, plan.receives(side)); // perhaps twice: nobody waits for it any more
        } else {
            let (sent, (received, end)) = tokio::join!(sending, receiving);
            judge(plan, side, sent.is_err() || end.is_err(), received);
        }
    }
    if breaks {
        pump::reset(socket);
    }
}

/// A stream that nobody broke ended in order, with all its bytes; a broken one told its other end.
fn judge(plan: &Plan, side: Side, broken: bool, received: usize) {
    assert_eq!(broken, plan.reset.is_some(), "{side:?} of {plan:?}");
    let most = plan.reset.map_or(plan.receives(side), |(_, after)| after);
    assert!(if broken { received <= most } else { received == most }, "{side:?} got {received} of {plan:?}");
}

/// The same on a stream of the h2 crate.
pub(crate) async fn stream(mut sender: SendStream<Bytes>, mut receive: RecvStream, plan: &Plan, side: Side, progress: &Progress) {
    let total = plan.reset.filter(|(who, _)| *who == side).map_or(plan.sends(side), |(_, after)| after);
    let breaks = plan.reset.is_some_and(|(who, _)| who == side);
    let sending = async {
        let mut random = fastrand::Rng::with_seed(plan.seed);
        let mut sent = 0;
        while sent < total {
            let piece = plan.pattern(side, sent, random.usize(1..100_000).min(total - sent));
            sender.reserve_capacity(piece.len());
            while sender.capacity() == 0 {
                poll_fn(|cx| sender.poll_capacity(cx)).await.ok_or(Broken)?.map_err(|_| Broken)?;
            }
            let piece = &piece[..piece.len().min(sender.capacity())];
            sender.send_data(Bytes::from_static(piece), false).map_err(|_| Broken)?;
            sent += piece.len();
        }
        if breaks { Ok(()) } else { sender.send_data(Bytes::new(), true).map_err(|_| Broken) }
    };
    let receiving = async {
        let mut received = 0;
        let end = loop {
            if plan.stands == Some(side) && received > 0 {
                progress.halfway().await;
            }
            match receive.data().await {
                None => break Ok(()),
                Some(Ok(bytes)) => {
                    plan.check(other(side), received, &bytes);
                    received += bytes.len();
                    progress.note(plan, side, bytes.len(), 0);
                    let _ = receive.flow_control().release_capacity(bytes.len()); // fails once it is over, which data() tells
                }
                Some(Err(_)) => break Err(Broken),
            }
        };
        progress.note(plan, side, 0, plan.receives(side) - received);
        (received, end)
    };
    if breaks {
        match select(pin!(sending), pin!(receiving)).await {
            Either::Left(_) => {}
            Either::Right((_, sending)) => _ = sending.await,
        }
        progress.note(plan, side, 0, plan.receives(side));
        sender.send_reset(Reason::CANCEL);
    } else {
        let (sent, (received, end)) = tokio::join!(sending, receiving);
        judge(plan, side, sent.is_err() || end.is_err(), received);
    }
}
