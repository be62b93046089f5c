//! `trackbed-engine eval`: the functions that decide connections, asked over lines of JSON. No socket, no privilege, no clock: what is true of the
//! state that comes in. docs/explain.md has the contract.
mod line;
mod replay;
mod request;

use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};

use trackbed_contract::Identity;
use trackbed_contract::tables::errors;
use trackbed_decide::{Client, Judgement, Prospect, Settings, Verdict, World, admission, prospect};

use crate::routes::{Routes, kind_of};
use line::{Admit, Answer, Connect, Line, Source};

/// A state of 100,000 resources in one line has some 60 MB; a line that never ends must not take the machine's memory.
const LINE_BYTES: u64 = 512 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum EvalError {
    #[error("{code}: line {0}: {1}", code = errors::USAGE)]
    Line(u64, String),
    #[error("reading questions or writing answers: {0}")]
    Io(#[from] io::Error),
}

/// What nodes decide from, and what waypoints do.
struct Mesh {
    world: World,
    routes: Routes,
}

pub(crate) fn run() -> Result<(), EvalError> {
    let answers = BufWriter::new(io::stdout().lock());
    match answer_all(BufReader::new(io::stdin().lock()), answers) {
        // Whoever asked has heard enough.
        Err(EvalError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn answer_all<R: Read>(mut questions: BufReader<R>, mut answers: impl Write) -> Result<(), EvalError> {
    let mut mesh = None;
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        if (&mut questions).take(LINE_BYTES).read_until(b'\n', &mut text)? == 0 {
            break;
        }
        let wrong = |reason: String| EvalError::Line(number, reason);
        if !text.ends_with(b"\n") && text.len() as u64 == LINE_BYTES {
            return Err(wrong(format!("has more than {LINE_BYTES} bytes")));
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        let line: Line = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if let Some(answer) = one(&mut mesh, line).map_err(wrong)? {
            serde_json::to_writer(&mut answers, &answer).map_err(io::Error::from)?;
            answers.write_all(b"\n")?;
        }
        // Whoever waits for an answer before he asks again gets it; a file of questions is answered in large pieces.
        if questions.buffer().is_empty() {
            answers.flush()?;
        }
    }
    Ok(answers.flush()?)
}

fn one(mesh: &mut Option<Mesh>, line: Line) -> Result<Option<Answer>, String> {
    if let Line::Settings(settings) = line {
        // The node is asked for by each question: it is its client's, then its destination's.
        let settings = Settings::of_waypoint(&settings.into()).map_err(|error| error.to_string())?;
        *mesh = Some(Mesh { world: World::new(settings), routes: Routes::default() });
        return Ok(None);
    }
    let Some(mesh) = mesh else { return Err("settings come first".to_owned()) };
    match line {
        Line::Settings(_) => Ok(None),
        Line::State(state) => {
            let delta = state.delta(mesh.world.generation() + 1)?;
            let (world, mut rejected) = mesh.world.apply(&delta);
            // No part of where a connection may go, and nothing that the world knows.
            rejected.retain(|rejected| kind_of(rejected.r#type).is_none());
            let (routes, unusable) = mesh.routes.apply(&delta);
            rejected.extend(unusable);
            *mesh = Mesh { world, routes };
            Ok(Some(Answer::State { rejected: rejected.into_iter().map(Into::into).collect() }))
        }
        Line::Connect(question) => {
            let mut answer = connect(&mesh.world, &question);
            let requests = match &question.request {
                Some(request) => request::explain(mesh, &question, request, &mut answer)?,
                None => Vec::new(),
            };
            Ok(Some(Answer::Connect { answer: Box::new(answer), requests, id: question.id }))
        }
        Line::Admit(question) => Ok(Some(Answer::Admit { answer: admit(&mesh.world, &question)?, id: question.id })),
        Line::Replay(question) => {
            let (answer, depends) = replay::replay(mesh, &question)?;
            Ok(Some(Answer::Replay { answer, depends, id: question.id }))
        }
    }
}

fn connect(world: &World, question: &Connect) -> Prospect {
    let client = match &question.source {
        Source::Address(ip) => Client::Address(*ip),
        Source::Workload(uid) => match world.workload(uid) {
            Some(workload) => Client::Workload(workload.clone()),
            None => return Prospect::failed(unknown(uid)),
        },
    };
    prospect(world, &client, &question.host, question.port)
}

fn admit(world: &World, question: &Admit) -> Result<Judgement, String> {
    let identity = question.identity.as_deref().map(Identity::parse).transpose();
    let identity = identity.map_err(|error| format!("identity {:?}: {error}", question.identity))?;
    let Some(workload) = world.workload(&question.workload) else { return Ok(unknown(&question.workload)) };
    Ok(admission(world, workload, identity.as_ref(), question.address, question.port))
}

fn unknown(uid: &str) -> Judgement {
    Judgement::new(Verdict::Failed, errors::WORKLOAD_UNKNOWN, format!("the state has no workload {uid}"))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use prost::Message as _;
    use serde_json::{Value, json};
    use trackbed_contract::istio::security::Authorization;
    use trackbed_contract::istio::workload::{self as wire, Address, Workload};

    use super::*;

    fn asked(lines: &[Value]) -> Result<Vec<Value>, EvalError> {
        let text = lines.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let mut answers = Vec::new();
        answer_all(BufReader::new(text.as_bytes()), &mut answers)?;
        Ok(answers
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).expect("JSON"))
            .collect())
    }

    fn settings() -> Value {
        json!({ "settings": { "trustDomain": "cluster.local", "clusterDomain": "cluster.local" } })
    }

    fn pod(name: &str, last: u8) -> Value {
        let workload = Workload {
            uid: format!("Kubernetes//Pod/shop/{name}"),
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            service_account: name.to_owned(),
            node: "n1".to_owned(),
            addresses: vec![vec![10, 0, 0, last]],
            tunnel_protocol: wire::TunnelProtocol::Hbone.into(),
            ..Workload::default()
        };
        let name = workload.uid.clone();
        let body = Address { r#type: Some(wire::address::Type::Workload(workload)) }.encode_to_vec();
        json!({ "type": "address", "name": name, "version": "1", "body": STANDARD.encode(body) })
    }

    fn nobody() -> Value {
        let policy = Authorization { name: "nobody".to_owned(), namespace: "shop".to_owned(), scope: 1, ..Authorization::default() };
        json!({ "type": "authorization", "name": "shop/nobody", "version": "1", "body": STANDARD.encode(policy.encode_to_vec()) })
    }

    #[test]
    fn a_change_of_the_state_changes_the_answers_that_follow() {
        let admit = json!({ "admit": {
            "id": "1", "identity": "spiffe://cluster.local/ns/shop/sa/web", "address": "10.0.0.1", "workload": "Kubernetes//Pod/shop/api", "port": 80
        } });
        let state = |upsert: Value, remove: Value| json!({ "state": { "upsert": upsert, "remove": remove } });
        let connect =
            json!({ "connect": { "id": "c", "source": { "workload": "Kubernetes//Pod/shop/web" }, "host": "10.0.0.2", "port": 80 } });
        let answers = asked(&[
            settings(),
            state(json!([pod("web", 1), pod("api", 2)]), json!([])),
            admit.clone(),
            state(json!([nobody()]), json!([])),
            admit.clone(),
            connect,
            state(json!([]), json!([{ "type": "authorization", "name": "shop/nobody" }])),
            admit,
        ])
        .expect("answers");
        let verdicts: Vec<_> = answers.iter().filter_map(|line| line["admit"]["verdict"].as_str()).collect();
        assert_eq!(verdicts, ["allowed", "denied", "allowed"]);
        let told = answers.iter().find_map(|line| line.get("connect")).expect("an answer");
        assert_eq!((&told["id"], &told["verdict"], &told["code"]), (&json!("c"), &json!("denied"), &json!("E_POLICY_NO_ALLOW")));
        assert_eq!((&told["ways"][0]["path"], &told["ways"][0]["considered"][0]["effect"]), (&json!("relay"), &json!("allowsOthers")));
    }

    #[test]
    fn what_cannot_be_read_ends_it_and_names_the_line() {
        for (line, named) in [
            (json!({ "admits": {} }), "unknown variant"),
            (json!({ "state": { "upsert": [], "more": 1 } }), "unknown field `more`"),
            (json!({ "state": { "upsert": [{ "type": "address", "name": "x", "version": "", "body": "?" }] } }), "body of x"),
            (json!({ "admit": { "id": "", "identity": "me", "address": null, "workload": "", "port": 1 } }), "identity"),
        ] {
            let error = asked(&[settings(), line]).expect_err(named).to_string();
            assert!(error.starts_with("E_USAGE: line 2: ") && error.contains(named), "{error}");
        }
        assert!(asked(&[json!({ "state": {} })]).expect_err("no settings").to_string().contains("settings come first"));
    }

    #[test]
    fn a_resource_that_no_engine_can_use_is_named_and_the_rest_goes_on() {
        let broken = json!({ "type": "authorization", "name": "shop/broken", "version": "1", "body": "/w==" });
        let answers = asked(&[settings(), json!({ "state": { "upsert": [broken] } })]).expect("answers");
        assert_eq!(answers[0]["state"]["rejected"][0]["code"], "E_POLICY_INVALID");
    }
}
