//! The texts beside the authority: what we write, and that reading takes anything without harm.
#![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

use http::{HeaderMap, HeaderValue};
use trackbed_hbone::headers::{BAGGAGE_BYTES, Baggage, Forwarded, TraceParent};

fn headers(name: &'static str, lines: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name, HeaderValue::from_bytes(line).unwrap());
    }
    headers
}

#[test]
fn baggage_is_written_in_the_agreed_order_without_what_is_absent() {
    let full = Baggage {
        cluster: "Kubernetes".into(),
        namespace: "shop".into(),
        workload_type: "deployment".into(),
        workload_name: "web".into(),
        service_name: "web".into(),
        service_version: "v1".into(),
        region: "eu".into(),
        zone: "eu-a".into(),
    };
    let text = "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1,cloud.region=eu,cloud.availability_zone=eu-a";
    assert_eq!(full.to_string(), text);
    assert_eq!(Baggage::parse(text), full);
    assert_eq!(Baggage { namespace: "shop".into(), ..Baggage::default() }.to_string(), "k8s.namespace.name=shop");
    assert_eq!(Baggage::default().to_string(), "");
}

#[test]
fn a_value_that_would_break_the_list_is_left_out() {
    let hostile =
        Baggage { namespace: "a,service.name=admin".into(), service_name: "b\r\nc".into(), region: "r".into(), ..Baggage::default() };
    assert_eq!(hostile.to_string(), "cloud.region=r");
}

#[test]
fn baggage_lines_are_merged_the_first_item_counts_and_the_rest_is_passed_over() {
    let lines: [&[u8]; 5] = [
        b"k8s.namespace.name=shop, service.name=",
        b"service.name=web;p=1,service.name=other",
        b"\xff=\xff",
        b"nonsense,=,==",
        b"k8s.evil.name=x",
    ];
    let baggage = Baggage::from_headers(&headers("baggage", &lines));
    let expected = Baggage { namespace: "shop".into(), service_name: "web".into(), ..Baggage::default() };
    assert_eq!(baggage, expected);
    assert_eq!(Baggage::parse("k8s.cluster.name=a%2Cb").cluster, "a%2Cb", "values are not decoded");
}

#[test]
fn baggage_beyond_its_bound_is_cut_at_a_whole_item() {
    let item = format!("k8s.namespace.name={}", "n".repeat(100));
    let long = vec![item.as_str(); BAGGAGE_BYTES / 100].join(",");
    let baggage = Baggage::from_headers(&headers("baggage", &[long.as_bytes(), b"service.name=too-late"]));
    assert_eq!((baggage.namespace.len(), baggage.service_name.as_str()), (100, ""));
    let endless = vec![b'x'; BAGGAGE_BYTES * 2];
    assert_eq!(Baggage::from_headers(&headers("baggage", &[&endless])), Baggage::default());
}

#[test]
fn forwarded_names_the_source_and_the_service() {
    let mut forwarded = Forwarded { source: "10.0.0.1:4711".parse().unwrap(), host: None };
    assert_eq!(forwarded.to_string(), "for=\"10.0.0.1:4711\"");
    forwarded = Forwarded { source: "[fd00::1]:4711".parse().unwrap(), host: Some("cart.shop.svc.cluster.local".into()) };
    assert_eq!(forwarded.to_string(), "for=\"[fd00::1]:4711\";host=cart.shop.svc.cluster.local");
    assert_eq!(Forwarded::parse_host(&forwarded.to_string()), Some("cart.shop.svc.cluster.local"));
}

#[test]
fn only_a_plain_host_is_read_from_forwarded() {
    for (text, host) in [
        ("host=a.b", Some("a.b")),
        ("for=x; HOST = \"a.b\"", Some("a.b")),
        ("for=x, host=a", Some("a")),
        ("host=", None),
        ("host=\"\"", None),
        ("host=\"a", None),
        ("host=a b", None),
        ("for=x", None),
        ("", None),
        (&format!("host={}", "a".repeat(300)), None),
    ] {
        assert_eq!(Forwarded::parse_host(text), host, "{text:?}");
    }
    assert_eq!(Forwarded::host_from_headers(&headers("forwarded", &[b"host=\xc3\xa9"])), None);
}

#[test]
fn traceparent_round_trips_at_its_fixed_length_and_is_never_zero() {
    for _ in 0..100 {
        let made = TraceParent::random();
        assert_eq!(made.to_string().len(), 55);
        assert_eq!(TraceParent::parse(&made.to_string()), Some(made));
    }
    let zero = "0".repeat(32);
    for bad in [
        "",
        "00-1-1-00",
        &format!("00-{zero}-0000000000000001-00"),
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-00",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-00",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-x",
        "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
    ] {
        assert_eq!(TraceParent::parse(bad), None, "{bad:?}");
    }
}
