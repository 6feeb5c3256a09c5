//! Whether what clients were told of a counter is linearizable: every answered increment took effect once, when it was made, and
//! one of unknown outcome at most once.
//!
//! Each answer says how many increments had taken effect, so it fixes a place in their order, and no search is needed.

use std::collections::BTreeMap;

/// One request to a counter. Times count from anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) invoked: u64,
    /// When it was answered, and with which value; `None` for an increment of unknown outcome.
    pub(crate) returned: Option<(u64, u64)>,
    /// Whether it adds one, and the value is the one with it.
    pub(crate) adds: bool,
}

/// Checks the requests to one counter, which began at zero.
pub(crate) fn check(requests: &[Counted]) -> Result<(), String> {
    let mut answered: Vec<(Counted, u64, u64)> = Vec::new();
    let mut unknown: Vec<u64> = Vec::new();
    let mut places: BTreeMap<u64, Counted> = BTreeMap::new();
    for request in requests {
        match request.returned {
            None => unknown.push(request.invoked),
            Some((at, value)) => {
                answered.push((*request, at, value));
                if request.adds && places.insert(value, *request).is_some() {
                    return Err(format!("two increments were told {value}"));
                }
            }
        }
    }
    in_real_time(&mut answered)?;
    // What nobody was told of is owed to increments of unknown outcome, each begun before anybody was told of it.
    let highest = answered.iter().map(|(_, _, value)| *value).max().unwrap_or(0);
    unknown.sort_unstable();
    let mut free = unknown.iter();
    answered.sort_unstable_by_key(|(_, _, value)| *value);
    let mut known_at = u64::MAX;
    let mut deadlines = BTreeMap::new();
    for (_, at, value) in answered.iter().rev() {
        known_at = known_at.min(*at);
        deadlines.insert(*value, known_at);
    }
    for place in (1..=highest).filter(|place| !places.contains_key(place)) {
        let deadline = deadlines.range(place..).next().map_or(u64::MAX, |(_, at)| *at);
        if free.next().is_none_or(|invoked| *invoked > deadline) {
            return Err(format!("nobody can have made increment {place} of {highest}: {} are unknown", unknown.len()));
        }
    }
    Ok(())
}

/// Whoever asked after somebody was answered is told no less, and more if he adds.
fn in_real_time(answered: &mut [(Counted, u64, u64)]) -> Result<(), String> {
    answered.sort_unstable_by_key(|(_, at, _)| *at);
    let mut by_call: Vec<(Counted, u64)> = answered.iter().map(|(request, _, value)| (*request, *value)).collect();
    by_call.sort_unstable_by_key(|(request, _)| request.invoked);
    let (mut ended, mut reached) = (answered.iter().peekable(), None::<u64>);
    for (request, value) in by_call {
        while let Some((_, _, value)) = ended.next_if(|(_, at, _)| *at < request.invoked) {
            reached = reached.max(Some(*value));
        }
        if reached.is_some_and(|reached| value < reached + u64::from(request.adds)) {
            return Err(format!("{request:?} goes back behind {reached:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(invoked: u64, returned: u64, value: u64) -> Counted {
        Counted { invoked, returned: Some((returned, value)), adds: true }
    }

    fn read(invoked: u64, returned: u64, value: u64) -> Counted {
        Counted { invoked, returned: Some((returned, value)), adds: false }
    }

    fn unknown(invoked: u64) -> Counted {
        Counted { invoked, returned: None, adds: true }
    }

    #[test]
    fn what_an_order_explains_is_accepted() {
        check(&[add(1, 9, 2), add(2, 8, 1), read(10, 11, 2), read(3, 4, 0)]).unwrap();
        check(&[add(1, 2, 1), unknown(3), add(6, 7, 3), read(8, 9, 3)]).unwrap();
        check(&[unknown(1), unknown(2), read(8, 9, 1)]).unwrap();
    }

    #[test]
    fn a_lost_a_doubled_and_an_old_answer_are_found() {
        check(&[add(1, 2, 1), add(3, 4, 1)]).unwrap_err();
        check(&[add(1, 2, 1), read(3, 4, 0)]).unwrap_err();
        check(&[add(1, 2, 1), read(3, 4, 2)]).unwrap_err();
        check(&[add(1, 2, 1), unknown(3), read(5, 6, 3)]).unwrap_err();
        check(&[unknown(5), read(1, 2, 1)]).unwrap_err();
        check(&[add(1, 4, 2), read(5, 6, 2), add(7, 8, 2)]).unwrap_err();
    }
}
