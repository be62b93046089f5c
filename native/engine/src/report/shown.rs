//! An address and its port as text. The library's own way calls the formatter for each number: two of them took a twentieth of a request.
use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;

/// "255.255.255.255:65535"
const LONGEST: usize = 21;

pub(super) struct Shown(pub(super) SocketAddr);

impl Display for Shown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let SocketAddr::V4(address) = self.0 else { return Display::fmt(&self.0, f) };
        let mut text = [0; LONGEST];
        let mut end = 0;
        for (index, octet) in address.ip().octets().into_iter().enumerate() {
            if index > 0 {
                put(&mut text, &mut end, b'.');
            }
            number(&mut text, &mut end, octet.into());
        }
        put(&mut text, &mut end, b':');
        number(&mut text, &mut end, address.port());
        // Digits, dots and a colon.
        f.write_str(std::str::from_utf8(&text[..end]).unwrap_or_default())
    }
}

fn put(text: &mut [u8; LONGEST], end: &mut usize, byte: u8) {
    text[*end] = byte;
    *end += 1;
}

fn number(text: &mut [u8; LONGEST], end: &mut usize, number: u16) {
    let mut power: u16 = [1, 10, 100, 1000, 10_000].into_iter().rev().find(|power| number >= *power).unwrap_or(1);
    while power > 0 {
        // A remainder of ten is a digit.
        put(text, end, b'0' + u8::try_from(number / power % 10).unwrap_or(0));
        power /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_address_is_what_the_library_writes() {
        for text in ["0.0.0.0:0", "10.96.0.1:80", "255.255.255.255:65535", "192.168.88.109:9000", "1.20.100.9:10000", "[2001:db8::1]:443"] {
            let address: SocketAddr = text.parse().expect("an address");
            assert_eq!(Shown(address).to_string(), text);
        }
        for port in 0..=u16::MAX {
            let address = SocketAddr::from(([10, 0, 0, 1], port));
            assert_eq!(Shown(address).to_string(), address.to_string());
        }
    }
}
