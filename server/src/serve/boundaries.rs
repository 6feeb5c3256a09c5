//! Where a new cluster's key space is cut.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use bytes::Bytes;

use crate::error::Failure;

/// How many keys `redis-benchmark` can make, from `key:000000000000` on.
const BENCHMARK_KEYS: u64 = 1_000_000;

/// The `regions - 1` keys at which the space of `key:000000000000` to `key:000000999999` is cut into equal parts.
pub(crate) fn of_benchmark(regions: usize) -> Result<Vec<Bytes>, Failure> {
    let count = u64::try_from(regions).unwrap_or(u64::MAX);
    if count > BENCHMARK_KEYS {
        return Err(Failure::new(format!("--bootstrap-regions {regions} is more than {BENCHMARK_KEYS}")));
    }
    Ok((1..count).map(|i| Bytes::from(format!("key:{:012}", i * BENCHMARK_KEYS / count))).collect())
}

/// The `regions - 1` quantiles of a file's keys, so that each region gets about as many of them.
pub(crate) fn of_file(path: &Path, regions: usize) -> Result<Vec<Bytes>, Failure> {
    let text = fs::read(path).map_err(|error| Failure::file("read", path, error))?;
    quantiles(keys_of(&text), regions).map_err(|found| {
        Failure::new(format!(
            "{} holds {found} different keys, too few to cut {regions} regions by: give more keys or fewer regions",
            path.display()
        ))
    })
}

/// The keys of a file: the lines, each up to its first tab.
fn keys_of(text: &[u8]) -> BTreeSet<&[u8]> {
    text.split(|byte| *byte == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
        .filter(|line| !line.is_empty())
        .filter_map(|line| line.split(|byte| *byte == b'\t').next())
        .collect()
}

/// The keys that begin the second to the last of `regions` equal parts; how many keys there are if they are too few.
fn quantiles(keys: BTreeSet<&[u8]>, regions: usize) -> Result<Vec<Bytes>, usize> {
    if keys.len() < regions {
        return Err(keys.len());
    }
    let keys: Vec<_> = keys.into_iter().collect();
    Ok((1..regions).map(|i| Bytes::copy_from_slice(keys[i * keys.len() / regions])).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmark_space_is_cut_into_equal_parts() {
        let cuts = of_benchmark(4).unwrap();
        assert_eq!(cuts, [&b"key:000000250000"[..], b"key:000000500000", b"key:000000750000"]);
        assert!(of_benchmark(1).unwrap().is_empty());
    }

    #[test]
    fn quantiles_are_keys_of_the_file() {
        let text = b"d\t1\r\nb\t2\n\na\tx\ty\nc\nb\t3\n";
        assert_eq!(quantiles(keys_of(text), 4).unwrap(), [&b"b"[..], b"c", b"d"]);
        assert_eq!(quantiles(keys_of(text), 2).unwrap(), [&b"c"[..]]);
        assert_eq!(quantiles(keys_of(text), 5), Err(4));
    }
}
