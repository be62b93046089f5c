//! Which protocol a client speaks, from its first bytes.

/// HTTP/2 with prior knowledge begins with it (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Longest word that is taken for a method: "UPDATEREDIRECTREF" has 17.
const METHOD_BYTES: usize = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
    Other,
}

/// None: too little to tell.
pub(crate) fn spoken(bytes: &[u8]) -> Option<Spoken> {
    if bytes.starts_with(PREFACE) {
        return Some(Spoken::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return None;
    }
    // A method in capitals, a space, and the beginning of a target: "/", "*", "http://", or a host for CONNECT.
    let word = bytes.iter().take_while(|b| b.is_ascii_uppercase() || **b == b'-').count();
    match (bytes.get(word), bytes.get(word + 1)) {
        (None, _) if word <= METHOD_BYTES => None,
        (Some(b' '), None) if (3..=METHOD_BYTES).contains(&word) => None,
        (Some(b' '), Some(next)) if (3..=METHOD_BYTES).contains(&word) => {
            let target = matches!(next, b'/' | b'*') || next.is_ascii_alphanumeric() && (bytes.starts_with(b"CONNECT") || *next == b'h');
            Some(if target { Spoken::Http1 } else { Spoken::Other })
        }
        _ => Some(Spoken::Other),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;

    #[test]
    fn the_first_bytes_tell() {
        for (bytes, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], Some(Spoken::Http1)),
            (b"OPTIONS * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"GET http://shop/ HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"CONNECT shop:80 HTTP/1.1\r\n", Some(Spoken::Http1)),
            (b"M-SEARCH * HTTP/1.1\r\n", Some(Spoken::Http1)),
            (PREFACE, Some(Spoken::Http2)),
            (b"PRI", None),
            (b"PRI * HTTP/2.0\r\n\r\nSM", None),
            (b"PRI /x HTTP/1.1", Some(Spoken::Http1)),
            (b"", None),
            (b"G", None),
            (b"GET", None),
            (b"GET ", None),
            (b"\x16\x03\x01\x02", Some(Spoken::Other)),
            (b"EHLO mail.example\r\n", Some(Spoken::Other)),
            (b"USER anonymous\r\n", Some(Spoken::Other)),
            (b"*1\r\n$4\r\nPING\r\n", Some(Spoken::Other)),
            (b"get / HTTP/1.1\r\n", Some(Spoken::Other)),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Some(Spoken::Other)),
        ] {
            assert_eq!(spoken(bytes), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn more_bytes_never_change_what_was_told() {
        for whole in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            PREFACE,
            b"EHLO mail.example\r\n",
            b"PRI /x HTTP/1.1\r\n",
            b"\x16\x03\x01\x02\x00\x01",
        ] {
            let told = spoken(whole);
            for end in 0..whole.len() {
                let earlier = spoken(&whole[..end]);
                assert!(earlier.is_none() || earlier == told, "{end} of {:?}", String::from_utf8_lossy(whole));
            }
        }
    }
}
