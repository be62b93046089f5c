//! What is left of a request's way to its backend once both have agreed to go on without HTTP: the whole connection, or one stream of it.
use crate::carry::Carried;
use crate::rewound::Rewound;
use crate::{End, Flag};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::rc::Rc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

pub(crate) enum Left<Io> {
    /// Of HTTP/1.1; sent when the library has let go of it.
    Connection(oneshot::Receiver<Rewound<Io>>),
    /// Of HTTP/2, counted as open as long as it is carried.
    Stream(OnUpgrade, Rc<()>),
}

impl<Io: AsyncRead + AsyncWrite + Unpin> Left<Io> {
    pub(crate) async fn carry(self, mut carried: Carried<'_>, client: impl AsyncRead + AsyncWrite + Unpin) -> End {
        match self {
            Self::Connection(backend) => {
                if let Ok(backend) = backend.await {
                    return carried.carry(client, backend).await;
                }
            }
            Self::Stream(backend, _open) => {
                if let Ok(backend) = backend.await {
                    return carried.carry(client, TokioIo::new(backend)).await;
                }
            }
        }
        carried.flag = Some(Flag::ConnectionTermination);
        End::Upstream
    }
}
