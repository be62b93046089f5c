//! Claims about the plugin as a runtime sees it: environment and stdin in, JSON and an exit status out, with a daemon made of a thread.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up shall stop")]

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

const PLUGIN: &str = env!("CARGO_BIN_EXE_trackbed-cni");
const POD: &str = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u-1";

struct Place(PathBuf);

impl Place {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("trackbed-cni-{}-{:?}", std::process::id(), thread::current().id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn config(&self, more: &Value) -> Value {
        let mut config = json!({
            "cniVersion": "1.0.0", "name": "cluster", "type": "trackbed-cni",
            "socket": self.0.join("cni.sock"), "decisions": self.0.join("namespaces.json"),
            "prevResult": result(), "comingMilliseconds": 0,
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn decisions(&self, namespaces: &Value) {
        let file = json!({ "kind": "trackbed-namespaces", "format": 1, "namespaces": namespaces });
        fs::write(self.0.join("namespaces.json"), file.to_string()).unwrap();
    }

    fn run(&self, command: &str, pod: &str) -> Output {
        self.run_with(command, pod, &json!({}))
    }

    fn run_with(&self, command: &str, pod: &str, more: &Value) -> Output {
        self.start(command, pod, more).wait_with_output().unwrap()
    }

    fn start(&self, command: &str, pod: &str, more: &Value) -> Child {
        let netns = self.0.join("netns");
        if !netns.exists() {
            std::os::unix::fs::symlink("/proc/self/ns", &netns).unwrap();
        }
        let mut child = Command::new(PLUGIN)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", &self.0)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_ARGS", pod)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(self.config(more).to_string().as_bytes()).unwrap();
        child
    }

    /// A daemon that gives each caller one answer and hands on what it was asked.
    fn daemon(&self, answer: impl Fn(&mut UnixStream) + Send + 'static) -> Receiver<(String, Value)> {
        let listener = UnixListener::bind(self.0.join("cni.sock")).unwrap();
        let (tell, told) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                tell.send(request(&stream)).unwrap();
                answer(&mut stream);
            }
        });
        told
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn request(stream: &UnixStream) -> (String, Value) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let mut headers = HashMap::new();
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).unwrap();
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        headers.insert(name.to_owned(), value.to_owned());
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    (line.trim_end().to_owned(), serde_json::from_slice(&body).unwrap())
}

fn http(status: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn result() -> Value {
    json!({
        "cniVersion": "1.0.0",
        "interfaces": [{ "name": "cni0", "mac": "aa:aa:aa:aa:aa:aa" }, { "name": "eth0", "sandbox": "/var/run/netns/x" }],
        "ips": [
            { "address": "10.244.1.7/24", "gateway": "10.244.1.1", "interface": 1 },
            { "address": "fd00:244::7/64", "interface": 1 },
            { "address": "10.244.1.1/24", "interface": 0 },
        ],
        "routes": [{ "dst": "0.0.0.0/0" }],
        "dns": {},
    })
}

#[track_caller]
fn passes_through(output: &Output) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), result());
    assert!(output.status.success());
}

/// Number, message and details of the error object.
#[track_caller]
fn refused(output: &Output) -> (u64, String, String) {
    assert!(!output.status.success(), "it passed: {}", String::from_utf8_lossy(&output.stdout));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = |key: &str| error[key].as_str().unwrap().to_owned();
    assert_eq!(error["cniVersion"], "1.0.0");
    (error["code"].as_u64().unwrap(), text("msg"), text("details"))
}

#[test]
fn version_names_what_a_chained_plugin_can_speak() {
    let output = Place::new().run("VERSION", "");
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer["supportedVersions"], json!(["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]));
}

#[test]
fn a_captured_pod_gets_the_result_of_the_plugins_before_and_the_daemon_all_there_is_to_know() {
    let place = Place::new();
    let told = place.daemon(|stream| stream.write_all(&http("200 OK", &json!({ "captured": true }))).unwrap());
    passes_through(&place.run("ADD", POD));
    let (line, body) = told.recv().unwrap();
    assert_eq!(line, "POST /cni/add HTTP/1.1");
    let netns = fs::canonicalize(&place.0).unwrap();
    assert_eq!(
        body,
        json!({
            "containerId": "c1", "netns": netns, "ifName": "eth0", "podNamespace": "shop", "podName": "web", "podUid": "u-1",
            "ips": ["10.244.1.7", "fd00:244::7"],
        })
    );
}

#[test]
fn a_refusal_says_who_why_and_what_next() {
    let place = Place::new();
    let refusal = json!({ "code": "E_CNI_NOT_CAPTURED", "reason": "no engine is connected" });
    let _told = place.daemon(move |stream| stream.write_all(&http("503 Service Unavailable", &refusal)).unwrap());
    // What the daemon says beats the file.
    place.decisions(&json!({ "shop": false }));
    let (number, message, details) = refused(&place.run("ADD", POD));
    assert_eq!((number, message.as_str()), (11, "pod shop/web: no engine is connected (E_CNI_NOT_CAPTURED)"));
    assert!(details.contains("the kubelet tries again"), "{details}");
}

#[test]
fn without_a_daemon_only_a_namespace_known_to_be_outside_passes() {
    let place = Place::new();
    let (number, message, _) = refused(&place.run("ADD", POD));
    assert_eq!(number, 11);
    assert!(
        message.contains("pod shop/web must not start outside the mesh") && message.contains("namespaces.json cannot be read"),
        "{message}"
    );
    place.decisions(&json!({ "shop": false, "bank": true }));
    passes_through(&place.run("ADD", POD));
    let (_, message, details) = refused(&place.run("ADD", &POD.replace("=shop", "=bank")));
    assert!(message.contains("its namespace is enrolled (E_CNI_DAEMON_AWAY)"), "{message}");
    assert!(details.contains("trackbed-cni rescue"), "{details}");
    let (_, message, _) = refused(&place.run("ADD", &POD.replace("=shop", "=new")));
    assert!(message.contains("does not name it"), "{message}");
    fs::write(place.0.join("namespaces.json"), "{").unwrap();
    let (_, message, _) = refused(&place.run("ADD", POD));
    assert!(message.contains("is damaged"), "{message}");
}

#[test]
fn a_daemon_that_comes_meanwhile_is_asked_for_a_pod_that_may_be_the_mesh_s() {
    let place = Place::new();
    drop(UnixListener::bind(place.0.join("cni.sock")).unwrap()); // what one that was killed leaves
    let plugin = place.start("ADD", POD, &json!({ "comingMilliseconds": 60_000 }));
    let deadline = Instant::now() + Duration::from_secs(10);
    while !sleeps(&plugin) {
        assert!(Instant::now() < deadline, "it does not wait");
        thread::yield_now();
    }
    fs::remove_file(place.0.join("cni.sock")).unwrap();
    let told = place.daemon(|stream| stream.write_all(&http("200 OK", &json!({}))).unwrap());
    passes_through(&plugin.wait_with_output().unwrap());
    assert_eq!(told.recv().unwrap().0, "POST /cni/add HTTP/1.1");
}

/// In the system call of `thread::sleep`: on x86-64, on arm64.
fn sleeps(plugin: &Child) -> bool {
    let call = fs::read_to_string(format!("/proc/{}/syscall", plugin.id())).unwrap();
    matches!(call.split(' ').next(), Some("230" | "115"))
}

#[test]
fn nobody_waits_for_a_daemon_that_is_away_to_leave_or_to_be_looked_at() {
    let place = Place::new();
    let patient = json!({ "comingMilliseconds": 600_000 });
    place.run_with("DEL", POD, &patient);
    let (_, message, _) = refused(&place.run_with("CHECK", POD, &patient));
    assert!(message.contains("E_CNI_DAEMON_AWAY"), "{message}");
    place.decisions(&json!({ "shop": false }));
    passes_through(&place.run_with("ADD", POD, &patient));
}

#[test]
fn the_cluster_s_own_pods_and_calls_without_a_pod_never_wait_for_us() {
    let place = Place::new();
    for namespace in ["=kube-system", "=trackbed-system"] {
        passes_through(&place.run("ADD", &POD.replace("=shop", namespace)));
    }
    passes_through(&place.run("ADD", ""));
}

#[test]
fn a_daemon_that_hangs_holds_no_pod_outside_of_the_mesh() {
    let place = Place::new();
    place.decisions(&json!({ "shop": false }));
    let _told = place.daemon(|stream| {
        let _ = stream.read(&mut [0]);
    });
    let started = Instant::now();
    passes_through(&place.run("ADD", POD));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_daemon_that_took_the_pod_up_and_dies_is_no_reason_to_let_it_pass() {
    let place = Place::new();
    place.decisions(&json!({ "shop": false }));
    let _told = place.daemon(|stream| stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").unwrap());
    let (_, message, _) = refused(&place.run("ADD", POD));
    assert!(message.contains("its namespace is enrolled"), "{message}");
}

#[test]
fn a_daemon_that_works_on_it_is_waited_for() {
    let place = Place::new();
    let _told = place.daemon(|stream| {
        stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").unwrap();
        stream.write_all(&http("200 OK", &json!({}))).unwrap();
    });
    passes_through(&place.run("ADD", POD));
}

#[test]
fn what_the_runtime_does_wrong_is_named() {
    let place = Place::new();
    let (number, message, _) = refused(&place.run_with("ADD", POD, &json!({ "prevResult": null })));
    assert!(number == 7 && message.contains("must be chained"), "{message}");
    let (number, message, _) = refused(&place.run("ADD", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web"));
    assert!(number == 4 && message.contains("lacks K8S_POD_UID"), "{message}");
    let (number, message, _) = refused(&place.run_with("ADD", POD, &json!({ "prevResult": { "ips": [{ "address": "x" }] } })));
    assert!(number == 6 && message.contains("\"x\" is no address"), "{message}");
    let (number, message, _) = refused(&place.run("EAT", POD));
    assert!(number == 4 && message.contains("EAT"), "{message}");
    let output = place.run_with("ADD", POD, &json!({ "cniVersion": "0.2.0" }));
    let error: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&error["code"], &error["cniVersion"]), (&json!(1), &json!("1.1.0")));
}

#[test]
fn a_pod_is_let_go_whatever_the_daemon_says() {
    let place = Place::new();
    let empty = |output: Output| assert!(output.status.success() && output.stdout.is_empty());
    empty(place.run("DEL", POD));
    let told = place.daemon(|stream| stream.write_all(b"no HTTP").unwrap());
    empty(place.run("DEL", POD));
    assert_eq!(told.recv().unwrap().0, "POST /cni/del HTTP/1.1");
}

#[test]
fn a_pod_that_was_refused_for_its_arguments_is_let_go_all_the_same() {
    // Else the plugins before us, which are called after us, would never give its address back.
    let place = Place::new();
    let output = place.run("DEL", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web");
    assert!(output.status.success() && output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stderr).contains("lacks K8S_POD_UID"), "the runtime's log says why nobody was asked");
}

#[test]
fn check_finds_a_pod_that_is_not_captured_any_more_and_status_never_fails() {
    let place = Place::new();
    let refusal = json!({ "code": "E_CAPTURE_RULES_DIFFER", "reason": "the rules were changed" });
    let _told = place.daemon(move |stream| stream.write_all(&http("409 Conflict", &refusal)).unwrap());
    let (_, message, _) = refused(&place.run("CHECK", POD));
    assert_eq!(message, "pod shop/web: the rules were changed (E_CAPTURE_RULES_DIFFER)");
    for command in ["STATUS", "GC"] {
        assert!(place.run(command, "").status.success());
    }
}
