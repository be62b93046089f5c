//! Requests under way at a service, held to a limit: what matters less is refused first.
use super::about::About;
use super::adaptive::{Adaptive, Bounds};
use super::selector::Selector;
use crate::invalid::{At, Invalid, Parsed, each, set};
use prost::Message;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use trackbed_contract::traffic;

#[derive(Debug)]
pub(super) struct Shedding {
    priorities: Box<[(Selector, u32)]>,
    gate: Arc<Gate>,
}

/// Shared by all threads, and by all settings that name it.
#[derive(Debug)]
pub(crate) struct Gate {
    name: Box<str>,
    limit: AtomicU32,
    under_way: AtomicU32,
    adaptive: Option<Mutex<Adaptive>>,
}

/// One that was admitted, until it is dropped.
#[derive(Debug)]
pub(crate) struct Pass {
    gate: Arc<Gate>,
    asked: Instant,
}

pub(super) type Gates = HashMap<Vec<u8>, Arc<Gate>>;

impl Shedding {
    pub(super) fn parse(from: &traffic::LoadShedding, known: &mut Gates, now: Instant) -> Parsed<Self> {
        let priorities = each("priorities", &from.priorities, |priority| {
            if !(1..=100).contains(&priority.limit_percent) {
                return Err(Invalid::because(format!("{} is not 1 to 100", priority.limit_percent))).at("limit_percent");
            }
            Ok((Selector::parse(priority.selector.as_ref()).at("selector")?, priority.limit_percent))
        })?;
        let counts = traffic::LoadShedding { priorities: Vec::new(), ..from.clone() }.encode_to_vec();
        let gate = match known.get(&counts) {
            Some(gate) => Arc::clone(gate),
            None => Arc::new(Gate::parse(from, now)?),
        };
        known.insert(counts, Arc::clone(&gate));
        Ok(Self { priorities, gate })
    }

    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The gate itself: too many are under way.
    pub(super) fn admit(&self, about: &About<'_>, now: Instant) -> Result<Pass, Arc<Gate>> {
        let percent = self.priorities.iter().find(|(selector, _)| selector.selects(about)).map_or(100, |(_, percent)| *percent);
        let limit = u64::from(self.gate.limit.load(Relaxed));
        // Rounded up: a limit of 3 leaves one for what has a tenth of it.
        let limit = u32::try_from((limit * u64::from(percent)).div_ceil(100)).unwrap_or(u32::MAX);
        let admitted = self.gate.under_way.fetch_update(Relaxed, Relaxed, |under_way| (under_way < limit).then_some(under_way + 1));
        match admitted {
            Ok(_) => Ok(Pass { gate: Arc::clone(&self.gate), asked: now }),
            Err(_) => Err(Arc::clone(&self.gate)),
        }
    }
}

impl Gate {
    fn parse(from: &traffic::LoadShedding, now: Instant) -> Parsed<Self> {
        use traffic::load_shedding::Limit;
        if from.name.is_empty() {
            return Err(Invalid::because("is not set")).at("name");
        }
        let (limit, adaptive) = match set("limit", from.limit.as_ref())? {
            Limit::MaxParallelRequests(limit) => (*limit, None),
            Limit::Adaptive(adaptive) => {
                let adaptive = Adaptive::new(bounds(adaptive).at("adaptive")?, now);
                (adaptive.limit(), Some(Mutex::new(adaptive)))
            }
        };
        Ok(Self { name: from.name.as_str().into(), limit: AtomicU32::new(limit), under_way: AtomicU32::new(0), adaptive })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }
}

fn bounds(from: &traffic::AdaptiveConcurrency) -> Parsed<Bounds> {
    let or = |given: u32, otherwise: u32| if given == 0 { otherwise } else { given };
    let (least, most) = (or(from.min_limit, 4), or(from.max_limit, 1000));
    if least > most {
        return Err(Invalid::because(format!("{least} is more than max_limit, {most}"))).at("min_limit");
    }
    let percent = or(from.tolerance_percent, 150);
    if percent < 110 {
        return Err(Invalid::because(format!("{percent} is less than 110"))).at("tolerance_percent");
    }
    Ok(Bounds { least, most, initial: or(from.initial_limit, 20), tolerance: f64::from(percent) / 100.0 })
}

impl Pass {
    /// The backend's answer began. Only then is it known how long it takes; what failed says nothing of that.
    pub(crate) fn answered(&self, now: Instant) {
        let Some(adaptive) = &self.gate.adaptive else { return };
        let mut adaptive = adaptive.lock().unwrap_or_else(PoisonError::into_inner);
        adaptive.answered(self.asked, self.gate.under_way.load(Relaxed), now);
        self.gate.limit.store(adaptive.limit(), Relaxed);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.under_way.fetch_sub(1, Relaxed);
    }
}
