//! Whether a request that failed is tried once more, and when.
use crate::limits::{BACKOFF, UNHEARD_TRIES};
use crate::rule::Retry;
use http::StatusCode;
use std::time::Duration;

/// What came of a try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// No endpoint heard a byte of the request.
    Unheard,
    /// The connection was lost before the answer began.
    Lost,
    /// An answer; 504 also for one that did not come in time.
    Status(StatusCode),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// After that pause. It needs a share of the budget unless it is free.
    Again { pause: Duration, free: bool },
    /// As often as the rule says.
    Exhausted,
    /// Nothing that is tried again.
    Final,
}

/// `tries` were made beside the first. `replayable`: the same request can be sent again.
pub(crate) fn verdict(met: Met, rule: Option<&Retry>, tries: u32, replayable: bool) -> Verdict {
    let wanted = match met {
        Met::Unheard | Met::Lost => rule.filter(|rule| rule.on_connection_error),
        Met::Status(status) => rule.filter(|rule| rule.wants(status)),
    };
    // What nobody heard cannot have had an effect, and nothing of the body was read.
    if met == Met::Unheard && tries < UNHEARD_TRIES {
        return Verdict::Again { pause: wanted.map_or(Duration::ZERO, |rule| pause(rule, tries)), free: wanted.is_none() };
    }
    match wanted {
        Some(rule) if replayable && tries < rule.attempts => Verdict::Again { pause: pause(rule, tries), free: false },
        Some(_) if replayable => Verdict::Exhausted,
        _ => Verdict::Final,
    }
}

/// Doubled with each try; up to half as long again by chance, so that those who failed together do not come back together.
fn pause(rule: &Retry, tries: u32) -> Duration {
    let doubled = rule.backoff.saturating_mul(1_u32.checked_shl(tries).unwrap_or(u32::MAX)).min(BACKOFF.max(rule.backoff));
    doubled.mul_f64(1.0 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    fn rule(attempts: u32, on_connection_error: bool) -> Retry {
        Retry::of(&[503], attempts, Duration::from_millis(10), on_connection_error)
    }

    fn again(verdict: Verdict) -> bool {
        matches!(verdict, Verdict::Again { .. })
    }

    #[test]
    fn without_a_rule_only_what_nobody_heard_is_tried_again() {
        assert_eq!(verdict(Met::Unheard, None, 0, true), Verdict::Again { pause: Duration::ZERO, free: true });
        assert_eq!(verdict(Met::Unheard, None, UNHEARD_TRIES, true), Verdict::Final);
        assert_eq!(verdict(Met::Lost, None, 0, true), Verdict::Final);
        assert_eq!(verdict(Met::Status(StatusCode::SERVICE_UNAVAILABLE), None, 0, true), Verdict::Final);
    }

    #[test]
    fn the_rule_says_which_statuses_and_how_often() {
        let (rule, unavailable) = (rule(2, false), Met::Status(StatusCode::SERVICE_UNAVAILABLE));
        assert!(again(verdict(unavailable, Some(&rule), 0, true)));
        assert!(again(verdict(unavailable, Some(&rule), 1, true)));
        assert_eq!(verdict(unavailable, Some(&rule), 2, true), Verdict::Exhausted);
        assert_eq!(verdict(Met::Status(StatusCode::BAD_GATEWAY), Some(&rule), 0, true), Verdict::Final);
        assert_eq!(verdict(Met::Lost, Some(&rule), 0, true), Verdict::Final);
    }

    #[test]
    fn what_cannot_be_sent_again_is_not() {
        assert_eq!(verdict(Met::Status(StatusCode::SERVICE_UNAVAILABLE), Some(&rule(9, true)), 0, false), Verdict::Final);
        assert_eq!(verdict(Met::Lost, Some(&rule(9, true)), 0, false), Verdict::Final);
    }

    #[test]
    fn pauses_double_and_end() {
        let rule = rule(100, true);
        for tries in 0..40 {
            let Verdict::Again { pause, free: false } = verdict(Met::Lost, Some(&rule), tries, true) else { panic!("{tries}") };
            let least = Duration::from_millis(10).saturating_mul(1 << tries.min(20)).min(BACKOFF);
            assert!(pause >= least && pause <= least.mul_f64(1.5), "{tries}: {pause:?}");
        }
    }
}
