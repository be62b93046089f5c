//! The live connections of a data thread, each with the facts it was decided on, so that it can be decided again and cut.
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::FutureExt;
use trackbed_contract::engine::Observe;
use trackbed_contract::tables::errors;
use trackbed_decide::{Admitted, Refusal, Served, Standing, World, recheck_inbound, recheck_outbound, recheck_waypoint};
use trackbed_hbone::{Meter, Outcome, Tap};

use super::Thread;
use super::hold::missing;
use super::outbound::Counted;
use crate::report::account::{Account, OpenAccount};
use crate::report::ledger::Ledger;
use crate::report::recording::{self, Active};
use crate::report::watch::{self, Watch};
use crate::worker::shared::{OpenOne, Pod, Shared};

/// Connections decided again before bytes move on: about 0.3 ms.
const RECHECK_TURN: usize = 256;

/// Fewer connections than this are not worth giving back: together they take less than 1 MiB.
const CROWD: usize = 256;
/// Their flow records, the tunnels that were made for them and what those keep of closed streams go some ticks later than they.
const GIVE_BACK: u32 = 8;

#[derive(Debug, Default)]
pub(crate) struct Live {
    connections: RefCell<HashMap<u64, Rc<Connection>>>,
    next: Cell<u64>,
    /// Most that were open at a tick since memory was last given back.
    peak: Cell<usize>,
    /// Ticks at which memory is still to be given back.
    owed: Cell<u32>,
}

/// What a connection was decided on.
#[derive(Debug)]
pub(crate) enum Facts {
    Outbound(Standing),
    Inbound(Box<Admitted>),
    Relay(Box<Relayed>),
    /// Of a client of this waypoint.
    Waypoint(Box<Served>),
}

/// Both halves, and the pod that the second one leads to.
#[derive(Debug)]
pub(crate) struct Relayed {
    pub(crate) standing: Standing,
    pub(crate) admitted: Admitted,
    pub(crate) destination: Arc<Pod>,
}

#[derive(Debug)]
pub(crate) struct Connection {
    /// The pod whose capture made it.
    pod: Arc<Pod>,
    facts: RefCell<Facts>,
    pub(crate) meter: Rc<Meter>,
    /// The second one is the destination's, of a relay.
    accounts: RefCell<[Option<OpenAccount>; 2]>,
    cut: RefCell<Option<Box<Refusal>>>,
    watch: OnceCell<Rc<Watch>>,
    _open: (OpenOne, Option<OpenOne>),
}

/// A connection in the table; it leaves the table when this is dropped.
#[derive(Debug)]
pub(crate) struct Registered {
    thread: Rc<Thread>,
    key: u64,
    connection: Rc<Connection>,
}

impl Live {
    /// Decides every connection again and cuts those that are denied now. Those that are registered meanwhile were decided on what is
    /// published by now.
    pub(crate) async fn recheck(&self, shared: &Shared) {
        for some in self.snapshot().chunks(RECHECK_TURN) {
            let snapshot = shared.world.load_full();
            let Some(world) = snapshot.as_ref() else { return };
            for connection in some {
                if let Err(refusal) = connection.recheck(shared, world) {
                    connection.cut(refusal);
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Has every connection copied as the recordings want it that are on now.
    pub(crate) async fn record(&self, ledger: &Ledger) {
        for some in self.snapshot().chunks(RECHECK_TURN) {
            let active = ledger.recordings();
            for connection in some {
                connection.record(&active);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Cuts connections of the pods that `which` picks, and says how many.
    pub(crate) fn cut_where(&self, which: impl Fn(&Pod) -> bool, code: &'static str, reason: &str) -> u32 {
        let chosen = self.snapshot().into_iter().filter(|connection| connection.touches(&which));
        chosen.map(|connection| connection.cut(missing(code, reason.to_owned()))).count().try_into().unwrap_or(u32::MAX)
    }

    /// Metrics of long connections, and the ends of certificates that no tunnel watches.
    pub(crate) fn tick(&self, shared: &Shared) {
        self.shrink();
        for connection in self.snapshot() {
            connection.accounts.borrow_mut().iter_mut().flatten().for_each(|account| account.count_meter(&connection.meter));
            if let Err(refusal) = connection.certificates(shared) {
                connection.cut(refusal);
            }
        }
    }

    /// A crowd that has gone leaves neither a table of its size nor its pages behind.
    fn shrink(&self) {
        let mut connections = self.connections.borrow_mut();
        let open = connections.len();
        self.peak.set(self.peak.get().max(open));
        if self.peak.get() > CROWD && open < self.peak.get() / 2 {
            connections.shrink_to(2 * open);
            self.peak.set(open);
            self.owed.set(GIVE_BACK);
        }
        if let Some(left) = self.owed.get().checked_sub(1) {
            self.owed.set(left);
            crate::sys::give_memory_back();
        }
    }

    fn snapshot(&self) -> Vec<Rc<Connection>> {
        self.connections.borrow().values().cloned().collect()
    }
}

impl Thread {
    /// Puts a connection into the table. Call it without an await between the decision and this, so that no change of the world falls in between.
    pub(super) fn register(self: &Rc<Self>, pod: &Arc<Pod>, facts: Facts) -> Registered {
        let live = &self.live;
        let key = live.next.get();
        live.next.set(key + 1);
        let destination = if let Facts::Relay(relayed) = &facts { Some(relayed.destination.open.one(false)) } else { None };
        let connection = Rc::new(Connection {
            pod: Arc::clone(pod),
            facts: RefCell::new(facts),
            meter: Meter::new(),
            accounts: RefCell::default(),
            cut: RefCell::default(),
            watch: OnceCell::new(),
            _open: (pod.open.one(true), destination),
        });
        live.connections.borrow_mut().insert(key, Rc::clone(&connection));
        Registered { thread: Rc::clone(self), key, connection }
    }
}

impl Connection {
    fn recheck(&self, shared: &Shared, world: &World) -> Result<(), Refusal> {
        // The pod as it is now: the director may have changed its addresses.
        let current = |pod: &Arc<Pod>| shared.pods.load().get(&pod.local.uid).filter(|now| now.cookie == pod.cookie).cloned();
        let pod = current(&self.pod).unwrap_or_else(|| Arc::clone(&self.pod));
        let mut facts = self.facts.borrow_mut();
        match &mut *facts {
            Facts::Outbound(standing) => recheck_outbound(world, &pod.local, standing),
            Facts::Inbound(admitted) => {
                **admitted = recheck_inbound(world, &pod.local, admitted)?;
                Ok(())
            }
            Facts::Waypoint(served) => recheck_waypoint(world, &pod.local, served),
            Facts::Relay(relayed) => {
                recheck_outbound(world, &pod.local, &relayed.standing)?;
                let destination = current(&relayed.destination).unwrap_or_else(|| Arc::clone(&relayed.destination));
                relayed.admitted = recheck_inbound(world, &destination.local, &relayed.admitted)?;
                Ok(())
            }
        }
    }

    /// A relay has no TLS whose certificates would end it, but may not outlive them either.
    fn certificates(&self, shared: &Shared) -> Result<(), Refusal> {
        let Facts::Relay(relayed) = &*self.facts.borrow() else { return Ok(()) };
        for identity in [&self.pod.identity, &relayed.destination.identity] {
            if shared.certified(identity).is_none() {
                return Err(missing(errors::IDENTITY_MISSING, format!("the certificate of {identity} has ended")));
            }
        }
        Ok(())
    }

    fn record(&self, active: &Active) {
        let accounts = self.accounts.borrow();
        let recorder = recording::tap(active, accounts.iter().flatten().map(OpenAccount::known), &self.meter);
        self.meter.set_tap(watch::tap(self.watch.get().cloned(), recorder));
    }

    /// Looks at what passes, as the pods at its ends are observed. A waypoint tells of its requests itself.
    fn watch(&self, ledger: &Rc<Ledger>) {
        if self.pod.waypoint {
            return;
        }
        let accounts = self.accounts.borrow();
        let destination = if let Facts::Relay(relayed) = &*self.facts.borrow() { relayed.destination.observe } else { Observe::Off };
        let ends = accounts.iter().zip([self.pod.observe, destination]);
        let ends = ends.filter_map(|(account, observe)| Some((account.as_ref()?.known(), observe)));
        if let Some(watch) = Watch::new(ledger, ends) {
            let watch = self.watch.get_or_init(|| watch);
            self.meter.set_tap(Some(Rc::clone(watch) as Rc<dyn Tap>));
        }
    }

    fn touches(&self, which: &impl Fn(&Pod) -> bool) -> bool {
        which(&self.pod) || matches!(&*self.facts.borrow(), Facts::Relay(relayed) if which(&relayed.destination))
    }

    fn cut(&self, refusal: Refusal) {
        // The first reason is the one that counts.
        self.cut.borrow_mut().get_or_insert_with(|| Box::new(refusal));
        self.meter.cut();
    }
}

impl Registered {
    pub(crate) fn meter(&self) -> &Rc<Meter> {
        &self.connection.meter
    }

    /// What setting it up takes, or the reason why it was cut meanwhile: who is denied now does not wait for an application that does
    /// not answer.
    pub(crate) async fn unless_cut<T>(&self, work: impl Future<Output = T>) -> Result<T, Refusal> {
        let done = tokio::select! {
            biased;
            () = self.meter().until_cut() => None,
            done = work => Some(done),
        };
        let why = || self.connection.cut.borrow().as_deref().cloned();
        done.ok_or_else(|| why().unwrap_or_else(|| missing(errors::ENGINE_STOPPING, "the connection was cut".into())))
    }

    /// The application is connected: bytes may move.
    pub(crate) fn opened(&self, account: Account, destination: Option<Account>) {
        *self.connection.accounts.borrow_mut() = [Some(account.opened()), destination.map(Account::opened)];
        self.connection.watch(&self.thread.ledger);
        let active = self.thread.ledger.recordings();
        if !active.is_empty() {
            self.connection.record(&active);
        }
    }

    /// Moves bytes to the connection's end in a task of its own: what is idle holds its pump and nothing of its set-up. Mapped, not awaited:
    /// an async block would keep room for the pump twice.
    pub(super) fn carry<P>(self, pump: impl FnOnce(&Rc<Meter>) -> P, counted: Option<Counted>)
    where
        P: Future<Output = Outcome> + 'static,
    {
        let pump = pump(self.meter());
        tokio::task::spawn_local(pump.map(move |outcome| {
            self.closed(&outcome);
            drop(counted);
        }));
    }

    /// The pump has ended.
    fn closed(self, outcome: &Outcome) {
        let cut = self.connection.cut.borrow_mut().take();
        let seen = self.connection.watch.get().map(|watch| watch.end());
        for account in self.connection.accounts.take().into_iter().flatten() {
            account.closed(outcome, cut.as_deref(), seen.as_ref());
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.thread.live.connections.borrow_mut().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every idle connection holds one: more than this shows in the bench.
    #[test]
    fn what_the_table_keeps_of_a_connection_is_small() {
        assert!(size_of::<Connection>() <= 256, "{}", size_of::<Connection>());
        assert!(size_of::<Facts>() <= 48, "{}", size_of::<Facts>());
        assert!(size_of::<Admitted>() <= 192, "{}", size_of::<Admitted>());
    }
}
