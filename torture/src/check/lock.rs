//! Locks that hand out fencing tokens: each holder gets a larger token than all holders before, and two never hold a lock at a
//! time as far as both are sure of it. (Kleppmann, "How to do distributed locking", 2016, for what tokens are good for.)
//!
//! `acquire nil` answers a token, a number; `release token`. With a key, `acquire [k nil]`, which answers `[k token]`, and
//! `release [k token]`. A holder is sure from the answer to its acquire until it asks for the release (one that failed has
//! released nothing), or without one for ever; if the history's first record promises `:expires`, in nanoseconds, only so long
//! after it asked for the lock.
//!
//! Cost: sorting.

use rustc_hash::FxHashMap;

use super::input::{Unusable, answered, asked, by_key, of_key, option, repeated, split_answer, split_key, unknown};
use super::verdict::{Judgement, Kind};
use crate::history::{Header, Moment, Operation, Value};

const DUPLICATE: &str = "duplicate-token";
const ORDER: &str = "token-order";
const HOLDERS: &str = "two-holders";

/// What is looked for.
pub const KINDS: [Kind; 3] = [
    Kind { name: DUPLICATE, about: "two holders with one token" },
    Kind { name: ORDER, about: "a later holder has a smaller token" },
    Kind { name: HOLDERS, about: "two holders at a time, both sure of it" },
];

/// What the workload promises.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// How long after it asked for a lock a holder may count on it, in nanoseconds; `None`: until it releases it.
    pub expires: Option<u64>,
}

impl Promise {
    pub(super) fn of(header: &Header) -> Result<Self, Unusable> {
        let take = |value: &Value| value.as_int().and_then(|number| u64::try_from(number).ok());
        Ok(Self { expires: option(header, "expires", "nanoseconds, from zero", take)? })
    }
}

struct Hold<'a> {
    acquire: &'a Operation,
    token: i64,
    /// When its release was asked for.
    release: Moment,
}

impl Hold<'_> {
    fn is_sure_at(&self, moment: Moment, promise: &Promise) -> bool {
        let lasts = promise.expires.is_none_or(|length| moment.time < self.acquire.begin.time.saturating_add(length));
        self.acquire.end <= moment && moment < self.release && lasts
    }
}

/// Judges a history of locks.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation], promise: &Promise) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    for (key, operations) in by_key(operations) {
        let mut holds = holds_of(&operations)?;
        holds.sort_unstable_by_key(|hold| hold.acquire.end);
        find_bad_tokens(&key, &holds, &mut judgement);
        find_two_holders(&key, &holds, promise, &mut judgement);
    }
    Ok(judgement)
}

fn holds_of<'a>(operations: &[&'a Operation]) -> Result<Vec<Hold<'a>>, Unusable> {
    let mut releases: FxHashMap<i64, Moment> = FxHashMap::default();
    let mut holds = Vec::new();
    for operation in operations {
        let (_, input) = split_key(operation);
        match operation.f.as_str() {
            "acquire" if *input != Value::Nil => return Err(asked(operation, "an acquire asks for nil")),
            "acquire" => {
                if let Some(answer) = split_answer(operation)? {
                    let token = answer.as_int().ok_or_else(|| answered(operation, "a token is a whole number"))?;
                    holds.push(Hold { acquire: operation, token, release: Moment::NEVER });
                }
            }
            "release" => {
                repeated(operation)?;
                let token = input.as_int().ok_or_else(|| asked(operation, "a token is a whole number"))?;
                if !operation.has_failed() {
                    let first = releases.entry(token).or_insert(operation.begin);
                    *first = operation.begin.min(*first);
                }
            }
            _ => return Err(unknown(operation, "acquire, release")),
        }
    }
    for hold in &mut holds {
        hold.release = releases.get(&hold.token).copied().unwrap_or(Moment::NEVER);
    }
    Ok(holds)
}

fn both(key: &Value, one: &Operation, other: &Operation) -> (String, Vec<u64>) {
    (format!("{}\n    {one}\n    {other}", of_key(key)), [one.records(), other.records()].concat())
}

fn find_bad_tokens(key: &Value, holds: &[Hold<'_>], judgement: &mut Judgement) {
    let mut owners: FxHashMap<i64, &Operation> = FxHashMap::default();
    // Of the holders up to each, the one with the largest token.
    let mut largest: Vec<&Hold<'_>> = Vec::new();
    for hold in holds {
        let before = largest.last().filter(|before| before.token > hold.token);
        largest.push(before.copied().unwrap_or(hold));
    }
    for hold in holds {
        if let Some(owner) = owners.insert(hold.token, hold.acquire) {
            let (what, records) = both(key, owner, hold.acquire);
            judgement.found(DUPLICATE, what, records);
        }
        let ended = holds.partition_point(|other| other.acquire.end < hold.acquire.begin);
        let Some(before) = ended.checked_sub(1).map(|last| largest[last]) else { continue };
        if before.token > hold.token {
            let (what, records) = both(key, before.acquire, hold.acquire);
            judgement.found(ORDER, what, records);
        }
    }
}

fn find_two_holders(key: &Value, holds: &[Hold<'_>], promise: &Promise, judgement: &mut Judgement) {
    let mut holding: Vec<&Hold<'_>> = Vec::new();
    for hold in holds {
        let moment = hold.acquire.end;
        holding.retain(|other| other.is_sure_at(moment, promise));
        if !hold.is_sure_at(moment, promise) {
            continue;
        }
        if let Some(other) = holding.last() {
            let (what, records) = both(key, other.acquire, hold.acquire);
            judgement.found(HOLDERS, what, records);
        }
        holding.push(hold);
    }
}
