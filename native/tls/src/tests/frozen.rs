//! A record layer that is frozen and thawed at any moment goes on as if nothing had happened; anything else is refused whole.
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use prost::Message;

use crate::channel::{Front, RECORD_HEAD, RECORD_TAIL};
use crate::frozen::{FrozenChannel, FrozenPeer};
use crate::record::content;
use crate::testing::{channels, record, update};
use crate::{Channel, PeerInfo};

#[derive(Debug, Clone)]
enum Act {
    Data(usize),
    Update {
        ask: bool,
    },
    /// A ticket of so many bytes, in pieces.
    Ticket(usize, usize),
    Quiet,
    Freeze,
}

fn acts() -> impl Strategy<Value = Vec<(bool, Act)>> {
    let act = prop_oneof![
        (1_usize..5000).prop_map(Act::Data),
        any::<bool>().prop_map(|ask| Act::Update { ask }),
        (1_usize..300, 1_usize..100).prop_map(|(size, piece)| Act::Ticket(size, piece)),
        Just(Act::Quiet),
        Just(Act::Freeze),
    ];
    vec((any::<bool>(), act), 1..60)
}

/// Through its bytes and back, and the same again. Nobody goes on with the one that was frozen.
fn thawed(channel: Channel) -> Channel {
    let bytes = channel.freeze().encode_to_vec();
    drop(channel);
    let frozen = FrozenChannel::decode(bytes.as_slice()).unwrap();
    let again = Channel::thaw(&frozen).unwrap().freeze();
    assert_eq!(again.encode_to_vec(), bytes);
    Channel::thaw(&again).unwrap()
}

/// One end, whose records the other gets after it was frozen or not: the data that comes of them.
fn deliver(records: &[u8], to: &mut Channel, freeze: bool) -> Vec<u8> {
    let (mut input, mut at, mut data) = (records.to_vec(), 0, Vec::new());
    while at < input.len() {
        if freeze {
            *to = thawed(std::mem::replace(to, channels(0).unwrap().0));
        }
        match to.open(&mut input[at..]).unwrap() {
            Front::Data { record, data: range } => {
                data.extend_from_slice(&input[at..][range]);
                at += record;
            }
            Front::Control { record } => at += record,
            other => panic!("{other:?}"),
        }
    }
    data
}

fn sealed(channel: &mut Channel, data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; crate::channel::PREPARE_BYTES];
    let length = channel.prepare(&mut out).unwrap();
    out.truncate(length);
    let mut one = vec![0; RECORD_HEAD + data.len() + RECORD_TAIL];
    channel.seal(data, &mut one).unwrap();
    out.extend(one);
    out
}

proptest! {
    #[test]
    fn a_connection_goes_on_wherever_it_was_frozen(acts in acts(), seed in any::<u8>(), freeze in any::<bool>()) {
        let (client, server) = channels(seed).unwrap();
        let mut ends = [client, server];
        let mut quiet = [0; 2];
        for (from_client, act) in acts {
            let (one, other) = ends.split_at_mut(1);
            let (from, to, quiet) = if from_client { (&mut one[0], &mut other[0], &mut quiet[0]) } else { (&mut other[0], &mut one[0], &mut quiet[1]) };
            match act {
                Act::Data(length) => {
                    let data: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
                    let records = sealed(from, &data);
                    prop_assert_eq!(deliver(&records, to, freeze), data);
                    *quiet = 0;
                }
                Act::Freeze => *from = thawed(std::mem::replace(from, channels(0).unwrap().0)),
                // More of what carries nothing would end the connection.
                _ if *quiet > 20 => {}
                Act::Update { ask } => {
                    let records = update(from, ask).unwrap();
                    deliver(&records, to, freeze);
                    *quiet += 1;
                }
                Act::Quiet => {
                    let records = record(from, &[], content::APPLICATION_DATA).unwrap();
                    deliver(&records, to, freeze);
                    *quiet += 1;
                }
                // Only servers may send them.
                Act::Ticket(..) if from_client => {}
                Act::Ticket(size, piece) => {
                    let [.., high, low] = u32::try_from(size).unwrap().to_be_bytes();
                    let message = [&[4, 0, high, low][..], &vec![1; size]].concat();
                    for piece in message.chunks(piece.max(message.len().div_ceil(8))) {
                        let records = record(from, piece, content::HANDSHAKE).unwrap();
                        deliver(&records, to, true);
                        *quiet += 1;
                    }
                }
            }
        }
    }

    #[test]
    fn bytes_that_are_no_record_layer_are_refused_and_never_a_panic(bytes in vec(any::<u8>(), 0..200)) {
        let thawed = FrozenChannel::decode(bytes.as_slice()).ok().map(|frozen| Channel::thaw(&frozen));
        prop_assert!(!matches!(thawed, Some(Ok(_))));
    }

    #[test]
    fn values_that_no_connection_has_are_refused_or_are_themselves(
        at in 0_usize..200, byte in any::<u8>(), seed in any::<u8>(),
    ) {
        let mut bytes = channels(seed).unwrap().0.freeze().encode_to_vec();
        let at = at % bytes.len();
        bytes[at] = byte;
        if let Ok(frozen) = FrozenChannel::decode(bytes.as_slice())
            && let Ok(channel) = Channel::thaw(&frozen)
        {
            prop_assert_eq!(channel.freeze(), frozen);
        }
    }
}

#[test]
fn each_part_that_is_missing_or_impossible_is_named() {
    let whole = channels(0).unwrap().1.freeze().encode_to_vec();
    let refused = |field: &[u8]| {
        let bytes = [&whole[..], field].concat();
        Channel::thaw(&FrozenChannel::decode(bytes.as_slice()).unwrap()).unwrap_err().to_string()
    };
    // Protobuf merges what comes twice, so that each of these changes one value.
    assert!(refused(&[0x38, 33]).contains("too many records"));
    assert!(refused(&[0x30, 1]).contains("handshake message"), "a body without a head");
    assert!(refused(&[0x2a, 4, 24, 0, 0, 1]).contains("handshake message"), "a whole head without a body");
    assert!(refused(&[0x2a, 4, 4, 0, 0, 9, 0x30, 1]).contains("handshake message"), "clients send no tickets");
    assert!(refused(&[0x2a, 5, 4, 0, 0, 9, 9]).contains("handshake message"), "a head has four bytes");
    assert!(refused(&[0x12, 3, 0x08, 0x83, 0x26]).contains("cipher suite"), "ChaCha20");
    assert!(refused(&[0x12, 4, 0x12, 2, 1, 2]).contains("does not fit"), "a secret of two bytes");
    assert!(Channel::thaw(&FrozenChannel::default()).unwrap_err().to_string().contains("sending"));
}

#[test]
fn a_secret_is_nowhere_in_what_is_printed() {
    let frozen = channels(0).unwrap().0.freeze();
    let secret = format!("{:?}", vec![1_u8; 32]);
    let printed = format!("{frozen:?}");
    assert!(!printed.contains(secret.trim_matches(['[', ']'])) && !printed.contains("1, 1"), "{printed}");
}

#[tokio::test]
async fn what_was_proven_about_a_peer_stays_known() {
    let authority = super::support::Authority::new();
    let (client, server) = (authority.certify(super::OURS), authority.certify(super::PEER));
    let (near, far) = tokio::io::duplex(1 << 20);
    let expected = [super::identity(super::PEER)];
    let (client, server) = tokio::join!(crate::connect(near, &client, &expected), crate::accept(far, &server));
    for peer in [client.unwrap().1, server.unwrap().1] {
        let bytes = peer.freeze().encode_to_vec();
        let thawed = PeerInfo::thaw(&FrozenPeer::decode(bytes.as_slice()).unwrap()).unwrap();
        assert_eq!(format!("{thawed:?}"), format!("{peer:?}"));
        for (tag, what) in [(0x0a, "identity"), (0x22, "version"), (0x2a, "cipher"), (0x32, "group")] {
            let other = [&bytes[..], &[tag, 1, b'x']].concat();
            let error = PeerInfo::thaw(&FrozenPeer::decode(other.as_slice()).unwrap()).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
    }
}
