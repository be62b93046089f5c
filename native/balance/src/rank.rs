//! How near an endpoint is to its client, by a service's routing preference.

/// `istio.workload.LoadBalancing.Scope`, without the unspecified one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Region,
    Zone,
    Subzone,
    Node,
    Cluster,
    Network,
}

/// `istio.workload.LoadBalancing.Mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// No preference: every endpoint has the same rank.
    #[default]
    Any,
    /// Every scope must match.
    Strict,
    /// The longest matching prefix of the scopes wins.
    Failover,
    /// No selection: the original address. The caller acts on it before it chooses.
    Passthrough,
}

/// Where a workload runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place<'a> {
    pub region: &'a str,
    pub zone: &'a str,
    pub subzone: &'a str,
    pub node: &'a str,
    pub cluster: &'a str,
    pub network: &'a str,
}

/// 0 is nearest; `None` = may not be used.
pub fn rank(mode: Mode, scopes: &[Scope], client: Place<'_>, endpoint: Place<'_>) -> Option<usize> {
    let missing = scopes.len() - scopes.iter().take_while(|scope| scope.shared(client, endpoint)).count();
    match mode {
        Mode::Any | Mode::Passthrough => Some(0),
        Mode::Failover => Some(missing),
        Mode::Strict => (missing == 0).then_some(0),
    }
}

impl Scope {
    /// A zone has its name within its region only, and a subzone within its zone: the wider ones must match too.
    fn shared(self, a: Place<'_>, b: Place<'_>) -> bool {
        match self {
            Self::Region => a.region == b.region,
            Self::Zone => Self::Region.shared(a, b) && a.zone == b.zone,
            Self::Subzone => Self::Zone.shared(a, b) && a.subzone == b.subzone,
            Self::Node => a.node == b.node,
            Self::Cluster => a.cluster == b.cluster,
            Self::Network => a.network == b.network,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Place<'_> = Place { region: "r1", zone: "z1", subzone: "s1", node: "n1", cluster: "c1", network: "" };

    #[test]
    fn failover_ranks_by_the_longest_matching_prefix() {
        let scopes = [Scope::Network, Scope::Region, Scope::Zone, Scope::Node];
        let rank = |place| rank(Mode::Failover, &scopes, HERE, place);
        assert_eq!(rank(HERE), Some(0));
        assert_eq!(rank(Place { node: "n2", ..HERE }), Some(1));
        assert_eq!(rank(Place { zone: "z2", ..HERE }), Some(2), "the same node name behind another zone does not count");
        assert_eq!(rank(Place { region: "r2", ..HERE }), Some(3));
        assert_eq!(rank(Place { network: "other", ..HERE }), Some(4));
    }

    #[test]
    fn strict_admits_only_where_every_scope_matches() {
        let scopes = [Scope::Zone, Scope::Cluster];
        assert_eq!(rank(Mode::Strict, &scopes, HERE, Place { node: "n2", subzone: "s2", ..HERE }), Some(0));
        assert_eq!(rank(Mode::Strict, &scopes, HERE, Place { cluster: "c2", ..HERE }), None);
        assert_eq!(rank(Mode::Strict, &scopes, HERE, Place { region: "r2", ..HERE }), None, "zone z1 of another region is another zone");
    }

    #[test]
    fn without_a_mode_every_endpoint_is_equal() {
        assert_eq!(rank(Mode::Any, &[Scope::Node], HERE, Place::default()), Some(0));
    }
}
