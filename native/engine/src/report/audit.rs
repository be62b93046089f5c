//! Connections that dry-run policies would have refused, counted by policy.
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

use trackbed_contract::tables::metrics;

use super::series::{Escaped, header};

/// Nobody tries more policies than this at a time; what is beyond is counted without a name.
const MOST_POLICIES: usize = 1024;
const NAMELESS: &str = "other";

/// One lock for all threads: a connection that nothing dry-run would refuse never comes here.
#[derive(Debug, Default)]
pub(crate) struct Audits(Mutex<HashMap<Arc<str>, u64>>);

impl Audits {
    pub(crate) fn would_deny(&self, policy: &Arc<str>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counts.len() < MOST_POLICIES || counts.contains_key(policy);
        let name = if known { Arc::clone(policy) } else { Arc::from(NAMELESS) };
        *counts.entry(name).or_default() += 1;
    }

    pub(crate) fn write(&self, text: &mut String) {
        let name = metrics::TRACKBED_POLICY_DRY_RUN_DENIED_TOTAL;
        header(text, name, "counter", "connections that a dry-run policy would have refused");
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts: Vec<_> = counts.iter().collect();
        counts.sort_unstable();
        for (policy, count) in counts {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "{name}{{policy=\"{}\"}} {count}", Escaped(policy));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_policies_than_are_told_apart_are_still_counted() {
        let audits = Audits::default();
        for index in 0..MOST_POLICIES * 2 {
            audits.would_deny(&format!("shop/p{index}").into());
        }
        audits.would_deny(&Arc::from("shop/p0"));
        let mut text = String::new();
        audits.write(&mut text);
        assert!(text.contains("{policy=\"shop/p0\"} 2\n"), "{text}");
        assert!(text.contains(&format!("{{policy=\"other\"}} {MOST_POLICIES}\n")), "{text}");
    }
}
