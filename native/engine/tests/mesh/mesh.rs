//! The mesh most tests start from: one pod on each of two nodes; and what tests say about it.
use trackbed_contract::engine::{Direction, Flow, FlowPhase, Resource};
use trackbed_contract::istio::security::{Action, Authorization, Clause, Match, Rule, Scope, StringMatch, string_match::MatchType};
use trackbed_contract::istio::workload::TunnelProtocol;

use crate::PORT;
use crate::lab::{Fabric, Node, Pod, of_policy, of_workload};

/// web on node one, api on node two, both enrolled, with these resources beside their workloads.
pub(crate) struct Mesh {
    pub(crate) one: Node,
    pub(crate) two: Node,
    pub(crate) web: Pod,
    pub(crate) api: Pod,
    /// The links between them live as long as this.
    pub(crate) fabric: Fabric,
}

impl Mesh {
    pub(crate) fn new() -> Option<Self> {
        let fabric = Fabric::new()?;
        let (web, api) = (fabric.pod("web"), fabric.pod("api"));
        let (one, two) = (fabric.node("one"), fabric.node("two"));
        let mesh = Self { one, two, web, api, fabric };
        mesh.state(&[]);
        mesh.api.serve(PORT);
        mesh.one.enrol(&[&mesh.web]);
        mesh.two.enrol(&[&mesh.api]);
        Some(mesh)
    }

    pub(crate) fn state(&self, more: &[Resource]) {
        let mut resources = vec![
            of_workload(&self.web.workload("one", TunnelProtocol::Hbone)),
            of_workload(&self.api.workload("two", TunnelProtocol::Hbone)),
        ];
        resources.extend_from_slice(more);
        assert_eq!(self.one.director.state(resources.clone()), []);
        assert_eq!(self.two.director.state(resources), []);
    }
}

pub(crate) fn deny(name: &str, principal: &str) -> Resource {
    let text = StringMatch { match_type: Some(MatchType::Exact(principal.trim_start_matches("spiffe://").to_owned())) };
    let rule = Rule { clauses: vec![Clause { matches: vec![Match { principals: vec![text], ..Match::default() }] }] };
    of_policy(&Authorization {
        name: name.into(),
        namespace: "shop".into(),
        scope: Scope::Namespace.into(),
        action: Action::Deny.into(),
        rules: vec![rule],
        ..Authorization::default()
    })
}

pub(crate) fn closed(direction: Direction) -> impl Fn(&Flow) -> bool {
    move |flow| flow.direction == i32::from(direction) && flow.phase == i32::from(FlowPhase::Closed)
}
