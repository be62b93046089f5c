//! Streams that come and go: asked for, accepted, ended by both sides; and the header blocks that peers write, with tables and Huffman codes.
use std::hint::black_box;
use std::time::Instant;

use trackbed_hbone::testing::{Codec, Hpack};

use crate::data::pass;
use crate::{Failure, measured};

const STREAMS: u64 = 2000;
const ROUNDS: u64 = 1000;

pub(crate) fn streams() -> Result<u64, Failure> {
    let now = Instant::now();
    let (mut client, mut server) = (Codec::client(now), Codec::server(now));
    pass(&mut client, &mut server, now)?;
    pass(&mut server, &mut client, now)?;
    let mut result = Ok(());
    measured(&mut || result = (0..STREAMS).try_for_each(|_| stream(&mut client, &mut server, now)));
    result?;
    if client.live() + server.live() == 0 { Ok(STREAMS) } else { Err("streams were left".into()) }
}

fn stream(client: &mut Codec, server: &mut Codec, now: Instant) -> Result<(), Failure> {
    let id = client.ask("10.0.0.1:8080", now).ok_or("no stream")?;
    pass(client, server, now)?;
    server.answer(id, 200, false);
    pass(server, client, now)?;
    client.end(id);
    pass(client, server, now)?;
    server.end(id);
    pass(server, client, now)?;
    client.release(id);
    server.release(id);
    Ok(())
}

/// RFC 7541, C.4 (requests) and C.6 (responses, which evict each other in a table of 256 bytes): a first block each, and one that refers to it.
const BLOCKS: [&str; 4] = [
    "828684418cf1e3c2e5f23a6ba0ab90f4ff",
    "828684be5886a8eb10649cbf",
    "3fe10148826402 5885aec3771a4b 6196d07abe941054d444a8200595040b8166e082a62d1bff 6e919d29ad171863c78f0b97c8e9ae82ae43d3",
    "4883640effc1c0bf",
];
/// What our own client writes: literals.
const OURS: &[u8] = b"\x02\x07CONNECT\x01\x0d10.0.0.1:8080\x00\x07baggage\x2ck8s.namespace.name=shop,service.name=web-abc";

pub(crate) fn blocks() -> Result<u64, Failure> {
    let blocks: Vec<_> = BLOCKS.map(hex).into_iter().chain([OURS.to_vec()]).collect();
    let (mut fields, mut result) = (0_u64, Ok(()));
    measured(&mut || {
        for _ in 0..ROUNDS {
            let mut decoder = Hpack::default();
            for block in &blocks {
                result = result.and(decoder.decode(black_box(block), |name, value| fields += u64::from(name.len() + value.len() > 0)));
            }
        }
    });
    result?;
    if fields == ROUNDS * 20 { Ok(ROUNDS * blocks.len() as u64) } else { Err(format!("{fields} fields").into()) }
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let value = |digit: &u8| (*digit as char).to_digit(16).unwrap_or(0);
    digits.chunks(2).map(|pair| pair.iter().fold(0, |sum, digit| sum << 4 | value(digit)) as u8).collect()
}
