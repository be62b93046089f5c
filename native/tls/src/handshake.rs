//! A handshake on any byte stream, in both roles: its end is a stream and the proven facts about the peer, or a coded error.
//!
//! rustls does it, and is given one record at a time: what comes behind the last handshake record is the application's and stays with us.
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, Connection, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use trackbed_contract::Identity;

use crate::record::{Buffer, HEADER, Keys, Opener, RecordError, Role, Sealer, Suite};
use crate::secrets::Secrets;
use crate::verify::from_rustls;
use crate::{ALPN, Certified, PeerInfo, TlsError, TlsStream};

/// What one read may take: a flight with its certificates fits, and a peer that says nothing holds no more.
const READ: usize = 4096;

/// Proves `ours` to a server that must be one of `expected`. The caller sets the deadline.
pub async fn connect<Io>(io: Io, ours: &Certified, expected: &[Identity]) -> Result<(TlsStream<Io>, PeerInfo), TlsError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    ours.check(SystemTime::now())?;
    // rustls wants a name even when it neither sends nor checks one; identities are checked instead.
    let no_name = ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let tls = ClientConnection::new(ours.client_config(expected), no_name).map_err(|error| from_rustls(&error))?;
    establish(io, tls.into(), Role::Client).await
}

/// Serves as `ours`, to clients of our trust domain only. The caller sets the deadline.
pub async fn accept<Io>(io: Io, ours: &Certified) -> Result<(TlsStream<Io>, PeerInfo), TlsError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    ours.check(SystemTime::now())?;
    let tls = ServerConnection::new(ours.server_config()).map_err(|error| from_rustls(&error))?;
    establish(io, tls.into(), Role::Server).await
}

async fn establish<Io>(mut io: Io, mut tls: Connection, role: Role) -> Result<(TlsStream<Io>, PeerInfo), TlsError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut secrets = Secrets::default();
    let rest = shake(&mut io, &mut tls, &mut secrets).await?;
    require_alpn(tls.alpn_protocol())?;
    let peer = PeerInfo::of(&tls)?;
    let (sealer, opener) = layer(tls, secrets, role)?;
    Ok((TlsStream::new(io, sealer, opener, rest), peer))
}

/// Until both sides are done and all is sent. Returns what came behind the handshake.
async fn shake<Io>(io: &mut Io, tls: &mut Connection, secrets: &mut Secrets) -> Result<Buffer, TlsError>
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut input = Buffer::with_size(READ);
    let mut records = Records::default();
    let mut output = Output::default();
    poll_fn(|cx| {
        loop {
            // Reading goes on while the socket is full: each side may be waiting for the other's reading.
            let sent = output.poll_send(cx, io, tls)?;
            if !tls.is_handshaking() {
                ready!(sent);
                input.shrink();
                return Poll::Ready(Ok(std::mem::take(&mut input)));
            }
            if input.is_empty() {
                ready!(poll_fill(cx, io, &mut input))?;
            }
            let count = records.within(input.filled());
            let fed = secrets.overhear(|| feed(tls, &input.filled()[..count]));
            if let Err(error) = fed {
                // The alert goes if the socket takes it at once: the error does not wait for a peer.
                let _ = output.poll_send(cx, io, tls);
                return Poll::Ready(Err(error));
            }
            input.consume(count);
        }
    })
    .await
}

fn poll_fill<Io: AsyncRead + Unpin>(cx: &mut Context<'_>, io: &mut Io, input: &mut Buffer) -> Poll<Result<(), TlsError>> {
    input.rewind();
    let mut room = ReadBuf::new(input.room());
    ready!(Pin::new(io).poll_read(cx, &mut room)).map_err(|error| lost(&error))?;
    let count = room.filled().len();
    input.extend(count);
    let end = || TlsError::Handshake("the peer closed the connection during it".into());
    Poll::Ready(if count == 0 { Err(end()) } else { Ok(()) })
}

/// What rustls says, on its way to the socket.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

impl Output {
    /// Ready when all was taken and flushed.
    fn poll_send<Io>(&mut self, cx: &mut Context<'_>, io: &mut Io, tls: &mut Connection) -> Result<Poll<()>, TlsError>
    where
        Io: AsyncWrite + Unpin,
    {
        while tls.wants_write() {
            tls.write_tls(&mut self.bytes).map_err(|error| lost(&error))?;
        }
        while self.sent < self.bytes.len() {
            match Pin::new(&mut *io).poll_write(cx, &self.bytes[self.sent..]) {
                Poll::Ready(Ok(0)) => return Err(lost(&io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => self.sent += count,
                Poll::Ready(Err(error)) => return Err(lost(&error)),
                Poll::Pending => return Ok(Poll::Pending),
            }
        }
        self.bytes.clear();
        self.sent = 0;
        match Pin::new(io).poll_flush(cx) {
            Poll::Ready(Err(error)) => Err(lost(&error)),
            other => Ok(other.map(|_| ())),
        }
    }
}

/// Bytes of one record. rustls takes them in pieces, and checks after each.
fn feed(tls: &mut Connection, mut bytes: &[u8]) -> Result<(), TlsError> {
    while !bytes.is_empty() {
        if tls.read_tls(&mut bytes).map_err(|error| lost(&error))? == 0 {
            return Err(TlsError::Handshake("the peer ended the session during it".into()));
        }
        tls.process_new_packets().map_err(|error| from_rustls(&error))?;
    }
    Ok(())
}

/// Our record layer from the secrets of the handshake, once rustls agrees that they are its own.
pub(crate) fn layer(tls: Connection, secrets: Secrets, role: Role) -> Result<(Sealer, Opener), TlsError> {
    let suite = tls.negotiated_cipher_suite().and_then(|suite| Suite::of(suite.suite()));
    let suite = suite.ok_or_else(|| TlsError::Handshake("a cipher suite was agreed on that we do not offer".into()))?;
    let (ours, theirs) = match role {
        Role::Client => (secrets.client, secrets.server),
        Role::Server => (secrets.server, secrets.client),
    };
    let (Some(ours), Some(theirs)) = (ours, theirs) else {
        return Err(TlsError::Handshake("it ended without traffic secrets".into()));
    };
    let check = tls.dangerous_extract_secrets().map_err(|error| from_rustls(&error))?;
    let sending = Keys::new(suite, ours).map_err(record_error)?;
    let receiving = Keys::new(suite, theirs).map_err(record_error)?;
    if sending.agree(&check.tx).map_err(record_error)? && receiving.agree(&check.rx).map_err(record_error)? {
        Ok((Sealer::new(sending), Opener::new(receiving, role)))
    } else {
        Err(TlsError::Handshake("our keys are not those of rustls".into()))
    }
}

/// rustls refuses a foreign ALPN by itself, but lets a peer pass that names none.
fn require_alpn(chosen: Option<&[u8]>) -> Result<(), TlsError> {
    if chosen == Some(ALPN) { Ok(()) } else { Err(TlsError::Handshake("the peer did not choose the protocol h2 (ALPN)".into())) }
}

fn lost(error: &io::Error) -> TlsError {
    TlsError::Handshake(error.to_string())
}

#[allow(clippy::needless_pass_by_value)] // so that it fits map_err
fn record_error(error: RecordError) -> TlsError {
    TlsError::Handshake(error.to_string())
}

/// Where the records of the handshake end. Everything about them but their length is rustls's business.
#[derive(Debug, Default)]
pub(crate) struct Records {
    header: [u8; HEADER],
    have: usize,
    /// Bytes of the present record still to come behind its header.
    body: usize,
}

impl Records {
    /// How many of `bytes` may be fed at once: never beyond the end of a record, nor beyond that of a header, so that rustls refuses a
    /// bad one before its body is there.
    pub(crate) fn within(&mut self, bytes: &[u8]) -> usize {
        if self.body > 0 {
            let count = self.body.min(bytes.len());
            self.body -= count;
            return count;
        }
        let count = (HEADER - self.have).min(bytes.len());
        self.header[self.have..self.have + count].copy_from_slice(&bytes[..count]);
        self.have += count;
        if self.have == HEADER {
            let [.., high, low] = self.header;
            self.body = usize::from(u16::from_be_bytes([high, low]));
            self.have = 0;
        }
        count
    }
}
