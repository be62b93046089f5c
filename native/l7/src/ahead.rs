//! A request's body whose beginning may have been read before it is sent on: external authorization looks into it.
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

pub(crate) struct Ahead {
    incoming: Incoming,
    /// Read, and not handed on yet.
    read: VecDeque<Frame<Bytes>>,
    /// Of the whole.
    total: SizeHint,
}

/// The beginning of a body.
pub(crate) struct Beginning {
    pub(crate) bytes: Bytes,
    /// There is no more.
    pub(crate) whole: bool,
}

impl Ahead {
    pub(crate) fn new(incoming: Incoming) -> Self {
        let total = incoming.size_hint();
        Self { incoming, read: VecDeque::new(), total }
    }

    /// At most so many bytes; what was read is still handed on afterwards.
    pub(crate) async fn beginning(&mut self, most: usize) -> Result<Beginning, hyper::Error> {
        let mut bytes = BytesMut::new();
        for data in self.read.iter().filter_map(Frame::data_ref) {
            bytes.extend_from_slice(data);
        }
        let mut ended = self.incoming.is_end_stream();
        while !ended && bytes.len() <= most {
            match poll_fn(|cx| Pin::new(&mut self.incoming).poll_frame(cx)).await {
                None => ended = true,
                Some(frame) => {
                    let frame = frame?;
                    if let Some(data) = frame.data_ref() {
                        bytes.extend_from_slice(data);
                    }
                    self.read.push_back(frame);
                    ended = self.incoming.is_end_stream();
                }
            }
        }
        let whole = ended && bytes.len() <= most;
        bytes.truncate(most);
        Ok(Beginning { bytes: bytes.freeze(), whole })
    }
}

impl Body for Ahead {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.read.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.incoming.is_end_stream()
    }

    /// Of the whole, however much was handed on.
    fn size_hint(&self) -> SizeHint {
        self.total
    }
}
