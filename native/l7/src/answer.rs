//! A response on its way to the client: it counts, it watches the time, and at its end the backend's connection goes back to the pool.
use crate::attempt::Lease;
use crate::balancing::{Chosen, Met};
use crate::grpc::http_status;
use crate::record::Record;
use crate::refusal::grpc_status;
use crate::upload::Upload;
use crate::{Flag, Upstream};
use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::borrow::Cow;
use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::time::{Instant, Sleep, sleep_until};

pub(crate) struct Answer<U: Upstream> {
    source: Source<U>,
    record: Box<Record>,
    over: bool,
}

enum Source<U: Upstream> {
    Text(Option<Bytes>),
    Backend(Box<Stream<U>>),
}

/// What is held until the backend's last byte.
pub(crate) struct Stream<U: Upstream> {
    pub(crate) incoming: Incoming,
    pub(crate) lease: Lease<U::Io>,
    pub(crate) endpoint: Chosen<U::Detail>,
    /// None: the request had no body.
    pub(crate) upload: Option<Rc<RefCell<Upload>>>,
    deadline: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum AnswerError {
    #[error("the backend's answer broke off: {0}")]
    Backend(#[source] hyper::Error),
    #[error("the time for the whole answer is over")]
    Timeout,
    #[error("policies do not admit it any more")]
    Denied,
}

impl<U: Upstream> Stream<U> {
    pub(crate) fn new(
        incoming: Incoming,
        lease: Lease<U::Io>,
        endpoint: Chosen<U::Detail>,
        upload: Option<Rc<RefCell<Upload>>>,
        deadline: Option<Instant>,
    ) -> Self {
        Self { incoming, lease, endpoint, upload, deadline: deadline.map(|deadline| Box::pin(sleep_until(deadline))) }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if self.deadline.as_mut().is_some_and(|deadline| deadline.as_mut().poll(cx).is_ready()) {
            return Poll::Ready(Some(Err(AnswerError::Timeout)));
        }
        Pin::new(&mut self.incoming).poll_frame(cx).map_err(AnswerError::Backend)
    }

    fn end(&mut self) {
        // A backend that answers before it has heard everything keeps its connection busy.
        if self.upload.as_ref().is_none_or(|upload| upload.borrow().is_sent()) {
            self.lease.give_back();
        }
    }
}

impl<U: Upstream> Answer<U> {
    /// Empty text: no body.
    pub(crate) fn text(text: impl Into<Cow<'static, str>>, record: Box<Record>) -> Self {
        let text = match text.into() {
            Cow::Borrowed(text) => Bytes::from_static(text.as_bytes()),
            Cow::Owned(text) => Bytes::from(text),
        };
        let text = (!text.is_empty()).then_some(text);
        let mut answer = Self { source: Source::Text(text), record, over: false };
        answer.end();
        answer
    }

    pub(crate) fn of(stream: Box<Stream<U>>, record: Box<Record>) -> Self {
        let whole = stream.incoming.is_end_stream();
        let mut answer = Self { source: Source::Backend(stream), record, over: false };
        if whole {
            answer.end();
        }
        answer
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.over, true) {
            self.record.complete();
            if let Source::Backend(stream) = &mut self.source {
                // Trailers that say nothing of it leave it at what the head said.
                let status = self.record.grpc_status.map_or(StatusCode::OK, http_status);
                self.record.met(&stream.endpoint, Met::Status(status.as_u16()));
                stream.end();
            }
        }
    }

    fn broken(&mut self, error: &AnswerError) {
        self.over = true;
        let upload = if let Source::Backend(stream) = &self.source { stream.upload.as_ref() } else { None };
        let client = upload.is_some_and(|upload| upload.borrow().failed());
        let too_large = upload.is_some_and(|upload| upload.borrow().too_large());
        if let Source::Backend(stream) = &self.source
            && !client
            && !too_large
            && !matches!(error, AnswerError::Denied)
        {
            self.record.met(&stream.endpoint, Met::Failure);
        }
        self.record.flag(match error {
            AnswerError::Timeout => Flag::Timeout,
            AnswerError::Backend(_) if too_large => Flag::TooLarge,
            AnswerError::Denied => Flag::Denied,
            AnswerError::Backend(_) if client => Flag::ClientGone,
            AnswerError::Backend(cause) if cause.is_parse() => Flag::UpstreamProtocolError,
            AnswerError::Backend(_) => Flag::ConnectionTermination,
        });
    }
}

impl<U: Upstream> Body for Answer<U> {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        if let Some(Poll::Ready(refused)) = this.record.admission.as_ref().map(|admission| admission.poll_cut(cx)) {
            this.record.denied(refused);
            this.broken(&AnswerError::Denied);
            return Poll::Ready(Some(Err(AnswerError::Denied)));
        }
        let frame = match &mut this.source {
            Source::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Source::Backend(stream) => stream.poll(cx),
        };
        match &frame {
            Poll::Pending => {}
            Poll::Ready(None) => this.end(),
            Poll::Ready(Some(Err(error))) => this.broken(error),
            Poll::Ready(Some(Ok(frame))) => {
                this.record.response_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(trailers) = frame.trailers_ref() {
                    this.record.grpc_status = grpc_status(trailers).or(this.record.grpc_status);
                }
                // The library does not ask again once it knows that there is no more.
                if this.is_end_stream() {
                    this.end();
                }
            }
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Text(text) => text.is_none(),
            Source::Backend(stream) => stream.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Source::Backend(stream) => stream.incoming.size_hint(),
        }
    }
}

impl<U: Upstream> Drop for Answer<U> {
    fn drop(&mut self) {
        if !self.over && self.is_end_stream() {
            self.end();
        }
    }
}
