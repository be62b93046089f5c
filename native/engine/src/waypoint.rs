//! A waypoint's process: control's word and the data threads, without a keeper and without a privilege.
use std::io;
use std::sync::Arc;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use trackbed_contract::tables::ports;

use crate::cli::waypoint::Options;
use crate::control::Control;
use crate::director::Line;
use crate::report::scrape;
use crate::report::spans::{self, Spans};
use crate::worker::data_threads;
use crate::worker::shared::Shared;
use crate::{director, log};

#[derive(Debug)]
pub(crate) struct Waypoint {
    options: Options,
    log: log::LogLevel,
    runtime: LocalRuntime,
}

/// Makes sure of privacy before anything secret is in this process.
pub(crate) fn build(options: Options) -> io::Result<Waypoint> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let log = log::start(&options.log, options.log_format)?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    Ok(Waypoint { options, log, runtime })
}

impl Waypoint {
    /// Serves until it is told to stop, and then until what it has begun is done.
    pub(crate) fn run(self) -> io::Result<()> {
        let Self { options, log, runtime } = self;
        let spans = options.traces.as_ref().map(|traces| Spans::new(traces.share));
        let shared = Arc::new(Shared { spans, ..Shared::new(0) });
        let threads = data_threads(options.workers, &shared)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), threads = threads.len(), "waypoint started");
        runtime.block_on(async {
            let metrics = scrape::bind_or_any("--metrics", options.metrics, ports::WAYPOINT_METRICS).await?;
            let health = scrape::bind_or_any("--health", options.health, ports::WAYPOINT_HEALTH).await?;
            let served = |paths, threads| scrape::Served { paths, threads, shared: Arc::clone(&shared) };
            tokio::spawn(scrape::serve(metrics, served(&["/metrics"], threads.clone())));
            tokio::spawn(scrape::serve(health, served(&["/healthz/ready"], Vec::new())));
            if let Some(traces) = options.traces {
                tokio::spawn(spans::export(traces, Arc::clone(&shared)));
            }
            let stop = stopped()?;
            let control = Control::of_waypoint(Arc::clone(&shared), threads, log);
            let mut director = director::attach(Line::Control(options.control), shared);
            control.run(&mut director, stop, options.drain).await;
            Ok(())
        })
    }
}

/// Resolves with the first SIGTERM or SIGINT.
fn stopped() -> io::Result<oneshot::Receiver<()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (stop, stopped) = oneshot::channel();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        // The receiver is gone when the process ends anyway.
        let _ = stop.send(());
    });
    Ok(stopped)
}
