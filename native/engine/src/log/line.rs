//! A log line from an event, as text or as JSON. By hand: the library's own formatter took a quarter of all that a request costs.
use std::cell::Cell;
use std::fmt::{self, Debug, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::Lines;
use crate::cli::LogFormat;

/// What a request's line has; memory for longer ones is not kept.
const USUAL_BYTES: usize = 1024;

thread_local! {
    /// Where a thread makes its lines: one is copied out of it, and costs no memory of its own.
    static LINE: Cell<String> = const { Cell::new(String::new()) };
}

/// Makes a line of each event and queues it. Spans are none of it: the engine has none.
pub(super) struct Writer {
    lines: Lines,
    format: LogFormat,
}

impl Writer {
    pub(super) fn new(lines: Lines, format: LogFormat) -> Self {
        Self { lines, format }
    }
}

impl<S: Subscriber> Layer<S> for Writer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Taken, for what is shown may say something itself.
        let mut text = LINE.take();
        text.clear();
        text.reserve(USUAL_BYTES);
        line(&mut text, self.format, super::time(), event);
        self.lines.push(&text);
        text.shrink_to(USUAL_BYTES);
        LINE.set(text);
    }
}

fn line(text: &mut String, format: LogFormat, now: SystemTime, event: &Event<'_>) {
    let metadata = event.metadata();
    let level = metadata.level().as_str();
    match format {
        LogFormat::Text => {
            timestamp(text, now);
            // As wide as the longest.
            text.extend(std::iter::repeat_n(' ', 6_usize.saturating_sub(level.len())));
            text.push_str(level);
            text.push(' ');
            text.push_str(metadata.target());
            text.push(':');
            event.record(&mut Text(text));
            text.push('\n');
        }
        LogFormat::Json => {
            text.push_str("{\"timestamp\":\"");
            timestamp(text, now);
            text.push_str("\",\"level\":\"");
            text.push_str(level);
            text.push('"');
            event.record(&mut Json(text));
            text.push_str(",\"target\":");
            json_text(text, metadata.target());
            text.push_str("}\n");
        }
    }
}

/// RFC 3339 in microseconds.
fn timestamp(text: &mut String, time: SystemTime) {
    // A clock before 1970 is wrong in any case.
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = date(days);
    digits(text, year, 4);
    for (mark, number, width) in [
        ('-', month, 2),
        ('-', day, 2),
        ('T', second / 3600, 2),
        (':', second / 60 % 60, 2),
        (':', second % 60, 2),
        ('.', u64::from(since.subsec_micros()), 6),
    ] {
        text.push(mark);
        digits(text, number, width);
    }
    text.push('Z');
}

/// Year, month and day of the Gregorian calendar, by days since 1970. Years begin in March, so that the day that some lack is their last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since the first of March of the year 0
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

fn digits(text: &mut String, number: u64, width: u32) {
    for place in (0..width).rev() {
        text.push(char::from(b'0' + u8::try_from(number / 10_u64.pow(place) % 10).unwrap_or(0)));
    }
}

/// ` name=value`, texts in quotes; the message stands alone.
struct Text<'a>(&'a mut String);

impl Text<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push(' ');
        if field.name() != MESSAGE {
            self.0.push_str(field.name());
            self.0.push('=');
        }
    }
}

const MESSAGE: &str = "message";

impl Visit for Text<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        if field.name() == MESSAGE {
            self.0.push_str(value);
        } else if value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\') {
            self.0.push('"');
            self.0.push_str(value);
            self.0.push('"');
        } else {
            written(write!(self.0, "{value:?}"));
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        written(write!(self.0, "{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.name(field);
        written(write!(self.0, "{value:?}"));
    }
}

/// `,"name":value`, what has no form of its own as text.
struct Json<'a>(&'a mut String);

impl Json<'_> {
    fn name(&mut self, field: &Field) {
        self.0.push_str(",\"");
        // Names are those of the source: dotted words.
        self.0.push_str(field.name());
        self.0.push_str("\":");
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.name(field);
        written(write!(self.0, "{value}"));
    }
}

impl Visit for Json<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.name(field);
        json_text(self.0, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.name(field);
        self.0.push('"');
        written(write!(Escaped(self.0), "{value:?}"));
        self.0.push('"');
    }
}

fn json_text(text: &mut String, value: &str) {
    text.push('"');
    escape(text, value);
    text.push('"');
}

fn escape(text: &mut String, value: &str) {
    if value.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        return text.push_str(value);
    }
    for character in value.chars() {
        match character {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\u{0}'..'\u{20}' => written(write!(text, "\\u{:04x}", u32::from(character))),
            other => text.push(other),
        }
    }
}

/// What is written to it stands within quotes.
struct Escaped<'a>(&'a mut String);

impl fmt::Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

/// Writing into a String cannot fail; a value that cannot be shown leaves its place empty.
fn written(_: fmt::Result) {}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, sync_channel};

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn said(format: LogFormat, say: impl FnOnce()) -> String {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(Writer::new(lines.clone(), format));
        tracing::subscriber::with_default(subscriber, say);
        let mut text = Vec::new();
        assert_eq!(lines.wait(&mut text), 1);
        String::from_utf8(text).expect("text")
    }

    /// What the library's own formatter makes of the same.
    fn theirs(json: bool, say: impl FnOnce()) -> String {
        let (lines, queue): (_, Receiver<Vec<u8>>) = sync_channel(1);
        let writer = move || Kept { bytes: Vec::new(), queue: lines.clone() };
        let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
        if json {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer.json().flatten_event(true)), say);
        } else {
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), say);
        }
        String::from_utf8(queue.recv().expect("a line")).expect("text")
    }

    struct Kept {
        bytes: Vec<u8>,
        queue: std::sync::mpsc::SyncSender<Vec<u8>>,
    }

    impl std::io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.bytes.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Drop for Kept {
        fn drop(&mut self) {
            let _ = self.queue.send(std::mem::take(&mut self.bytes));
        }
    }

    fn some(which: u32) {
        let error = std::io::Error::other("no \"way\"\n");
        match which {
            0 => {
                tracing::info!(target: "access", method = %"GET", path = "/a?b=\"c\"\\", n = 7_u64, src.addr = ?Some("10.0.0.1"), none = None::<u64>, "request complete");
            }
            1 => tracing::warn!(%error, flag = true, below = -3, text = "käse\u{1}", "it {} away", "went"),
            2 => tracing::error!("alone"),
            3 => tracing::debug!(target: "waypoint", owned = String::from("x"), code = 200_u16, some = Some("y")),
            _ => tracing::info!(dst.port = 80_u16, host = &*String::from("h"), "with \"quotes\" and\nlines"),
        }
    }

    /// Without the time, which differs.
    fn rest(line: &str) -> &str {
        let at = line.find('Z').expect("a time");
        &line[at..]
    }

    #[test]
    fn a_line_is_what_the_library_would_write() {
        for which in 0..5 {
            let (ours, library) = (said(LogFormat::Text, || some(which)), theirs(false, || some(which)));
            assert_eq!(rest(&ours), rest(&library));
            assert_eq!(ours.find('Z'), library.find('Z'), "{ours}{library}");
            let (ours, library) = (said(LogFormat::Json, || some(which)), theirs(true, || some(which)));
            let read = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
            let (mut ours, mut library) = (read(&ours), read(&library));
            ours["timestamp"] = "".into();
            library["timestamp"] = "".into();
            assert_eq!(ours, library);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000007Z"),
            (951_782_399, "2000-02-28T23:59:59.000007Z"),
            (951_782_400, "2000-02-29T00:00:00.000007Z"),
            (951_868_800, "2000-03-01T00:00:00.000007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000007Z"),
            (253_402_300_799, "9999-12-31T23:59:59.000007Z"),
        ] {
            let mut text = String::new();
            timestamp(&mut text, UNIX_EPOCH + Duration::new(seconds, 7000));
            assert_eq!(text, expected);
        }
    }
}
