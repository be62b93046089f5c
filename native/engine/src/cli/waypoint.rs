//! The words of `trackbed-engine waypoint`: where its director is, and how it proves itself there.
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use lexopt::prelude::{Long, ValueExt};
use rustls::pki_types::ServerName;
use tonic::transport::Uri;

use crate::report::spans::WHOLE;

use super::{Command, LogFormat, UsageError, log_filter, log_format, parsed, worker_count};

/// A pod has 30 s from its end's beginning to its kill; what is left is for the process to end.
const DEFAULT_DRAIN: Duration = Duration::from_secs(25);
/// A day: longer than any request.
const MOST_DRAIN_SECONDS: u64 = 86_400;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) control: Control,
    /// None: the standard port on all addresses.
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) health: Option<SocketAddr>,
    /// Most that requests under way may take once it is told to stop.
    pub(crate) drain: Duration,
    pub(crate) traces: Option<Traces>,
    pub(crate) workers: Option<usize>,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
}

/// As other meshes do: enough to see, too little to cost.
const DEFAULT_SHARE: u32 = WHOLE / 100;

/// Where the director is, and what each side shows the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Control {
    /// `HOST:PORT`, looked up anew for each connection.
    pub(crate) address: String,
    pub(crate) server_name: ServerName<'static>,
    pub(crate) roots: PathBuf,
    pub(crate) token: PathBuf,
}

/// Where spans of requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Traces {
    pub(crate) collector: Uri,
    /// Over TLS: whom it must show a certificate of. None: whom the system trusts.
    pub(crate) roots: Option<PathBuf>,
    /// Of `WHOLE`.
    pub(crate) share: u32,
}

/// What follows the word `waypoint`.
pub(super) fn parse(parser: &mut lexopt::Parser) -> Result<Command, UsageError> {
    let (mut control, mut server_name, mut roots, mut token) = (None, None, None, None);
    let (mut metrics, mut health, mut workers, mut drain) = (None, None, None, DEFAULT_DRAIN);
    let (mut collector, mut trace_roots, mut share) = (None, None, DEFAULT_SHARE);
    let (mut log, mut format) = ("info".to_owned(), LogFormat::Text);
    let address = |text: &str, option| parsed(text, option, "an address such as 0.0.0.0:15020");
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") => return Ok(Command::Help),
            Long("control") => control = Some(host_and_port(parser.value()?)?),
            Long("server-name") => server_name = Some(name(&parser.value()?.string()?, "--server-name")?),
            Long("roots") => roots = Some(PathBuf::from(parser.value()?)),
            Long("token") => token = Some(PathBuf::from(parser.value()?)),
            Long("metrics") => metrics = Some(address(&parser.value()?.string()?, "--metrics")?),
            Long("health") => health = Some(address(&parser.value()?.string()?, "--health")?),
            Long("drain") => drain = seconds(&parser.value()?.string()?)?,
            Long("traces") => collector = Some(url(&parser.value()?.string()?)?),
            Long("trace-roots") => trace_roots = Some(PathBuf::from(parser.value()?)),
            Long("trace-share") => share = fraction(&parser.value()?.string()?)?,
            Long("workers") => workers = Some(worker_count(&parser.value()?.string()?)?),
            Long("log") => log = log_filter(parser.value()?.string()?)?,
            Long("log-format") => format = log_format(&parser.value()?.string()?)?,
            other => return Err(other.unexpected().into()),
        }
    }
    let missing = |option: &str| UsageError(format!("a waypoint needs {option}"));
    let (address, host) = control.ok_or_else(|| missing("--control HOST:PORT"))?;
    let control = Control {
        server_name: server_name.map_or_else(|| name(&host, "--control"), Ok)?,
        address,
        roots: roots.ok_or_else(|| missing("--roots FILE"))?,
        token: token.ok_or_else(|| missing("--token FILE"))?,
    };
    if trace_roots.is_some() && collector.as_ref().is_none_or(|collector: &Uri| collector.scheme_str() != Some("https")) {
        return Err(UsageError("--trace-roots FILE: without --traces https://HOST:PORT nobody shows a certificate".to_owned()));
    }
    let traces = collector.map(|collector| Traces { collector, roots: trace_roots, share });
    Ok(Command::Waypoint(Box::new(Options { control, metrics, health, drain, traces, workers, log, log_format: format })))
}

/// The whole, and the host without brackets.
fn host_and_port(text: OsString) -> Result<(String, String), UsageError> {
    let text = text.string()?;
    let wrong = || UsageError(format!("--control {text:?}: expected HOST:PORT, an IPv6 address in brackets"));
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let host = host.strip_prefix('[').map_or(Some(host), |rest| rest.strip_suffix(']')).ok_or_else(wrong)?;
    if !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0) { Ok((text.clone(), host.to_owned())) } else { Err(wrong()) }
}

fn name(text: &str, option: &str) -> Result<ServerName<'static>, UsageError> {
    ServerName::try_from(text.to_owned()).map_err(|_| UsageError(format!("{option} {text:?}: expected a host name or an address")))
}

/// OTLP's own port is 4317; without one it would be 80, which is nobody's.
fn url(text: &str) -> Result<Uri, UsageError> {
    let wrong = || {
        UsageError(format!("--traces {text:?}: expected http://HOST:PORT or https://HOST:PORT of a collector that takes OTLP over gRPC"))
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let fits = matches!(uri.scheme_str(), Some("http" | "https")) && uri.port().is_some() && uri.path() == "/" && uri.query().is_none();
    if fits { Ok(uri) } else { Err(wrong()) }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it is between 0 and a million
fn fraction(text: &str) -> Result<u32, UsageError> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok((share * f64::from(WHOLE)).round() as u32),
        _ => Err(UsageError(format!("--trace-share {text:?}: expected a share from 0 to 1"))),
    }
}

fn seconds(text: &str) -> Result<Duration, UsageError> {
    match text.parse() {
        Ok(seconds) if seconds <= MOST_DRAIN_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(UsageError(format!("--drain {text:?}: expected seconds, 0 to {MOST_DRAIN_SECONDS}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, UsageError> {
        super::super::parse(words.iter().map(Into::into))
    }

    #[test]
    fn a_waypoint_knows_its_director_by_the_host_that_it_dials_unless_told_otherwise() {
        for (control, extra, expected) in [
            ("trackbed-control.trackbed-system.svc:15012", None, "trackbed-control.trackbed-system.svc"),
            ("192.0.2.1:15012", None, "192.0.2.1"),
            ("[fd00::1]:15012", None, "fd00::1"),
            ("192.0.2.1:15012", Some("--server-name=localhost"), "localhost"),
        ] {
            let words = ["waypoint", "--control", control, "--roots=/r", "--token", "/t"].into_iter().chain(extra);
            let Ok(Command::Waypoint(options)) = parse_words(&words.collect::<Vec<_>>()) else { panic!("{control}") };
            assert_eq!((options.control.address.as_str(), options.control.server_name.to_str().as_ref()), (control, expected));
        }
    }

    #[test]
    fn a_collector_may_be_reached_over_tls() {
        let whole = ["waypoint", "--control=control:15012", "--roots=/r", "--token=/t", "--traces=https://collector:4317"];
        for (extra, expected) in [(None, None), (Some("--trace-roots=/c"), Some("/c"))] {
            let words: Vec<_> = whole.into_iter().chain(extra).collect();
            let Ok(Command::Waypoint(options)) = parse_words(&words) else { panic!("{words:?}") };
            let traces = options.traces.expect("traces");
            assert_eq!((traces.collector.to_string().as_str(), traces.roots), ("https://collector:4317/", expected.map(PathBuf::from)));
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let whole = ["waypoint", "--control=control:15012", "--roots=/r", "--token=/t"];
        for (words, named) in [
            (vec!["waypoint"], "--control"),
            (whole[..2].to_vec(), "--roots"),
            (whole[..3].to_vec(), "--token"),
            (vec!["waypoint", "--control=control"], "--control \"control\""),
            (vec!["waypoint", "--control=control:0"], "--control \"control:0\""),
            (vec!["waypoint", "--control=[::1:15012"], "--control \"[::1:15012\""),
            (vec!["waypoint", "--server-name=a b"], "--server-name \"a b\""),
            ([&whole[..], &["--drain=-1"]].concat(), "--drain \"-1\""),
            ([&whole[..], &["--health=15021"]].concat(), "--health \"15021\""),
            ([&whole[..], &["--traces=collector:4317"]].concat(), "--traces \"collector:4317\""),
            ([&whole[..], &["--traces=ftp://collector:4317"]].concat(), "--traces"),
            ([&whole[..], &["--trace-roots=/r"]].concat(), "--trace-roots"),
            ([&whole[..], &["--traces=http://collector:4317", "--trace-roots=/r"]].concat(), "--trace-roots"),
            ([&whole[..], &["--trace-share=2"]].concat(), "--trace-share \"2\""),
            ([&whole[..], &["--run=/x"]].concat(), "--run"),
            ([&whole[..], &["more"]].concat(), "more"),
        ] {
            let error = parse_words(&words).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
