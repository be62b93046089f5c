//! The task of a connection: reads and passes on what came, sends what its streams said, keeps time, and brings it to its end.
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Sleep, sleep_until, timeout};

use crate::h2::{Asked, Reason};
use crate::limits::LINGER;
use crate::link::{Core, Ended, Link, Received};
use crate::scratch::TURN;
use crate::turn::take_another_turn;
use crate::vigil::Order;

/// How it ended.
#[derive(Debug)]
pub(crate) enum End {
    Orderly,
    Lost(String),
    /// The peer never said its first word.
    Mute(Duration),
    /// It goes on elsewhere.
    Frozen,
}

pub(crate) struct Driver {
    link: Rc<Link>,
    alarm: Pin<Box<Sleep>>,
    /// When the alarm is set for, once it knows the task.
    armed: Option<Instant>,
    /// What came behind the handshake was not looked at yet.
    fresh: bool,
    /// The first word of the peer is a request, not its settings.
    until_asked: bool,
    alert: Box<[u8]>,
}

impl Driver {
    pub(crate) fn new(link: Rc<Link>, until_asked: bool) -> Self {
        let alarm = Box::pin(sleep_until(link.borrow().vigil.next().into()));
        Self { link, alarm, armed: None, fresh: true, until_asked, alert: Box::default() }
    }

    /// Runs the connection to its end; `take` gets what a client asks for. When this is dropped every stream is lost.
    pub(crate) async fn run(mut self, mut take: impl FnMut(u32, Box<Asked>)) -> End {
        let end = poll_fn(|cx| self.poll(cx, &mut take)).await;
        let link = Rc::clone(&self.link);
        match &end {
            End::Orderly => Box::pin(part(&link)).await,
            End::Lost(_) | End::Mute(_) => link.borrow_mut().say_last(&self.alert),
            End::Frozen => {}
        }
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>, take: &mut impl FnMut(u32, Box<Asked>)) -> Poll<End> {
        let now = Instant::now();
        let result = {
            let mut core = self.link.borrow_mut();
            if core.is_frozen() {
                return Poll::Ready(End::Frozen);
            }
            core.enter(cx);
            receive(&mut core, cx, now, &mut self.fresh)
        };
        // Outside of the borrow: whoever takes it may answer at once.
        loop {
            let mut core = self.link.borrow_mut();
            let Some((id, asked)) = core.asked.pop_front() else { break };
            core.vigil.spoke();
            drop(core);
            take(id, asked);
        }
        let link = Rc::clone(&self.link);
        let mut core = link.borrow_mut();
        match result {
            Ok(true) => core.vigil.heard(now),
            Ok(false) => {}
            Err(ended) => {
                self.alert = ended.alert;
                core.end(&ended.reason);
            }
        }
        core.note_use(now);
        let told = self.keep_time(&mut core, now);
        core.flush();
        if let Some(mute) = told {
            core.end("the peer did not say its first word in time");
            return Poll::Ready(mute);
        }
        if let Some(reason) = core.over() {
            return Poll::Ready(End::Lost(reason.to_string()));
        }
        // What was said last must be with the wire: behind it comes close_notify.
        if core.h2.live() == 0 && core.is_flushed() && (core.retired || core.h2.is_going_away() || core.h2.is_left()) {
            return Poll::Ready(End::Orderly);
        }
        drop(core);
        self.arm(cx);
        Poll::Pending
    }

    /// What time demands.
    fn keep_time(&mut self, core: &mut Core, now: Instant) -> Option<End> {
        if std::mem::take(&mut core.ponged) {
            core.vigil.ponged(now);
            if core.h2.is_leaving() {
                core.h2.leave(Reason::NO_ERROR);
            }
        }
        if !self.until_asked && core.h2.is_settled() {
            core.vigil.spoke();
        }
        if core.vigil.next() > now {
            return None;
        }
        core.give_memory_back();
        match core.vigil.at(now, SystemTime::now()) {
            Order::Nothing => {}
            Order::Ping => core.h2.ping(),
            Order::Dead(reason) => core.end(&reason),
            Order::Mute(patience) => return Some(End::Mute(patience)),
        }
        None
    }

    /// The task is woken at the next time that matters.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let next = self.link.borrow().vigil.next();
        if self.armed == Some(next) {
            return;
        }
        self.alarm.as_mut().reset(next.into());
        self.armed = Some(next);
        if self.alarm.as_mut().poll(cx).is_ready() {
            self.armed = None;
            cx.waker().wake_by_ref();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let mut core = self.link.borrow_mut();
        core.end("the connection was given up");
        drop(core.take_wire());
    }
}

/// Reads until there is nothing more or others must have their turn. True when anything came.
fn receive(core: &mut Core, cx: &mut Context<'_>, now: Instant, fresh: &mut bool) -> Result<bool, Ended> {
    let mut left = TURN;
    while !core.closed {
        let received = if std::mem::take(fresh) {
            core.receive_rest(now)?
        } else {
            match core.poll_receive(cx, now) {
                Poll::Ready(received) => received?,
                Poll::Pending => return Ok(left < TURN),
            }
        };
        match received {
            Received::Closed if core.h2.live() == 0 => {
                (core.closed, core.retired) = (true, true);
            }
            Received::Closed => return Err(Ended::new("closed by the peer")),
            Received::Bytes(count) => left = left.saturating_sub(count),
        }
        if left == 0 {
            take_another_turn(cx);
            return Ok(true);
        }
    }
    Ok(left < TURN)
}

/// Both sides have said everything: GOAWAY, close_notify, and then reading until the peer has closed too. Closing a socket with unread data
/// in it (a WINDOW_UPDATE is enough) would make the kernel send RST, which can destroy what the peer has not read yet.
async fn part(link: &Rc<Link>) {
    {
        let mut core = link.borrow_mut();
        if !core.h2.is_left() {
            core.h2.leave(Reason::NO_ERROR);
        }
        core.say_last(&[]);
    }
    let farewell = async {
        poll_fn(|cx| {
            let mut core = link.borrow_mut();
            core.enter(cx);
            core.flush();
            if core.is_flushed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let wire = link.borrow_mut().take_wire();
        let Some(mut wire) = wire else { return };
        let _ = wire.shutdown().await; // the peer may have been faster
        let mut scrap = [0; 4096];
        while matches!(wire.read(&mut scrap).await, Ok(count) if count > 0) {}
    };
    let _ = timeout(LINGER, farewell).await; // a peer that does not close is not waited for
}
