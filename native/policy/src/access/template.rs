//! Paths with holes: "/api/{*}/items/{**}", as Envoy's URI templates have them.

/// One hole for a segment each in `pieces`, then perhaps one for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    /// Texts before each "{*}", and the one after the last.
    pieces: Vec<String>,
    /// What follows "{**}", if there is one: it is the last hole.
    tail: Option<String>,
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        if !text.starts_with('/') {
            return Err("does not begin with a slash");
        }
        let segments: Vec<&str> = text.split('/').collect();
        if segments.iter().any(|segment| segment.contains(['{', '}', '*']) && !matches!(*segment, "{*}" | "{**}")) {
            return Err("has braces or stars that are not a whole segment {*} or {**}");
        }
        let (head, tail) = match text.split_once("{**}") {
            Some((_, tail)) if tail.contains('{') => return Err("has a hole after {**}"),
            Some((head, tail)) => (head, Some(tail.to_owned())),
            None => (text, None),
        };
        Ok(Self { pieces: head.split("{*}").map(str::to_owned).collect(), tail })
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        let mut rest = path;
        for (index, piece) in self.pieces.iter().enumerate() {
            if index > 0 {
                let end = rest.find('/').unwrap_or(rest.len());
                if end == 0 {
                    return false;
                }
                rest = &rest[end..];
            }
            let Some(after) = rest.strip_prefix(piece.as_str()) else { return false };
            rest = after;
        }
        self.tail.as_ref().map_or(rest.is_empty(), |tail| rest.ends_with(tail))
    }

    /// What every path that matches begins with.
    pub(crate) fn beginning(&self) -> &str {
        self.pieces.first().map_or("", String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_whole_segments() {
        for (template, path, expected) in [
            ("/foo/{*}", "/foo/bar", true),
            ("/foo/{*}", "/foo/", false),
            ("/foo/{*}", "/foo/bar/baz", false),
            ("/foo/{*}/bar", "/foo/x/bar", true),
            ("/foo/{*}/bar", "/foo/x/y/bar", false),
            ("/foo/{*}/bar", "/foo/x/bar/", false),
            ("/foo/{**}", "/foo/", true),
            ("/foo/{**}", "/foo/a/b", true),
            ("/foo/{**}", "/foo", false),
            ("/foo/{**}/", "/foo/bar/", true),
            ("/foo/{**}/", "/foo/bar/baz/", true),
            ("/foo/{**}/", "/foo/bar", false),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/", true),
            ("/foo/{*}/bar/{**}", "/foo/buzz/bar/baz", true),
            ("/foo/{*}/bar/{**}", "/foo/bar/baz", false),
            ("/{*}/{*}", "/a/b", true),
            ("/{*}/{*}", "/a//b", false),
        ] {
            assert_eq!(Template::parse(template).map(|parsed| parsed.matches(path)), Ok(expected), "{template} {path}");
        }
    }

    #[test]
    fn other_uses_of_braces_and_stars_are_refused() {
        for template in ["foo/{*}", "/foo{*}", "/{**}/{*}", "/{**}/{**}", "/{x}", "/*/{*}", "/{*", "/a*"] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
