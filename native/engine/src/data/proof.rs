//! The proof that capture works: a connection to an address that nobody has must come out at our own listener.
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use trackbed_contract::tables::addresses;
use trackbed_hbone::pump;
use trackbed_netns::socket;

use super::Thread;
use crate::worker::shared::Pod;

const NONCE_BYTES: usize = 16;
const LIMIT: Duration = Duration::from_secs(1);

type Nonce = [u8; NONCE_BYTES];

/// Proofs under way: whoever brings a nonce back to our listener fulfils it.
#[derive(Debug, Default)]
pub(super) struct Proofs(RefCell<HashMap<Nonce, oneshot::Sender<()>>>);

pub(super) fn is_proof(destination: SocketAddr) -> bool {
    destination.port() == addresses::PROOF_PORT && (Some(destination.ip()) == address(true) || Some(destination.ip()) == address(false))
}

fn address(v4: bool) -> Option<IpAddr> {
    if v4 { addresses::PROOF_V4 } else { addresses::PROOF_V6 }.parse().ok()
}

impl Proofs {
    /// Takes a captured connection to the proof address. A pod that connects there by itself learns nothing.
    pub(super) async fn receive(&self, mut client: TcpStream) {
        let mut nonce = Nonce::default();
        if let Ok(Ok(_)) = tokio::time::timeout(LIMIT, client.read_exact(&mut nonce)).await
            && let Some(proven) = self.0.borrow_mut().remove(&nonce)
        {
            // Nobody waits any more when the proof timed out just now.
            let _ = proven.send(());
        }
        pump::reset(client);
    }
}

/// Takes the nonce back when the attempt is over.
struct Expected<'a>(&'a Proofs, Nonce);

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.0.0.borrow_mut().remove(&self.1);
    }
}

impl Thread {
    /// Proven for every family that the pod has, or what went wrong with which.
    pub(super) async fn prove(&self, pod: &Pod) -> Result<(), String> {
        for v4 in [true, false] {
            if !pod.local.addresses.iter().any(|address| address.is_ipv4() == v4) {
                continue;
            }
            let to = address(v4).map(|ip| SocketAddr::new(ip, addresses::PROOF_PORT)).ok_or("the proof address does not parse")?;
            let attempt = tokio::time::timeout(LIMIT, self.prove_one(pod, to)).await;
            attempt.unwrap_or_else(|_| Err("not captured within 1 s".into())).map_err(|reason| format!("{to}: {reason}"))?;
        }
        if pod.local.addresses.is_empty() { Err("the namespace holds none of the pod's addresses".into()) } else { Ok(()) }
    }

    async fn prove_one(&self, pod: &Pod, to: SocketAddr) -> Result<(), String> {
        let nonce: Nonce = std::array::from_fn(|_| fastrand::u8(..));
        let (proven, proof) = oneshot::channel();
        self.proofs.0.borrow_mut().insert(nonce, proven);
        let _expected = Expected(&self.proofs, nonce);
        let started = socket::connect_unmarked(&pod.netns, to).map_err(|error| error.to_string())?;
        let mut stream = socket::established(started).await.map_err(|error| error.to_string())?;
        stream.write_all(&nonce).await.map_err(|error| error.to_string())?;
        proof.await.map_err(|_| "not captured".to_owned())
    }
}
