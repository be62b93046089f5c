//! Bytes both ways, for what is not HTTP or not HTTP any more, and the record of it.
use crate::admission::Admission;
use crate::backend::Backend;
use crate::limits::CARRY_BYTES;
use crate::metered::Metered;
use crate::record::Parties;
use crate::{Decided, End, Flag, RouteName, StreamRecord};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::select;

/// The record of one connection, told when it is dropped.
pub(crate) struct Carried<'a> {
    parties: Rc<Parties>,
    begun: Instant,
    pub(crate) route: Option<&'a RouteName>,
    pub(crate) backend: Option<&'a Backend>,
    pub(crate) endpoint: Option<(Arc<str>, SocketAddr)>,
    pub(crate) server_name: Option<String>,
    pub(crate) flag: Option<Flag>,
    /// Of a service that is guarded.
    pub(crate) admission: Option<Rc<Admission>>,
    pub(crate) decided: Option<Decided>,
    received: u64,
    sent: u64,
}

impl<'a> Carried<'a> {
    pub(crate) fn begin(parties: &Rc<Parties>, route: Option<&'a RouteName>) -> Self {
        Self {
            parties: Rc::clone(parties),
            begun: Instant::now(),
            route,
            backend: None,
            endpoint: None,
            server_name: None,
            flag: None,
            admission: None,
            decided: None,
            received: 0,
            sent: 0,
        }
    }

    /// Notes what policies said of it. False: it is refused.
    pub(crate) fn judged(&mut self, admitted: bool, decided: Option<Decided>) -> bool {
        self.decided = Decided::both(self.decided.take(), decided);
        if !admitted {
            self.flag = Some(Flag::Denied);
        }
        admitted
    }

    /// Until both directions have ended, each by itself; an error of one side is a reset for the other.
    pub(crate) async fn carry<C, B>(mut self, client: C, backend: B) -> End
    where
        C: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut client, mut backend) = (Metered::new(client), Metered::new(backend));
        let copied = {
            let mut copying = pin!(copy_bidirectional_with_sizes(&mut client, &mut backend, CARRY_BYTES, CARRY_BYTES));
            match &self.admission {
                None => Ok(copying.await),
                Some(admission) => select! {
                    biased;
                    refused = admission.until_cut() => Err(refused),
                    copied = copying.as_mut() => Ok(copied),
                },
            }
        };
        (self.received, self.sent) = (client.read, backend.read);
        let copied = match copied {
            Ok(copied) => copied,
            Err(refused) => {
                self.decided = Some(Decided::of(refused));
                self.flag = Some(Flag::Denied);
                return End::Refused;
            }
        };
        let (end, flag) = match copied {
            Ok(_) => (End::Closed, None),
            Err(_) if client.failed() => (End::Client, Some(Flag::ClientGone)),
            Err(_) => (End::Upstream, Some(Flag::ConnectionTermination)),
        };
        self.flag = flag;
        end
    }
}

impl Drop for Carried<'_> {
    fn drop(&mut self) {
        self.parties.report.connection(&StreamRecord {
            client: &self.parties.client,
            served: &self.parties.served,
            decided: self.decided.as_ref(),
            route: self.route,
            backend: self.backend.map(|backend| &*backend.key),
            endpoint: self.endpoint.as_ref().map(|(uid, address)| (uid, *address)),
            server_name: self.server_name.as_deref(),
            flags: self.flag.as_slice(),
            received_bytes: self.received,
            sent_bytes: self.sent,
            duration: self.begun.elapsed(),
        });
    }
}
