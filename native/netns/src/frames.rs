//! What TCP segments to and from one port carry, as they are on the wire: TLS records, or bytes that are none.
//!
//! Pure: it is given IP packets and looks at their payload in order, stream by stream. It says "not TLS" only of bytes that cannot be part of a
//! record, and "TLS" only of those that are; what it cannot tell, because it came to a stream too late or missed a packet, it counts apart.
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    net::{IpAddr, SocketAddr},
};

/// Streams that are told apart: one direction of a connection each. Of more only the frames are counted.
const MOST_STREAMS: usize = 4096;
/// Of one stream that wait for a missing one before them; then that one is given up.
const MOST_WAITING: usize = 32;
/// Longest record of TLS 1.3 (RFC 8446, 5.2), and of a header.
const MOST_RECORD: usize = 16_384 + 256;
const HEADER: usize = 5;
/// So many bytes in a row always hold the header of a record whose end, and the header behind it, are among them.
const TELLING: u64 = 2 * (MOST_RECORD + HEADER) as u64;
/// Streams that carried what is not TLS are named, so many.
const MOST_EXAMPLES: usize = 8;

/// What was seen. Bytes are payload of TCP, each counted once: `tls_bytes`, `other_bytes` and `unknown_bytes` are all that was new.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Segments with payload, as the kernel hands them over (before it cuts them for the wire), with those that came again.
    pub frames: u64,
    pub streams: u64,
    pub records: u64,
    pub tls_bytes: u64,
    pub other_bytes: u64,
    /// Of streams that were joined in the middle, or had gaps, until the next record that is one beyond doubt.
    pub unknown_bytes: u64,
    pub repeated_bytes: u64,
    /// Never seen, though what came after them was.
    pub missed_bytes: u64,
    /// Frames of streams beyond those that are told apart.
    pub unwatched: u64,
    pub examples: Vec<String>,
}

/// Looks at one port.
#[derive(Debug)]
pub struct Watcher {
    port: u16,
    /// Both ends must be among these; empty for all.
    between: HashSet<IpAddr>,
    streams: HashMap<(SocketAddr, SocketAddr), Stream>,
    seen: Seen,
}

#[derive(Debug)]
struct Stream {
    /// Sequence number of the next byte.
    next: u32,
    /// Segments behind a gap, by sequence number as it came: a stream moves far less than half of the space while one waits.
    waiting: BTreeMap<u32, Vec<u8>>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// Nobody knows where a record begins; so many bytes in a row were looked at, and `tail` may be the beginning of a header.
    Lost { bytes: u64, tail: Vec<u8> },
    /// Inside of records. `unproven` bytes are behind a first header that only looks like one; None when there is no doubt.
    Inside { header: Vec<u8>, left: usize, unproven: Option<Unproven> },
    /// It was proven not to be TLS.
    Plain,
}

#[derive(Debug, Default, Clone, Copy)]
struct Unproven {
    records: u64,
    bytes: u64,
}

struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    syn: bool,
    payload: &'a [u8],
}

impl Watcher {
    pub fn new(port: u16, between: impl IntoIterator<Item = IpAddr>) -> Self {
        Self { port, between: between.into_iter().collect(), streams: HashMap::new(), seen: Seen::default() }
    }

    /// One packet from its IP header on; what is not a TCP segment of the port is nothing.
    pub fn packet(&mut self, packet: &[u8]) {
        let Some(segment) = segment(packet) else { return };
        let (ports, ends) = ([segment.from.port(), segment.to.port()], [segment.from.ip(), segment.to.ip()]);
        if !ports.contains(&self.port) || (!self.between.is_empty() && !ends.iter().all(|end| self.between.contains(end))) {
            return;
        }
        self.segment(&segment);
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        let key = (segment.from, segment.to);
        if !segment.payload.is_empty() {
            self.seen.frames += 1;
        }
        if segment.syn {
            // A port that is used again is another stream.
            self.flush(key);
        }
        if !self.streams.contains_key(&key) {
            if self.streams.len() >= MOST_STREAMS {
                self.seen.unwatched += u64::from(!segment.payload.is_empty());
                return;
            }
            if segment.payload.is_empty() && !segment.syn {
                return;
            }
            self.seen.streams += 1;
            let place = if segment.syn { Place::beginning() } else { Place::lost() };
            self.streams.insert(key, Stream { next: segment.sequence, waiting: BTreeMap::new(), place });
        }
        // A SYN takes a number of its own.
        let sequence = segment.sequence.wrapping_add(u32::from(segment.syn));
        if let Some(stream) = self.streams.get_mut(&key) {
            if segment.syn {
                stream.next = sequence;
            }
            stream.take(sequence, segment.payload, &mut self.seen, key);
        }
    }

    /// What waits for missing bytes waits in vain.
    fn flush(&mut self, key: (SocketAddr, SocketAddr)) {
        if let Some(mut stream) = self.streams.remove(&key) {
            stream.finish(&mut self.seen, key);
        }
    }

    /// Everything, with what could not be told.
    pub fn finish(mut self) -> Seen {
        for key in self.streams.keys().copied().collect::<Vec<_>>() {
            self.flush(key);
        }
        self.seen
    }
}

impl Stream {
    fn take(&mut self, sequence: u32, payload: &[u8], seen: &mut Seen, key: (SocketAddr, SocketAddr)) {
        if payload.is_empty() {
            return;
        }
        if ahead(sequence, self.next) > 0 {
            self.waiting.entry(sequence).or_insert_with(|| payload.to_vec());
            if self.waiting.len() > MOST_WAITING {
                self.skip(seen);
            }
        } else {
            self.advance(sequence, payload, seen, key);
        }
        while let Some((sequence, payload)) = self.ready() {
            self.advance(sequence, &payload, seen, key);
        }
    }

    /// The waiting segment that goes on where we are.
    fn ready(&mut self) -> Option<(u32, Vec<u8>)> {
        let found = self.waiting.keys().copied().find(|sequence| ahead(*sequence, self.next) <= 0)?;
        self.waiting.remove_entry(&found)
    }

    /// Gives up what is missing before the nearest that waits.
    fn skip(&mut self, seen: &mut Seen) {
        let Some(nearest) = self.waiting.keys().copied().min_by_key(|sequence| ahead(*sequence, self.next)) else { return };
        seen.missed_bytes += u64::from(nearest.wrapping_sub(self.next));
        self.next = nearest;
        self.place.lose(seen);
    }

    fn advance(&mut self, sequence: u32, payload: &[u8], seen: &mut Seen, key: (SocketAddr, SocketAddr)) {
        let old = usize::try_from(self.next.wrapping_sub(sequence)).unwrap_or(usize::MAX).min(payload.len());
        seen.repeated_bytes += old as u64;
        let new = &payload[old..];
        self.next = self.next.wrapping_add(u32::try_from(new.len()).unwrap_or_default());
        let was_plain = matches!(self.place, Place::Plain);
        self.place.run(new, seen);
        if !was_plain && matches!(self.place, Place::Plain) && seen.examples.len() < MOST_EXAMPLES {
            seen.examples.push(format!("{} → {}", key.0, key.1));
        }
    }

    fn finish(&mut self, seen: &mut Seen, key: (SocketAddr, SocketAddr)) {
        while !self.waiting.is_empty() {
            self.skip(seen);
            while let Some((sequence, payload)) = self.ready() {
                self.advance(sequence, &payload, seen, key);
            }
        }
        self.place.lose(seen);
    }
}

impl Place {
    const fn beginning() -> Self {
        Self::Inside { header: Vec::new(), left: 0, unproven: None }
    }

    const fn lost() -> Self {
        Self::Lost { bytes: 0, tail: Vec::new() }
    }

    /// The thread is lost: what was not proven is unknown.
    fn lose(&mut self, seen: &mut Seen) {
        match self {
            Self::Plain => return,
            Self::Lost { bytes, tail } => seen.unknown_bytes += *bytes + tail.len() as u64,
            Self::Inside { unproven: Some(unproven), .. } => seen.unknown_bytes += unproven.bytes,
            // Part of a header that never came whole.
            Self::Inside { header, .. } => seen.unknown_bytes += header.len() as u64,
        }
        *self = Self::lost();
    }

    fn run(&mut self, mut bytes: &[u8], seen: &mut Seen) {
        while !bytes.is_empty() {
            match self {
                Self::Plain => {
                    seen.other_bytes += bytes.len() as u64;
                    return;
                }
                Self::Lost { .. } => return self.search(bytes, seen),
                Self::Inside { .. } => bytes = self.inside(bytes, seen),
            }
        }
    }

    /// Looks for where a record begins.
    fn search(&mut self, bytes: &[u8], seen: &mut Seen) {
        let Self::Lost { bytes: looked, tail } = self else { return };
        let mut here = std::mem::take(tail);
        here.extend_from_slice(bytes);
        if let Some(at) = find(&here) {
            seen.unknown_bytes += *looked + at as u64;
            *self = Self::Inside { header: Vec::new(), left: 0, unproven: Some(Unproven::default()) };
            return self.run(&here[at..], seen);
        }
        *tail = here.split_off(here.len().saturating_sub(HEADER - 1));
        *looked += here.len() as u64;
        if *looked >= TELLING {
            seen.other_bytes += *looked + tail.len() as u64;
            *self = Self::Plain;
        }
    }

    /// Takes a record's rest or its header, and gives what is left.
    fn inside<'a>(&mut self, bytes: &'a [u8], seen: &mut Seen) -> &'a [u8] {
        let Self::Inside { header, left, unproven } = self else { return bytes };
        if *left > 0 {
            let now = (*left).min(bytes.len());
            *left -= now;
            match unproven {
                Some(unproven) => unproven.bytes += now as u64,
                None => seen.tls_bytes += now as u64,
            }
            return &bytes[now..];
        }
        let now = (HEADER - header.len()).min(bytes.len());
        header.extend_from_slice(&bytes[..now]);
        if header.len() < HEADER {
            return &bytes[now..];
        }
        let Some(length) = record(header) else {
            let taken = header.len() as u64;
            if let Some(unproven) = unproven {
                // It only looked like a record, and may have hidden one: the search begins anew behind it.
                seen.unknown_bytes += unproven.bytes + taken;
                *self = Self::lost();
            } else {
                seen.other_bytes += taken;
                *self = Self::Plain;
            }
            return &bytes[now..];
        };
        header.clear();
        *left = length;
        match unproven {
            // A second header where the first one says it is: chance does that once in 2^48.
            Some(proven) if proven.records > 0 => {
                seen.records += proven.records + 1;
                seen.tls_bytes += proven.bytes + HEADER as u64;
                *self = Self::Inside { header: Vec::new(), left: length, unproven: None };
            }
            Some(unproven) => {
                unproven.records += 1;
                unproven.bytes += HEADER as u64;
            }
            None => {
                seen.records += 1;
                seen.tls_bytes += HEADER as u64;
            }
        }
        &bytes[now..]
    }
}

/// Payload length of the record whose header this is.
fn record(header: &[u8]) -> Option<usize> {
    let [kind @ 20..=23, 3, version @ (1 | 3), high, low] = *header else { return None };
    let length = usize::from(u16::from_be_bytes([high, low]));
    // Only the first ClientHello says 3.1.
    let allowed = version == 3 || kind == 22;
    (allowed && (1..=MOST_RECORD).contains(&length)).then_some(length)
}

/// Where the next record may begin: a header, and at its end another one or the end of what is here.
fn find(bytes: &[u8]) -> Option<usize> {
    bytes.windows(HEADER).enumerate().find_map(|(at, header)| {
        let end = at + HEADER + record(header)?;
        let next = bytes.get(end..).unwrap_or_default();
        (next.len() < HEADER || record(&next[..HEADER]).is_some()).then_some(at)
    })
}

/// How far a sequence number is beyond another one, round the end of the numbers.
fn ahead(sequence: u32, of: u32) -> i32 {
    sequence.wrapping_sub(of).cast_signed()
}

fn segment(packet: &[u8]) -> Option<Segment<'_>> {
    const TCP: u8 = 6;
    /// A later fragment has no header of TCP.
    const FRAGMENT_OFFSET: u16 = 0x1fff;
    let word = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let (from, to, tcp) = match packet.first()? >> 4 {
        4 if *packet.get(9)? == TCP && word(6)? & FRAGMENT_OFFSET == 0 => {
            let from: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
            let to: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            // 0: longer than the field can say, so there is no padding behind it.
            let length = match usize::from(word(2)?) {
                0 => packet.len(),
                length => length.min(packet.len()),
            };
            (IpAddr::from(from), IpAddr::from(to), packet.get(usize::from(packet[0] & 15) * 4..length)?)
        }
        6 if *packet.get(6)? == TCP => {
            let from: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
            let to: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            let length = match usize::from(word(4)?) {
                0 => packet.len(),
                length => (40 + length).min(packet.len()),
            };
            (IpAddr::from(from), IpAddr::from(to), packet.get(40..length)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes([*tcp.get(at)?, *tcp.get(at + 1)?]));
    Some(Segment {
        from: SocketAddr::new(from, port(0)?),
        to: SocketAddr::new(to, port(2)?),
        sequence: u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?),
        syn: tcp.get(13)? & 2 != 0,
        payload: tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: ([u8; 4], u16) = ([10, 0, 0, 1], 40_000);
    const SERVER: ([u8; 4], u16) = ([10, 0, 0, 2], 15_008);
    const SYN: u8 = 2;
    const ACK: u8 = 16;

    fn packet(sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0];
        bytes.extend(CLIENT.0.iter().chain(&SERVER.0));
        bytes.extend(CLIENT.1.to_be_bytes().iter().chain(&SERVER.1.to_be_bytes()));
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0, 0, 0, 0, 5 << 4, flags, 0, 0, 0, 0, 0, 0]);
        bytes.extend(payload);
        let length = u16::try_from(bytes.len()).unwrap_or(0);
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        bytes
    }

    fn tls(lengths: impl IntoIterator<Item = usize>, random: &mut fastrand::Rng) -> Vec<u8> {
        let mut bytes = Vec::new();
        for length in lengths {
            bytes.extend([23, 3, 3]);
            bytes.extend(u16::try_from(length).expect("a record").to_be_bytes());
            bytes.extend((0..length).map(|_| random.u8(..)));
        }
        bytes
    }

    /// Segments of all sizes, shuffled within a window, some of them twice.
    fn cut(bytes: &[u8], from: u32, random: &mut fastrand::Rng) -> Vec<Vec<u8>> {
        let mut packets = Vec::new();
        let mut at = 0;
        while at < bytes.len() {
            let size = random.usize(1..=1448).min(bytes.len() - at);
            let offset = u32::try_from(at).expect("a short stream");
            packets.push(packet(from.wrapping_add(offset), ACK, &bytes[at..at + size]));
            if random.u8(..) < 20 {
                packets.push(packets[random.usize(..packets.len())].clone());
            }
            at += size;
        }
        // The first one says where a stream that is joined in the middle begins.
        for index in 2..packets.len() {
            if random.bool() {
                packets.swap(index - 1, index);
            }
        }
        packets
    }

    fn watched(packets: impl IntoIterator<Item = Vec<u8>>) -> Seen {
        let mut watcher = Watcher::new(SERVER.1, []);
        packets.into_iter().for_each(|packet| watcher.packet(&packet));
        watcher.finish()
    }

    #[test]
    fn a_whole_stream_of_records_is_tls_to_the_byte_out_of_order_and_repeated_too() {
        for seed in 0..200 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let lengths: Vec<usize> = (0..20).map(|_| random.usize(1..=MOST_RECORD)).collect();
            let bytes = tls(lengths, random);
            let start = random.u32(..);
            let mut packets = vec![packet(start, SYN, &[])];
            packets.extend(cut(&bytes, start.wrapping_add(1), random));
            let seen = watched(packets);
            assert_eq!((seen.records, seen.tls_bytes), (20, bytes.len() as u64), "seed {seed}: {seen:?}");
            assert_eq!((seen.other_bytes, seen.unknown_bytes, seen.missed_bytes, seen.streams), (0, 0, 0, 1), "seed {seed}");
        }
    }

    #[test]
    fn what_is_not_tls_is_counted_to_the_byte_from_the_first_one_that_cannot_be() {
        let text = b"GET / HTTP/1.1\r\nhost: api\r\n\r\n";
        let seen = watched([packet(9, SYN, &[]), packet(10, ACK, text)]);
        assert_eq!((seen.other_bytes, seen.tls_bytes, seen.unknown_bytes), (text.len() as u64, 0, 0));
        assert_eq!(seen.examples, ["10.0.0.1:40000 → 10.0.0.2:15008"]);

        let random = &mut fastrand::Rng::with_seed(1);
        let mut bytes = tls([300, 20], random);
        let good = bytes.len() as u64;
        bytes.extend(text);
        let seen = watched([packet(9, SYN, &[]), packet(10, ACK, &bytes)]);
        assert_eq!((seen.records, seen.tls_bytes, seen.other_bytes), (2, good, text.len() as u64));
    }

    #[test]
    fn a_stream_that_was_joined_in_the_middle_is_tls_once_two_records_follow_each_other() {
        for seed in 0..200 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let lengths: Vec<usize> = (0..30).map(|_| random.usize(1..=MOST_RECORD)).collect();
            let bytes = tls(lengths, random);
            let late = random.usize(..MOST_RECORD);
            let seen = watched(cut(&bytes[late..], 7, random));
            let all = (bytes.len() - late) as u64;
            assert_eq!(seen.other_bytes, 0, "seed {seed}: {seen:?}");
            // What it was joined in, and at the end a record that no other one followed.
            assert!(seen.tls_bytes > all / 2, "seed {seed}: {seen:?}");
            assert_eq!(seen.tls_bytes + seen.unknown_bytes, all, "seed {seed}: {seen:?}");
        }
    }

    #[test]
    fn plaintext_that_was_joined_in_the_middle_is_plaintext_after_so_much_that_a_record_must_have_begun() {
        let random = &mut fastrand::Rng::with_seed(3);
        let text: Vec<u8> = (0..60_000).map(|_| random.u8(32..127)).collect();
        let seen = watched(cut(&text, 7, random));
        assert_eq!((seen.other_bytes, seen.tls_bytes, seen.unknown_bytes), (60_000, 0, 0));
        let little = watched([packet(7, ACK, &text[..1000])]);
        assert_eq!((little.other_bytes, little.unknown_bytes), (0, 1000), "too little to tell, and that is said");
    }

    #[test]
    fn a_gap_makes_what_follows_unknown_until_records_are_found_again_and_never_plaintext() {
        for seed in 0..100 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let lengths: Vec<usize> = (0..60).map(|_| random.usize(1..=4000)).collect();
            let bytes = tls(lengths, random);
            let mut packets = vec![packet(0, SYN, &[])];
            packets.extend(bytes.chunks(1000).enumerate().map(|(index, chunk)| {
                let sequence = u32::try_from(1 + index * 1000).expect("a short stream");
                packet(sequence, ACK, chunk)
            }));
            let lost = random.usize(10..packets.len() - 40);
            packets.remove(lost);
            let seen = watched(packets);
            assert_eq!((seen.other_bytes, seen.missed_bytes), (0, 1000), "seed {seed}: {seen:?}");
            assert_eq!(seen.tls_bytes + seen.unknown_bytes + 1000, bytes.len() as u64, "seed {seed}: {seen:?}");
        }
    }

    #[test]
    fn other_ports_other_peers_and_what_is_no_packet_are_nothing() {
        let text = packet(1, ACK, b"hello");
        assert_eq!(watched([Vec::new(), vec![0x45], vec![0; 60]]), Seen::default());
        let mut elsewhere = Watcher::new(443, []);
        elsewhere.packet(&text);
        assert_eq!(elsewhere.finish(), Seen::default());
        for (other, frames) in [("10.0.0.2", 1), ("10.0.0.3", 0)] {
            let between = ["10.0.0.1", other].map(|address| address.parse().expect("an address"));
            let mut watcher = Watcher::new(SERVER.1, between);
            watcher.packet(&text);
            assert_eq!(watcher.finish().frames, frames, "{other}");
        }
        // Padding of a short Ethernet frame is not payload.
        let mut padded = packet(1, ACK, &[]);
        padded.extend([0; 6]);
        assert_eq!(watched([padded]).frames, 0);
    }

    #[test]
    fn streams_without_number_do_not_grow_it_beyond_its_bound() {
        let mut watcher = Watcher::new(SERVER.1, []);
        for port in 0..10_000_u16 {
            let mut one = packet(1, ACK, b"x");
            one[20..22].copy_from_slice(&(20_000 + port).to_be_bytes());
            watcher.packet(&one);
        }
        let seen = watcher.finish();
        assert_eq!((seen.streams, seen.frames, seen.unwatched), (4096, 10_000, 10_000 - 4096));
    }
}
