//! Whether a history is linearizable: the search of Wing and Gong ("Testing and verifying concurrent objects", 1993) with
//! Lowe's cache of visited configurations ("Testing for linearizability", 2017), one key at a time (linearizability is
//! local: Herlihy and Wing, 1990).
//!
//! An operation of unknown outcome may take effect at any moment after it was asked, or never.

use rustc_hash::{FxHashMap, FxHashSet};

use super::lives::{check_found, lives};
use crate::history::{Action, Answer, History, Key, Operation};
use crate::random::fold;
use crate::schedule::Moment;

/// How many configurations one key may visit before the search gives up. Far beyond what a run needs.
const CONFIGURATIONS_MAX: usize = 4_000_000;

/// Why a history was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No order of the operations explains what the clients were told.
    NotLinearizable {
        /// The key.
        key: Key,
        /// Its operations, readable, in order of time.
        operations: String,
    },
    /// The search was given up.
    Undecided {
        /// The key.
        key: Key,
    },
    /// After a recovery the key holds what nobody had asked for.
    MadeUp {
        /// The key.
        key: Key,
        /// What it holds.
        value: u64,
    },
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotLinearizable { key, operations } => write!(f, "{key:?} is not linearizable:\n{operations}"),
            Self::MadeUp { key, value } => write!(f, "{key:?} holds {value} after a recovery, or holds it twice"),
            Self::Undecided { key } => write!(f, "{key:?}: the search for a linearization was given up"),
        }
    }
}

/// Checks every key of a history. A key of which a recovery may have lost something has several lives, each judged by itself.
///
/// # Errors
/// The first key whose operations no order explains.
pub fn check(history: &History) -> Result<(), Refused> {
    history.by_key().into_iter().try_for_each(|(key, operations)| {
        let losses = history.losses(key);
        if losses.is_empty() {
            return check_key(key, &operations);
        }
        losses.iter().try_for_each(|loss| check_found(loss, &operations))?;
        lives(&losses, &operations).iter().try_for_each(|life| check_key(key, &life.iter().collect::<Vec<_>>()))
    })
}

/// Checks the operations of one key.
///
/// # Errors
/// No order explains them, or the search was given up.
pub fn check_key(key: Key, operations: &[&Operation]) -> Result<(), Refused> {
    let relevant = without_unseen(operations);
    match Search::new(&relevant).run() {
        Some(true) => Ok(()),
        Some(false) => Err(Refused::NotLinearizable { key, operations: describe(&shortest_refused(operations)) }),
        None => Err(Refused::Undecided { key }),
    }
}

/// Leaves out operations of unknown outcome whose value nobody ever saw. If a linearization has such an operation in it,
/// the same one without it explains the same answers: every later write and read would have told of the value. (For a list
/// that holds if no answer tells of a list longer than the longest one that was read.)
fn without_unseen<'a>(operations: &[&'a Operation]) -> Vec<&'a Operation> {
    let mut seen = FxHashSet::default();
    let (mut longest_read, mut longest_told) = (0, 0);
    for operation in operations {
        match operation.returned.as_ref().map(|(_, answer)| answer) {
            Some(Answer::Previous(value) | Answer::Found(value) | Answer::Value(value)) => {
                seen.insert(*value);
            }
            Some(Answer::List(list)) => {
                seen.extend(list.iter().copied());
                longest_read = longest_read.max(list.len() as u64);
            }
            Some(Answer::Length(length)) => longest_told = longest_told.max(*length),
            None => {}
        }
    }
    let may_drop = longest_told <= longest_read;
    let is_needed = |operation: &&&Operation| match operation.action {
        _ if operation.returned.is_some() => true,
        Action::Put(value) | Action::Cas(_, value) => seen.contains(&value),
        Action::Append(value) => !may_drop || seen.contains(&value),
        Action::Read => false,
    };
    operations.iter().filter(is_needed).copied().collect()
}

/// What a key holds. A list is its length and a digest of its elements in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct State(u64, u64);

impl State {
    fn list(elements: &[u64]) -> Self {
        elements.iter().fold(Self::default(), |state, element| state.push(*element))
    }

    fn push(self, element: u64) -> Self {
        Self(self.0 + 1, fold(self.1, element))
    }
}

/// An operation, ready to be tried many times.
#[derive(Clone, Copy, Debug)]
enum Step {
    Put {
        value: u64,
        previous: Option<u64>,
    },
    Cas {
        expected: u64,
        new: u64,
        found: Option<u64>,
    },
    Append {
        value: u64,
        length: Option<u64>,
        place: Place,
    },
    Read(State),
    /// An answer that does not fit the question.
    Impossible,
}

/// Where in its list an element can stand. The longest list that anybody read is a beginning of every longer one, so it
/// fixes the places of its elements, and leaves the others only those behind it.
#[derive(Clone, Copy, Debug)]
enum Place {
    At(u64),
    NotBefore(u64),
}

/// The places of elements, by the longest list that was read.
struct Places {
    known: FxHashMap<u64, u64>,
    longest: u64,
}

impl Places {
    fn new(operations: &[&Operation]) -> Self {
        let lists = operations.iter().filter_map(|operation| match &operation.returned {
            Some((_, Answer::List(list))) => Some(list),
            _ => None,
        });
        let longest = lists.max_by_key(|list| list.len()).map_or(&[][..], |list| list);
        Self { known: longest.iter().copied().zip(0..).collect(), longest: longest.len() as u64 }
    }

    fn of(&self, element: u64) -> Place {
        self.known.get(&element).map_or(Place::NotBefore(self.longest), |place| Place::At(*place))
    }
}

impl Place {
    fn allows(self, length: u64) -> bool {
        match self {
            Self::At(place) => length == place,
            Self::NotBefore(place) => length >= place,
        }
    }
}

impl Step {
    fn of(operation: &Operation, places: &Places) -> Self {
        let answer = operation.returned.as_ref().map(|(_, answer)| answer);
        match (operation.action, answer) {
            (Action::Put(value), None) => Self::Put { value, previous: None },
            (Action::Put(value), Some(Answer::Previous(previous))) => Self::Put { value, previous: Some(*previous) },
            (Action::Cas(expected, new), None) => Self::Cas { expected, new, found: None },
            (Action::Cas(expected, new), Some(Answer::Found(found))) => {
                Self::Cas { expected, new, found: Some(*found) }
            }
            (Action::Append(value), None) => Self::Append { value, length: None, place: places.of(value) },
            (Action::Append(value), Some(Answer::Length(length))) => {
                Self::Append { value, length: Some(*length), place: places.of(value) }
            }
            (Action::Read, Some(Answer::Value(value))) => Self::Read(State(*value, 0)),
            (Action::Read, Some(Answer::List(list))) => Self::Read(State::list(list)),
            _ => Self::Impossible,
        }
    }

    /// The state after it, if it may happen in `state` and answer what it did.
    fn apply(self, state: State) -> Option<State> {
        match self {
            Self::Put { value, previous } => {
                previous.is_none_or(|previous| previous == state.0).then_some(State(value, 0))
            }
            Self::Cas { expected, new, found: None } => (expected == state.0).then_some(State(new, 0)),
            Self::Cas { expected, new, found: Some(found) } => {
                let after = if found == expected { State(new, 0) } else { state };
                (found == state.0).then_some(after)
            }
            Self::Append { value, length, place } => {
                let after = match place {
                    Place::At(_) => state.push(value),
                    // Nobody read a list as long as that: which elements end it is the same to all.
                    Place::NotBefore(_) => State(state.0 + 1, 0),
                };
                let fits = place.allows(state.0) && length.is_none_or(|length| length == after.0);
                fits.then_some(after)
            }
            Self::Read(seen) => (seen == state).then_some(state),
            Self::Impossible => None,
        }
    }
}

/// The beginning or the end of an operation, in a list from which operations are taken out and put back.
#[derive(Clone, Copy, Debug)]
struct Node {
    operation: usize,
    is_call: bool,
    before: usize,
    after: usize,
}

struct Search {
    steps: Vec<Step>,
    /// Node zero is the head; the list ends at node zero.
    nodes: Vec<Node>,
    /// The node at which each operation ends, if it does.
    ends: Vec<Option<usize>>,
    /// Operations with an answer that are not placed yet.
    unplaced: usize,
    /// Of an append that nobody heard of, neither its caller nor a reader, the one before it that is like that, by the time
    /// when they were asked for. Any of them does as well as another that was asked for later; so they are placed in order.
    turns: Vec<Option<usize>>,
    placed: Vec<u64>,
    visited: FxHashSet<(Vec<u64>, State)>,
}

impl Search {
    fn new(operations: &[&Operation]) -> Self {
        let places = Places::new(operations);
        // Calls before returns of the same moment: such operations may have overlapped.
        let mut events: Vec<(Moment, bool, usize)> = Vec::new();
        for (number, operation) in operations.iter().enumerate() {
            events.push((operation.invoked, false, number));
            events.extend(operation.returned.as_ref().map(|(at, _)| (*at, true, number)));
        }
        events.sort_unstable();
        let last = events.len();
        let mut nodes =
            vec![Node { operation: usize::MAX, is_call: false, before: last, after: usize::from(last > 0) }];
        let mut ends = vec![None; operations.len()];
        for (at, &(_, is_return, operation)) in events.iter().enumerate() {
            let number = at + 1;
            let after = if number == last { 0 } else { number + 1 };
            nodes.push(Node { operation, is_call: !is_return, before: at, after });
            if is_return {
                ends[operation] = Some(number);
            }
        }
        let steps: Vec<Step> = operations.iter().map(|operation| Step::of(operation, &places)).collect();
        let (mut turns, mut last_unheard) = (vec![None; operations.len()], None);
        for &(_, _, operation) in events.iter().filter(|(_, is_return, _)| !is_return) {
            if matches!(steps[operation], Step::Append { length: None, place: Place::NotBefore(_), .. }) {
                turns[operation] = last_unheard.replace(operation);
            }
        }
        Self {
            steps,
            turns,
            nodes,
            unplaced: ends.iter().flatten().count(),
            ends,
            placed: vec![0; operations.len().div_ceil(64)],
            visited: FxHashSet::default(),
        }
    }

    /// Whether there is a linearization; `None` if the search was given up.
    fn run(&mut self) -> Option<bool> {
        let mut state = State::default();
        let mut trail: Vec<(usize, State)> = Vec::new();
        let mut at = self.nodes[0].after;
        while self.unplaced > 0 {
            let node = self.nodes[at];
            if at != 0 && node.is_call {
                at = match self.try_place(node.operation, state) {
                    Some(after) => {
                        trail.push((at, state));
                        state = after;
                        self.take_out(at);
                        self.nodes[0].after
                    }
                    None => node.after,
                };
                if self.visited.len() > CONFIGURATIONS_MAX {
                    return None;
                }
                continue;
            }
            // An operation has ended and is not placed: the last choice was wrong.
            let Some((choice, before)) = trail.pop() else {
                return Some(false);
            };
            state = before;
            self.put_back(choice);
            at = self.nodes[choice].after;
        }
        Some(true)
    }

    /// The state after the operation, if it may happen now and that configuration was not visited before.
    fn try_place(&mut self, operation: usize, state: State) -> Option<State> {
        let has_its_turn = |before: usize| self.placed[before / 64] & (1 << (before % 64)) != 0;
        if !self.turns[operation].is_none_or(has_its_turn) {
            return None;
        }
        let after = self.steps[operation].apply(state)?;
        let (word, bit) = (operation / 64, 1 << (operation % 64));
        self.placed[word] |= bit;
        if self.visited.insert((self.placed.clone(), after)) {
            return Some(after);
        }
        self.placed[word] &= !bit;
        None
    }

    fn take_out(&mut self, call: usize) {
        let operation = self.nodes[call].operation;
        self.unlink(call);
        if let Some(end) = self.ends[operation] {
            self.unlink(end);
            self.unplaced -= 1;
        }
    }

    fn put_back(&mut self, call: usize) {
        let operation = self.nodes[call].operation;
        self.placed[operation / 64] &= !(1 << (operation % 64));
        if let Some(end) = self.ends[operation] {
            self.link(end);
            self.unplaced += 1;
        }
        self.link(call);
    }

    fn unlink(&mut self, number: usize) {
        let Node { before, after, .. } = self.nodes[number];
        self.nodes[before].after = after;
        self.nodes[after].before = before;
    }

    fn link(&mut self, number: usize) {
        let Node { before, after, .. } = self.nodes[number];
        self.nodes[before].after = number;
        self.nodes[after].before = number;
    }
}

/// How many operations before the first one that makes no sense are shown.
const SHOWN: usize = 25;

/// The end of the shortest beginning of a refused history that is refused, too: the last operation that has an answer in it
/// is the first one that cannot be explained.
fn shortest_refused(operations: &[&Operation]) -> Vec<Operation> {
    let mut ends: Vec<Moment> = operations.iter().filter_map(|one| one.returned.as_ref().map(|(at, _)| *at)).collect();
    ends.sort_unstable();
    let is_refused = |end: Moment| {
        let begun = beginning(operations, end);
        Search::new(&without_unseen(&begun.iter().collect::<Vec<_>>())).run() == Some(false)
    };
    // What is refused stays refused however it goes on.
    let first = ends.partition_point(|end| !is_refused(*end));
    let end = ends.get(first).copied().unwrap_or(Moment::NEVER);
    let mut begun = beginning(operations, end);
    begun.sort_by_key(|operation| operation.invoked);
    begun.split_off(begun.len().saturating_sub(SHOWN))
}

/// The history as it was known at `end`.
fn beginning(operations: &[&Operation], end: Moment) -> Vec<Operation> {
    let is_begun = |operation: &&&Operation| operation.invoked <= end;
    let as_known = |operation: &&Operation| {
        let returned = operation.returned.clone().filter(|(at, _)| *at <= end);
        Operation { returned, ..(*operation).clone() }
    };
    operations.iter().filter(is_begun).map(as_known).collect()
}

fn describe(operations: &[Operation]) -> String {
    let line = |operation: &Operation| {
        let Operation { client, action, invoked, returned, .. } = operation;
        match returned {
            Some((at, answer)) => format!("  {invoked:?} .. {at:?}  client {client}: {action:?} -> {answer:?}\n"),
            None => format!("  {invoked:?} .. ?  client {client}: {action:?} -> unknown\n"),
        }
    };
    operations.iter().map(line).collect()
}
