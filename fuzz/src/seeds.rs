//! Where the search begins: vectors of the standards and of our own tests, and a script for each thing that an oracle can do.

/// A target, what must hold, and its seeds.
pub struct Target {
    pub name: &'static str,
    pub oracle: fn(&[u8]),
    pub seeds: fn() -> Vec<Vec<u8>>,
}

pub const TARGETS: [Target; 5] = [
    Target { name: "record", oracle: crate::record, seeds: record },
    Target { name: "h2", oracle: crate::h2, seeds: h2 },
    Target { name: "hpack", oracle: crate::hpack, seeds: hpack },
    Target { name: "authority", oracle: crate::authority, seeds: authority },
    Target { name: "observe", oracle: crate::observe, seeds: observe },
];

/// Writes the seeds of a target into the folder that the environment names, before libFuzzer reads it.
pub fn plant(name: &str) {
    let Some(directory) = std::env::var_os("TRACKBED_FUZZ_SEEDS").map(std::path::PathBuf::from) else { return };
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target's name");
    for (index, seed) in (target.seeds)().into_iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{index}")), seed).expect("a folder that can be written to");
    }
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|pair| pair.iter().fold(0, |sum, digit| sum << 4 | (*digit as char).to_digit(16).unwrap_or(0) as u8)).collect()
}

/// Blocks as the oracle reads them: each behind its length.
fn blocks(blocks: &[&str]) -> Vec<u8> {
    blocks.iter().map(|block| hex(block)).flat_map(|block| std::iter::once(block.len() as u8).chain(block).collect::<Vec<_>>()).collect()
}

fn hpack() -> Vec<Vec<u8>> {
    vec![
        // RFC 7541, C.3: requests without Huffman coding, and C.4: with it.
        blocks(&[
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ]),
        blocks(&[
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ]),
        // C.6: responses that evict, in a table of 256 bytes.
        blocks(&[
            "3fe1 01 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ]),
        // Size updates, never indexed, long integers, an empty name.
        blocks(&["20 3fe1 1f 40 0161 0162 be", "1f 0a 0162", "10 00 00", "7f 80 80 80 00 01 78", "3f 9a 0a 83"]),
        // A table of 99 bytes has room for two entries of 34, not for three.
        blocks(&["3f44 40 0161 0162 40 0163 0164 40 0165 0166 be bf", "c0"]),
        blocks(&["02 07 434f 4e4e 4543 54 01 0b 3130 2e30 2e30 2e31 3a38 30"]),
    ]
}

fn authority() -> Vec<Vec<u8>> {
    [
        "10.0.0.1:80",
        "[fd00::1]:65535",
        "[FD00:0:0::1]:8080",
        "[::ffff:10.0.0.1]:80",
        "[fe80::1%eth0]:80",
        "web.shop.svc.cluster.local:8080",
        "user@web:80",
        "010.0.0.1:80",
        "10.0.0.1:080",
        "web.shop:00080",
        "10.0.0.1:0",
        "2130706433:1",
        "k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1;x=y,cloud.region=eu",
        "for=\"10.0.0.1:999\";host=\"web.shop\";proto=http",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "spiffe://cluster.local/ns/shop/sa/web",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

fn record() -> Vec<Vec<u8>> {
    // Handshake records, cut into two and three; then talks: data both ways, padding, tickets, key updates, an end, a changed record.
    let handshake = hex("00 02 01 02 16 0301 0005 0100000100 14 0303 0001 01 17 0303 0004 61626364");
    let talks = [
        "02 00  00 0064 80 0010 01 3fff 81 0001 05 85",
        "03 02 0c 30  00 0064 04 01 80 0005 84 00 00 0010 04 00 84 01 00 0001 80 0001",
        "02 01 05  03 03 0000 03 616263 03 03 0010 05 68656c6c6f 03 02 0000 05 18000001 01 80 0001",
        "02 00  83 02 0000 06 040000020102 00 0009 83 02 0000 02 0400 83 02 0000 04 00010a 05",
        "02 00  03 01 0000 02 015a 05 80 0003 83 01 0000 02 022a",
        "03 00  00 0100 06 0041 04 61626364 00 0010",
        "02 00  07 05 1703030000 00 0001",
        "02 00  03 02 0000 0a 1800000100 1800000100 00 0001",
    ];
    // More records without data in a row than a peer may send.
    let quiet = format!("02 00 {} 00 0001", "00 0000".repeat(34));
    std::iter::once(handshake).chain(talks.map(hex)).chain([hex(&quiet)]).collect()
}

fn h2() -> Vec<Vec<u8>> {
    [
        // A client that asks, sends, ends; we answer, read, send, end.
        "00 00 00 00  00 0d 00 00 02 00 0064 11 00 0064 0e 01 0200 2a 00 0000 0f 01",
        "00 00 02 05 09  00 00 0d 00 00 0d 01 00 03 00 4000 03 00 4000 03 00 4000 11 00 ffff 04 00 00 00 10 00 05 00 08 07",
        "00 00 00 01  0c 18 505249202a20485454502f322e300d0a0d0a534d0d0a0d0a 06 06 0004 00100000 00 0b 05 00 0001 04 01020304",
        // A server that answers, resets, leaves.
        "00 01 00 00  0d 0d 00 00 01 01 02 00 0100 10 00 05 00 07 08 01 47 0d",
        "00 01 01 03  0d 09 04 00 05 8859022424 02 00 4000 0e 00 1000 12 64 13 02 47",
        // Parts of a header block, padding, priorities.
        "00 00 00 00  09 00 00 05 0207434f4e 0a 04 00 10 4e454354010b31302e302e302e313a3830",
        "00 00 00 00  09 2c 00 1b 01 80000001 0f 0207434f4e4e454354010b31302e302e302e313a3830 00 a2 00 0005",
        // Two of ours.
        "01  07 ffff 87 ffff 00 00 07 ffff 01 00 00 01 01 00 87 ffff 02 00 4000 82 00 1000 07 0800 07 ffff 87 ffff 06 00 ffff 04 00 84 00 07 ffff",
        "01  00 00 00 07 0040 07 ffff 01 00 00 01 01 e0 87 ffff 02 00 ffff 02 00 ffff 02 00 ffff 02 00 ffff 05 00 07 ffff 09 02 09 00 89 01 08 10",
    ]
    .map(hex)
    .to_vec()
}

/// Talks as the oracle reads them: a size of pieces, then who says what.
fn observe() -> Vec<Vec<u8>> {
    const CLIENT: u8 = 0;
    const SERVER: u8 = 1;
    let talk = |said: &[(u8, &[u8])]| {
        let steps = said.iter().flat_map(|(side, bytes)| [&[*side, bytes.len() as u8][..], bytes].concat());
        std::iter::once(5).chain(steps).collect::<Vec<u8>>()
    };
    let begun = hex("505249202a20485454502f322e300d0a0d0a534d0d0a0d0a 000000040000000000");
    // A request of gRPC with the table's first entry, its answer and its trailers; a block in two frames, a reset.
    let call = hex("000016 01 04 00000001 83 86 84 0f10 10 6170706c69636174696f6e2f67727063");
    let answer = hex("000001 01 04 00000001 88 000002 00 00 00000001 0000 00000f 01 05 00000001 40 0b 677270632d737461747573 01 37");
    let parts = hex("000002 01 00 00000003 8386 000001 09 04 00000003 84 000004 03 00 00000003 00000008");
    let hello = hex(
        "16 0301 0047 01 000043 0303 0707070707070707070707070707070707070707070707070707070707070707 00 0002 1301 01 00 0018 0000 0014 0012 00 000f 7777772e73686f702e6578616d706c65",
    );
    vec![
        talk(&[
            (CLIENT, b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcHEAD / HTTP/1.1\r\n\r\n"),
            (SERVER, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 x\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\nx: y\r\n\r\n"),
            (SERVER, b"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\n"),
        ]),
        [talk(&[(CLIENT, b"GET / HTTP/1.0\r\n\r\n"), (SERVER, b"HTTP/1.0 200 OK\r\n\r\nto the end")]), vec![0x81]].concat(),
        talk(&[
            (CLIENT, b"GET /chat HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"),
            (SERVER, b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n\x81\x01a"),
        ]),
        talk(&[(CLIENT, &begun), (CLIENT, &call), (CLIENT, &parts), (SERVER, &answer)]),
        talk(&[(CLIENT, &hello)]),
        talk(&[(CLIENT, &hex("00000013 00030000 75736572 00 73686f70 00 00"))]),
        talk(&[(CLIENT, b"*1\r\n$4\r\nPING\r\n")]),
        talk(&[(CLIENT, &hex("00000017 0012 0003 00000001 0007 72646b61666b61 00 01010101"))]),
        talk(&[(SERVER, &hex("4a000000 0a 382e342e32 00 08000000"))]),
        talk(&[(SERVER, b"SSH-2.0-x\r\n")]),
    ]
}
