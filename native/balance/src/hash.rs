//! A hash that every replica and every version of a waypoint computes alike: what goes to one endpoint here goes to the same there.

/// FNV-1a, finished by the mixing of SplitMix64, for FNV alone leaves its high bits weak.
pub fn hash(bytes: &[u8]) -> u64 {
    mixed(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)))
}

/// Another hash of what has `hash`: independent of it for each `salt`.
pub(crate) fn salted(hash: u64, salt: u64) -> u64 {
    mixed(hash ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn mixed(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_never_changes() {
        // Other values would send every client of every deployment elsewhere on the day of an upgrade.
        assert_eq!(
            [hash(b""), hash(b"a"), hash(b"shop")],
            [17_665_956_581_633_026_203, 198_367_012_849_983_736, 7_784_307_407_480_800_614]
        );
    }
}
