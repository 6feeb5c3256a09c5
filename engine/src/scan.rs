//! Walking over a range of keys in order, across regions that may split, merge or move meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{KeyRange, RegionDescriptor};

use crate::engine::Engine;
use crate::error::ReadError;
use crate::options::Consistency;

/// A walk over a range of keys, one part after the other. Made by [`Engine::scan`].
///
/// The walk stands at a *key*, never at a region. Each step asks the region that owns this key, under the epoch at which it was
/// found to own it, for the keys from there to its end: so the answer covers exactly [`Part::range`], whatever regions become
/// in between, and the walk neither loses a key nor sees it twice. Each part is read at an instant of its own (as fresh as
/// the walk's [`Consistency`]), not the whole range at one.
///
/// ```no_run
/// # async fn example(engine: multiraft::Engine) -> Result<(), multiraft::ReadError> {
/// # use multiraft::KeyRange;
/// # fn first_hundred(_: &KeyRange) -> Vec<u8> { Vec::new() }
/// # fn keys_of(_: &[u8]) -> Vec<Vec<u8>> { Vec::new() }
/// let mut scan = engine.scan(KeyRange::full());
/// while let Some(part) = scan.next(|range| first_hundred(range)).await? {
///     let keys = keys_of(&part.answer);
///     // The machine was asked for a hundred keys at most: if that many came, the part may hold more.
///     if let Some(last) = keys.last().filter(|_| keys.len() == 100) {
///         scan.resume_after(last);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Scan {
    engine: Engine,
    /// The next key; `None`: the walk is at its end.
    position: Option<Bytes>,
    /// The first key behind the walk; empty: the end of all keys.
    end: Bytes,
    consistency: Consistency,
    timeout: Option<Duration>,
}

/// What one step of a [`Scan`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Part {
    /// The keys that were asked for: from where the walk stood to the end of the region, or of the walk.
    pub range: KeyRange,
    /// The region that answered, as it was when it did.
    pub region: Arc<RegionDescriptor>,
    /// What its state machine answered.
    pub answer: Bytes,
}

impl Engine {
    /// Walks over a range of keys in order. Linearizable part by part; nothing is read before the first step.
    #[must_use]
    pub fn scan(&self, range: KeyRange) -> Scan {
        let is_empty = !range.end.is_empty() && range.start >= range.end;
        Scan {
            engine: self.clone(),
            position: (!is_empty).then_some(range.start),
            end: range.end,
            consistency: Consistency::default(),
            timeout: None,
        }
    }
}

impl Scan {
    /// How fresh the parts must be. [`Consistency::Local`] needs a replica of every region of the range on this store.
    #[must_use]
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.consistency = consistency;
        self
    }

    /// How long a step may take. Default: [`Config::request_timeout`](crate::Config::request_timeout).
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Where the walk goes on; `None` at its end. [`Engine::scan`] from there to the same end is the same walk, also on
    /// another store.
    #[must_use]
    pub fn position(&self) -> Option<&Bytes> {
        self.position.as_ref()
    }

    /// Asks the next part what `query` makes of its range, and moves behind it; `None` at the end. `query` may be called
    /// several times, for other ranges, until a region has answered. After an error the walk stands where it stood.
    ///
    /// # Errors
    /// [`ReadError`]; the step may be tried again.
    pub async fn next<Q: Into<Bytes>>(&mut self, query: impl Fn(&KeyRange) -> Q) -> Result<Option<Part>, ReadError> {
        let Some(position) = self.position.clone() else {
            return Ok(None);
        };
        let part_of = |region: &RegionDescriptor| KeyRange {
            start: position.clone(),
            end: lower_end(&region.range.end, &self.end).clone(),
        };
        let deadline = self.engine.deadline(self.timeout);
        let query = |region: &RegionDescriptor| query(&part_of(region)).into();
        let (region, answer) = self.engine.read_routed(&position, query, self.consistency, deadline).await?;
        let range = part_of(&region);
        self.position = (range.end != self.end).then(|| range.end.clone());
        Ok(Some(Part { range, region, answer }))
    }

    /// The last part was not answered to its end: the walk goes on at the key right behind `key`.
    pub fn resume_after(&mut self, key: &[u8]) {
        let mut next = Vec::with_capacity(key.len() + 1);
        next.extend_from_slice(key);
        next.push(0);
        self.resume_at(next);
    }

    /// The walk goes on at `key`, wherever it stood.
    pub fn resume_at(&mut self, key: impl Into<Bytes>) {
        let key = key.into();
        self.position = (self.end.is_empty() || key < self.end).then_some(key);
    }
}

/// The lower of two ends, the empty end being above all keys.
fn lower_end<'a>(one: &'a Bytes, other: &'a Bytes) -> &'a Bytes {
    if one.is_empty() || (!other.is_empty() && other < one) { other } else { one }
}
