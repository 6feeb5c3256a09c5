//! Keys as hexadecimal digits, as admin endpoints and cursors have them.

use bytes::Bytes;

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn unhex(text: &str) -> Option<Bytes> {
    let bytes = (0..text.len().div_ceil(2)).map(|at| u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok());
    bytes.collect::<Option<Vec<u8>>>().map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_half_a_byte_is_not() {
        let bytes = [0, 9, 0x10, 0xff];
        assert_eq!((hex(&bytes).as_str(), unhex("000910ff").as_deref()), ("000910ff", Some(&bytes[..])));
        assert_eq!(unhex(""), Some(Bytes::new()));
        assert_eq!([unhex("0"), unhex("123"), unhex("0g"), unhex("ä1")], [None, None, None, None]);
    }
}
