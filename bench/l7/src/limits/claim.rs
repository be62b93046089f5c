//! What is wanted of limits and balancing, beside what was found.
use std::fmt;

use serde::Serialize;

#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Bound {
    Most(f64),
    Least(f64),
    Within(f64, f64),
    /// Nothing is wanted of it: it says how the others came about.
    None,
}

#[derive(Debug, Serialize)]
pub(super) struct Claim {
    pub(super) scenario: &'static str,
    pub(super) what: String,
    pub(super) wanted: Bound,
    pub(super) found: f64,
    pub(super) unit: &'static str,
    pub(super) met: bool,
}

/// What one scenario found, in its order.
#[derive(Debug)]
pub(super) struct Claims {
    scenario: &'static str,
    pub(super) all: Vec<Claim>,
}

impl Claims {
    pub(super) fn of(scenario: &'static str) -> Self {
        Self { scenario, all: Vec::new() }
    }

    pub(super) fn add(&mut self, what: impl Into<String>, wanted: Bound, found: f64, unit: &'static str) {
        let met = match wanted {
            Bound::Most(most) => found <= most,
            Bound::Least(least) => found >= least,
            Bound::Within(least, most) => (least..=most).contains(&found),
            Bound::None => true,
        };
        self.all.push(Claim { scenario: self.scenario, what: what.into(), wanted, found, unit, met });
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Most(most) => format!("at most {}", digits(*most)),
            Self::Least(least) => format!("at least {}", digits(*least)),
            Self::Within(least, most) => format!("{} to {}", digits(*least), digits(*most)),
            Self::None => String::new(),
        };
        f.pad(&text)
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let met = match (self.wanted, self.met) {
            (Bound::None, _) => "",
            (_, true) => "yes",
            (_, false) => "NO",
        };
        let found = format!("{} {}", digits(self.found), self.unit);
        write!(f, "{:12} {:84} {:22} {found:14} {met}", self.scenario, self.what, self.wanted)
    }
}

fn digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// Of requests, of which there are some ten thousand.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
pub(super) fn number(count: usize) -> f64 {
    count as f64
}
