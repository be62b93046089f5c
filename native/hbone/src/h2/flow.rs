//! Flow control both ways (RFC 9113, 5.2): what the peer lets us send, and what we let it send, which grows only while the reader keeps up.
use std::time::{Duration, Instant};

/// No window may be larger.
pub(crate) const LARGEST_WINDOW: i64 = (1 << 31) - 1;
/// Every window's size until somebody says otherwise. For ours it stays the first: a stream whose reader is not known yet holds no more.
pub(crate) const FIRST_WINDOW: u32 = (1 << 16) - 1;
/// A window that is used up by half within this time holds a fast reader back: 0.3 Gbit/s for the first.
const QUICK: Duration = Duration::from_millis(100);

/// What may be sent. It can be below zero: the peer may take back what it allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outflow(i64);

impl Outflow {
    pub(crate) fn new(window: u32) -> Self {
        Self(window.into())
    }

    pub(crate) fn value(self) -> i64 {
        self.0
    }

    /// None for what no peer can make of a window.
    pub(crate) fn at(value: i64) -> Option<Self> {
        (-LARGEST_WINDOW..=LARGEST_WINDOW).contains(&value).then_some(Self(value))
    }

    pub(crate) fn room(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    pub(crate) fn take(&mut self, bytes: u32) {
        self.0 -= i64::from(bytes);
    }

    /// False, and as it was, when the window would become too large.
    pub(crate) fn grow(&mut self, by: i64) -> bool {
        let fits = self.0 + by <= LARGEST_WINDOW;
        if fits {
            self.0 += by;
        }
        fits
    }
}

/// What the peer may send into one stream.
#[derive(Debug)]
pub(crate) struct Inflow {
    /// Most that may be on its way or unread.
    window: u32,
    /// What of it the peer may still use.
    left: u32,
    /// Read since the last grant.
    read: u32,
    granted: Instant,
}

impl Inflow {
    pub(crate) fn new(now: Instant) -> Self {
        Self { window: FIRST_WINDOW, left: FIRST_WINDOW, read: 0, granted: now }
    }

    /// False when the peer sent more than it may.
    pub(crate) fn took(&mut self, bytes: u32) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    /// The reader has taken so many bytes. Returns what the peer may send more, when it is worth a frame. `most` bounds the window, and
    /// `spare` is what all windows of the connection may still grow by; it grows only for a reader that `keeps_up`.
    pub(crate) fn read(&mut self, bytes: u32, keeps_up: bool, most: u32, spare: &mut u32, now: Instant) -> Option<u32> {
        self.read += bytes;
        if self.read < self.window / 2 {
            return None;
        }
        let mut grant = std::mem::take(&mut self.read);
        if keeps_up && now.saturating_duration_since(self.granted) < QUICK {
            let growth = self.window.min(most.saturating_sub(self.window)).min(*spare);
            self.window += growth;
            *spare -= growth;
            grant += growth;
        }
        self.granted = now;
        self.left += grant;
        Some(grant)
    }

    /// Window, what is left and what was read of it, and when it was last granted.
    pub(crate) fn parts(&self) -> (u32, u32, u32, Instant) {
        (self.window, self.left, self.read, self.granted)
    }

    /// None when they do not fit together. `most` bounds the window.
    pub(crate) fn of_parts((window, left, read, granted): (u32, u32, u32, Instant), most: u32) -> Option<Self> {
        let fits = (FIRST_WINDOW..=most.max(FIRST_WINDOW)).contains(&window) && left.checked_add(read).is_some_and(|sum| sum <= window);
        fits.then_some(Self { window, left, read, granted })
    }

    /// What it has grown by beyond the first: given back when the stream ends.
    pub(crate) fn growth(&self) -> u32 {
        self.window - FIRST_WINDOW
    }
}

/// What the peer may send in a whole connection. Granted again on receipt, not on reading: a stream that nobody reads is held by its own
/// window, and never holds its neighbours.
#[derive(Debug)]
pub(crate) struct Intake {
    window: u32,
    left: u32,
}

impl Intake {
    /// `window` is what is announced beyond the first.
    pub(crate) fn new(window: u32) -> Self {
        Self { window, left: window }
    }

    /// False when the peer sent more than it may.
    pub(crate) fn took(&mut self, bytes: u32) -> bool {
        let left = self.left.checked_sub(bytes);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    /// None when more would be left than there was.
    pub(crate) fn resume(window: u32, left: u32) -> Option<Self> {
        (left <= window).then_some(Self { window, left })
    }

    /// What is to be granted, once it is worth a frame.
    pub(crate) fn grant(&mut self) -> Option<u32> {
        let used = self.window - self.left;
        (used >= self.window / 2).then(|| {
            self.left = self.window;
            used
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: u32 = 4 << 20;

    /// Uses the whole window up `rounds` times, `apart` from each other.
    fn window_after(rounds: u32, apart: Duration, keeps_up: bool, spare: &mut u32) -> u32 {
        let mut now = Instant::now();
        let mut inflow = Inflow::new(now);
        for _ in 0..rounds {
            now += apart;
            let bytes = inflow.left;
            assert!(inflow.took(bytes) && !inflow.took(1));
            inflow.left = 0;
            inflow.read(bytes, keeps_up, MOST, spare, now);
        }
        inflow.window
    }

    #[test]
    fn a_window_grows_for_a_quick_reader_only_and_within_its_bounds() {
        assert_eq!(window_after(20, Duration::from_millis(1), true, &mut u32::MAX.clone()), MOST);
        assert_eq!(window_after(20, Duration::from_secs(1), true, &mut u32::MAX.clone()), FIRST_WINDOW);
        assert_eq!(window_after(20, Duration::from_millis(1), false, &mut u32::MAX.clone()), FIRST_WINDOW);
        let mut spare = 100_000;
        assert_eq!(window_after(20, Duration::from_millis(1), true, &mut spare), FIRST_WINDOW + 100_000);
        assert_eq!(spare, 0);
    }

    #[test]
    fn nothing_is_granted_for_little_and_nothing_is_lost() {
        let now = Instant::now();
        let mut inflow = Inflow::new(now);
        let mut granted = 0;
        for _ in 0..1000 {
            assert!(inflow.took(1000));
            granted += inflow.read(1000, false, MOST, &mut 0, now).unwrap_or(0);
        }
        assert_eq!(granted + inflow.read, 1_000_000);
        assert_eq!(inflow.left, FIRST_WINDOW - inflow.read);
    }

    #[test]
    fn a_window_may_fall_below_zero_and_never_rise_above_the_most() {
        let mut outflow = Outflow::new(10);
        assert!(outflow.grow(-20));
        assert_eq!(outflow.room(), 0);
        assert!(outflow.grow(LARGEST_WINDOW + 10) && !outflow.grow(1));
    }
}
