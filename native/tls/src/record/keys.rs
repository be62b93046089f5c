//! The keys of one direction: derived from a traffic secret, used once per record number, replaced by their successors.
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, Algorithm, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use rustls::{CipherSuite, ConnectionTrafficSecrets};
use zeroize::{Zeroize, Zeroizing};

use super::{HEADER, RecordError, TAG};

/// The suites that we offer; `config` names the same two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    Aes128GcmSha256,
    Aes256GcmSha384,
}

/// A traffic secret; overwritten when dropped, never printed.
pub(crate) struct Secret(Zeroizing<Vec<u8>>);

/// One direction of a connection.
pub(crate) struct Keys {
    suite: Suite,
    secret: Secret,
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    /// Number of the next record; the nonce is made from it, so it only ever grows, and starts again with new keys only.
    sequence: u64,
}

impl Suite {
    pub(crate) fn of(suite: CipherSuite) -> Option<Self> {
        match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Self::Aes128GcmSha256),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Self::Aes256GcmSha384),
            _ => None,
        }
    }

    /// The number by which everybody knows it.
    pub(crate) fn number(self) -> u16 {
        match self {
            Self::Aes128GcmSha256 => CipherSuite::TLS13_AES_128_GCM_SHA256.into(),
            Self::Aes256GcmSha384 => CipherSuite::TLS13_AES_256_GCM_SHA384.into(),
        }
    }

    fn aead(self) -> &'static Algorithm {
        match self {
            Self::Aes128GcmSha256 => &AES_128_GCM,
            Self::Aes256GcmSha384 => &AES_256_GCM,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes128GcmSha256 => HKDF_SHA256,
            Self::Aes256GcmSha384 => HKDF_SHA384,
        }
    }

    fn secret_length(self) -> usize {
        match self {
            Self::Aes128GcmSha256 => 32,
            Self::Aes256GcmSha384 => 48,
        }
    }
}

impl Secret {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // The secret wipes itself, and AWS-LC the expanded key.
        self.iv.zeroize();
    }
}

impl Keys {
    pub(crate) fn new(suite: Suite, secret: Secret) -> Result<Self, RecordError> {
        if secret.0.len() != suite.secret_length() {
            return Err(RecordError::Internal { what: "a traffic secret of another length" });
        }
        let prk = Prk::new_less_safe(suite.hkdf(), &secret.0);
        let mut bytes = Zeroizing::new([0; 32]);
        let bytes = &mut bytes[..suite.aead().key_len()];
        expand_label(&prk, b"key", bytes)?;
        let mut iv = [0; NONCE_LEN];
        expand_label(&prk, b"iv", &mut iv)?;
        let key = UnboundKey::new(suite.aead(), bytes).map_err(|_| RecordError::Internal { what: "a key was not accepted" })?;
        Ok(Self { suite, secret, key: LessSafeKey::new(key), iv, sequence: 0 })
    }

    /// Goes on with this generation where another process left it: no number is used twice as long as that one is done with it.
    pub(crate) fn resume(suite: Suite, secret: Secret, sequence: u64) -> Result<Self, RecordError> {
        let mut keys = Self::new(suite, secret)?;
        keys.sequence = sequence;
        Ok(keys)
    }

    pub(crate) fn suite(&self) -> Suite {
        self.suite
    }

    pub(crate) fn secret(&self) -> &Secret {
        &self.secret
    }

    /// The next generation (RFC 8446, 7.2); from here on the old one is gone.
    pub(crate) fn update(&mut self) -> Result<(), RecordError> {
        let mut next = Secret(Zeroizing::new(vec![0; self.suite.secret_length()]));
        expand_label(&Prk::new_less_safe(self.suite.hkdf(), &self.secret.0), b"traffic upd", &mut next.0)?;
        *self = Self::new(self.suite, next)?;
        Ok(())
    }

    /// Records sealed or opened by this generation.
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether rustls came to the same key and IV for its first record.
    pub(crate) fn agree(&self, (sequence, theirs): &(u64, ConnectionTrafficSecrets)) -> Result<bool, RecordError> {
        let ((Suite::Aes128GcmSha256, ConnectionTrafficSecrets::Aes128Gcm { key, iv })
        | (Suite::Aes256GcmSha384, ConnectionTrafficSecrets::Aes256Gcm { key, iv })) = (self.suite, theirs)
        else {
            return Ok(false);
        };
        let mut ours = Zeroizing::new([0; 32]);
        let ours = &mut ours[..self.suite.aead().key_len()];
        expand_label(&Prk::new_less_safe(self.suite.hkdf(), &self.secret.0), b"key", ours)?;
        Ok(*sequence == self.sequence && key.as_ref() == ours && iv.as_ref() == self.iv)
    }

    /// Makes a record of `data` and its content type. `record` is exactly as long as the record; with no `data` given it stands in it
    /// already, behind the room for the header.
    pub(crate) fn seal(&mut self, kind: u8, data: Option<&[u8]>, record: &mut [u8]) -> Result<(), RecordError> {
        let header = header(record.len() - HEADER)?;
        let (front, body) = record.split_at_mut(HEADER);
        front.copy_from_slice(&header);
        let (text, end) = body.split_at_mut(body.len() - 1 - TAG);
        let (nonce, aad) = (self.nonce()?, Aad::from(header));
        let sealed = match data {
            Some(data) => self.key.seal_out_of_place_scatter(nonce, aad, data, text, &[kind], end),
            None => self.key.seal_in_place_scatter(nonce, aad, text, &[kind], end),
        };
        sealed.map_err(|_| RecordError::Internal { what: "a record could not be sealed" })
    }

    /// Opens a whole record in place; what comes back still has its content type and padding.
    pub(crate) fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<&'a mut [u8], RecordError> {
        let (front, body) = record.split_at_mut(HEADER);
        let aad: [u8; HEADER] = std::array::from_fn(|at| front[at]);
        let nonce = self.nonce()?;
        self.key.open_in_place(nonce, Aad::from(aad), body).map_err(|_| RecordError::Mac)
    }

    /// Each number once: when they end, nothing is sealed or opened any more.
    fn nonce(&mut self) -> Result<Nonce, RecordError> {
        let next = self.sequence.checked_add(1).ok_or(RecordError::Internal { what: "record numbers ended" })?;
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence = next;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

fn header(body: usize) -> Result<[u8; HEADER], RecordError> {
    let [high, low] = u16::try_from(body).map_err(|_| RecordError::Internal { what: "a record was too long" })?.to_be_bytes();
    Ok([super::content::APPLICATION_DATA, 3, 3, high, low])
}

/// HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
fn expand_label(prk: &Prk, label: &[u8], out: &mut [u8]) -> Result<(), RecordError> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    const PREFIX: &[u8] = b"tls13 ";
    let failed = |_| RecordError::Internal { what: "a key could not be derived" };
    let length = u16::try_from(out.len()).map_err(|_| RecordError::Internal { what: "a derived key was too long" })?.to_be_bytes();
    let label_length = [u8::try_from(PREFIX.len() + label.len()).map_err(|_| RecordError::Internal { what: "a label was too long" })?];
    let info = [&length[..], &label_length, PREFIX, label, &[0]];
    prk.expand(&info, Length(out.len())).map_err(failed)?.fill(out).map_err(failed)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)] // in tests a failed unwrap is the message
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<_> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn keys_are_those_of_the_published_handshake() {
        // RFC 8448, section 3: the server's application traffic.
        let secret = hex("a1 1a f9 f0 55 31 f8 56 ad 47 11 6b 45 a9 50 32 82 04 b4 f4 4b fb 6b 3a 4b 4f 1f 3f cb 63 16 43");
        let prk = Prk::new_less_safe(HKDF_SHA256, &secret);
        let mut key = [0; 16];
        expand_label(&prk, b"key", &mut key).unwrap();
        assert_eq!(key.as_slice(), hex("9f 02 28 3b 6c 9c 07 ef c2 6b b9 f2 ac 92 e3 56"));
        let keys = Keys::new(Suite::Aes128GcmSha256, Secret::new(&secret)).unwrap();
        assert_eq!(keys.iv.as_slice(), hex("cf 78 2b 88 dd 83 54 9a ad f1 e9 84"));
    }

    #[test]
    fn a_number_is_used_once_and_the_last_one_not_at_all() {
        let mut keys = Keys::new(Suite::Aes256GcmSha384, Secret::new(&[7; 48])).unwrap();
        let first = *keys.nonce().unwrap().as_ref();
        let second = *keys.nonce().unwrap().as_ref();
        assert_ne!(first, second);
        keys.sequence = u64::MAX;
        assert!(keys.nonce().is_err());
        assert_eq!(keys.sequence, u64::MAX, "and never starts again");
        keys.update().unwrap();
        assert_eq!(keys.sequence, 0);
        assert_ne!(*keys.nonce().unwrap().as_ref(), first, "with another IV");
        assert!(Keys::new(Suite::Aes128GcmSha256, Secret::new(&[7; 48])).is_err());
    }
}
