//! The record layer: full records as bulk makes them, and small ones as requests do, sealed at one end and opened at the other.
use std::cell::RefCell;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trackbed_contract::Identity;
use trackbed_tls::{Certified, TlsStream, accept, connect};

use crate::{Failure, measured, wire};

const BULK: usize = 256 << 10;
const BULK_TURNS: u64 = 40;
const MESSAGE: usize = 100;
const MESSAGES: u64 = 2000;

pub(crate) fn run() -> Result<u64, Failure> {
    let (client, server) = (Identity::parse(&wire::principal(0))?, Identity::parse(&wire::principal(1))?);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let (near, far) = (certify(&authority, &client)?, certify(&authority, &server)?);
    let (a, b) = (Rc::new(RefCell::new(Queue::default())), Rc::new(RefCell::new(Queue::default())));
    let ends = (Wire { from: Rc::clone(&b), to: Rc::clone(&a) }, Wire { from: a, to: b });
    let (near, far) = both(connect(ends.0, &near, &[server]), accept(ends.1, &far));
    let (mut near, mut far) = (near?.0, far?.0);

    let (data, mut into) = (vec![0x5a; BULK], vec![0; BULK]);
    let mut arrived = 0;
    measured(&mut || {
        for _ in 0..BULK_TURNS {
            arrived += carry(&mut near, &mut far, &data, &mut into);
        }
        for _ in 0..MESSAGES {
            arrived += carry(&mut near, &mut far, &data[..MESSAGE], &mut into[..MESSAGE]);
        }
    });
    let wanted = BULK * usize::try_from(BULK_TURNS)? + MESSAGE * usize::try_from(MESSAGES)?;
    if arrived != wanted || into != data {
        return Err(format!("{arrived} of {wanted} bytes arrived").into());
    }
    Ok(BULK_TURNS * (BULK as u64 / (16 << 10)) + MESSAGES)
}

fn certify(authority: &CertifiedIssuer<'_, KeyPair>, identity: &Identity) -> Result<Arc<Certified>, Failure> {
    let (pair, now) = (KeyPair::generate()?, SystemTime::now());
    let key = Arc::new(trackbed_tls::KeyPair::deserialize(pair.serialized_der())?);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.as_str().try_into()?)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.not_before = (now - Duration::from_mins(1)).into();
    params.not_after = (now + Duration::from_hours(1)).into();
    let leaf = params.signed_by(&pair, authority)?;
    Ok(Arc::new(Certified::new(identity, key, &[leaf.der().to_vec()], &[authority.der().to_vec()], now)?))
}

/// Writes all of `data` at one end and reads it at the other; returns how much came. Neither side ever waits for anything but the other.
fn carry(near: &mut TlsStream<Wire>, far: &mut TlsStream<Wire>, data: &[u8], into: &mut [u8]) -> usize {
    let mut cx = Context::from_waker(Waker::noop());
    let (mut written, mut buffer) = (0, ReadBuf::new(into));
    while buffer.remaining() > 0 {
        let before = (written, buffer.filled().len());
        if written < data.len()
            && let Poll::Ready(Ok(count)) = Pin::new(&mut *near).poll_write(&mut cx, &data[written..])
        {
            written += count;
        }
        let _ = Pin::new(&mut *near).poll_flush(&mut cx);
        let _ = Pin::new(&mut *far).poll_read(&mut cx, &mut buffer);
        if before == (written, buffer.filled().len()) {
            break; // told by the count
        }
    }
    buffer.filled().len()
}

/// Two futures in turn until both are done.
fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    let (mut one, mut other) = (pin!(one), pin!(other));
    let (mut first, mut second) = (None, None);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if first.is_none()
            && let Poll::Ready(done) = one.as_mut().poll(&mut cx)
        {
            first = Some(done);
        }
        if second.is_none()
            && let Poll::Ready(done) = other.as_mut().poll(&mut cx)
        {
            second = Some(done);
        }
        match (first, second) {
            (Some(first), Some(second)) => return (first, second),
            pair => (first, second) = pair,
        }
    }
}

/// One direction of a connection in memory: all that was written and not read.
#[derive(Default)]
struct Queue {
    bytes: Vec<u8>,
    read: usize,
}

struct Wire {
    from: Rc<RefCell<Queue>>,
    to: Rc<RefCell<Queue>>,
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut queue = self.from.borrow_mut();
        let count = into.remaining().min(queue.bytes.len() - queue.read);
        if count == 0 {
            return Poll::Pending;
        }
        into.put_slice(&queue.bytes[queue.read..queue.read + count]);
        queue.read += count;
        if queue.read == queue.bytes.len() {
            queue.bytes.clear();
            queue.read = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.to.borrow_mut().bytes.extend_from_slice(data);
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
