//! What is left of broken transfers, to be gone on with: bounded in number, in bytes and in time.

use std::collections::BTreeMap;

use multiraft_raft::Time;

use super::SnapshotLimits;

/// Things that lie in the driver's hands under these names, as long as this says so.
#[derive(Debug)]
pub(super) struct Kept<K, V> {
    entries: BTreeMap<K, Entry<V>>,
    /// Invariant: what all entries have together.
    bytes: u64,
    next_age: u64,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: u64,
    until: Time,
    /// The oldest goes first.
    age: u64,
}

impl<K: Ord + Copy, V> Kept<K, V> {
    pub(super) fn new() -> Self {
        Self { entries: BTreeMap::new(), bytes: 0, next_age: 0 }
    }

    /// Keeps something, in the place of what has its name. Answers what has to go for it.
    pub(super) fn insert(&mut self, now: Time, limits: &SnapshotLimits, key: K, bytes: u64, value: V) -> Vec<(K, V)> {
        self.remove(key);
        self.bytes += bytes;
        self.next_age += 1;
        let entry = Entry { value, bytes, until: now.plus(limits.kept_for), age: self.next_age };
        self.entries.insert(key, entry);
        let mut gone = Vec::new();
        while self.entries.len() > limits.kept_count || self.bytes > limits.kept_bytes {
            let Some(oldest) = self.entries.iter().min_by_key(|(_, entry)| entry.age).map(|(key, _)| *key) else {
                break;
            };
            gone.extend(self.remove(oldest).map(|value| (oldest, value)));
        }
        gone
    }

    /// Takes out what has been kept long enough.
    pub(super) fn expire(&mut self, now: Time) -> Vec<(K, V)> {
        let is_old = |entry: &Entry<V>| entry.until <= now;
        let old: Vec<K> = self.entries.iter().filter(|(_, entry)| is_old(entry)).map(|(key, _)| *key).collect();
        old.into_iter().filter_map(|key| Some((key, self.remove(key)?))).collect()
    }

    pub(super) fn remove(&mut self, key: K) -> Option<V> {
        let entry = self.entries.remove(&key)?;
        self.bytes -= entry.bytes;
        Some(entry.value)
    }

    /// Names, values and bytes, in the order of the names.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, &V, u64)> {
        self.entries.iter().map(|(key, entry)| (*key, &entry.value, entry.bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn number_bytes_and_time_are_bounded_and_the_oldest_goes_first() {
        let limits = SnapshotLimits {
            kept_count: 3,
            kept_bytes: 100,
            kept_for: Duration::from_secs(10),
            ..SnapshotLimits::default()
        };
        let (mut kept, start) = (Kept::new(), Time::ZERO);
        assert_eq!(kept.insert(start, &limits, 5, 10, "a"), []);
        assert_eq!(kept.insert(start, &limits, 3, 10, "b"), []);
        assert_eq!(kept.insert(start, &limits, 4, 10, "c"), []);
        assert_eq!(kept.insert(start, &limits, 1, 10, "d"), [(5, "a")], "one too many");
        assert_eq!(kept.insert(start, &limits, 3, 85, "e"), [(4, "c")], "too many bytes; its own name was replaced");
        assert_eq!(kept.insert(start, &limits, 2, 101, "f"), [(1, "d"), (3, "e"), (2, "f")], "never fits");
        assert_eq!(kept.insert(start.plus(Duration::from_secs(1)), &limits, 7, 1, "g"), []);
        assert_eq!(kept.expire(start.plus(Duration::from_secs(10))), []);
        assert_eq!(kept.expire(start.plus(Duration::from_secs(11))), [(7, "g")]);
        assert_eq!(kept.bytes, 0);
    }
}
