//! The command line: checks every word and touches nothing.
pub(crate) mod waypoint;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use trackbed_contract::tables::{errors, paths};

pub(crate) const HELP: &str = "\
trackbed-engine: moves the bytes of a node's pods, or of a waypoint

usage: trackbed-engine [--run DIR] [--metrics ADDR] [--workers N] [--log FILTER] [--log-format text|json]
       trackbed-engine waypoint --control HOST:PORT --roots FILE --token FILE [--server-name NAME] [--metrics ADDR] [--health ADDR]
                                [--drain SECONDS] [--traces URL] [--trace-roots FILE] [--trace-share SHARE] [--workers N]
                                [--log FILTER] [--log-format text|json]
       trackbed-engine eval < QUESTIONS
       trackbed-engine --version | --help

  --run DIR         directory shared with the daemon: director.sock, netns.sock (default /run/trackbed)
  --metrics ADDR    serve Prometheus text and /healthz here, for example 127.0.0.1:15020 (default: off)
  --workers N       data threads, 1 to 64 (default: the number of CPUs, at most 4)
  --log FILTER      error | warn | info | debug | trace, or levels by target such as info,access=off (default info)
  --log-format F    text | json (default text)

eval: answers questions about connections from a state that it is given, as lines of JSON, by the functions that decide on a node (docs/explain.md)

waypoint: one process without privileges, directed by control, that routes the requests to the services which have it as their waypoint
  --control H:P     control's director, over TLS; the name is looked up for each connection
  --server-name N   name in control's certificate (default: the host of --control)
  --roots FILE      certificates that control's must lead to, PEM, read for each connection
  --token FILE      what this pod shows control, read for each call
  --metrics ADDR    serve Prometheus text here (default: port 15020 of all addresses)
  --health ADDR     serve /healthz/ready here (default: port 15021 of all addresses)
  --drain SECONDS   at SIGTERM, requests under way have this long (default 25)
  --traces URL      send spans of requests to this collector, OTLP over gRPC: http://HOST:4317, or https: over TLS (default: none)
  --trace-roots F   certificates that the collector's must lead to, PEM, read for each connection (default: those of the system)
  --trace-share N   of the requests that come without a trace, so many begin one, 0 to 1 (default 0.01)
";

/// sysexits.h EX_USAGE
const EXIT_USAGE: u8 = 64;
/// One data thread already forwards 10 Gbit/s; more than this is a typing mistake.
const MOST_WORKERS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Keeper(Options),
    Worker(Options, Descent),
    Waypoint(Box<waypoint::Options>),
    Eval,
    Version,
    Help,
}

/// What keeper and worker share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) run: PathBuf,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) workers: Option<usize>,
    pub(crate) log: String,
    pub(crate) log_format: LogFormat,
}

/// What a worker is told by the keeper that started it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Descent {
    /// Process id of the keeper: a worker whose parent is another process ends at once.
    pub(crate) keeper: i32,
    /// Workers that died before this one.
    pub(crate) restarts: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
#[error("{code}: {0}; see trackbed-engine --help", code = errors::USAGE)]
pub(crate) struct UsageError(String);

impl UsageError {
    pub(crate) fn exit(&self) -> ExitCode {
        eprintln!("trackbed-engine: {self}");
        ExitCode::from(EXIT_USAGE)
    }
}

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

/// `args` without the program's own name.
pub(crate) fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Command, UsageError> {
    use lexopt::prelude::{Long, Short, Value, ValueExt};
    let mut options = Options { run: paths::RUN.into(), metrics: None, workers: None, log: "info".into(), log_format: LogFormat::Text };
    let (mut worker, mut keeper, mut restarts) = (false, None, 0);
    let mut parser = lexopt::Parser::from_args(args);
    let mut first = true;
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(Command::Help),
            Long("version") | Short('V') => return Ok(Command::Version),
            Long("run") => options.run = parser.value()?.into(),
            Long("metrics") => {
                options.metrics = Some(parsed(&parser.value()?.string()?, "--metrics", "an address such as 127.0.0.1:15020")?);
            }
            Long("workers") => options.workers = Some(worker_count(&parser.value()?.string()?)?),
            Long("log") => options.log = log_filter(parser.value()?.string()?)?,
            Long("log-format") => options.log_format = log_format(&parser.value()?.string()?)?,
            Long("keeper") if worker => keeper = Some(parsed(&parser.value()?.string()?, "--keeper", "a process id")?),
            Long("restarts") if worker => restarts = parsed(&parser.value()?.string()?, "--restarts", "a number")?,
            Value(word) if word == "worker" && !worker => worker = true,
            // Its options are its own: it must be the first word.
            Value(word) if word == "waypoint" && first => return waypoint::parse(&mut parser),
            Value(word) if word == "eval" && first => {
                return parser.next()?.map_or(Ok(Command::Eval), |other| Err(other.unexpected().into()));
            }
            other => return Err(other.unexpected().into()),
        }
        first = false;
    }
    match (worker, keeper) {
        (false, _) => Ok(Command::Keeper(options)),
        (true, Some(keeper)) => Ok(Command::Worker(options, Descent { keeper, restarts })),
        (true, None) => Err(UsageError("a worker is started by its keeper only: leave the word `worker` out".into())),
    }
}

/// The arguments with which a keeper starts a worker: the inverse of `parse`.
pub(crate) fn worker_arguments(options: &Options, descent: Descent) -> Vec<std::ffi::OsString> {
    let mut arguments: Vec<std::ffi::OsString> = ["worker", "--run"].map(Into::into).to_vec();
    arguments.push(options.run.clone().into());
    let mut push = |name: &str, value: String| arguments.extend([name.into(), value.into()]);
    push("--keeper", descent.keeper.to_string());
    push("--restarts", descent.restarts.to_string());
    push("--log", options.log.clone());
    push("--log-format", if options.log_format == LogFormat::Json { "json".into() } else { "text".into() });
    if let Some(metrics) = options.metrics {
        push("--metrics", metrics.to_string());
    }
    if let Some(workers) = options.workers {
        push("--workers", workers.to_string());
    }
    arguments
}

fn parsed<T: std::str::FromStr>(text: &str, option: &str, expected: &str) -> Result<T, UsageError> {
    text.parse().map_err(|_| UsageError(format!("{option} {text:?}: expected {expected}")))
}

fn worker_count(text: &str) -> Result<usize, UsageError> {
    match text.parse() {
        Ok(count) if (1..=MOST_WORKERS).contains(&count) => Ok(count),
        _ => Err(UsageError(format!("--workers {text:?}: expected a number from 1 to {MOST_WORKERS}"))),
    }
}

fn log_filter(text: String) -> Result<String, UsageError> {
    crate::log::parse(&text).map(|_| text).map_err(|error| UsageError(format!("--log: {error}")))
}

fn log_format(text: &str) -> Result<LogFormat, UsageError> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(UsageError(format!("--log-format {text:?}: expected text or json"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, UsageError> {
        parse(words.iter().map(Into::into))
    }

    #[test]
    fn what_a_keeper_tells_its_worker_is_read_back_whole() {
        let options = Options {
            run: "/run/x".into(),
            metrics: Some(([127, 0, 0, 1], 15020).into()),
            workers: Some(3),
            log: "info,access=off".into(),
            log_format: LogFormat::Json,
        };
        let descent = Descent { keeper: 77, restarts: 4 };
        assert_eq!(parse(worker_arguments(&options, descent)).expect("parses"), Command::Worker(options, descent));
    }

    #[test]
    fn every_wrong_word_is_a_usage_error_that_names_it() {
        for (words, named) in [
            (vec!["--workers", "0"], "--workers \"0\""),
            (vec!["--workers", "65"], "--workers \"65\""),
            (vec!["--metrics", "here"], "--metrics \"here\""),
            (vec!["--log-format", "xml"], "--log-format \"xml\""),
            (vec!["--log", "info,access=loud"], "access=loud"),
            (vec!["--bogus"], "--bogus"),
            (vec!["serve"], "serve"),
            (vec!["--keeper", "1"], "--keeper"),
            (vec!["worker"], "worker"),
            (vec!["--run=/x", "waypoint"], "waypoint"),
            (vec!["eval", "questions.json"], "questions.json"),
        ] {
            let error = parse_words(&words).expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
