//! Policy evaluation: ten policies of four rules each, met by the last of them or by none.
use std::hint::black_box;
use std::net::IpAddr;

use trackbed_contract::Identity;
use trackbed_policy::{Candidate, Connection, Decision, Policy, evaluate};

use crate::{Failure, measured, wire};

const POLICIES: u8 = 10;
const RULES: u8 = 4;
const EVALUATIONS: u64 = 2000;

pub(crate) fn run() -> Result<u64, Failure> {
    let policies = (0..POLICIES)
        .map(|number| Policy::from_wire(&wire::allow(&format!("p{number}"), &[number * RULES, number * RULES + 1, number * RULES + 2, 90])))
        .collect::<Result<Vec<_>, _>>()?;
    let sources = [wire::principal(POLICIES * RULES - 2), wire::principal(99)]
        .iter()
        .map(|text| Identity::parse(text))
        .collect::<Result<Vec<_>, _>>()?;
    let address = IpAddr::from([10, 1, 0, 1]);
    let mut admitted = 0;
    measured(&mut || {
        for turn in 0..EVALUATIONS {
            let source = Some(&sources[usize::from(turn % 2 == 1)]);
            let connection = Connection { source, source_ip: address, destination_ip: address, destination_port: 8080 };
            let verdict = evaluate(policies.iter().map(Candidate::Known), black_box(&connection));
            admitted += u64::from(matches!(verdict.decision, Decision::Allowed { .. }));
        }
    });
    if admitted == EVALUATIONS / 2 { Ok(EVALUATIONS) } else { Err(format!("{admitted} of {EVALUATIONS} were admitted").into()) }
}
