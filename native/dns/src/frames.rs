//! DNS over TCP: each message behind two bytes of length.

const LENGTH_BYTES: usize = 2;

/// Collects bytes and gives whole messages. Holds one unfinished message at most, 64 KiB, when the caller takes all before it adds more.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    taken: usize,
}

impl Frames {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn take(&mut self) -> Option<&[u8]> {
        let (length, rest) = self.bytes.get(self.taken..)?.split_first_chunk::<LENGTH_BYTES>()?;
        let message = rest.get(..usize::from(u16::from_be_bytes(*length)))?;
        self.taken += LENGTH_BYTES + message.len();
        Some(message)
    }
}

/// The message with its length before it; None when it is too long for that.
pub(crate) fn framed(message: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(message.len()).ok()?.to_be_bytes();
    Some([&length, message].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_whole_however_the_bytes_arrive() {
        let sent: Vec<Vec<u8>> = [0, 1, 300, 65_535, 2].map(|length| vec![7; length]).into();
        let stream: Vec<u8> = sent.iter().flat_map(|message| framed(message).expect("fits")).collect();
        for piece in [1, 2, 3, 1000, stream.len()] {
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for bytes in stream.chunks(piece) {
                frames.add(bytes);
                while let Some(message) = frames.take() {
                    got.push(message.to_vec());
                }
            }
            assert_eq!(got, sent);
        }
        assert!(framed(&vec![0; 65_536]).is_none());
    }
}
