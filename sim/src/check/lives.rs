//! The lives of a key whose last acknowledged writes a recovery may have lost.
//!
//! ```text
//!   first life, from nothing           | recovery: the key holds this |      next life, from that
//!   ... answered ... answered, lost ...|                              |... answered ...
//!                 sent before, answered after, or never: may belong to either
//! ```
//!
//! Within a life nothing may be lost. What the next one begins with is made of operations that were asked for before.

use std::collections::BTreeSet;

use super::linearizable::Refused;
use crate::history::{Action, Answer, Loss, Operation};
use crate::schedule::Moment;

/// Who is said to have written what a life begins with.
const RECOVERY: u64 = u64::MAX;

/// The operations of each life of a key, in an order in which the judge can take them.
pub(super) fn lives(losses: &[&Loss], operations: &[&Operation]) -> Vec<Vec<Operation>> {
    let ends = losses.iter().map(|loss| loss.at).chain([Moment::NEVER]);
    let begins = std::iter::once(None).chain(losses.iter().map(|loss| Some(*loss)));
    begins.zip(ends).map(|(loss, end)| life(loss, end, operations)).collect()
}

fn life(loss: Option<&Loss>, end: Moment, operations: &[&Operation]) -> Vec<Operation> {
    let begin = loss.map_or(Moment::START, |loss| loss.at);
    let mut life: Vec<Operation> = loss.into_iter().flat_map(heritage).collect();
    for operation in operations.iter().filter(|operation| operation.invoked < end) {
        let returned = operation.returned.as_ref().filter(|(at, _)| *at < end);
        if operation.invoked >= begin && (returned.is_some() || operation.action != Action::Read) {
            life.push(Operation { returned: returned.cloned(), ..(*operation).clone() });
            continue;
        }
        // Sent in an earlier life and not answered there: it may have been carried out then, or be carried out now.
        let was_open = operation.invoked < begin && operation.returned.as_ref().is_none_or(|(at, _)| *at >= begin);
        if was_open && operation.action != Action::Read {
            life.push(Operation { invoked: begin, returned: None, ..(*operation).clone() });
        }
    }
    life
}

/// What a life begins with, as operations one after the other.
fn heritage(loss: &Loss) -> Vec<Operation> {
    let write = |(place, (action, answer)): (u64, (Action, Answer))| {
        let at = Moment(loss.at.0 + place);
        Operation { client: RECOVERY, key: loss.key, action, invoked: at, returned: Some((at, answer)) }
    };
    let append = |(value, length): (&u64, u64)| (Action::Append(*value), Answer::Length(length));
    let writes: Vec<(Action, Answer)> = match &loss.found {
        Answer::Value(value) => vec![(Action::Put(*value), Answer::Previous(0))],
        Answer::List(list) => list.iter().zip(1..).map(append).collect(),
        _ => Vec::new(),
    };
    (0..).zip(writes).map(write).collect()
}

/// What a recovery leaves was asked for before it, and is there once.
pub(super) fn check_found(loss: &Loss, operations: &[&Operation]) -> Result<(), Refused> {
    let before = operations.iter().filter(|operation| operation.invoked < loss.at);
    let asked: BTreeSet<u64> = before.filter_map(|operation| value_of(operation.action)).collect();
    let found: &[u64] = match &loss.found {
        Answer::Value(value) if *value > 0 => std::slice::from_ref(value),
        Answer::List(list) => list,
        _ => &[],
    };
    let mut seen = BTreeSet::new();
    match found.iter().find(|value| !asked.contains(value) || !seen.insert(**value)) {
        Some(value) => Err(Refused::MadeUp { key: loss.key, value: *value }),
        None => Ok(()),
    }
}

fn value_of(action: Action) -> Option<u64> {
    match action {
        Action::Put(value) | Action::Append(value) | Action::Cas(_, value) => Some(value),
        Action::Read => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::linearizable::check;
    use super::*;
    use crate::history::{History, Key};

    const REGISTER: Key = Key { region: 2, number: 0 };
    const LIST: Key = Key { region: 2, number: 1 };

    /// What of which key, when, and when it was answered what.
    type Asked = (Key, Action, u64, Option<(u64, Answer)>);

    fn judge(operations: &[Asked], loss: (Key, u64, Answer)) -> Result<(), Refused> {
        let mut history = History::default();
        for (key, action, invoked, returned) in operations.iter().cloned() {
            let returned = returned.map(|(at, answer)| (Moment(at), answer));
            history.add(Operation { client: 1, key, action, invoked: Moment(invoked), returned });
        }
        let (key, at, found) = loss;
        history.add_loss(Loss { key, at: Moment(at), found });
        check(&history)
    }

    #[test]
    fn a_lost_suffix_is_allowed_and_what_follows_builds_on_the_rest() {
        let put = |value, at, previous| (REGISTER, Action::Put(value), at, Some((at + 1, Answer::Previous(previous))));
        let read = |value, at| (REGISTER, Action::Read, at, Some((at + 1, Answer::Value(value))));
        let first = [put(1, 10, 0), put(2, 20, 1), read(2, 30)];
        let then = |operation| [&first[..], &[operation]].concat();
        let lost = (REGISTER, 100, Answer::Value(1));
        assert_eq!(judge(&then(read(1, 110)), lost.clone()), Ok(()));
        assert_eq!(judge(&then(put(3, 110, 1)), lost.clone()), Ok(()));
        assert!(judge(&then(read(2, 110)), lost.clone()).is_err(), "what is lost does not come back");
        assert!(judge(&then(read(0, 110)), lost).is_err(), "what is kept is there");
        assert!(judge(&then(read(7, 110)), (REGISTER, 100, Answer::Value(7))).is_err(), "nobody wrote it");
    }

    #[test]
    fn what_was_open_belongs_to_either_life() {
        let append = |value, at, end: Option<(u64, u64)>| {
            (LIST, Action::Append(value), at, end.map(|(at, length)| (at, Answer::Length(length))))
        };
        let read = |list: &[u64], at| (LIST, Action::Read, at, Some((at + 1, Answer::List(list.to_vec()))));
        let lost = (LIST, 100, Answer::List(vec![1, 3]));
        // 2 was lost; 3 was never answered, and stands where nobody was told of 2; 4 comes late.
        let history = |last| {
            let end = [append(4, 95, None), read(last, 120)];
            [&[append(1, 10, Some((11, 1))), append(3, 15, None), append(2, 20, Some((21, 2)))][..], &end].concat()
        };
        assert_eq!(judge(&history(&[1, 3, 4]), lost.clone()), Ok(()));
        assert_eq!(judge(&history(&[1, 3]), lost.clone()), Ok(()));
        assert!(judge(&history(&[1, 2, 3]), lost).is_err());
        assert!(judge(&history(&[1, 3]), (LIST, 100, Answer::List(vec![1, 1]))).is_err());
        // Within the first life nothing may be lost.
        let early = [append(1, 10, Some((11, 1))), read(&[], 20)];
        assert!(judge(&early, (LIST, 100, Answer::List(vec![1]))).is_err());
    }
}
