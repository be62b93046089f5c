//! The traffic secrets of a handshake, overheard where rustls offers them: in its key log, for the time of one call, on this thread only.
use std::cell::RefCell;
use std::sync::Arc;

use rustls::KeyLog;

use crate::record::Secret;

const CLIENT: &str = "CLIENT_TRAFFIC_SECRET_0";
const SERVER: &str = "SERVER_TRAFFIC_SECRET_0";

thread_local! {
    /// Set while `overhear` runs: whoever uses the same configuration otherwise leaves nothing here.
    static HEARD: RefCell<Option<Secrets>> = const { RefCell::new(None) };
}

/// The first secret of either direction. rustls's own extraction gives keys, from which no key update can be made.
#[derive(Default)]
pub(crate) struct Secrets {
    pub(crate) client: Option<Secret>,
    pub(crate) server: Option<Secret>,
}

impl Secrets {
    /// Keeps what `act` lets rustls say. The key log is called within rustls's calls, so no other connection can speak in between.
    pub(crate) fn overhear<T>(&mut self, act: impl FnOnce() -> T) -> T {
        HEARD.set(Some(std::mem::take(self)));
        let result = act();
        *self = HEARD.take().unwrap_or_default();
        result
    }
}

/// What a configuration needs for `overhear`.
pub(crate) fn key_log() -> Arc<dyn KeyLog> {
    Arc::new(Ear)
}

#[derive(Debug)]
struct Ear;

impl KeyLog for Ear {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        HEARD.with_borrow_mut(|heard| {
            let Some(secrets) = heard else { return };
            match label {
                CLIENT => secrets.client = Some(Secret::new(secret)),
                SERVER => secrets.server = Some(Secret::new(secret)),
                _ => {}
            }
        });
    }

    fn will_log(&self, label: &str) -> bool {
        [CLIENT, SERVER].contains(&label) && HEARD.with_borrow(Option::is_some)
    }
}
