//! For every input: no panic, bounded memory, and what was sealed is what is opened.
use std::io::IoSlice;

use proptest::collection::vec;
use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

use super::{keys, record};
use crate::record::{Buffer, MAX_BODY, Opened, Opener, Role, Sealer, Suite};

const SUITE: Suite = Suite::Aes128GcmSha256;

/// Feeds pieces as a socket does; returns the data up to the first error.
fn open_all<'a>(opener: &mut Opener, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, bool) {
    let mut input = Buffer::default();
    let mut seen = Vec::new();
    for piece in pieces {
        for part in piece.chunks(50_000) {
            input.borrow_scratch();
            input.room()[..part.len()].copy_from_slice(part);
            input.extend(part.len());
            loop {
                match opener.next(&mut input) {
                    Ok(Opened::More) => break,
                    Ok(Opened::Data(range)) => seen.extend(input.at(range)),
                    Ok(Opened::Closed) => return (seen, true),
                    Ok(_) => {}
                    Err(_) => return (seen, false),
                }
            }
            input.park(usize::MAX);
            assert!(input.size() <= MAX_BODY + 5, "what waits is less than a record");
        }
    }
    (seen, true)
}

proptest! {
    #[test]
    fn arbitrary_bytes_yield_no_data_and_no_panic(bytes in vec(any::<u8>(), 0..2000), typed in any::<bool>(), cut in 1_usize..600) {
        let mut bytes = bytes;
        if typed && bytes.len() > 5 {
            bytes[..3].copy_from_slice(&[23, 3, 3]);
            bytes[3] %= 4;
        }
        let (seen, _) = open_all(&mut Opener::new(keys(SUITE).1, Role::Client), bytes.chunks(cut));
        prop_assert!(seen.is_empty());
    }

    #[test]
    fn arbitrary_contents_end_the_same_however_they_are_cut(
        contents in vec((vec(any::<u8>(), 0..40), 0_u8..26), 0..8), cut in 1_usize..100, client in any::<bool>(),
    ) {
        let role = if client { Role::Client } else { Role::Server };
        let mut sealing = keys(SUITE).0;
        let bytes: Vec<u8> = contents.iter().flat_map(|(data, last)| record(&mut sealing, data, *last)).collect();
        let whole = open_all(&mut Opener::new(keys(SUITE).1, role), [bytes.as_slice()]);
        let pieces = open_all(&mut Opener::new(keys(SUITE).1, role), bytes.chunks(cut));
        prop_assert_eq!(whole, pieces);
    }

    #[test]
    fn handshake_messages_end_the_same_however_they_are_cut(message in vec(0_u8..30, 1..60), cut in 1_usize..10, client in any::<bool>()) {
        let role = if client { Role::Client } else { Role::Server };
        let ends = |size: usize| {
            let mut sealing = keys(SUITE).0;
            let bytes: Vec<u8> = message.chunks(size).flat_map(|piece| record(&mut sealing, piece, 22)).collect();
            open_all(&mut Opener::new(keys(SUITE).1, role), [bytes.as_slice()])
        };
        // Cutting can only make a difference behind a key update, which must end its record.
        if !message.contains(&24) && message.len() / cut < 32 {
            prop_assert_eq!(ends(cut), ends(message.len()));
        }
    }

    #[test]
    fn what_is_sealed_is_what_is_opened(
        slices in vec(vec(any::<u8>(), 0..40_000), 0..6), room in 0_usize..100_000, rekey in 1_u64..5, cut in 1_usize..50_000,
    ) {
        let mut sealer = Sealer::new(keys(SUITE).0);
        sealer.rekey_after(rekey);
        let mut out = Buffer::with_size(room);
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let count = sealer.seal(&slices, &mut out).unwrap();
        let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        prop_assert!(count == all.len() || out.room().len() < 64, "{} of {} with room left", count, all.len());
        let (seen, fine) = open_all(&mut Opener::new(keys(SUITE).1, Role::Server), out.filled().chunks(cut));
        prop_assert!(fine && seen == all[..count]);
    }
}
