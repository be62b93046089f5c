//! Power of two choices on open streams, with weights: draw two by weight, take the one with fewer open streams per weight.
use fastrand::Rng;

/// One endpoint that may be chosen. What may not (unhealthy, tried, unreachable) is left out by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    /// Share of the traffic; 0 gets none.
    pub weight: u32,
    /// Locality rank: only the lowest that has an endpoint is used.
    pub rank: usize,
    /// Streams open to it now.
    pub open: u32,
    /// It failed lately: used only when every endpoint of every rank did.
    pub ejected: bool,
}

/// Index of the chosen endpoint. An ejected one is passed over for the next rank; if all are ejected the guess is that the fault is ours,
/// and ejection does not count.
pub fn pick(endpoints: &[Endpoint], rng: &mut Rng) -> Option<usize> {
    best(endpoints, false, rng).or_else(|| best(endpoints, true, rng))
}

fn best(endpoints: &[Endpoint], even_ejected: bool, rng: &mut Rng) -> Option<usize> {
    let usable = |endpoint: &Endpoint| endpoint.weight > 0 && (even_ejected || !endpoint.ejected);
    let nearest = endpoints.iter().filter(|endpoint| usable(endpoint)).map(|endpoint| endpoint.rank).min()?;
    let admitted = |endpoint: &Endpoint| usable(endpoint) && endpoint.rank == nearest;
    let first = draw(endpoints, admitted, None, rng)?;
    // The second is drawn among the others, so that two endpoints are always compared.
    let Some(second) = draw(endpoints, admitted, Some(first), rng) else { return Some(first) };
    Some(if lighter(endpoints[second], endpoints[first]) { second } else { first })
}

/// Strictly fewer open streams per weight, cross-multiplied to stay in integers. On a tie the first draw stands, which keeps the shares that
/// the weights ask for while everything is idle.
fn lighter(a: Endpoint, b: Endpoint) -> bool {
    u64::from(a.open) * u64::from(b.weight) < u64::from(b.open) * u64::from(a.weight)
}

fn draw(endpoints: &[Endpoint], admitted: impl Fn(&Endpoint) -> bool, without: Option<usize>, rng: &mut Rng) -> Option<usize> {
    let candidates = || endpoints.iter().enumerate().filter(|(index, endpoint)| Some(*index) != without && admitted(endpoint));
    let total: u64 = candidates().map(|(_, endpoint)| u64::from(endpoint.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut left = rng.u64(..total);
    for (index, endpoint) in candidates() {
        match left.checked_sub(u64::from(endpoint.weight)) {
            Some(rest) => left = rest,
            None => return Some(index),
        }
    }
    None
}
