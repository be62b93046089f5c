//! Payload through the codec and the record layer as tunnels carry it: bulk in full records that are sealed and opened where they lie, and
//! small messages that are copied.
use std::time::Instant;

use trackbed_hbone::testing::{Codec, Seen};
use trackbed_tls::Channel;
use trackbed_tls::channel::{Front, RECORD_DATA, RECORD_HEAD, RECORD_TAIL};
use trackbed_tls::testing::channels;

use crate::{Failure, measured};

/// Head of a DATA frame.
const HEAD: usize = 9;
const PAYLOAD: usize = RECORD_DATA - HEAD;
const BULK: u64 = 640;
const MESSAGE: usize = 100;
const MESSAGES: u64 = 2000;

/// A client with one stream that the server has accepted.
struct Pair {
    client: Codec,
    server: Codec,
    id: u32,
    now: Instant,
}

impl Pair {
    fn new() -> Result<Self, Failure> {
        let now = Instant::now();
        let (mut client, mut server) = (Codec::client(now), Codec::server(now));
        let id = client.ask("10.0.0.1:80", now).ok_or("no stream")?;
        pass(&mut client, &mut server, now)?;
        server.answer(id, 200, false);
        pass(&mut server, &mut client, now)?;
        Ok(Self { client, server, id, now })
    }
}

/// What one has said to the other.
pub(crate) fn pass(from: &mut Codec, to: &mut Codec, now: Instant) -> Result<(), Failure> {
    let mut at = 0;
    while to.next(from.out(), &mut at, now).map_err(|(_, what)| what)?.is_some() {}
    from.out().clear();
    Ok(())
}

/// Records that the client sends, one after the other in `out`.
fn send(pair: &mut Pair, channel: &mut Channel, payload: &[u8], count: u64, out: &mut Vec<u8>) {
    for _ in 0..count {
        let head = pair.client.data(pair.id, payload.len() as u32);
        let at = out.len();
        if payload.len() < PAYLOAD {
            let collected = pair.client.out();
            collected.extend_from_slice(&head);
            collected.extend_from_slice(payload);
            out.resize(at + RECORD_HEAD + collected.len() + RECORD_TAIL, 0);
            let _ = channel.seal(collected, &mut out[at..]); // told by what arrives
            collected.clear();
        } else {
            // The payload is there already, as if it had been read into its place.
            let record = &mut out[at - (RECORD_HEAD + HEAD + PAYLOAD + RECORD_TAIL)..at];
            record[RECORD_HEAD..RECORD_HEAD + HEAD].copy_from_slice(&head);
            let _ = channel.seal_in_place(record);
        }
    }
}

pub(crate) fn sending() -> Result<u64, Failure> {
    let (mut pair, mut ends) = (Pair::new()?, channels(0)?);
    let mut bulk = vec![0x5a; RECORD_HEAD + HEAD + PAYLOAD + RECORD_TAIL];
    let mut small = Vec::with_capacity(usize::try_from(MESSAGES)? * (MESSAGE + 64));
    measured(&mut || {
        send(&mut pair, &mut ends.0, &[0x5a; PAYLOAD], BULK, &mut bulk);
        send(&mut pair, &mut ends.0, &[0x5a; MESSAGE], MESSAGES, &mut small);
    });
    Ok(BULK + MESSAGES)
}

pub(crate) fn receiving() -> Result<u64, Failure> {
    let (mut pair, mut ends) = (Pair::new()?, channels(0)?);
    let mut input = Vec::new();
    for _ in 0..BULK {
        input.resize(input.len() + RECORD_HEAD + HEAD + PAYLOAD + RECORD_TAIL, 0x5a);
        send(&mut pair, &mut ends.0, &[0x5a; PAYLOAD], 1, &mut input);
    }
    send(&mut pair, &mut ends.0, &[0x5a; MESSAGE], MESSAGES, &mut input);
    let Pair { mut server, now, .. } = pair;
    let (mut received, mut broken) = (0, false);
    measured(&mut || {
        let mut rest = input.as_mut_slice();
        while let Ok(Front::Data { record, data }) = ends.1.open(rest) {
            let (mut at, end) = (data.start, data.end);
            loop {
                match server.next(&rest[..end], &mut at, now) {
                    Ok(Some(Seen::Data { id, range })) => {
                        received += range.len();
                        server.read(id, range.len(), true, now);
                    }
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => broken = true,
                }
                if broken {
                    return;
                }
            }
            rest = &mut std::mem::take(&mut rest)[record..];
        }
    });
    let wanted = PAYLOAD * usize::try_from(BULK)? + MESSAGE * usize::try_from(MESSAGES)?;
    if received == wanted { Ok(BULK + MESSAGES) } else { Err(format!("{received} of {wanted} bytes arrived").into()) }
}
