//! What lets one request be followed through logs and traces: W3C's traceparent and the x-request-id of Envoy.
use crate::Span;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::fmt::Write;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A UUID has 36; longer ones of other makers are kept, novels are not.
const REQUEST_ID_BYTES: usize = 128;

#[derive(Debug, Clone)]
pub(crate) struct Trace {
    pub(crate) request_id: HeaderValue,
    pub(crate) traceparent: HeaderValue,
    pub(crate) span: Option<Span>,
}

/// Bit of the flags: whoever called recorded it.
const SAMPLED: u8 = 1;

impl Trace {
    /// Kept where the client sent them, made where not; they are in `headers` afterwards. A request that makes a span stands between its client
    /// and its server in the trace: what goes on names it as the parent. One that makes none passes on what it got.
    pub(crate) fn of(headers: &mut HeaderMap, traces: impl FnOnce(Option<bool>) -> bool) -> Self {
        let request_id = headers.get(&REQUEST_ID).filter(|id| (1..=REQUEST_ID_BYTES).contains(&id.len())).cloned();
        let request_id = request_id.unwrap_or_else(|| {
            let made = uuid(fastrand::u128(..));
            headers.insert(REQUEST_ID, made.clone());
            made
        });
        let came = headers.get(&TRACEPARENT).filter(|value| is_traceparent(value.as_bytes())).cloned();
        let context = came.as_ref().and_then(context);
        let wanted = traces(context.map(|(_, _, sampled)| sampled));
        let (trace, parent) = context.map_or_else(|| (fastrand::u128(1..), None), |(trace, parent, _)| (trace, Some(parent)));
        let span = wanted.then(|| Span { trace, id: fastrand::u64(1..), parent });
        let made = match (&span, came) {
            (None, Some(came)) => return Self { request_id, traceparent: came, span },
            (Some(span), _) => text(&format!("00-{trace:032x}-{:016x}-01", span.id)),
            (None, None) => text(&format!("00-{trace:032x}-{:016x}-00", fastrand::u64(1..))),
        };
        headers.insert(TRACEPARENT, made.clone());
        Self { request_id, traceparent: made, span }
    }
}

/// Trace, parent, and whether it is sampled, of a header that is one.
fn context(value: &HeaderValue) -> Option<(u128, u64, bool)> {
    let text = value.to_str().ok()?;
    let trace = u128::from_str_radix(text.get(3..35)?, 16).ok()?;
    let parent = u64::from_str_radix(text.get(36..52)?, 16).ok()?;
    let flags = u8::from_str_radix(text.get(53..55)?, 16).ok()?;
    Some((trace, parent, flags & SAMPLED != 0))
}

/// Version 00 as the standard has it, and later ones, which only may be longer.
fn is_traceparent(value: &[u8]) -> bool {
    let hex = |range: std::ops::Range<usize>| {
        let digits = &value[range];
        digits.iter().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(b)) && digits.iter().any(|b| *b != b'0')
    };
    let dashes = value.len() >= 55 && [2, 35, 52].iter().all(|at| value[*at] == b'-');
    let flags = |at: usize| value[at].is_ascii_digit() || (b'a'..=b'f').contains(&value[at]);
    let version = dashes && value.starts_with(b"00") && value.len() == 55 || dashes && hex(0..2) && !value.starts_with(b"ff");
    version && hex(3..35) && hex(36..52) && flags(53) && flags(54)
}

/// Version 4.
fn uuid(random: u128) -> HeaderValue {
    let random = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{random:032x}");
    let mut id = String::with_capacity(36);
    for (index, part) in [0..8, 8..12, 12..16, 16..20, 20..32].into_iter().enumerate() {
        let dash = if index > 0 { "-" } else { "" };
        // Writing to a String cannot fail.
        let _ = write!(id, "{dash}{}", &hex[part]);
    }
    text(&id)
}

fn text(ascii: &str) -> HeaderValue {
    // Digits, letters and dashes alone are always a value.
    HeaderValue::from_str(ascii).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    #[test]
    fn what_came_is_kept() {
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
        headers.insert(REQUEST_ID, HeaderValue::from_static("mine"));
        let before = headers.clone();
        assert_eq!(Trace::of(&mut headers, |_| false).request_id, "mine");
        assert_eq!(headers, before);
    }

    #[test]
    fn what_is_missing_or_broken_is_made() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_str(bad).unwrap());
            let made = Trace::of(&mut headers, |asked| asked.is_some());
            assert!(is_traceparent(made.traceparent.as_bytes()), "{bad}");
            assert_eq!(headers.get(TRACEPARENT), Some(&made.traceparent));
            assert_eq!(headers.get(REQUEST_ID), Some(&made.request_id));
            assert_eq!(made.request_id.len(), 36);
        }
    }

    #[test]
    fn a_request_that_makes_a_span_is_the_parent_of_what_goes_on() {
        for (came, flags) in [
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", true),
            ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_static(came));
            let mut asked = None;
            let trace = Trace::of(&mut headers, |wants| {
                asked = wants;
                true
            });
            let span = trace.span.unwrap();
            assert_eq!(
                (asked, span.trace, span.parent),
                (Some(flags), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, Some(0xb7ad_6b71_6920_3331))
            );
            assert_eq!(headers[TRACEPARENT], format!("00-0af7651916cd43dd8448eb211c80319c-{:016x}-01", span.id));
        }
        let mut headers = HeaderMap::new();
        let span = Trace::of(&mut headers, |asked| asked.is_none()).span.unwrap();
        assert_eq!((headers[TRACEPARENT].to_str().unwrap(), span.parent), (&*format!("00-{:032x}-{:016x}-01", span.trace, span.id), None));
    }

    #[test]
    fn later_versions_may_be_longer() {
        assert!(is_traceparent(b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"));
    }
}
