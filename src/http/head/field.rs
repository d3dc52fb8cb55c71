//! The small grammars that several header fields share: numbers, token lists, MD5 in
//! base64, authorities.

use super::Bad;

/// Numbers that do not fit into a signed 64-bit file offset are refused as the
/// reference refuses them: 507.
pub const TOO_BIG: Bad = Bad::storage("number beyond 63 bits");

/// A decimal number: digits only, at least one, at most 63 bits.
pub fn decimal(digits: &[u8], why: &'static str) -> Result<u64, Bad> {
    if digits.is_empty() {
        return Err(Bad::request(why));
    }
    let mut value = 0u64;
    let mut fits = true;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(Bad::request(why));
        }
        if fits {
            // a value of 63 bits times ten may leave 64 bits; then no later digit brings it back
            let next = value
                .checked_mul(10)
                .and_then(|v| v.checked_add(u64::from(digit - b'0')));
            match next {
                Some(next) if next <= i64::MAX as u64 => value = next,
                _ => fits = false,
            }
        }
    }
    if fits { Ok(value) } else { Err(TOO_BIG) }
}

/// Is `wanted` (lower case) one of the comma-separated tokens?
pub fn has_token(list: &[u8], wanted: &[u8]) -> bool {
    if list.len() == wanted.len() {
        return list.eq_ignore_ascii_case(wanted);
    }
    list.split(|&b| b == b',')
        .any(|token| trim(token).eq_ignore_ascii_case(wanted))
}

/// Without the blanks around it ("optional white space": blanks and tabs).
pub fn trim(value: &[u8]) -> &[u8] {
    trim_end(trim_start(value))
}

pub fn trim_start(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = value {
        value = rest;
    }
    value
}

pub fn trim_end(mut value: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// What a Content-MD5 header or trailer must look like: 22 characters of base64 and `==`.
///
/// The last character carries two bits of the sum and four that should be zero; the
/// reference does not look at those four, so neither do we.
pub fn md5(value: &[u8]) -> Result<[u8; 16], Bad> {
    const BAD: Bad = Bad::request("malformed Content-MD5");
    let [digits @ .., b'=', b'='] = value else {
        return Err(BAD);
    };
    if digits.len() != 22 {
        return Err(BAD);
    }
    let mut sum = [0; 16];
    let (mut bits, mut held, mut at) = (0u32, 0, 0);
    for &digit in digits {
        let six = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(BAD),
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            // the cast keeps the eight bits that are complete now
            sum[at] = (bits >> held) as u8;
            at += 1;
        }
    }
    Ok(sum)
}

/// May this stand in a Host header or before the path of an absolute URI? The name is
/// used for nothing here, so it is enough to keep out what could mean a different host
/// to a proxy before us: blanks, `@`, `/`, `<`, 8-bit bytes.
pub fn is_authority(name: &[u8]) -> bool {
    const LEGAL: [bool; 256] = {
        let mut legal = [false; 256];
        let marks = b"-._~!$&'()*+,;=%:[]";
        let mut i = 0;
        while i < 256 {
            legal[i] = (i as u8).is_ascii_alphanumeric();
            i += 1;
        }
        i = 0;
        while i < marks.len() {
            legal[marks[i] as usize] = true;
            i += 1;
        }
        legal
    };
    name.iter().all(|&b| LEGAL[b as usize])
}

/// A byte of a field name (RFC 9110 5.6.2, `tchar`).
pub fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A byte of a field value, in the middle of it. The reference refuses a tab there,
/// though the RFC would allow it.
pub fn is_value_byte(byte: u8) -> bool {
    byte >= b' ' && byte != 0x7f
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::status::Status;

    #[test]
    fn decimal_numbers() {
        let max = i64::MAX as u64;
        for (text, value) in [
            ("0", 0),
            ("7", 7),
            ("00012", 12),
            ("9223372036854775807", max),
            ("00009223372036854775807", max),
        ] {
            assert_eq!(decimal(text.as_bytes(), "x"), Ok(value), "{text}");
        }
        for text in [
            "",
            "+5",
            "-1",
            "5x",
            "0x5",
            " 5",
            "5 ",
            "5,5",
            "99999999999999999999999x",
        ] {
            assert_eq!(
                decimal(text.as_bytes(), "x"),
                Err(Bad::request("x")),
                "{text}"
            );
        }
        for text in [
            "9223372036854775808",
            "18446744073709551615",
            "18446744073709551616",
            "99999999999999999999999999999999999999",
        ] {
            assert_eq!(
                decimal(text.as_bytes(), "x").unwrap_err().status,
                Status::InsufficientStorage,
                "{text}"
            );
        }
    }

    #[test]
    fn md5_sums() {
        // the monitor's test value, and the sum of nothing
        let sum = [
            0x90, 0x33, 0xe0, 0xe3, 0x05, 0xf2, 0x47, 0xc0, 0xc3, 0xc8, 0x0d, 0x0c, 0x78, 0x48,
            0xc8, 0xb3,
        ];
        assert_eq!(md5(b"kDPg4wXyR8DDyA0MeEjIsw=="), Ok(sum));
        let empty = [
            0xd4, 0x1d, 0x8c, 0xd9, 0x8f, 0x00, 0xb2, 0x04, 0xe9, 0x80, 0x09, 0x98, 0xec, 0xf8,
            0x42, 0x7e,
        ];
        assert_eq!(md5(b"1B2M2Y8AsgTpgAmY7PhCfg=="), Ok(empty));
        for text in [
            "",
            "==",
            "kDPg4wXyR8DDyA0MeEjIsw=",
            "kDPg4wXyR8DDyA0MeEjIsw",
            "kDPg4wXyR8DDyA0MeEjIs==",
            "kDPg4wXyR8DDyA0MeEjIsww==",
            "kDPg4wXyR8DDyA0MeEjI-w==",
            "kDPg4wXyR8DDyA0MeEjIsw== ",
            "kDPg4wXyR8DDyA0MeEjIsw=="[..23].into(),
            "\u{e9}DPg4wXyR8DDyA0MeEjIs==",
        ] {
            assert!(md5(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn token_lists() {
        for list in [
            "close",
            "Close",
            "TE, close",
            "close, TE",
            "te,CLOSE",
            "\tclose\t",
            ",,close,",
            "x , close",
        ] {
            assert!(has_token(list.as_bytes(), b"close"), "{list}");
        }
        for list in [
            "",
            "closed",
            "close d",
            "clos",
            "x-close",
            "close;q=1",
            ",",
            "abcde",
        ] {
            assert!(!has_token(list.as_bytes(), b"close"), "{list}");
        }
    }
}
