//! A judge that tries every order. For very short histories.

use multiraft_torture::history::Operation;

use super::simulated::Object;

/// Whether some order of the operations, which keeps `precedes`, makes `object` answer what was answered.
pub(crate) fn is_explained<O: Object>(
    object: &O,
    operations: &[Operation],
    precedes: &dyn Fn(&Operation, &Operation) -> bool,
) -> bool {
    let open: Vec<&Operation> = operations.iter().filter(|operation| !operation.has_failed()).collect();
    explained(object, &open, precedes)
}

/// Real time.
pub(crate) fn by_index(before: &Operation, after: &Operation) -> bool {
    before.end.index < after.begin.index
}

fn explained<O: Object>(object: &O, open: &[&Operation], precedes: &dyn Fn(&Operation, &Operation) -> bool) -> bool {
    if open.iter().all(|operation| !operation.is_ok()) {
        return true;
    }
    open.iter().enumerate().any(|(place, next)| {
        if open.iter().any(|other| other.is_ok() && precedes(other, next)) {
            return false;
        }
        let mut object = object.clone();
        let told = object.apply(&next.f, &next.input);
        if next.answer().is_some_and(|answer| told.as_ref() != Some(answer)) {
            return false;
        }
        let rest: Vec<&Operation> =
            open.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, one)| *one).collect();
        explained(&object, &rest, precedes)
    })
}
