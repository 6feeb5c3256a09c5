//! One pair of stores from the asker's side: at which epoch this store asks a peer, and what it holds of it (L1, L4, L11).

use std::collections::VecDeque;
use std::time::Duration;

use multiraft_raft::{Incarnation, StoreId, Time};
use multiraft_transport::{SupportAnswer, SupportVerdict};

use super::{Held, LivenessOptions, SupportNews};

/// What this store asks of one peer, and has been told.
#[derive(Debug)]
pub(super) struct Asker {
    /// The present epoch. Invariant: never goes back, and moves on before a heartbeat at the new one is made.
    number: u64,
    /// The heartbeats of the present epoch that an answer may still be of use for: sequence and when it was made, oldest first.
    sent: VecDeque<(u64, Time)>,
    held: Option<Held>,
}

impl Asker {
    pub(super) fn new() -> Self {
        Self { number: 1, sent: VecDeque::new(), held: None }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Notes a heartbeat at the present epoch, before it leaves (L2). `useful_for` is how long an answer to it may be of use.
    pub(super) fn on_sending(&mut self, now: Time, sequence: u64, useful_for: Duration) {
        while self.sent.front().is_some_and(|(_, at)| now.since(*at) >= useful_for) {
            self.sent.pop_front();
        }
        self.sent.push_back((sequence, now));
    }

    /// Goes to the next epoch (L1); what was held under the present one ends, for every thread at once.
    pub(super) fn move_on(&mut self, peer: StoreId, news: &mut Vec<SupportNews>) {
        self.lose(peer, news);
        self.number += 1;
        self.sent.clear();
    }

    /// Counts no longer on what is held.
    pub(super) fn lose(&mut self, peer: StoreId, news: &mut Vec<SupportNews>) {
        if let Some(held) = self.held.take() {
            held.end();
            news.push(SupportNews::Lost { peer });
        }
    }

    /// Takes an answer of the peer's present incarnation (L4).
    pub(super) fn handle(
        &mut self,
        now: Time,
        peer: StoreId,
        own: Incarnation,
        options: &LivenessOptions,
        answer: &SupportAnswer,
        news: &mut Vec<SupportNews>,
    ) {
        if (answer.asker, answer.number) != (own, self.number) {
            return;
        }
        match answer.verdict {
            SupportVerdict::Withdrawn => self.move_on(peer, news),
            SupportVerdict::NotNow => {}
            SupportVerdict::Supported { duration_ms } => {
                let Ok(at) = self.sent.binary_search_by_key(&answer.answered, |(sequence, _)| *sequence) else {
                    return;
                };
                let until = self.sent[at].1.plus(options.lease(duration_ms.min(options.duration_ms())));
                if until > now {
                    self.hold(peer, answer.incarnation, until, news);
                }
            }
        }
    }

    fn hold(&mut self, peer: StoreId, by: Incarnation, until: Time, news: &mut Vec<SupportNews>) {
        if let Some(held) = &self.held {
            return held.extend(until);
        }
        let support = Held::new(self.number, by, until);
        self.held = Some(support.clone());
        news.push(SupportNews::Held { peer, support });
    }

    /// Lets go of what has run out (L11).
    pub(super) fn tick(&mut self, now: Time, peer: StoreId, news: &mut Vec<SupportNews>) {
        #[cfg(feature = "torture")]
        let now = crate::plant::lease_time(now);
        if self.held.as_ref().is_some_and(|held| held.until() <= now) {
            self.lose(peer, news);
        }
    }

    /// When [`Asker::tick`] would let go.
    pub(super) fn deadline(&self) -> Time {
        let deadline = self.held.as_ref().map_or(Time::NEVER, Held::until);
        #[cfg(feature = "torture")]
        let deadline = crate::plant::lease_deadline(deadline);
        deadline
    }
}
