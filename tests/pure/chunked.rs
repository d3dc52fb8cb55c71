use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::invariants::chunked::{check, decode};

/// A body, its pieces, and one way to write them.
fn bodies() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let extension = select(["", ";", ";a=b", ";a=\"b;c\"", "; \t x"].as_slice());
    let trailer = select(
        [
            "",
            "X: y\r\n",
            "X_:\r\n",
            "Content-MD5: kDPg4wXyR8DDyA0MeEjIsw==\r\n",
        ]
        .as_slice(),
    );
    let chunks = vec(
        (vec(any::<u8>(), 1..40), 0..4usize, any::<bool>(), extension),
        0..8,
    );
    (chunks, trailer).prop_map(|(chunks, trailer)| {
        let (mut body, mut wire) = (Vec::new(), Vec::new());
        for (data, zeros, upper, extension) in &chunks {
            let size = if *upper {
                format!("{:X}", data.len())
            } else {
                format!("{:x}", data.len())
            };
            wire.extend_from_slice(
                format!("{}{size}{extension}\r\n", "0".repeat(*zeros)).as_bytes(),
            );
            wire.extend_from_slice(&[data, &b"\r\n"[..]].concat());
            body.extend_from_slice(data);
        }
        wire.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
        (body, wire)
    })
}

proptest! {
    #![proptest_config(super::config())]

    #[test]
    fn any_chunks_in_any_pieces(
        (body, wire) in bodies(),
        after in vec(any::<u8>(), 0..20),
        step in 1..100usize,
    ) {
        let end = wire.len();
        let stream = [wire, after].concat();
        prop_assert_eq!(decode(&stream, step), Ok(Some((body, end))));
        prop_assert_eq!(decode(&stream[..end - 1], step), Ok(None));
    }

    #[test]
    fn bodies_with_a_byte_changed(
        (_, mut wire) in bodies(),
        at in any::<prop::sample::Index>(),
        byte in select(b"\r\n;:0f \t\0\xff".as_slice()),
        step: u8,
    ) {
        let at = at.index(wire.len());
        wire[at] = byte;
        wire.insert(0, step);
        check(&wire);
    }

    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        check(&bytes);
        check(&[b"\x03f;", &bytes[..], b"\r\n0123456789abcde\r\n0\r\n\r\n"].concat());
        check(&[b"\x030\r\nX:", &bytes[..], b"\r\n\r\n"].concat());
    }
}
