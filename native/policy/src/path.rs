//! The one form of a path that routes and policies look at, so that no spelling of a path gets around them.
//!
//! What RFC 3986 calls equivalent is made equal, for the match and for the backend: the case of percent-encoding, encoded letters that need no
//! encoding, dot segments. What servers read in different ways is refused instead of guessed: a dot segment behind an encoded slash or backslash or
//! before a `;`, one beside an empty segment, one that climbs above the root, a raw backslash, an encoded NUL, broken percent-encoding. Empty
//! segments are merged for the match alone: a backend may mean something by them. Encoded slashes stay what they are, for registries and object
//! stores put them into names.
use std::borrow::Cow;
use std::fmt::Write;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Normal<'a> {
    /// For the backend.
    pub path: Cow<'a, str>,
    /// For matches: the same without empty segments.
    pub merged: Cow<'a, str>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path does not begin with a slash")]
    Relative,
    #[error("a percent sign in the path is not followed by two hexadecimal digits")]
    Percent,
    #[error("the path has an encoded NUL")]
    Nul,
    #[error("the path has a backslash")]
    Backslash,
    #[error("the path has dot segments that servers read in different ways")]
    Ambiguous,
    #[error("the path climbs above the root")]
    AboveRoot,
}

/// Without query and fragment.
pub fn normal(path: &str) -> Result<Normal<'_>, PathError> {
    if !path.starts_with('/') {
        return Err(PathError::Relative);
    }
    if is_normal(path.as_bytes()) {
        return Ok(Normal { path: Cow::Borrowed(path), merged: Cow::Borrowed(path) });
    }
    let decoded = decode(path)?;
    let path = without_dots(&decoded)?;
    let merged = merge(&path);
    Ok(Normal { merged: Cow::Owned(merged), path: Cow::Owned(path) })
}

/// Most paths are, and cost one look at each byte.
fn is_normal(path: &[u8]) -> bool {
    let mut slash = false;
    path.iter().all(|&byte| {
        let suspicious = byte == b'%' || byte == b'\\' || !byte.is_ascii_graphic() || (slash && (byte == b'/' || byte == b'.'));
        slash = byte == b'/';
        !suspicious
    })
}

/// Letters that need no encoding are decoded, everything else that is encoded, or should be, is so in capitals.
pub(crate) fn decode(path: &str) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let value = hex(bytes.next())? << 4 | hex(bytes.next())?;
                if value == 0 {
                    return Err(PathError::Nul);
                }
                if is_unreserved(value) { decoded.push(char::from(value)) } else { encode(&mut decoded, value) }
            }
            b'\\' => return Err(PathError::Backslash),
            byte if byte.is_ascii_graphic() => decoded.push(char::from(byte)),
            byte => encode(&mut decoded, byte),
        }
    }
    Ok(decoded)
}

fn encode(text: &mut String, byte: u8) {
    // Writing to a String cannot fail.
    let _ = write!(text, "%{byte:02X}");
}

fn hex(digit: Option<u8>) -> Result<u8, PathError> {
    let value = digit.and_then(|digit| char::from(digit).to_digit(16)).ok_or(PathError::Percent)?;
    u8::try_from(value).map_err(|_| PathError::Percent)
}

/// RFC 3986, section 2.3
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn without_dots(path: &str) -> Result<String, PathError> {
    let segments = || path[1..].split('/');
    if segments().any(is_ambiguous) {
        return Err(PathError::Ambiguous);
    }
    let dots = |segment: &str| segment == "." || segment == "..";
    if !segments().any(dots) {
        return Ok(path.to_owned());
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = segments().peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" if !last => return Err(PathError::Ambiguous),
            "." => {}
            ".." => drop(kept.pop().ok_or(PathError::AboveRoot)?),
            segment => kept.push(segment),
        }
        if last && dots(segment) {
            kept.push("");
        }
    }
    Ok(format!("/{}", kept.join("/")))
}

/// A dot segment for those servers alone that decode slashes, take a backslash for one, or cut parameters off.
fn is_ambiguous(segment: &str) -> bool {
    let dots = |piece: &str| piece == "." || piece == "..";
    let mut pieces = segment
        .split("%2F")
        .flat_map(|piece| piece.split("%5C"))
        .flat_map(|piece| piece.split("%3B"))
        .map(|piece| (piece, piece.split(';').next()));
    segment.len() > 2 && pieces.any(|(piece, before)| dots(piece) || before.is_some_and(dots))
}

fn merge(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message

    use super::*;
    use proptest::prelude::*;

    fn both(path: &str) -> Result<(String, String), PathError> {
        normal(path).map(|normal| (normal.path.into_owned(), normal.merged.into_owned()))
    }

    #[test]
    fn equivalent_paths_are_made_equal() {
        for (path, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/%61/%62", "/a/b"),
            ("/a%2fb", "/a%2Fb"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/.", "/a/"),
            ("/a/b/..", "/a/"),
            ("/a/", "/a/"),
            ("/a/../", "/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/a..b/c..", "/a..b/c.."),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/@scope%2fname", "/@scope%2Fname"),
        ] {
            assert_eq!(both(path), Ok((expected.into(), expected.into())), "{path}");
        }
    }

    #[test]
    fn empty_segments_are_merged_for_the_match_alone() {
        assert_eq!(both("//a///b/"), Ok(("//a///b/".into(), "/a/b/".into())));
    }

    #[test]
    fn what_servers_read_in_different_ways_is_refused() {
        for (path, expected) in [
            ("", PathError::Relative),
            ("a", PathError::Relative),
            ("*", PathError::Relative),
            ("/%", PathError::Percent),
            ("/%4", PathError::Percent),
            ("/%zz", PathError::Percent),
            ("/a%00", PathError::Nul),
            ("/a\\..\\b", PathError::Backslash),
            ("/a/..%2fb", PathError::Ambiguous),
            ("/a%2f..%2fb", PathError::Ambiguous),
            ("/a/%2e%2e%5cb", PathError::Ambiguous),
            ("/a/..;/b", PathError::Ambiguous),
            ("/a/..;x=1/b", PathError::Ambiguous),
            ("/a/..%3b/b", PathError::Ambiguous),
            ("/a//../b", PathError::Ambiguous),
            ("//../b", PathError::Ambiguous),
            ("/..", PathError::AboveRoot),
            ("/a/../../b", PathError::AboveRoot),
        ] {
            assert_eq!(both(path), Err(expected), "{path}");
        }
    }

    /// A server that decodes once and then walks the segments, as file servers do.
    fn walked(path: &str) -> Vec<String> {
        let mut bytes = Vec::new();
        let mut rest = path.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(if byte == b'%' { hex(rest.next()).unwrap() << 4 | hex(rest.next()).unwrap() } else { byte });
        }
        let mut kept: Vec<String> = Vec::new();
        for segment in String::from_utf8_lossy(&bytes).split(['/', '\\']) {
            match segment.split(';').next().unwrap_or_default() {
                "" | "." => {}
                ".." => drop(kept.pop()),
                segment => kept.push(segment.to_owned()),
            }
        }
        kept
    }

    proptest! {
        #[test]
        fn a_normal_path_stays_as_it_is(path in "/([a-z.%/;\\\\A-F0-9]{0,3}(/|%2[ef]|%5c|\\.\\.|\\.|;|//)?){0,6}") {
            if let Ok(first) = normal(&path) {
                let second = normal(&first.path).expect("normal paths are accepted");
                prop_assert_eq!(&second.path, &first.path);
                prop_assert_eq!(&second.merged, &first.merged);
                prop_assert_eq!(&normal(&first.merged).expect("so are merged ones").merged, &first.merged);
            }
        }

        #[test]
        fn a_server_that_decodes_and_walks_gets_nowhere_else(path in "/([a-z]{0,2}(/|%2[ef]|%5c|\\.\\.|\\.|;|//|%2e|%3b)?){0,8}") {
            if let Ok(normal) = normal(&path) {
                prop_assert_eq!(walked(&path), walked(&normal.merged));
            }
        }
    }
}
