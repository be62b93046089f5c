//! Faults on purpose: what a client does when its server is slow or gone is found out before that happens by itself.
use crate::grpc::http_status;
use crate::invalid::{At, Invalid, Parsed, set};
use http::StatusCode;
use std::time::Duration;
use trackbed_contract::traffic;

#[derive(Debug)]
pub(crate) struct Fault {
    delay: Option<(Duration, Share)>,
    abort: Option<(Abort, Share)>,
}

/// What it is answered instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Abort {
    pub(crate) status: StatusCode,
    /// Set: this, for requests of gRPC.
    pub(crate) grpc: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
struct Share {
    numerator: u32,
    denominator: u32,
}

impl Fault {
    pub(super) fn parse(from: &traffic::FaultInjection) -> Parsed<Self> {
        let delay = |delay: &traffic::Delay| {
            let share = Share::parse(delay.share.as_ref()).at("share")?;
            Ok((Duration::from_millis(delay.fixed_delay_milliseconds.into()), share))
        };
        let abort = |abort: &traffic::Abort| {
            use traffic::abort::Status;
            let status = match set("status", abort.status.as_ref())? {
                Status::HttpStatus(status) => {
                    let known = u16::try_from(*status).ok().filter(|status| (200..600).contains(status));
                    let status = known.and_then(|status| StatusCode::from_u16(status).ok());
                    let status = status.ok_or_else(|| Invalid::because("is not 200 to 599")).at("http_status")?;
                    Abort { status, grpc: None }
                }
                Status::GrpcStatus(code) => {
                    let code = u16::try_from(*code).ok().filter(|code| (1..=16).contains(code));
                    let code = code.ok_or_else(|| Invalid::because("is not 1 to 16")).at("grpc_status")?;
                    Abort { status: http_status(code), grpc: Some(code) }
                }
            };
            Ok((status, Share::parse(abort.share.as_ref()).at("share")?))
        };
        Ok(Self {
            delay: from.delay.as_ref().map(delay).transpose().at("delay")?,
            abort: from.abort.as_ref().map(abort).transpose().at("abort")?,
        })
    }

    pub(crate) fn delay(&self) -> Option<Duration> {
        self.delay.filter(|(_, share)| share.drawn()).map(|(delay, _)| delay)
    }

    pub(crate) fn abort(&self) -> Option<Abort> {
        self.abort.filter(|(_, share)| share.drawn()).map(|(abort, _)| abort)
    }
}

impl Share {
    fn parse(from: Option<&traffic::Share>) -> Parsed<Self> {
        let Some(from) = from else { return Ok(Self { numerator: 1, denominator: 1 }) };
        if from.denominator == 0 {
            return Err(Invalid::because("is 0")).at("denominator");
        }
        Ok(Self { numerator: from.numerator, denominator: from.denominator })
    }

    /// By chance, and not evenly as weights are: a pattern is what a client's retries would get in step with.
    fn drawn(self) -> bool {
        fastrand::u32(..self.denominator) < self.numerator
    }
}
