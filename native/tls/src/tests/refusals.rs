//! Records that no honest peer sends, each with the alert it gets; and odd ones that are right.
use std::io::IoSlice;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Own, keys, own_pair, record};
use crate::RecordError;
use crate::record::content::{ALERT, APPLICATION_DATA, HANDSHAKE};
use crate::record::{Buffer, Keys, Opened, Opener, Role, Sealer, Suite};

const WIRE: usize = 1 << 20;
const MOST: usize = 1 << 14;
const MAC: u8 = 20;
const UNEXPECTED: u8 = 10;
const OVERFLOW: u8 = 22;
const DECODE: u8 = 50;
const PARAMETER: u8 = 47;

fn ticket(length: usize) -> Vec<u8> {
    let [_, a, b, c] = u32::try_from(length).unwrap().to_be_bytes();
    [&[4, a, b, c][..], &vec![9; length]].concat()
}

fn each(keys: &mut Keys, pieces: &[&[u8]], kind: u8) -> Vec<u8> {
    pieces.iter().flat_map(|piece| record(keys, piece, kind)).collect()
}

/// `from` puts raw bytes on the wire: `to` must refuse, say why, and stay refused.
async fn refused(what: &str, mut from: Own, mut to: Own, bytes: &[u8], alert: u8) {
    from.io.write_all(bytes).await.unwrap();
    let mut seen = Vec::new();
    let error = to.read_to_end(&mut seen).await.expect_err(what);
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{what}: {error}");
    assert!(seen.is_empty(), "{what}");
    to.write(b"x").await.expect_err(what);
    let told = from.read(&mut [0]).await.expect_err(what);
    let told = *told.get_ref().unwrap().downcast_ref::<RecordError>().unwrap();
    assert_eq!(told, RecordError::Alert(alert), "{what}: {error}");
}

#[tokio::test]
async fn what_is_no_record_of_the_peer_is_refused_with_the_right_alert() {
    type Make = fn(&mut Keys) -> Vec<u8>;
    let rows: &[(&str, u8, Make)] = &[
        ("a changed tag", MAC, |keys| {
            let mut bytes = record(keys, b"data", APPLICATION_DATA);
            *bytes.last_mut().unwrap() ^= 1;
            bytes
        }),
        ("a changed byte", MAC, |keys| {
            let mut bytes = record(keys, b"data", APPLICATION_DATA);
            bytes[5] ^= 0x80;
            bytes
        }),
        ("a changed version", MAC, |keys| {
            let mut bytes = record(keys, b"data", APPLICATION_DATA);
            bytes[2] = 1;
            bytes
        }),
        ("a record that is missing", MAC, |keys| {
            record(keys, b"first", APPLICATION_DATA);
            record(keys, b"second", APPLICATION_DATA)
        }),
        ("0-RTT or other garbage", MAC, |_| [&[23, 3, 3, 0, 64][..], &[0xab; 64]].concat()),
        ("a body of a tag alone", MAC, |_| [&[23, 3, 3, 0, 16][..], &[0; 16]].concat()),
        ("an empty body", MAC, |_| vec![23, 3, 3, 0, 0]),
        ("one byte too many", OVERFLOW, |keys| record(keys, &vec![1; MOST + 1], APPLICATION_DATA)),
        ("one byte of padding too many", OVERFLOW, |keys| record(keys, &[&[1; 5][..], &[APPLICATION_DATA], &[0; MOST - 5]].concat(), 0)),
        ("a header that promises too much", OVERFLOW, |_| vec![23, 3, 3, 0x41, 0x01]),
        ("ChangeCipherSpec", UNEXPECTED, |_| vec![20, 3, 3, 0, 1, 1]),
        ("an unprotected alert", UNEXPECTED, |_| vec![21, 3, 3, 0, 2, 2, 40]),
        ("an unprotected handshake message", UNEXPECTED, |_| vec![22, 3, 3, 0, 5, 24, 0, 0, 1, 0]),
        ("HTTP", UNEXPECTED, |_| b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        ("no content type", UNEXPECTED, |keys| record(keys, &[0; 100], 0)),
        ("an unknown content type", UNEXPECTED, |keys| record(keys, b"data", 99)),
        ("a protected ChangeCipherSpec", UNEXPECTED, |keys| record(keys, &[1], 20)),
        ("an empty handshake record", UNEXPECTED, |keys| record(keys, &[], HANDSHAKE)),
        ("an alert of one byte", DECODE, |keys| record(keys, &[2], ALERT)),
        ("two alerts in one record", DECODE, |keys| record(keys, &[1, 0, 1, 0], ALERT)),
        ("Finished", UNEXPECTED, |keys| record(keys, &[20, 0, 0, 1, 1], HANDSHAKE)),
        ("ClientHello", UNEXPECTED, |keys| record(keys, &[1, 0, 0, 1, 1], HANDSHAKE)),
        ("CertificateRequest", UNEXPECTED, |keys| record(keys, &[13, 0, 0, 1, 1], HANDSHAKE)),
        ("an endless message", UNEXPECTED, |keys| record(keys, &[13, 255, 255, 255], HANDSHAKE)),
        ("a key update of an unknown kind", PARAMETER, |keys| record(keys, &[24, 0, 0, 1, 2], HANDSHAKE)),
        ("a key update of two bytes", DECODE, |keys| record(keys, &[24, 0, 0, 2, 0, 0], HANDSHAKE)),
        ("an empty key update", DECODE, |keys| record(keys, &[24, 0, 0, 0], HANDSHAKE)),
        ("a message behind a key update", UNEXPECTED, |keys| record(keys, &[24, 0, 0, 1, 0, 24], HANDSHAKE)),
        ("data within a handshake message", UNEXPECTED, |keys| {
            [record(keys, &[24, 0], HANDSHAKE), record(keys, b"data", APPLICATION_DATA)].concat()
        }),
        ("an alert within a handshake message", UNEXPECTED, |keys| {
            [record(keys, &[24, 0, 0, 1], HANDSHAKE), record(keys, &[1, 0], ALERT)].concat()
        }),
        ("endless empty records", UNEXPECTED, |keys| each(keys, &[&[][..]; 33], APPLICATION_DATA)),
        ("endless padding", UNEXPECTED, |keys| each(keys, &[&[APPLICATION_DATA, 0, 0][..]; 33], 0)),
        ("endless user_canceled", UNEXPECTED, |keys| each(keys, &[&[1, 90][..]; 33], ALERT)),
        ("endless key updates", UNEXPECTED, |keys| {
            let one = |keys: &mut Keys| {
                let bytes = record(keys, &[24, 0, 0, 1, 1], HANDSHAKE);
                keys.update().unwrap();
                bytes
            };
            (0..33).flat_map(|_| one(keys)).collect()
        }),
    ];
    for (what, alert, make) in rows {
        for from_client in [true, false] {
            let (client, server) = own_pair(WIRE).await;
            let (mut from, to) = if from_client { (client, server) } else { (server, client) };
            let bytes = make(from.sealer.keys_mut());
            refused(what, from, to, &bytes, *alert).await;
        }
    }
    let (mut client, server) = own_pair(WIRE).await;
    let bytes = record(client.sealer.keys_mut(), &ticket(20), HANDSHAKE);
    refused("a ticket from a client", client, server, &bytes, UNEXPECTED).await;
    let (client, mut server) = own_pair(WIRE).await;
    let bytes = record(server.sealer.keys_mut(), &[4, 0x02, 0x01, 0x0f], HANDSHAKE);
    refused("a ticket that is too long", server, client, &bytes, DECODE).await;
}

#[tokio::test]
async fn odd_records_that_are_right_are_taken() {
    let (mut client, mut server) = own_pair(WIRE).await;
    let keys = server.sealer.keys_mut();
    let padded = |text: &[u8], zeros: usize| [text, &[APPLICATION_DATA], &vec![0; zeros]].concat();
    let mut bytes = record(keys, &[], APPLICATION_DATA);
    bytes.extend(record(keys, &padded(b"a", 1000), 0));
    bytes.extend(record(keys, &padded(b"b", MOST - 2), 0));
    bytes.extend(record(keys, &padded(b"", MOST - 1), 0));
    bytes.extend(record(keys, &[b'c'; MOST], APPLICATION_DATA));
    // Tickets: two in one record, one in pieces, a large one over many.
    bytes.extend(record(keys, &[ticket(20), ticket(300)].concat(), HANDSHAKE));
    bytes.extend(ticket(9).iter().flat_map(|byte| record(keys, &[*byte], HANDSHAKE)).collect::<Vec<_>>());
    bytes.extend(each(keys, &ticket(100_000).chunks(MOST).collect::<Vec<_>>(), HANDSHAKE));
    // A ticket and a key update together, and a key update in pieces.
    bytes.extend(record(keys, &[&ticket(5)[..], &[24, 0, 0, 1, 0]].concat(), HANDSHAKE));
    keys.update().unwrap();
    bytes.extend(record(keys, b"d", APPLICATION_DATA));
    bytes.extend(each(keys, &[&[24], &[0, 0], &[1], &[1]], HANDSHAKE));
    keys.update().unwrap();
    bytes.extend(record(keys, b"e", APPLICATION_DATA));
    bytes.extend(record(keys, &[1, 0], ALERT));
    let mut seen = Vec::new();
    let (sent, read) = tokio::join!(server.io.write_all(&bytes), client.read_to_end(&mut seen));
    sent.unwrap();
    read.unwrap();
    assert!(seen == [&b"ab"[..], &[b'c'; MOST], b"de"].concat());
}

#[test]
fn records_are_the_same_wherever_the_wire_cut_them() {
    for suite in [Suite::Aes128GcmSha256, Suite::Aes256GcmSha384] {
        let sealed = {
            let mut sealer = Sealer::new(keys(suite).0);
            let mut out = Buffer::with_size(500);
            let count = sealer.seal(&[IoSlice::new(b"one")], &mut out).unwrap();
            sealer.update(true, &mut out).unwrap();
            let more = sealer.seal(&[IoSlice::new(b"tw"), IoSlice::new(b"o")], &mut out).unwrap();
            assert_eq!((count, more), (3, 3));
            out.filled().to_vec()
        };
        for cut in 0..=sealed.len() {
            for coalesced in [true, false] {
                let mut opener = Opener::new(keys(suite).1, Role::Client);
                let mut input = Buffer::with_size(1000);
                let mut seen = Vec::new();
                for piece in if coalesced { [&sealed[..], &[]] } else { [&sealed[..cut], &sealed[cut..]] } {
                    input.room()[..piece.len()].copy_from_slice(piece);
                    input.extend(piece.len());
                    loop {
                        match opener.next(&mut input).unwrap() {
                            Opened::More => break,
                            Opened::Data(range) => seen.extend(input.at(range)),
                            other => assert_eq!(other, Opened::Updated { asked: true }),
                        }
                    }
                }
                assert_eq!((seen.as_slice(), input.len()), (&b"onetwo"[..], 0), "cut at {cut}");
            }
        }
    }
}
