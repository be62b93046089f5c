//! A request's body on its way to a backend: streamed as it comes, kept in part so that it can be sent again, copied for mirrors.
use crate::ahead::Ahead;
use crate::limits::MIRROR_BYTES;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

/// What a backend's connection sends. Only the newest one of an [`Upload`] reads on: a try that was given up must not take what the next needs.
pub(crate) enum Outgoing {
    Nothing,
    /// Of a question of our own.
    Whole(Option<Bytes>),
    Try {
        upload: Rc<RefCell<Upload>>,
        number: u32,
        at: usize,
    },
    Copy(Rc<RefCell<Copied>>),
}

/// Why a body could not be sent on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client's body broke off: {0}")]
    Client(#[source] hyper::Error),
    #[error("the client's body is larger than what is admitted")]
    TooLarge,
    #[error("another try has taken the body over")]
    TakenOver,
    #[error("the mirror does not keep up with the client")]
    Slow,
    #[error("the request whose copy this is was given up")]
    GivenUp,
}

pub(crate) struct Upload {
    incoming: Ahead,
    total: SizeHint,
    kept: Vec<Piece>,
    kept_bytes: usize,
    /// How large it may be.
    most: u64,
    too_large: bool,
    /// How much may be kept.
    keep: usize,
    /// Something was read that is not kept.
    lost: bool,
    tries: u32,
    bytes: Rc<Cell<u64>>,
    copies: Vec<Rc<RefCell<Copied>>>,
    failed: bool,
}

/// What a mirror has still to read.
#[derive(Default)]
pub(crate) struct Copied {
    pieces: VecDeque<Piece>,
    bytes: usize,
    end: Option<Result<(), UploadError>>,
    reader: Option<Waker>,
    /// Who waits for it to be given up.
    watcher: Option<Waker>,
    given_up: bool,
    total: SizeHint,
}

#[derive(Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Upload {
    /// `keep`: bytes that may be kept for another try; 0 where none is wanted. `most`: bytes that there may be; None: without limit.
    pub(crate) fn new(incoming: Ahead, keep: usize, most: Option<u64>, bytes: Rc<Cell<u64>>) -> Rc<RefCell<Self>> {
        let total = incoming.size_hint();
        let upload = Self {
            incoming,
            total,
            kept: Vec::new(),
            kept_bytes: 0,
            most: most.unwrap_or(u64::MAX),
            too_large: false,
            keep,
            lost: false,
            tries: 0,
            bytes,
            copies: Vec::new(),
            failed: false,
        };
        Rc::new(RefCell::new(upload))
    }

    /// Whether another try would send the same.
    pub(crate) fn can_be_sent_again(&self) -> bool {
        !self.lost && !self.failed
    }

    /// The client's side broke off.
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// There was more of it than there may be.
    pub(crate) fn too_large(&self) -> bool {
        self.too_large
    }

    /// Everything was read. Without that, the backend's connection is still busy with it.
    pub(crate) fn is_sent(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(crate) fn body(upload: &Rc<RefCell<Self>>) -> Outgoing {
        let number = {
            let mut upload = upload.borrow_mut();
            upload.tries += 1;
            upload.tries
        };
        Outgoing::Try { upload: Rc::clone(upload), number, at: 0 }
    }

    /// Before the first byte is read.
    pub(crate) fn copy(&mut self) -> Outgoing {
        let copied = Rc::new(RefCell::new(Copied { total: self.total, ..Copied::default() }));
        self.copies.push(Rc::clone(&copied));
        Outgoing::Copy(copied)
    }

    fn poll(&mut self, at: &mut usize, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, UploadError>>> {
        if let Some(piece) = self.kept.get(*at) {
            *at += 1;
            return Poll::Ready(Some(Ok(piece.clone())));
        }
        let piece = match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            None => {
                self.end_copies(Ok);
                return Poll::Ready(None);
            }
            Some(Err(cause)) => {
                self.failed = true;
                self.end_copies(|()| Err(UploadError::GivenUp));
                return Poll::Ready(Some(Err(UploadError::Client(cause))));
            }
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => Piece::Data(data),
                Err(frame) => Piece::Trailers(frame.into_trailers().unwrap_or_default()),
            },
        };
        if self.bytes.get() + piece.len() as u64 > self.most {
            (self.failed, self.too_large) = (true, true);
            self.end_copies(|()| Err(UploadError::GivenUp));
            return Poll::Ready(Some(Err(UploadError::TooLarge)));
        }
        self.bytes.set(self.bytes.get() + piece.len() as u64);
        self.copies.iter().for_each(|copy| copy.borrow_mut().push(piece.clone()));
        if self.incoming.is_end_stream() {
            self.end_copies(Ok);
        }
        self.keep(&piece, at);
        Poll::Ready(Some(Ok(piece)))
    }

    fn keep(&mut self, piece: &Piece, at: &mut usize) {
        if !self.lost && self.kept_bytes + piece.len() <= self.keep && self.keep > 0 {
            self.kept_bytes += piece.len();
            self.kept.push(piece.clone());
            *at += 1;
        } else {
            self.lost = true;
            self.kept = Vec::new();
            *at = 0;
        }
    }

    fn end_copies(&mut self, end: impl Fn(()) -> Result<(), UploadError>) {
        self.copies.drain(..).for_each(|copy| copy.borrow_mut().finish(end(())));
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        self.end_copies(|()| Err(UploadError::GivenUp));
    }
}

impl Outgoing {
    /// Resolves when a copy is given up: a connection that is stuck does not ask for more of it, and would not hear.
    pub(crate) fn given_up(&self) -> impl Future<Output = ()> + 'static {
        let copied = if let Self::Copy(copied) = self { Some(Rc::clone(copied)) } else { None };
        poll_fn(move |cx| match &copied {
            Some(copied) if copied.borrow().given_up => Poll::Ready(()),
            Some(copied) => {
                copied.borrow_mut().watcher = Some(cx.waker().clone());
                Poll::Pending
            }
            None => Poll::Pending,
        })
    }
}

impl Copied {
    fn push(&mut self, piece: Piece) {
        self.bytes += piece.len();
        if self.bytes > MIRROR_BYTES {
            self.pieces.clear();
            return self.finish(Err(UploadError::Slow));
        }
        if self.end.is_none() {
            self.pieces.push_back(piece);
        }
        self.wake();
    }

    fn finish(&mut self, end: Result<(), UploadError>) {
        self.given_up |= end.is_err();
        if self.given_up
            && let Some(watcher) = self.watcher.take()
        {
            watcher.wake();
        }
        self.end.get_or_insert(end);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, UploadError>>> {
        if let Some(piece) = self.pieces.pop_front() {
            self.bytes -= piece.len();
            return Poll::Ready(Some(Ok(piece)));
        }
        match self.end.take() {
            Some(Ok(())) => {
                self.end = Some(Ok(()));
                Poll::Ready(None)
            }
            Some(Err(cause)) => Poll::Ready(Some(Err(cause))),
            None => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Self::Data(data) => data.len(),
            Self::Trailers(trailers) => trailers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
        }
    }
}

impl From<Piece> for Frame<Bytes> {
    fn from(piece: Piece) -> Self {
        match piece {
            Piece::Data(data) => Self::data(data),
            Piece::Trailers(trailers) => Self::trailers(trailers),
        }
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let piece = match &mut *self {
            Self::Nothing => return Poll::Ready(None),
            Self::Whole(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Copy(copied) => copied.borrow_mut().poll(cx),
            Self::Try { upload, number, at } => {
                let mut upload = upload.borrow_mut();
                if upload.tries == *number { upload.poll(at, cx) } else { Poll::Ready(Some(Err(UploadError::TakenOver))) }
            }
        };
        piece.map(|piece| piece.map(|piece| piece.map(Frame::from)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Nothing => true,
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Try { upload, at, .. } => {
                let upload = upload.borrow();
                *at >= upload.kept.len() && upload.incoming.is_end_stream()
            }
            Self::Copy(copied) => {
                let copied = copied.borrow();
                copied.pieces.is_empty() && matches!(copied.end, Some(Ok(())))
            }
        }
    }

    /// Asked for before the first piece: it is the body's, not what is left of it.
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Nothing => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Self::Try { upload, .. } => upload.borrow().total,
            Self::Copy(copied) => copied.borrow().total,
        }
    }
}
