//! The worker: one control thread and N data threads, started again by the keeper whenever it ends.
pub(crate) mod heritage;
pub(crate) mod shared;

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::available_parallelism;

use rustix::process::{DumpableBehavior, Signal, getppid, set_dumpable_behavior, set_parent_process_death_signal};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use trackbed_contract::tables::paths;

use crate::control::{Control, STOP_GRACE};
use crate::director::Line;
use crate::keeper::NETNS_LISTENER;
use crate::report::scrape;
use crate::{cli, data, director, log, sys};
use shared::Shared;

/// A node with more CPUs rarely has more than this to forward, and each thread has its own tunnels.
const DEFAULT_WORKERS: usize = 4;

#[derive(Debug)]
pub(crate) struct Worker {
    options: cli::Options,
    restarts: u64,
    log: log::LogLevel,
    runtime: LocalRuntime,
}

/// Makes sure of keeper and privacy before anything secret is in this process.
pub(crate) fn build(options: cli::Options, descent: cli::Descent) -> io::Result<Worker> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    die_with(descent.keeper)?;
    // Ctrl-C reaches the whole process group: what stops this process is the keeper's word, or SIGKILL.
    drop(sys::signal_descriptor()?);
    let log = log::start(&options.log, options.log_format)?;
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
    Ok(Worker { options, restarts: descent.restarts, log, runtime })
}

impl Worker {
    /// Spawns the data threads, takes the heritage up, and runs until the keeper says stop.
    pub(crate) fn run(self) -> io::Result<()> {
        let Self { options, restarts, log, runtime } = self;
        let (mut heritage, safe) = heritage::receive(io::stdin().as_fd().try_clone_to_owned()?)?;
        let stop = heritage::await_stop(&safe)?;
        let netns = heritage.take(NETNS_LISTENER).ok_or_else(|| io::Error::other("the keeper has no listener for namespaces"))?;
        let shared = Arc::new(Shared::new(restarts));
        let threads = data_threads(options.workers, &shared)?;
        tracing::info!(version = env!("CARGO_PKG_VERSION"), restarts, threads = threads.len(), "worker started");
        runtime.block_on(async {
            if let Some(address) = options.metrics {
                let listener = scrape::bind("--metrics", address).await?;
                tokio::spawn(scrape::serve(
                    listener,
                    scrape::Served { paths: &["/metrics", "/healthz"], threads: Vec::new(), shared: Arc::clone(&shared) },
                ));
            }
            let control = Control::new(Arc::clone(&shared), threads, safe, log, &mut heritage).await;
            // What nobody took up belongs to an older version's worker.
            drop(heritage);
            // Better a new worker than a deaf one.
            control.take_handovers(netns)?;
            let mut director = director::attach(Line::Socket(options.run.join(paths::DIRECTOR_SOCKET)), shared);
            control.run(&mut director, stop, STOP_GRACE).await;
            Ok(())
        })
    }
}

pub(crate) fn data_threads(count: Option<usize>, shared: &Arc<Shared>) -> io::Result<Vec<data::Handle>> {
    let count = count.unwrap_or_else(|| available_parallelism().map_or(1, |cpus| cpus.get().min(DEFAULT_WORKERS)));
    (0..count).map(|index| data::spawn(index, Arc::clone(shared))).collect()
}

/// There is never a worker without its keeper: connections would be lost for good at the next death.
fn die_with(keeper: i32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The keeper may have died before the line above.
    if getppid().map(|parent| parent.as_raw_nonzero().get()) == Some(keeper) {
        Ok(())
    } else {
        Err(io::Error::other("the keeper that started this worker is gone"))
    }
}
