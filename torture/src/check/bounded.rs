//! Registers that may be read with a bound on age: such a read answers a value that was current at some moment not earlier than
//! its invocation less the bound, and not later than its answer.
//!
//! As [`register`](super::register), and `read-bounded [k bound]`, in nanoseconds, which answers `[k value]`. Such a read is a
//! linearizable one that was asked for so much earlier; so one search judges all (see there for method and cost). Here order is
//! by time, and by the order of records at the same time. The history's first record may promise `:drift-permille`, by which the
//! clock that measures bounds may be wrong.

use super::input::{Unusable, asked, of_key};
use super::register::{
    Call, Found, Numbers, Place, UNDECIDED_MAX, by_register, first_phantom, search, seen, split, step_of, tell,
};
use super::verdict::{Judgement, Kind};
use crate::history::{Header, Moment, Operation, Value};

const PHANTOM: &str = "phantom-value";
const OUTSIDE: &str = "outside-bound";
const NONLINEARIZABLE: &str = "nonlinearizable";

/// What is looked for.
pub const KINDS: [Kind; 3] = [
    Kind { name: PHANTOM, about: "a read of what nobody can have written" },
    Kind { name: OUTSIDE, about: "a bounded read of what was not current within its bound" },
    Kind { name: NONLINEARIZABLE, about: "no order explains the answers, bounded reads aside" },
];

/// What the workload promises.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// By how many thousandths bounds may be exceeded.
    pub drift_permille: u64,
}

impl Promise {
    pub(super) fn of(header: &Header) -> Result<Self, Unusable> {
        let take = |value: &Value| value.as_int().and_then(|number| u64::try_from(number).ok());
        let told = super::input::option(header, "drift-permille", "a whole number from zero", take)?;
        Ok(Self { drift_permille: told.unwrap_or(0) })
    }

    /// When a read with that bound counts as asked for.
    fn since(&self, begin: Moment, bound: u64) -> Place {
        let bound = u128::from(bound) * (1_000 + u128::from(self.drift_permille)) / 1_000;
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        (begin.time.saturating_sub(bound), 0)
    }
}

/// Judges a history of registers that are also read with bounds.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation], promise: &Promise) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    for (key, operations) in by_register(operations) {
        let mut values = Numbers::default();
        let (mut calls, mut sources) = (Vec::new(), Vec::new());
        for operation in operations {
            // Records have their places behind all that counts as asked for at the same time.
            let place = |moment: Moment| (moment.time, moment.index.saturating_add(1));
            let (step, begin) = if operation.f == "read-bounded" {
                let bound = split(operation).1.as_int().and_then(|bound| u64::try_from(bound).ok());
                let bound = bound.ok_or_else(|| asked(operation, "it asks for [key bound], in nanoseconds"))?;
                (seen(operation, &mut values)?, promise.since(operation.begin, bound))
            } else {
                (step_of(operation, &mut values)?, place(operation.begin))
            };
            let Some(step) = step else { continue };
            calls.push(Call { step, begin, end: operation.is_ok().then(|| place(operation.end)) });
            sources.push(operation);
        }
        if judgement.undecided().len() >= UNDECIDED_MAX {
            judgement.leave_undecided(format!("{}and all keys behind it: not searched after so many", of_key(&key)));
            break;
        }
        check_key(&key, &calls, &sources, &values, &mut judgement);
    }
    Ok(judgement)
}

fn check_key(key: &Value, calls: &[Call], sources: &[&Operation], values: &Numbers, judgement: &mut Judgement) {
    if let Some(read) = first_phantom(calls) {
        judgement.found(PHANTOM, format!("{}{}", of_key(key), sources[read]), sources[read].records());
        return;
    }
    match search(calls) {
        Found::Order => {}
        Found::GaveUp(why) => judgement.leave_undecided(format!("{}{why}", of_key(key))),
        Found::NoOrder(refusal) => {
            let others = calls.iter().zip(sources).filter(|(_, source)| source.f != "read-bounded");
            let others: Vec<Call> = others.map(|(call, _)| *call).collect();
            let kind = if search(&others) == Found::Order { OUTSIDE } else { NONLINEARIZABLE };
            let (what, records) = tell(key, &refusal, sources, values);
            judgement.found(kind, what, records);
        }
    }
}
