//! What is foretold of a recorded request is what the waypoint does with it: random policies, real requests, and only what their records hold is asked about.
//! `ORACLE_CASES` says how many, `ORACLE_SEED` which.
use crate::access::{access, any, exact, guarded, prefix};
use crate::support::{PORT, SERVICE, Waypoint, body, one_rule, run_for, to};
use http::{Method, Request};
use std::time::Duration;
use trackbed_contract::Identity;
use trackbed_contract::authorization::{Access, Action, Block, Blocks, Clause, Match, Named, Policy, Ports, Rule, Text, Texts, text::Kind};
use trackbed_l7::Recorded;

const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
const PATHS: [&str; 8] = ["/", "/a", "/a/b", "/b", "/a%2Fb", "/%61", "/a//b", "/x/../a"];
const HOSTS: [&str; 3] = ["cart", "cart:80", "other.example"];
const NAMESPACES: [&str; 3] = ["shop", "bank", "attic"];
const WORDS: [&str; 2] = ["yes", "no"];
const REQUESTS_OF_A_TURN: usize = 50;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect(name))
}

struct Dice(fastrand::Rng);

impl Dice {
    fn one_in(&mut self, count: u32) -> bool {
        self.0.u32(..count) == 0
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.0.usize(..all.len())]
    }

    fn text(&mut self, all: &[&str]) -> Text {
        match self.0.u32(..6) {
            0 => Text { kind: Some(Kind::Presence(true)) },
            1 | 2 => prefix(&self.of(all)[..1]),
            _ => exact(self.of(all)),
        }
    }

    fn texts(&mut self, all: &[&str]) -> Option<Texts> {
        let (one, other) = (self.text(all), self.text(all));
        match self.0.u32(..6) {
            0 => Some(Texts { any: vec![], none: vec![one] }),
            1 => Some(Texts { any: vec![one], none: vec![other] }),
            2 | 3 => any(&[one, other]),
            _ => None,
        }
    }

    fn one_match(&mut self) -> Match {
        let block = |address: [u8; 4], length| Block { address: address.to_vec(), length };
        let one = Match {
            methods: self.texts(&METHODS),
            paths: self.texts(&["/", "/a", "/a/b", "/b"]),
            hosts: self.texts(&["cart", "other.example"]),
            namespaces: self.texts(&NAMESPACES),
            headers: if self.one_in(5) { vec![Named { name: "x-word".into(), values: any(&[self.text(&WORDS)]) }] } else { vec![] },
            destination_ports: self.one_in(8).then(|| Ports { any: vec![[80, 81][self.0.usize(..2)]], none: vec![] }),
            source_ips: self.one_in(8).then(|| Blocks { any: vec![block([127, 0, 0, 0], 8)], none: vec![] }),
            destination_ips: self.one_in(12).then(|| Blocks { any: vec![block([10, 0, 0, 0], 8)], none: vec![] }),
            ..Match::default()
        };
        if one == Match::default() { Match { namespaces: any(&[exact(self.of(&NAMESPACES))]), ..one } } else { one }
    }

    fn policies(&mut self) -> Access {
        let policies = (0..self.0.usize(1..5)).map(|number| {
            let rules = (0..self.0.usize(1..4)).map(|_| {
                let clauses =
                    (0..self.0.usize(1..3)).map(|_| Clause { matches: (0..self.0.usize(1..3)).map(|_| self.one_match()).collect() });
                Rule { clauses: clauses.collect() }
            });
            let rules = rules.collect();
            let action = if self.one_in(3) { Action::Deny } else { Action::Allow };
            Policy { name: format!("shop/p{number}"), action: action.into(), rules, dry_run: self.one_in(8), ..Policy::default() }
        });
        access(policies.collect())
    }
}

/// True: admitted. None: it depends on what is not recorded.
fn foretold(waypoint: &Waypoint, recorded: &Recorded<'_>) -> Option<bool> {
    let replayed = waypoint.table.borrow().replay(recorded).unwrap();
    let admitted = replayed.decided.is_none_or(|decided| decided.code.is_empty());
    replayed.depends.is_empty().then_some(admitted)
}

#[test]
fn what_is_foretold_of_recorded_requests_is_what_happens() {
    let cases = usize::try_from(from_environment("ORACLE_CASES").unwrap_or(1000)).unwrap();
    let seed = from_environment("ORACLE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("ORACLE_SEED={seed}");
    let mut dice = Dice(fastrand::Rng::with_seed(seed));
    run_for(Duration::from_mins(2), async move {
        let (waypoint, _v1) = guarded(&access(vec![])).await;
        let (mut denied, mut admitted, mut open) = (0, 0, 0);
        while denied + admitted + open < cases {
            waypoint.guard(one_rule(to("shop/v1")), Some(&dice.policies()));
            let namespace = dice.of(&NAMESPACES);
            waypoint.client_namespace(namespace);
            let identity = Identity::parse(&format!("spiffe://cluster.local/ns/{namespace}/sa/default")).unwrap();
            let mut client = waypoint.http1().await;
            for _ in 0..REQUESTS_OF_A_TURN {
                let (method, path, host) = (dice.of(&METHODS), dice.of(&PATHS), dice.of(&HOSTS));
                let recorded = Recorded {
                    identity: Some(&identity),
                    address: (!dice.one_in(4)).then_some([127, 0, 0, 1].into()),
                    service: &SERVICE.into(),
                    port: (!dice.one_in(4)).then_some(PORT),
                    method: Some(method),
                    authority: (!dice.one_in(4)).then_some(host),
                    path: (!dice.one_in(4)).then_some(path),
                    token_passed: true,
                };
                let before = foretold(&waypoint, &recorded);
                let request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(path).header("host", host);
                let request = if dice.one_in(2) { request.header("x-word", dice.of(&WORDS)) } else { request };
                let happened = client.send(request.body(body("")).unwrap()).await.status == 200;
                match before {
                    None => open += 1,
                    Some(before) => assert_eq!(before, happened, "ORACLE_SEED={seed}: {recorded:?}"),
                }
                if before.is_some() && happened {
                    admitted += 1;
                } else if before.is_some() {
                    denied += 1;
                }
            }
        }
        println!("{admitted} admitted, {denied} denied as foretold, {open} not decided");
        assert!(denied * 10 > cases && admitted * 10 > cases, "{denied} and {admitted} of {cases}: the policies are no test");
    });
}
