//! The pairs that the demo loads: the bundled data set, or a file of the same form.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bytes::Bytes;

use crate::error::Failure;

/// Every row of Unicode's character database; see `data/README.md` for its source and licence.
const BUNDLED: &[u8] = include_bytes!("../../data/unicode.tsv");

/// Pairs, ascending by key, no key twice.
pub(crate) struct DataSet {
    pub(crate) name: String,
    pub(crate) pairs: Vec<(Bytes, Bytes)>,
}

impl DataSet {
    /// Reads a file, or the bundled data set if none is named.
    pub(crate) fn load(path: Option<&Path>) -> Result<Self, Failure> {
        let (name, text) = match path {
            None => ("the Unicode character database".to_owned(), Bytes::from_static(BUNDLED)),
            Some(path) => {
                let text = fs::read(path).map_err(|error| Failure::file("read", path, error))?;
                (path.display().to_string(), Bytes::from(text))
            }
        };
        let pairs = parse(&text).map_err(|line| {
            Failure::new(format!("{name}: line {line} has no tab: every line is a key, a tab and a value"))
        })?;
        if pairs.is_empty() {
            return Err(Failure::new(format!("{name} holds no pairs: every line is a key, a tab and a value")));
        }
        Ok(Self { name, pairs })
    }

    /// The pairs' keys, a line each, as `--bootstrap-keys` wants them.
    pub(crate) fn key_lines(&self) -> Vec<u8> {
        self.pairs.iter().flat_map(|(key, _)| key.iter().copied().chain([b'\n'])).collect()
    }
}

/// The pairs of a text, or the number of the first line that is none. Of two values for a key the later one counts.
fn parse(text: &Bytes) -> Result<Vec<(Bytes, Bytes)>, usize> {
    let mut pairs = BTreeMap::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            continue;
        }
        let tab = line.iter().position(|byte| *byte == b'\t').ok_or(number + 1)?;
        pairs.insert(text.slice_ref(&line[..tab]), text.slice_ref(&line[tab + 1..]));
    }
    Ok(pairs.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bundled_data_set_is_large_enough_and_sorted() {
        let data = DataSet::load(None).unwrap();
        assert!(data.pairs.len() >= 30_000);
        assert!(data.pairs.is_sorted());
        let grinning = data.pairs.iter().find(|(key, _)| key == "U+01F600").unwrap();
        assert!(grinning.1.starts_with(b"GRINNING FACE;"));
    }

    #[test]
    fn the_last_value_of_a_key_counts_and_a_line_without_a_tab_is_named() {
        let pairs = parse(&Bytes::from_static(b"b\t1\r\n\na\tx\ty\nb\t2\n")).unwrap();
        assert_eq!(
            pairs,
            [
                (Bytes::from_static(b"a"), Bytes::from_static(b"x\ty")),
                (Bytes::from_static(b"b"), Bytes::from_static(b"2"))
            ]
        );
        assert_eq!(parse(&Bytes::from_static(b"a\t1\nb\n")), Err(2));
    }
}
