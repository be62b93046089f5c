//! The share of its weight that an endpoint has while it is new: caches are cold then, and compilers have seen nothing yet.
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SlowStart {
    pub window: Duration,
    /// 1: linear; greater: faster at first.
    pub aggression: f64,
    /// Of the weight, from the first moment on.
    pub least: f64,
}

impl SlowStart {
    /// From `least` to 1.
    pub fn share(&self, age: Duration) -> f64 {
        if age >= self.window {
            return 1.0;
        }
        let grown = (age.as_secs_f64() / self.window.as_secs_f64()).powf(1.0 / self.aggression);
        grown.clamp(self.least, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_from_the_least_to_all_over_the_window() {
        let start = SlowStart { window: Duration::from_secs(100), aggression: 1.0, least: 0.1 };
        let shares = [0, 5, 10, 50, 99, 100, 1000].map(|seconds| start.share(Duration::from_secs(seconds)));
        for (share, wanted) in shares.into_iter().zip([0.1, 0.1, 0.1, 0.5, 0.99, 1.0, 1.0]) {
            assert!((share - wanted).abs() < 1e-9, "{shares:?}");
        }
        let faster = SlowStart { aggression: 2.0, ..start };
        assert!((faster.share(Duration::from_secs(25)) - 0.5).abs() < 1e-9);
    }
}
