//! The verbs of the CNI specification. ADD returns when the pod is captured or need not be; DEL never keeps a pod from going.
use std::time::Duration;

use serde_json::json;

use crate::{
    answer::{Answer, Failure},
    ask::{Patience, Reply, ask},
    call::Call,
    config::{Config, newest, version_of, versions},
    decision::{Decision, always_passes, decide},
    tables::{bounds, errors, paths},
};

/// Above the daemon's own limit for a capture, so that its reason is the one that people read.
const ADD: Duration = Duration::from_millis(bounds::CNI_ADD_MILLISECONDS as u64 + 5000);
/// A pod outside of the mesh waits no longer for a daemon that has nothing to say about it.
const OUTSIDE: Duration = Duration::from_secs(3);
/// Until a daemon that is replaced, or a node that starts, has one again. Whoever is refused meanwhile is asked for again by the kubelet after 10 to 15 s only.
const COMING: Duration = Duration::from_secs(10);
/// Letting a pod go is the daemon's own wish too; it finds out by itself when it missed the call.
const DEL: Duration = Duration::from_secs(3);

pub(crate) fn run(command: &str, input: &[u8], environment: impl Fn(&str) -> Option<String>) -> Answer {
    let done = match command {
        "ADD" => add(input, environment),
        "CHECK" => check(input, environment),
        "DEL" => Ok(del(input, environment)),
        "VERSION" => Ok(Answer::json(&json!({ "cniVersion": newest(), "supportedVersions": versions() }))),
        // STATUS would take the whole node's network away from pods that are none of ours; leftovers are found by the daemon itself.
        "STATUS" | "GC" => Config::parse(input).map(|_| Answer::nothing()),
        other => Err(Failure::environment(format!("CNI_COMMAND {other:?} is not one of ADD, CHECK, DEL, VERSION, STATUS, GC"))),
    };
    done.unwrap_or_else(|failure| Answer::from_failure(version_of(input), &failure))
}

fn add(input: &[u8], environment: impl Fn(&str) -> Option<String>) -> Result<Answer, Failure> {
    let config = Config::parse(input)?;
    let result = Answer::json(config.previous()?);
    let Some(mut call) = Call::from_environment(environment)?.filter(|call| !always_passes(&call.pod_namespace)) else {
        return Ok(result);
    };
    call.ips = config.addresses()?;
    if call.netns.is_empty() {
        return Err(Failure::environment("CNI_NETNS is not set".to_owned()));
    }
    settle("add", &config, &call, config.coming().unwrap_or(COMING)).map(|()| result)
}

fn check(input: &[u8], environment: impl Fn(&str) -> Option<String>) -> Result<Answer, Failure> {
    let config = Config::parse(input)?;
    let Some(call) = Call::from_environment(environment)?.filter(|call| !always_passes(&call.pod_namespace)) else {
        return Ok(Answer::nothing());
    };
    settle("check", &config, &call, Duration::ZERO).map(|()| Answer::nothing())
}

/// The daemon's answer; without one its last word about the namespace.
fn settle(verb: &str, config: &Config, call: &Call, coming: Duration) -> Result<(), Failure> {
    let known = decide(&config.decisions(), &call.pod_namespace);
    let (coming, first_word) = if known == Decision::NotEnrolled { (Duration::ZERO, OUTSIDE) } else { (coming, ADD) };
    let away = match ask(&config.socket(), verb, &body(call)?, Patience { coming, first_word, whole: ADD }) {
        Reply::Done => return Ok(()),
        Reply::Refused { code, reason } => return Err(Failure::later(&code, format!("pod {}: {reason}", call.pod()))),
        Reply::Away(away) => away,
    };
    let because = match known {
        Decision::NotEnrolled if !away.working => return Ok(()),
        Decision::NotEnrolled | Decision::Enrolled => "is enrolled".to_owned(),
        Decision::Unknown(reason) => format!("may be enrolled, for {reason}"),
    };
    let reason =
        format!("pod {} must not start outside the mesh: no daemon answers ({}), and its namespace {because}", call.pod(), away.reason);
    Err(Failure::later(errors::CNI_DAEMON_AWAY, reason))
}

/// Never fails: the plugins before us are called after us, and would not give the pod's address back. What is ours ends with the namespace.
fn del(input: &[u8], environment: impl Fn(&str) -> Option<String>) -> Answer {
    if let Err(Failure { reason, code, .. }) = tell_gone(input, environment) {
        eprintln!("{}: the daemon was not told that a pod goes: {reason} ({code})", paths::CNI_PLUGIN);
    }
    Answer::nothing()
}

fn tell_gone(input: &[u8], environment: impl Fn(&str) -> Option<String>) -> Result<(), Failure> {
    let config = Config::parse(input)?;
    if let Some(call) = Call::from_environment(environment)? {
        // Whatever the daemon says, the pod goes; a daemon that is away finds out by itself.
        let _ = ask(&config.socket(), "del", &body(&call)?, Patience { coming: Duration::ZERO, first_word: DEL, whole: DEL });
    }
    Ok(())
}

fn body(call: &Call) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(call).map_err(|error| Failure::io(format!("the request cannot be written: {error}")))
}
