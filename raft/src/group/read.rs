//! Linearizable reads by confirming leadership (dissertation, section 6.4).
//!
//! ```text
//!   read_index ---> waiting ---- end of the turn ----> a round: {number, commit index, reads}
//!                                                        |  heartbeats carry the number
//!                                                        v
//!                              a quorum has answered the number (or a later one): the reads may be served
//! ```
//!
//! All reads of a turn share one round. Reads wait until the leader's own first entry is committed: only then does its
//! commit index tell what earlier leaders have committed.

use std::collections::VecDeque;

use super::core::{Core, Effect, RoleState};
use super::error::ReadRefused;
use crate::LogIndex;
use crate::output::ReadReady;

/// Reads that wait.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// Those that belong to no round yet.
    waiting: Vec<u64>,
    /// Those whose round is open, oldest first.
    rounds: VecDeque<Round>,
    newest: u64,
    count: usize,
}

#[derive(Debug)]
struct Round {
    number: u64,
    index: LogIndex,
    contexts: Vec<u64>,
}

impl Reads {
    /// The newest round that was ever opened in this term; zero if none.
    pub(crate) fn newest_round(&self) -> u64 {
        self.newest
    }

    /// A round for no read: who answers it has taken in the heartbeat that carried it.
    pub(crate) fn open_bare_round(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }

    /// No reads, of a leader whose last round was this.
    pub(crate) fn after_round(newest: u64) -> Self {
        Self { newest, ..Self::default() }
    }

    /// Whether none waits.
    pub(crate) fn is_still(&self) -> bool {
        self.count == 0 && self.waiting.is_empty() && self.rounds.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn into_contexts(self) -> impl Iterator<Item = u64> {
        self.rounds.into_iter().flat_map(|round| round.contexts).chain(self.waiting)
    }

    pub(crate) fn shrink(&mut self) {
        self.waiting.shrink_to_fit();
        self.rounds.shrink_to_fit();
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        let rounds: usize = self.rounds.iter().map(|round| round.contexts.capacity() * size_of::<u64>()).sum();
        self.waiting.capacity() * size_of::<u64>() + self.rounds.capacity() * size_of::<Round>() + rounds
    }
}

impl Core {
    pub(crate) fn read_index(&mut self, context: u64) -> Result<(), ReadRefused> {
        let leader_hint = self.known_leader();
        let limit = self.options.max_pending_reads;
        let RoleState::Leader(leader) = &mut self.role else {
            return Err(ReadRefused::NotLeader { leader: leader_hint });
        };
        if leader.reads.count >= limit {
            return Err(ReadRefused::Busy { limit });
        }
        leader.reads.count += 1;
        leader.reads.waiting.push(context);
        Ok(())
    }

    /// Opens a round for the reads of this turn, and answers those of every round that is confirmed.
    pub(crate) fn serve_reads(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if leader.reads.count == 0 {
            return;
        }
        let knows_commit = self.hard.commit >= leader.term_start;
        if knows_commit && !leader.reads.waiting.is_empty() {
            let reads = &mut leader.reads;
            reads.newest += 1;
            let contexts = std::mem::take(&mut reads.waiting);
            reads.rounds.push_back(Round { number: reads.newest, index: self.hard.commit, contexts });
            if !self.members.current.is_quorum(|id| id == self.id) {
                self.send_heartbeats(true);
            }
        }
        self.answer_reads();
    }

    fn answer_reads(&mut self) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        while let Some(oldest) = leader.reads.rounds.front() {
            let number = oldest.number;
            let is_confirmed = self.members.current.is_quorum(|id| {
                id == self.id || leader.progress(id).is_some_and(|progress| progress.acked_round >= number)
            });
            if !is_confirmed {
                return;
            }
            let Round { index, contexts, .. } = leader.reads.rounds.pop_front().expect("the loop has seen it");
            leader.reads.count -= contexts.len();
            self.effects.extend(contexts.into_iter().map(|context| Effect::Read(ReadReady { context, index })));
        }
    }
}
