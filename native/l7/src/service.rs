//! What is known of one service, in the form in which requests are matched.
use trackbed_contract::route;

#[derive(Debug)]
pub(crate) struct Service;

impl Service {
    pub(crate) fn parse(routes: &route::Routes) -> Result<Self, &'static str> {
        if routes.ports.iter().any(|port| u16::try_from(port.port).is_err()) { Err("a port is above 65535") } else { Ok(Self) }
    }
}
