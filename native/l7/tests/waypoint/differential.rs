//! What policies decide, against what a real nginx then serves: whatever it understands by a request must be what they admitted.
//!
//! The oracle knows nothing of normal forms: it compares the words of the policy with nginx's own view (its path, its method, its headers).
//! `TRACKBED_REQUESTS` says how many; `TRACKBED_SEED` repeats a run.
use crate::access::{access, any, exact, policy, prefix};
use crate::nginx::{nginx_that, understood};
use crate::support::{Http1, PORT, body, get, one_rule, run_for, to, waypoint};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use trackbed_contract::authorization::text::Kind;
use trackbed_contract::authorization::{Action, Match, Named, Policy, Text, Texts};
use trackbed_l7::normal;

/// Of these and of nothing else are paths made, and the paths of policies.
const PIECES: [&str; 26] = [
    "/", "/", "/", "a", "b", ".", "..", "/..", "/../", "/./", "//", "%2e", "%2E", "%2f", "%2F", "%5c", ";", "%3b", "%61", "%C3%A9", "%25",
    "~", "%7e", "admin", "A", "%2561",
];
const PATTERNS: [&str; 8] = ["/a", "/admin", "/a/", "/a/b", "/admin/", "/b", "/", "/a~"];
const ROLES: [&str; 5] = ["admin", "user", "Admin", "admin, user", "guest"];
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];
/// Requests between two changes of policies.
const TURN: usize = 250;
const CLIENTS: usize = 4;
/// In CI; `make long` asks for a million.
const REQUESTS: usize = 6000;

/// One policy about one field.
#[derive(Clone)]
struct Words {
    allow: bool,
    paths: Vec<Text>,
    methods: Vec<&'static str>,
    roles: Vec<&'static str>,
    not_roles: Vec<&'static str>,
}

/// What nginx served.
struct Served<'a> {
    method: &'a str,
    path: &'a str,
    roles: Vec<&'a str>,
}

impl Words {
    fn random(random: &mut fastrand::Rng) -> Self {
        let text = |random: &mut fastrand::Rng| {
            let pattern = PATTERNS[random.usize(..PATTERNS.len())];
            if random.bool() { exact(pattern) } else { prefix(pattern) }
        };
        let mut words = Self { allow: random.bool(), paths: vec![], methods: vec![], roles: vec![], not_roles: vec![] };
        if random.u8(..4) > 0 {
            words.paths = (0..random.usize(1..3)).map(|_| text(random)).collect();
        }
        match random.u8(..6) {
            0 => words.methods = vec![METHODS[random.usize(..METHODS.len())]],
            1 => words.roles = vec![ROLES[random.usize(..3)]],
            2 => words.not_roles = vec![ROLES[random.usize(..3)]],
            _ if words.paths.is_empty() => words.methods = vec!["GET"],
            _ => {}
        }
        words
    }

    fn policy(&self, number: usize) -> Policy {
        let texts = |words: &[&str]| words.iter().map(|word| exact(word)).collect::<Vec<_>>();
        let mut one = Match::default();
        if !self.paths.is_empty() {
            one.paths = any(&self.paths);
        }
        if !self.methods.is_empty() {
            one.methods = any(&texts(&self.methods));
        }
        if !(self.roles.is_empty() && self.not_roles.is_empty()) {
            let values = Some(Texts { any: texts(&self.roles), none: texts(&self.not_roles) });
            one.headers = vec![Named { name: "x-role".into(), values }];
        }
        let action = if self.allow { Action::Allow } else { Action::Deny };
        policy(&format!("p{number}"), action, &[one])
    }

    /// Each condition by its words, and no more.
    fn says(&self, served: &Served<'_>) -> bool {
        let path = |text: &Text| match &text.kind {
            Some(Kind::Exact(text)) => served.path == text,
            Some(Kind::Prefix(text)) => served.path.starts_with(text),
            _ => unreachable!("no other was made"),
        };
        let role = |role: &&str| (self.roles.is_empty() || self.roles.contains(role)) && !self.not_roles.contains(role);
        let roles = if self.roles.is_empty() && self.not_roles.is_empty() {
            true
        } else if served.roles.is_empty() {
            self.roles.is_empty()
        } else if self.allow {
            served.roles.iter().all(role)
        } else {
            served.roles.iter().any(role)
        };
        (self.paths.is_empty() || self.paths.iter().any(path))
            && (self.methods.is_empty() || self.methods.contains(&served.method))
            && roles
    }
}

fn admitted(policies: &[Words], served: &Served<'_>) -> bool {
    let denied = policies.iter().any(|words| !words.allow && words.says(served));
    let allows = || policies.iter().filter(|words| words.allow);
    !denied && (allows().next().is_none() || allows().any(|words| words.says(served)))
}

#[derive(Default)]
struct Counts {
    admitted: Cell<usize>,
    denied: Cell<usize>,
    refused: Cell<usize>,
    /// Denied, though nginx would have served what policies admit: it is one of several readings.
    careful: Cell<usize>,
}

fn more(count: &Cell<usize>) {
    count.set(count.get() + 1);
}

async fn ask(client: &mut Http1, policies: &[Words], random: &mut fastrand::Rng, counts: &Counts) {
    let path: String = (0..random.usize(0..8)).fold("/".to_owned(), |path, _| path + PIECES[random.usize(..PIECES.len())]);
    let path = if random.u8(..3) == 0 { PATTERNS[random.usize(..PATTERNS.len())].to_owned() } else { path };
    let method = METHODS[random.usize(..METHODS.len())];
    let roles: Vec<&str> = (0..random.usize(0..3)).map(|_| ROLES[random.usize(..ROLES.len())]).collect();
    let request = roles.iter().fold(get(&path).method(method), |request, role| request.header("x-role", *role));
    let got = client.send(request.body(body("")).unwrap()).await;
    let Ok(normal) = normal(&path) else {
        assert_eq!(got.status, 400, "{path}");
        return more(&counts.refused);
    };
    if got.status == 200 {
        let mut told = got.body.split('\n');
        let (method, path) = (told.next().unwrap(), told.next().unwrap());
        // Of a header that comes twice some see the first, some the last, and some all.
        let own = Some(told.next().unwrap()).filter(|role| !role.is_empty());
        assert!(own.is_none_or(|own| own == roles.join(", ") || Some(&own) == roles.first()), "{own:?} of {roles:?}");
        assert_eq!(own.is_none(), roles.is_empty());
        for roles in [own.into_iter().collect(), roles.last().copied().into_iter().collect(), roles] {
            let served = Served { method, path, roles };
            assert!(admitted(policies, &served), "{method} {path} {:?} was served", served.roles);
        }
        return more(&counts.admitted);
    }
    assert_eq!(got.status, 403, "{path}");
    more(&counts.denied);
    let would = understood(&normal.merged);
    let served = Served { method, path: &would, roles };
    if admitted(policies, &served) {
        assert!(
            path.contains(['%', ';']) || path.contains("//"),
            "{method} {path} {:?} was denied, and has one reading only",
            served.roles
        );
        more(&counts.careful);
    }
}

#[test]
fn nginx_serves_nothing_that_policies_do_not_admit() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let requests = number("TRACKBED_REQUESTS").map_or(REQUESTS, |count| usize::try_from(count).unwrap());
    let seed = number("TRACKBED_SEED").unwrap_or(7);
    println!("seed {seed}, {requests} requests");
    run_for(Duration::from_secs(30) + Duration::from_millis(4 * u64::try_from(requests).unwrap()), async move {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let nginx = nginx_that(2, "return 200 \"$request_method\\n$uri\\n$http_x_role\"", false).await;
        waypoint.endpoint("shop/v1", PORT, "nginx", nginx.address);
        let counts = Rc::new(Counts::default());
        let mut random = fastrand::Rng::with_seed(seed);
        let mut clients = Vec::new();
        for _ in 0..CLIENTS {
            clients.push(waypoint.http1().await);
        }
        for _ in 0..requests.div_ceil(TURN * CLIENTS) {
            let policies: Rc<[Words]> = (0..random.usize(1..10)).map(|_| Words::random(&mut random)).collect();
            let wire = policies.iter().enumerate().map(|(number, words)| words.policy(number)).collect();
            waypoint.guard(one_rule(to("shop/v1")), Some(&access(wire)));
            let turns: Vec<_> = clients
                .drain(..)
                .map(|mut client| {
                    let (policies, counts, mut random) = (Rc::clone(&policies), Rc::clone(&counts), random.fork());
                    spawn_local(async move {
                        for _ in 0..TURN {
                            ask(&mut client, &policies, &mut random, &counts).await;
                        }
                        client
                    })
                })
                .collect();
            for turn in turns {
                clients.push(turn.await.unwrap());
            }
            waypoint.ledger().requests.borrow_mut().clear();
            waypoint.endpoints.observed.borrow_mut().clear();
        }
        let Counts { admitted, denied, refused, careful } = &*counts;
        println!(
            "{} admitted, {} denied, {} of them for another reading, {} malformed",
            admitted.get(),
            denied.get(),
            careful.get(),
            refused.get()
        );
        let least = requests / 20;
        assert!(admitted.get() > least && denied.get() > least && refused.get() > least, "the requests are of every kind");
    });
}
