//! Claims about `trackbed-cni rescue`, in real network namespaces that only these tests know of.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up shall stop")]

use std::{
    fs,
    io::Write,
    os::unix::{fs::symlink, net::UnixListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
};

const PLUGIN: &str = env!("CARGO_BIN_EXE_trackbed-cni");

/// What a pod of the mesh holds, in short, beside a table of somebody else.
const RULES: &str = "
table inet trackbed {
  set probe_ports { type inet_service; elements = { 8080 } }
  chain out_nat { type nat hook output priority -100; tcp dport @probe_ports accept; meta l4proto tcp redirect to :15001; }
}
table inet other { chain c { type filter hook output priority 0; policy accept; }
}
";
const ROUTING: [&str; 5] = [
    "rule add fwmark 0x111/0xfff pref 32764 lookup 100",
    "rule add fwmark 0x111/0xfff pref 32764 lookup 100",
    "rule add fwmark 0x539/0xfff oif lo pref 32764 lookup 100",
    "rule add fwmark 0x222/0xfff pref 100 lookup 7",
    "route add local default dev lo table 100",
];

/// A namespace that lives as long as the process in it.
struct Pod(Child);

impl Pod {
    /// None, with the reason told, where network namespaces cannot be made.
    fn new() -> Option<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // cat answers: the namespace is made. Without the right to make one the pipe breaks.
        let alive = child.stdin.as_mut().unwrap().write_all(b"x").is_ok() && {
            let mut byte = [0];
            std::io::Read::read(child.stdout.as_mut().unwrap(), &mut byte).unwrap() == 1
        };
        if !alive {
            let _ = child.wait();
            let name = thread::current().name().unwrap_or_default().to_owned();
            std::io::stderr().write_all(format!("skipped: {name}: unshare --net is not allowed here\n").as_bytes()).unwrap();
            return None;
        }
        Some(Self(child))
    }

    fn captured() -> Option<Self> {
        let pod = Self::new()?;
        pod.run("ip link set lo up", "");
        pod.run("nft -f -", RULES);
        for family in ["-4", "-6"] {
            for line in ROUTING {
                // A rule that is there already is refused for IPv4 and IPv6 alike.
                pod.run(&format!("sh -c 'ip {family} {line} 2>/dev/null || true'"), "");
            }
        }
        assert_eq!(pod.state(), (true, true, true));
        Some(pod)
    }

    fn netns(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }

    fn run(&self, command: &str, input: &str) -> String {
        let mut child = Command::new("nsenter")
            .args([&format!("--net={}", self.netns()), "--", "sh", "-c", command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{command}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether our table is there, whether any of our routing is, and whether what belongs to others is.
    fn state(&self) -> (bool, bool, bool) {
        let tables = self.run("nft list tables", "");
        let routing = self.run("ip -4 rule; ip -6 rule; ip -4 route show table all; ip -6 route show table all", "");
        let ours = routing.contains("lookup 100") || routing.contains("table 100");
        (tables.contains("inet trackbed\n"), ours, tables.contains("inet other") && routing.matches("lookup 7").count() == 2)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Place(PathBuf);

impl Place {
    /// A node's directories, and a /proc that shows only these pods: the machine's other namespaces are none of a test's business.
    fn new(pods: &[&Pod]) -> Self {
        let path = std::env::temp_dir().join(format!("trackbed-rescue-{}-{:?}", std::process::id(), thread::current().id()));
        let _ = fs::remove_dir_all(&path);
        for directory in ["conf", "bin", "run", "named"] {
            fs::create_dir_all(path.join(directory)).unwrap();
        }
        for (i, pod) in pods.iter().enumerate() {
            let ns = path.join(format!("proc/{}/ns", i + 1));
            fs::create_dir_all(&ns).unwrap();
            symlink(pod.netns(), ns.join("net")).unwrap();
        }
        fs::create_dir_all(path.join("proc/self")).unwrap();
        fs::write(path.join("conf/00-trackbed.conflist"), "{}").unwrap();
        fs::write(path.join("conf/10-cluster.conflist"), "{}").unwrap();
        fs::write(path.join("bin/trackbed-cni"), "").unwrap();
        Self(path)
    }

    fn rescue(&self, more: &[&str]) -> (bool, String) {
        let mut command = Command::new(PLUGIN);
        command.arg("rescue").args(more).env_remove("CNI_COMMAND");
        for (option, directory) in [("cni-conf", "conf"), ("cni-bin", "bin"), ("run", "run"), ("proc", "proc"), ("named", "named")] {
            command.arg(format!("--{option}")).arg(self.0.join(directory));
        }
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    }

    fn there(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_node_is_freed_without_nft_ip_daemon_or_api() {
    let (Some(one), Some(two)) = (Pod::captured(), Pod::captured()) else { return };
    let place = Place::new(&[&one, &two]);
    let (free, said) = place.rescue(&[]);
    assert!(free, "{said}");
    assert_eq!((one.state(), two.state()), ((false, false, true), (false, false, true)), "{said}");
    assert!(said.contains("removed  the CNI configuration") && said.matches("removed  the rules in").count() == 2, "{said}");
    assert!(!place.there("conf/00-trackbed.conflist") && place.there("conf/10-cluster.conflist") && place.there("bin/trackbed-cni"));
    let (free, said) = place.rescue(&["--plugin"]);
    assert!(free && !place.there("bin/trackbed-cni"), "{said}");
    assert_eq!(said, "removed  the CNI plugin\nthis node is free of Trackbed\n");
}

#[test]
fn one_pod_is_freed_and_the_rest_stays() {
    let (Some(one), Some(two)) = (Pod::captured(), Pod::captured()) else { return };
    let place = Place::new(&[&one, &two]);
    let (free, said) = place.rescue(&["--netns", &one.netns()]);
    assert!(free, "{said}");
    assert_eq!((one.state(), two.state()), ((false, false, true), (true, true, true)), "{said}");
    assert!(place.there("conf/00-trackbed.conflist"));
}

/// What a pod of a node without nftables holds, in short, beside a rule of somebody else.
const CHAINS: &str = "*nat
:TRACKBED_OUT_NAT - [0:0]
-A TRACKBED_OUT_NAT -p tcp -j REDIRECT --to-ports 15001
-A OUTPUT -p tcp -m tcp --dport 22 -j RETURN
-A OUTPUT -j TRACKBED_OUT_NAT
COMMIT
";

#[test]
fn a_pod_that_was_captured_by_iptables_is_freed_of_it_and_of_nothing_else() {
    let Some(pod) = Pod::captured() else { return };
    let programs = ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"];
    let here: Vec<&str> = programs.into_iter().filter(|program| Command::new(format!("{program}-save")).output().is_ok()).collect();
    if here.is_empty() {
        return std::io::stderr().write_all(b"skipped: no iptables is installed here\n").unwrap();
    }
    for program in &here {
        pod.run(&format!("{program}-restore --noflush"), CHAINS);
    }
    let place = Place::new(&[&pod]);
    let (free, said) = place.rescue(&["--netns", &pod.netns()]);
    assert!(free, "{said}");
    assert_eq!(pod.state(), (false, false, true), "{said}");
    for program in &here {
        let left = pod.run(&format!("{program}-save"), "");
        assert!(!left.contains("TRACKBED") && left.contains("--dport 22 -j RETURN"), "{program}: {left}");
    }
}

#[test]
fn what_cannot_be_freed_is_said_and_the_rest_is_freed() {
    let Some(one) = Pod::captured() else { return };
    let place = Place::new(&[&one]);
    let (free, said) = place.rescue(&["--netns", "/proc/self/status", "--netns", &one.netns()]);
    assert!(!free && said.contains("LEFT     the rules in /proc/self/status"), "{said}");
    assert_eq!(one.state(), (false, false, true), "{said}");
}

#[test]
fn a_process_whose_namespace_cannot_be_seen_is_no_reason_to_call_the_node_free() {
    let Some(one) = Pod::captured() else { return };
    let place = Place::new(&[&one]);
    fs::create_dir_all(place.0.join("proc/7/ns")).unwrap();
    symlink("net", place.0.join("proc/7/ns/net")).unwrap();
    let (free, said) = place.rescue(&[]);
    assert!(!free && said.contains("LEFT     the rules in the pods") && said.contains("proc/7/ns/net"), "{said}");
    assert_eq!(one.state(), (false, false, true), "the others are freed: {said}");
}

#[test]
fn a_daemon_that_answers_would_undo_it_and_is_said() {
    let place = Place::new(&[]);
    let _daemon = UnixListener::bind(place.0.join("run/cni.sock")).unwrap();
    let (free, said) = place.rescue(&[]);
    assert!(!free && said.contains("a daemon answers") && place.there("conf/00-trackbed.conflist"), "{said}");
}

#[test]
fn wrong_usage_touches_nothing_and_ends_with_64() {
    for arguments in [&["rescue", "--nodes"][..], &["rescu"], &[]] {
        let output = Command::new(PLUGIN).args(arguments).env_remove("CNI_COMMAND").output().unwrap();
        assert_eq!(output.status.code(), Some(64));
    }
}
