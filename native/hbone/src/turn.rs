//! Turns: a task that has moved as much as one turn allows, and has more to do, lets everybody else go first.
use std::pin::pin;
use std::task::{Context, Poll};

/// The task runs again once all that is ready had its turn, and what has become ready meanwhile: the kernel is asked in between. After a plain
/// wake the runtime asks only at every 61st task, and a small message beside a bulk stream would wait for so many turns of the latter.
pub(crate) fn take_another_turn(cx: &mut Context<'_>) {
    if pin!(tokio::task::yield_now()).poll(cx) == Poll::Ready(()) {
        cx.waker().wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    /// Tasks of their own: the future that a runtime blocks on is not counted among them.
    #[tokio::test]
    async fn what_becomes_ready_during_a_turn_goes_before_the_next_but_one() {
        const SPEAKS: usize = 10;
        const LAST: usize = 100;
        let (near, mut far) = UnixStream::pair().unwrap();
        let turns = Arc::new(AtomicUsize::new(0));
        let small = tokio::spawn({
            let turns = Arc::clone(&turns);
            async move {
                far.read_exact(&mut [0]).await.unwrap();
                turns.load(Relaxed)
            }
        });
        let busy = poll_fn(move |cx| {
            let turn = turns.fetch_add(1, Relaxed) + 1;
            if turn == SPEAKS {
                assert_eq!(near.try_write(b"!").unwrap(), 1);
            }
            if turn == LAST {
                return Poll::Ready(());
            }
            take_another_turn(cx);
            Poll::Pending
        });
        tokio::spawn(busy);
        let waited = small.await.unwrap() - SPEAKS;
        assert!(waited <= 1, "{waited} turns");
    }
}
