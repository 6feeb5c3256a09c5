//! What clients asked, when, and what they were told: the evidence that the linearizability check judges.
//!
//! A key is either a register (put, compare-and-set) or a list (append). Values that are written are never zero and unique
//! in a run, so that whoever sees one knows who wrote it. Zero stands for "no value".

use std::collections::BTreeMap;
use std::fmt;

use crate::schedule::Moment;

/// A key under test.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The region that owned it when the run began.
    pub region: u64,
    /// Which of the region's keys; even ones are registers, odd ones are lists.
    pub number: u64,
}

impl Key {
    /// Whether it holds a list.
    #[must_use]
    pub const fn is_list(self) -> bool {
        self.number % 2 == 1
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_list() { "list" } else { "register" };
        write!(f, "{kind} {}/{}", self.region, self.number)
    }
}

/// What a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Set a register; the answer tells what it was.
    Put(u64),
    /// Set a register to the second value if it holds the first.
    Cas(u64, u64),
    /// Add to the end of a list; the answer tells how long it is now.
    Append(u64),
    /// Read the key, linearizably.
    Read,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Action::Put`]: the value before.
    Previous(u64),
    /// To [`Action::Cas`]: what it found; it swapped if that is what it expected.
    Found(u64),
    /// To [`Action::Append`]: the length of the list with the new element.
    Length(u64),
    /// To [`Action::Read`] of a register.
    Value(u64),
    /// To [`Action::Read`] of a list.
    List(Vec<u64>),
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub client: u64,
    /// About what.
    pub key: Key,
    /// What.
    pub action: Action,
    /// When it was asked.
    pub invoked: Moment,
    /// When and what was answered; `None`: the outcome is unknown, it may take effect at any time or never.
    pub returned: Option<(Moment, Answer)>,
}

/// A recovery that may have taken the last writes of a key away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The key.
    pub key: Key,
    /// When: everything that was answered before may be gone, and nothing that was sent before is under way any more.
    pub at: Moment,
    /// What the key holds after it, as the answer to a read.
    pub found: Answer,
}

/// The operations of a run that may have had an effect, and all reads that were answered.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
    losses: Vec<Loss>,
}

impl History {
    /// Adds an operation. Those that certainly had no effect, and reads that were not answered, do not belong in it.
    pub fn add(&mut self, operation: Operation) {
        self.operations.push(operation);
    }

    /// Adds a recovery that may have taken the last writes of a key away: after all earlier ones of that key.
    pub fn add_loss(&mut self, loss: Loss) {
        self.losses.push(loss);
    }

    /// What recoveries may have taken from a key, in order of time.
    #[must_use]
    pub fn losses(&self, key: Key) -> Vec<&Loss> {
        self.losses.iter().filter(|loss| loss.key == key).collect()
    }

    /// All operations, in the order in which they ended.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// The operations on each key.
    #[must_use]
    pub fn by_key(&self) -> BTreeMap<Key, Vec<&Operation>> {
        let mut keys: BTreeMap<Key, Vec<&Operation>> = BTreeMap::new();
        for operation in &self.operations {
            keys.entry(operation.key).or_default().push(operation);
        }
        keys
    }
}
