//! Questions of callers on this store to leaders elsewhere, for the index of a read: asked and answered without a worker.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use multiraft_raft::{Incarnation, RegionEpoch, RegionId, StoreId, Term, Time};
use multiraft_transport::{Forward, ForwardRequest};

use crate::logic::beats::{CALLERS, first_sequence, request_id, worker_of_request};

/// How many unanswered questions there may be to one store; beyond, the worker is asked, which has bounds of its own.
const OPEN_MAX: usize = 1 << 14;

/// The questions that are open, by the store that was asked.
#[derive(Debug)]
pub struct Questions<R> {
    first: u64,
    timeout: Duration,
    peers: BTreeMap<StoreId, Open<R>>,
}

/// One question, with who waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question<R> {
    /// The region.
    pub region: RegionId,
    /// When it was asked.
    pub asked: Time,
    /// Who waits.
    pub reply: R,
}

/// In the order in which they were asked.
#[derive(Debug)]
struct Open<R> {
    /// The sequence of the first place.
    first: u64,
    places: VecDeque<Option<Question<R>>>,
}

impl<R> Questions<R> {
    /// None yet. Nobody waits for longer than `timeout`.
    #[must_use]
    pub fn new(incarnation: Incarnation, timeout: Duration) -> Self {
        Self { first: first_sequence(incarnation), timeout, peers: BTreeMap::new() }
    }

    /// Whether an answer is to one of these questions, by the name that it carries.
    #[must_use]
    pub fn is_named(id: u64) -> bool {
        worker_of_request(id) == CALLERS
    }

    /// A question to `to`, which leads `region` in `term`: that of the replica here, looked at after the read had come in.
    /// `None`: too many are open there.
    pub fn ask(
        &mut self,
        now: Time,
        to: StoreId,
        (region, epoch, term): (RegionId, RegionEpoch, Term),
        lease: bool,
        reply: R,
    ) -> Option<Forward> {
        let (first, timeout) = (self.first, self.timeout);
        let open = self.peers.entry(to).or_insert_with(|| Open { first, places: VecDeque::new() });
        open.forget(|question| now.since(question.asked) >= timeout);
        if open.places.len() >= OPEN_MAX {
            return None;
        }
        let id = request_id(open.first + open.places.len() as u64, CALLERS);
        open.places.push_back(Some(Question { region, asked: now, reply }));
        let timeout_ms = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        Some(Forward { id, region, epoch, term, timeout_ms, request: ForwardRequest::ReadIndex { lease } })
    }

    /// The question that `from` answers under this name; `None` if nobody waits for that any more.
    pub fn take(&mut self, from: StoreId, id: u64) -> Option<Question<R>> {
        let open = self.peers.get_mut(&from)?;
        let at = usize::try_from((id >> 8).checked_sub(open.first)?).ok()?;
        let question = open.places.get_mut(at)?.take();
        open.forget(|_| false);
        question
    }

    /// All questions to a store, whose answers are lost with the link to it.
    pub fn take_all(&mut self, peer: StoreId) -> Vec<Question<R>> {
        let Some(open) = self.peers.get_mut(&peer) else { return Vec::new() };
        open.first += open.places.len() as u64;
        open.places.drain(..).flatten().collect()
    }
}

impl<R> Open<R> {
    /// Lets go of the oldest places, as far as they are answered or `is_over`.
    fn forget(&mut self, is_over: impl Fn(&Question<R>) -> bool) {
        while self.places.front().is_some_and(|place| place.as_ref().is_none_or(&is_over)) {
            self.places.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TO: StoreId = StoreId(2);
    const ABOUT: (RegionId, RegionEpoch, Term) = (RegionId(7), RegionEpoch::FIRST, Term(3));

    fn questions() -> Questions<u32> {
        Questions::new(Incarnation(1), Duration::from_nanos(100))
    }

    #[test]
    fn each_answer_finds_its_question_once() {
        let mut questions = questions();
        let ids: Vec<u64> =
            (0..3).map(|n| questions.ask(Time(u64::from(n)), TO, ABOUT, true, n).expect("there is room").id).collect();
        assert!(ids.iter().all(|id| Questions::<u32>::is_named(*id)));
        let taken = questions.take(TO, ids[1]).expect("it is open");
        assert_eq!(taken, Question { region: RegionId(7), asked: Time(1), reply: 1 });
        assert_eq!(questions.take(TO, ids[1]), None);
        assert_eq!(questions.take(StoreId(3), ids[0]), None, "another store was not asked");
        assert_eq!(questions.take(TO, ids[0]).map(|question| question.reply), Some(0));
        let left: Vec<u32> = questions.take_all(TO).into_iter().map(|question| question.reply).collect();
        assert_eq!(left, [2]);
        let next = questions.ask(Time(5), TO, ABOUT, true, 5).expect("there is room").id;
        assert!(!ids.contains(&next), "no name is used twice");
        assert_eq!(questions.take(TO, ids[2]), None);
    }

    #[test]
    fn who_waits_for_long_is_forgotten_and_makes_room() {
        let mut questions = questions();
        for n in 0..OPEN_MAX as u32 {
            assert!(questions.ask(Time(0), TO, ABOUT, true, n).is_some());
        }
        assert_eq!(questions.ask(Time(99), TO, ABOUT, true, 0), None);
        assert!(questions.ask(Time(99), StoreId(3), ABOUT, true, 0).is_some(), "each store has its own");
        assert!(questions.ask(Time(100), TO, ABOUT, true, 0).is_some());
    }
}
