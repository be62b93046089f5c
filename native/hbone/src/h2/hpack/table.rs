//! What an index stands for: the static table of the standard, and behind it what the peer had us remember.
use std::collections::VecDeque;

/// RFC 7541, appendix A; the first has index 1.
pub(super) const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What an entry counts beyond its bytes (RFC 7541, 4.1).
pub(super) const OVERHEAD: usize = 32;

/// The dynamic table: the newest first, the oldest evicted.
#[derive(Debug)]
pub(super) struct Table {
    entries: VecDeque<Entry>,
    size: usize,
    most: usize,
}

/// Name and value in one piece of memory.
#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    name: usize,
}

/// The table as plain values, the newest entry first.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct FrozenTable {
    #[prost(uint32, tag = "1")]
    most: u32,
    #[prost(message, repeated, tag = "2")]
    entries: Vec<FrozenEntry>,
}

#[derive(Clone, PartialEq, Eq, prost::Message)]
struct FrozenEntry {
    #[prost(bytes = "vec", tag = "1")]
    name: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Table {
    pub(super) fn freeze(&self) -> FrozenTable {
        let entry = |entry: &Entry| {
            let (name, value) = entry.text.split_at(entry.name);
            FrozenEntry { name: name.to_vec(), value: value.to_vec() }
        };
        FrozenTable { most: u32::try_from(self.most).unwrap_or(u32::MAX), entries: self.entries.iter().map(entry).collect() }
    }

    /// None when it is larger than it may be.
    pub(super) fn thaw(frozen: &FrozenTable, limit: usize) -> Option<Self> {
        let mut table = Self::new(usize::try_from(frozen.most).ok().filter(|most| *most <= limit)?);
        for FrozenEntry { name, value } in frozen.entries.iter().rev() {
            table.insert(name, value);
        }
        // What did not fit was evicted.
        (table.entries.len() == frozen.entries.len()).then_some(table)
    }

    pub(super) fn new(most: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, most }
    }

    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = index.checked_sub(1)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Some((name.as_bytes(), value.as_bytes()));
        }
        let entry = self.entries.get(index - STATIC.len())?;
        Some(entry.text.split_at(entry.name))
    }

    pub(super) fn insert(&mut self, name: &[u8], value: &[u8]) {
        let size = name.len() + value.len() + OVERHEAD;
        self.evict(self.most.saturating_sub(size));
        if size <= self.most {
            self.size += size;
            self.entries.push_front(Entry { text: [name, value].concat().into(), name: name.len() });
        }
    }

    pub(super) fn resize(&mut self, most: usize) {
        self.most = most;
        self.evict(most);
        if self.entries.is_empty() {
            self.entries = VecDeque::new();
        }
    }

    #[cfg(any(test, feature = "testing"))]
    pub(super) fn size(&self) -> usize {
        self.size
    }

    fn evict(&mut self, most: usize) {
        while self.size > most
            && let Some(entry) = self.entries.pop_back()
        {
            self.size -= entry.text.len() + OVERHEAD;
        }
    }
}
