//! Claims about notices of changes.
mod net;

use net::{PATIENCE, namespace, nft, run};
use tokio::time::timeout;
use trackbed_netns::{Notice, NoticeKind, Watch};

/// The first notice that fits; what else moved meanwhile does not matter.
async fn until(watch: &mut Watch, fits: impl Fn(&Notice) -> bool) -> Notice {
    let search = async {
        loop {
            let notice = watch.next().await.expect("watch");
            if fits(&notice) {
                return notice;
            }
        }
    };
    timeout(PATIENCE, search).await.expect("noticed in time")
}

#[tokio::test]
async fn a_change_of_the_rules_is_noticed_with_its_process() {
    let Some(netns) = namespace() else { return };
    let mut watch = Watch::new(&netns).expect("watch");
    nft(&netns, net::RULES);
    let notice = until(&mut watch, |notice| notice.kind == NoticeKind::Rules).await;
    assert_eq!(notice.process, "nft");
    assert_ne!(notice.pid, 0);
    run(&netns, "nft delete table inet trackbed");
    until(&mut watch, |notice| notice.kind == NoticeKind::Rules).await;
}

#[tokio::test]
async fn rules_routes_links_and_addresses_are_noticed() {
    let Some(netns) = namespace() else { return };
    for change in [
        "ip rule add fwmark 0x111/0xfff lookup 100",
        "ip -6 rule add fwmark 0x111/0xfff lookup 100",
        "ip route add local 0.0.0.0/0 dev lo table 100",
        "ip -6 route add local ::/0 dev lo table 100",
        "ip link set lo down",
        "ip link set lo up",
        "ip addr add 10.1.1.1/32 dev lo",
        "ip addr add fd00::1/128 dev lo",
    ] {
        let mut watch = Watch::new(&netns).expect("watch");
        run(&netns, change);
        until(&mut watch, |notice| notice.kind == NoticeKind::Routing).await;
    }
}

/// A short process is gone before it can be named.
#[tokio::test]
async fn a_routing_change_names_its_process_while_it_lives() {
    let Some(netns) = namespace() else { return };
    let mut watch = Watch::new(&netns).expect("watch");
    // A batch from a pipe that stays open: ip has made its change and waits for more.
    let mut ip = std::process::Command::new("nsenter")
        .arg(format!("--net={}", net::path(&netns)))
        .args(["ip", "-batch", "-"])
        .stdin(std::process::Stdio::piped())
        .spawn()
        .expect("ip");
    let mut input = ip.stdin.take().expect("stdin");
    std::io::Write::write_all(&mut input, b"rule add fwmark 0x5 lookup 100\n").expect("write");
    let notice = until(&mut watch, |notice| notice.kind == NoticeKind::Routing).await;
    assert_eq!((notice.pid, notice.process.as_str()), (ip.id(), "ip"));
    drop(input);
    assert!(ip.wait().expect("wait").success());
}

#[tokio::test]
async fn another_namespace_s_changes_are_not_noticed() {
    let (Some(one), Some(other)) = (namespace(), namespace()) else { return };
    let (mut watch, mut control) = (Watch::new(&one).expect("watch"), Watch::new(&other).expect("watch"));
    nft(&other, net::RULES);
    until(&mut control, |notice| notice.kind == NoticeKind::Rules).await;
    // The kernel delivers within the change, so a notice would already wait.
    run(&one, "ip link set lo mtu 1400");
    let first = until(&mut watch, |_| true).await;
    assert_eq!(first.kind, NoticeKind::Routing);
}

#[tokio::test]
async fn what_is_too_much_becomes_an_overflow() {
    let Some(netns) = namespace() else { return };
    let mut watch = Watch::new(&netns).expect("watch");
    let line = |n| format!("rule add pref {} from 10.{}.{}.0/24 lookup 100", 1000 + n, n / 250, n % 250);
    let batch = (0..4000).map(line).collect::<Vec<_>>().join("\n") + "\n";
    let file = std::env::temp_dir().join(format!("trackbed-batch-{}", std::process::id()));
    std::fs::write(&file, batch).expect("write");
    run(&netns, &format!("ip -batch {}", file.display()));
    std::fs::remove_file(&file).expect("remove");
    until(&mut watch, |notice| notice.kind == NoticeKind::Overflow).await;
}
