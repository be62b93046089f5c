//! What the engine tells of connections by the bytes that pass: their protocol, and the requests of observed pods.
use std::io::{Read, Write};

use trackbed_contract::engine::{AddPod, Direction, Observe};
use trackbed_contract::istio::workload::TunnelProtocol;

use crate::PORT;
use crate::lab::{Client, Fabric, Pod, of_workload};
use crate::mesh::{Mesh, closed};

/// Says this and nothing else after the client's first bytes, or before them, and waits for its end.
fn answers(pod: &Pod, port: u16, first: bool, answer: &'static [u8]) {
    pod.accept(port, move |mut stream| {
        if !first && stream.read(&mut [0; 4096])? == 0 {
            return Ok(());
        }
        stream.write_all(answer)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
}

/// Says that, and hears so many bytes.
fn say(mut client: Client, bytes: &[u8], answer: usize) {
    client.0.write_all(bytes).expect("said");
    client.0.read_exact(&mut vec![0; answer]).expect("an answer");
    drop(client);
}

/// Of one port, at both ends of it.
fn protocols(mesh: &Mesh, port: u16) -> Vec<(String, String)> {
    [(&mesh.one, Direction::Outbound), (&mesh.two, Direction::Inbound)]
        .map(|(node, direction)| {
            let is_it = closed(direction);
            let flow = node
                .director
                .flow("its end", |flow| is_it(flow) && flow.destination.as_ref().is_some_and(|end| end.port == u32::from(port)));
            (flow.protocol, flow.server_name)
        })
        .to_vec()
}

fn observed(pod: &Pod, observe: Observe) -> AddPod {
    AddPod { observe: observe.into(), ..pod.spec() }
}

/// web on node one and api on node two, each observed so.
fn observing(web: Observe, api: Observe) -> Option<Mesh> {
    let fabric = Fabric::new()?;
    let mesh = Mesh { one: fabric.node("one"), two: fabric.node("two"), web: fabric.pod("web"), api: fabric.pod("api"), fabric };
    mesh.state(&[]);
    for (node, pod, observe) in [(&mesh.one, &mesh.web, web), (&mesh.two, &mesh.api, api)] {
        node.hand_over(pod);
        node.director.add(observed(pod, observe));
        node.director.ready(&pod.uid());
        pod.capture();
    }
    Some(mesh)
}

/// Values of a metric's lines that have all of these parts.
fn sum(text: &str, name: &str, parts: &[&str]) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(&format!("{name}{{")) && parts.iter().all(|part| line.contains(part)));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
}

#[test]
fn each_connection_is_told_with_its_protocol_at_both_ends() {
    let Some(mesh) = Mesh::new() else { return };
    let startup = [&[0, 0, 0, 19, 0, 3, 0, 0][..], b"user\0shop\0\0"].concat();
    let hello = [
        &[22, 3, 1, 0, 68, 1, 0, 0, 64, 3, 3][..],
        &[7; 32],
        &[0, 0, 2, 19, 1, 1, 0, 0, 21],
        &[0, 0, 0, 17, 0, 15, 0, 0, 12],
        b"Shop.Example",
    ]
    .concat();
    let (startup, hello): (&[u8], &[u8]) = (&startup, &hello);
    let cases: [(&[u8], &'static [u8], &str, &str); 6] = [
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 204 x\r\n\r\n", "http/1.1", ""),
        (startup, b"R\0\0\0\x08\0\0\0\0", "postgresql", ""),
        (b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n", "redis", ""),
        (hello, b"\x15\x03\x01\0\x02\x02\x28", "tls", "shop.example"),
        (b"nobody knows this", b"nor that", "", ""),
        (b"", b"\x4a\0\0\0\x0a8.4.2\0\x08\0\0\0", "mysql", ""),
    ];
    for (index, (said, answer, protocol, name)) in cases.into_iter().enumerate() {
        let port = PORT + 10 + u16::try_from(index).expect("few");
        answers(&mesh.api, port, said.is_empty(), answer);
        say(mesh.web.connect(&mesh.api.v4, port).expect("a connection"), said, answer.len());
        assert_eq!(protocols(&mesh, port), vec![(protocol.to_owned(), name.to_owned()); 2], "{protocol}");
    }
    assert!(!mesh.one.get("/metrics").contains("trackbed_observed_"), "requests are counted only where somebody asked for it");
}

#[test]
fn requests_are_counted_where_the_pod_is_observed_and_nothing_is_looked_at_where_it_is_off() {
    let Some(mesh) = observing(Observe::Off, Observe::Full) else { return };
    let request = b"GET / HTTP/1.1\r\n\r\n";
    // Two requests at once, and a third one that is never answered.
    mesh.api.accept(PORT, |mut stream| {
        stream.read_exact(&mut [0; 2 * 18])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhelloHTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n")?;
        stream.read_exact(&mut [0; 18])
    });
    let mut client = mesh.web.connect(&mesh.api.v4, PORT).expect("a connection");
    client.0.write_all(&request.repeat(2)).expect("asked");
    let mut heard = Vec::new();
    while !heard.ends_with(b"Content-Length: 0\r\n\r\n") {
        let mut byte = [0];
        client.0.read_exact(&mut byte).expect("an answer");
        heard.extend(byte);
    }
    client.0.write_all(request).expect("asked");
    client.0.read_to_end(&mut heard).expect("an end");
    drop(client);
    assert_eq!(mesh.one.director.flow("its end", closed(Direction::Outbound)).protocol, "");
    assert_eq!(mesh.two.director.flow("its end", closed(Direction::Inbound)).protocol, "http/1.1");
    assert!(!mesh.one.get("/metrics").contains("trackbed_observed_"), "it is off there");
    let text = mesh.two.get("/metrics");
    let name = "trackbed_observed_requests_total";
    let ends = ["reporter=\"destination\"", "source_workload=\"web\"", "destination_workload=\"api\"", "observe=\"full\""];
    let of = |class: &str| sum(&text, name, &[&[class][..], &ends].concat());
    assert_eq!([of("\"2xx\""), of("\"5xx\""), of("\"none\""), sum(&text, name, &[])], [1, 1, 1, 3], "{text}");
    assert_eq!(sum(&text, "trackbed_observed_request_duration_milliseconds_count", &ends), 3);
    assert_eq!(sum(&text, "trackbed_observed_connections_total", &["outcome=\"whole\""]), 1);
}

#[test]
fn of_a_sampled_pod_some_connections_are_counted_and_not_all() {
    const CONNECTIONS: u64 = 200;
    let Some(mesh) = observing(Observe::Sampled, Observe::Unspecified) else { return };
    answers(&mesh.api, PORT, false, b"HTTP/1.1 204 x\r\n\r\n");
    for _ in 0..CONNECTIONS {
        say(mesh.web.connect(&mesh.api.v4, PORT).expect("a connection"), b"GET / HTTP/1.1\r\n\r\n", 18);
    }
    let count =
        sum(&mesh.one.get("/metrics"), "trackbed_observed_requests_total", &["\"2xx\"", "observe=\"sampled\"", "reporter=\"source\""]);
    // One in ten; none of 200, or half of them, is what chance does once in 10^9 times.
    assert!((1..CONNECTIONS / 2).contains(&count), "{count} of {CONNECTIONS}");
    assert!(!mesh.two.get("/metrics").contains("trackbed_observed_"));
}

#[test]
fn a_relay_is_told_and_counted_once_for_each_of_its_pods() {
    /// More than a relay's bulk.
    const LENGTH: usize = 1 << 20;
    let Some(fabric) = Fabric::new() else { return };
    let (web, api) = (fabric.pod("web"), fabric.pod("api"));
    let one = fabric.node("one");
    let resources = [of_workload(&web.workload("one", TunnelProtocol::Hbone)), of_workload(&api.workload("one", TunnelProtocol::Hbone))];
    assert_eq!(one.director.state(resources.to_vec()), []);
    for pod in [&web, &api] {
        one.hand_over(pod);
        one.director.add(observed(pod, Observe::Full));
        one.director.ready(&pod.uid());
        pod.capture();
    }
    api.accept(PORT, |mut stream| {
        let head = b"POST / HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n".len();
        stream.read_exact(&mut vec![0; head + LENGTH])?;
        stream.write_all(b"HTTP/1.1 201 Created\r\nContent-Length: 1048576\r\n\r\n")?;
        stream.write_all(&vec![1; LENGTH])?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    });
    let request = [&b"POST / HTTP/1.1\r\nContent-Length: 1048576\r\n\r\n"[..], &vec![2; LENGTH]].concat();
    let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 1048576\r\n\r\n".len() + LENGTH;
    say(web.connect(&api.v4, PORT).expect("a connection"), &request, answer);
    for direction in [Direction::Outbound, Direction::Inbound] {
        assert_eq!(one.director.flow("its end", closed(direction)).protocol, "http/1.1");
    }
    let text = one.get("/metrics");
    let of = |reporter: &str| sum(&text, "trackbed_observed_requests_total", &[reporter, "\"2xx\""]);
    assert_eq!([of("reporter=\"source\""), of("reporter=\"destination\"")], [1, 1], "{text}");
    assert_eq!(sum(&text, "trackbed_observed_connections_total", &["outcome=\"whole\""]), 1);
}
