//! A real nginx behind the waypoint: it reads paths as the waypoint does, and never sees a request that the waypoint did not see.
use crate::strict::{MALFORMED_BODIES, ODD, SMUGGLED, refused};
use crate::support::*;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use trackbed_l7::normal;

pub(crate) struct Nginx {
    pub(crate) address: SocketAddr,
    directory: PathBuf,
    _running: Running,
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // What is left of it is in the way of nobody.
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Nginx {
    /// What was asked, in the order of its log. It writes a line when it has sent the answer, so that whoever has the answer may be ahead of the line:
    /// one more request is the last, and what came before it is in the log when that is.
    async fn log(&self, waypoint: &Waypoint) -> Vec<String> {
        assert_eq!(waypoint.http1().await.get("/the-last-one").await.status, 200);
        let lines = || -> Vec<String> { fs::read_to_string(self.directory.join("log")).unwrap().lines().map(str::to_owned).collect() };
        let last = "GET /the-last-one";
        until("nginx has written down what it was asked", || lines().iter().any(|line| line == last)).await;
        let mut all = lines();
        assert_eq!(all.pop().as_deref(), Some(last), "nothing comes behind it");
        all
    }
}

/// Answers with the path as it understands it: decoded, without dots, slashes merged.
async fn nginx(test: u8) -> Nginx {
    nginx_that(test, "return 200 $uri", true).await
}

/// An address of its own in 127.0.0.0/8, so that nobody else listens there.
pub(crate) async fn nginx_that(test: u8, does: &str, log: bool) -> Nginx {
    let [_, a, b, c] = std::process::id().to_be_bytes();
    let address = SocketAddr::from((Ipv4Addr::new(127, 64 | (a & 63), b, c), 18_000 + u16::from(test)));
    let directory = std::env::temp_dir().join(format!("trackbed-nginx-{}-{test}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let at = directory.display();
    let temporary: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {at}/{kind};")).concat();
    let log = if log { format!("{at}/log asked") } else { "off".to_owned() };
    let config = format!(
        "daemon off; master_process off; pid {at}/pid; error_log stderr error; events {{}}
        http {{ log_format asked '$request_method $request_uri'; access_log {log}; {temporary} keepalive_requests 1000000;
        server {{ listen {address}; location / {{ {does}; }} }} }}"
    );
    fs::write(directory.join("conf"), config).unwrap();
    let child = Command::new("nginx")
        .arg("-p")
        .arg(&directory)
        .arg("-c")
        .arg(directory.join("conf"))
        .args(["-e", "stderr"])
        .stdin(Stdio::null())
        .spawn();
    let running = Running(child.expect("nginx is there: debian/run.txt"));
    until("nginx listens", || std::net::TcpStream::connect(address).is_ok()).await;
    Nginx { address, directory, _running: running }
}

/// What nginx makes of a path, from the one that is matched.
pub(crate) fn understood(path: &str) -> String {
    let mut decoded = Vec::new();
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let mut digit = || char::from(bytes.next().unwrap()).to_digit(16).unwrap();
        let byte = if byte == b'%' { u8::try_from(digit() * 16 + digit()).unwrap() } else { byte };
        if byte != b'/' || decoded.last() != Some(&b'/') {
            decoded.push(byte);
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[test]
fn nginx_understands_every_path_as_it_was_matched() {
    run(async {
        const PIECES: [&str; 24] = [
            "/", "/", "/", "a", "b", ".", "..", "/..", "/../", "/./", "//", "%2e", "%2E", "%2f", "%2F", "%5c", ";", "%3b", "%61", "%C3%A9",
            "%25", "~", "%7e", "admin",
        ];
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let nginx = nginx(0).await;
        waypoint.endpoint("shop/v1", PORT, "nginx", nginx.address);
        let mut client = waypoint.http1().await;
        let seed = fastrand::u64(..);
        println!("seed {seed}");
        let mut random = fastrand::Rng::with_seed(seed);
        let mut counts = (0, 0);
        for _ in 0..3000 {
            let pieces = random.usize(0..8);
            let path: String = (0..pieces).fold("/".to_owned(), |path, _| path + PIECES[random.usize(..PIECES.len())]);
            let got = client.get(&path).await;
            match normal(&path) {
                Err(_) => {
                    assert_eq!(got.status, 400, "{path}");
                    counts.0 += 1;
                }
                Ok(normal) => {
                    assert_eq!((got.status.as_u16(), got.body), (200, understood(&normal.merged)), "{path}");
                    counts.1 += 1;
                }
            }
        }
        assert!(counts.0 > 300 && counts.1 > 300, "{counts:?}");
        let log = nginx.log(&waypoint).await;
        assert_eq!(log.len(), counts.1);
        for line in log {
            let path = line.split_once(' ').unwrap().1;
            assert_eq!(normal(path).unwrap().path, path, "what is sent on is in its normal form already");
        }
    });
}

#[test]
fn nginx_never_sees_what_was_smuggled() {
    run(async {
        let waypoint = waypoint(one_rule(to("shop/v1"))).await;
        let nginx = nginx(1).await;
        waypoint.endpoint("shop/v1", PORT, "nginx", nginx.address);
        for (_, request) in refused() {
            waypoint.raw(format!("{request}{SMUGGLED}").as_bytes()).await;
        }
        for chunks in MALFORMED_BODIES {
            let head = "POST /broken HTTP/1.1\r\nHost: cart\r\nTransfer-Encoding: chunked\r\n\r\n";
            waypoint.raw(format!("{head}{chunks}{SMUGGLED}").as_bytes()).await;
        }
        for request in ODD {
            let answer = waypoint.raw(format!("{request}Connection: close\r\n\r\n").as_bytes()).await;
            assert!(answer.starts_with("HTTP/1.1 200 "), "{request:?}: {answer}");
        }
        let log = nginx.log(&waypoint).await;
        // nginx answers before it has read a body: it may have seen the heads of those whose bodies broke off.
        let (broken, whole): (Vec<_>, Vec<_>) = log.iter().partition(|line| line.starts_with("POST /broken"));
        assert!(broken.len() <= MALFORMED_BODIES.len());
        assert_eq!(whole, ["GET /", "GET /", "GET /", "GET /", "OPTIONS /", "GET /?a=%zz&b=%3C"]);
    });
}
