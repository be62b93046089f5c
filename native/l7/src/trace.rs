//! What lets one request be followed through logs and traces: W3C's traceparent and the x-request-id of Envoy.
use crate::Span;
use http::header::Entry;
use http::{HeaderMap, HeaderName, HeaderValue};

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
        let request_id = match headers.entry(REQUEST_ID) {
            Entry::Occupied(came) if (1..=REQUEST_ID_BYTES).contains(&came.get().len()) => came.get().clone(),
            Entry::Occupied(mut came) => {
                came.insert(uuid(fastrand::u128(..)));
                came.get().clone()
            }
            Entry::Vacant(none) => none.insert(uuid(fastrand::u128(..))).clone(),
        };
        let came = headers.get(&TRACEPARENT).filter(|value| is_traceparent(value.as_bytes())).cloned();
        let context = came.as_ref().and_then(context);
        let wanted = traces(context.map(|(_, _, sampled)| sampled));
        let (trace, parent) = context.map_or_else(|| (fastrand::u128(1..), None), |(trace, parent, _)| (trace, Some(parent)));
        let span = wanted.then(|| Span { trace, id: fastrand::u64(1..), parent });
        let made = match (&span, came) {
            (None, Some(came)) => return Self { request_id, traceparent: came, span },
            (Some(span), _) => new_traceparent(trace, span.id, true),
            (None, None) => new_traceparent(trace, fastrand::u64(1..), false),
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

fn new_traceparent(trace: u128, parent: u64, sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    text[54] += u8::from(sampled);
    hex(&mut text[3..35], &trace.to_be_bytes());
    hex(&mut text[36..52], &parent.to_be_bytes());
    value(&text)
}

/// Version 4.
fn uuid(random: u128) -> HeaderValue {
    let random = random & !(0xf << 76) & !(0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let bytes = random.to_be_bytes();
    let mut text = *b"00000000-0000-0000-0000-000000000000";
    for (digits, of) in [(0..8, 0..4), (9..13, 4..6), (14..18, 6..8), (19..23, 8..10), (24..36, 10..16)] {
        hex(&mut text[digits], &bytes[of]);
    }
    value(&text)
}

/// Two digits for each byte. By hand: the formatter takes five times as long, for each request.
fn hex(digits: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (digits, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        digits[0] = DIGITS[usize::from(byte >> 4)];
        digits[1] = DIGITS[usize::from(byte & 15)];
    }
}

fn value(ascii: &[u8]) -> HeaderValue {
    // Digits, letters and dashes alone are always a value.
    HeaderValue::from_bytes(ascii).unwrap_or_else(|_| HeaderValue::from_static("-"))
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
    fn what_is_made_has_the_form_that_the_standards_say() {
        assert_eq!(new_traceparent(0xab, 0xcd0, false), "00-000000000000000000000000000000ab-0000000000000cd0-00");
        assert_eq!(new_traceparent(0xab, 0xcd0, true), "00-000000000000000000000000000000ab-0000000000000cd0-01");
        assert_eq!(uuid(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef), "01234567-89ab-4def-8123-456789abcdef");
    }

    #[test]
    fn later_versions_may_be_longer() {
        assert!(is_traceparent(b"01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"));
    }
}
