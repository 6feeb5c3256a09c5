//! What must hold for all replicas of a group together, whatever happens (dissertation, figure 3.2).

use std::collections::BTreeMap;

use multiraft_raft::{Entry, EntryKind, LogIndex, ReplicaId, Term};

use crate::replica::{Replica, State};
use crate::support::Supports;

/// What must hold for all replicas together.
#[derive(Default)]
pub struct Checker {
    pub leaders: BTreeMap<Term, ReplicaId>,
    /// The first to apply an index decides what all others must apply there, and in which term it was committed at most.
    pub applied: BTreeMap<LogIndex, (Entry, Term)>,
    /// Reads under way: what was committed anywhere when each was asked.
    pub reads: BTreeMap<u64, (ReplicaId, LogIndex)>,
    pub answered: u64,
    pub highest_commit: LogIndex,
    /// How many times a leader was found that could serve reads on the strength of promises.
    pub fortified: u64,
}

impl Checker {
    pub fn applied(&mut self, entry: &Entry, term: Term) {
        let (known, first_term) = self.applied.entry(entry.index).or_insert_with(|| (entry.clone(), term));
        assert_eq!(known, entry, "state machine safety: one entry at one index");
        *first_term = (*first_term).min(term);
    }

    pub fn leads(&mut self, replica: &Replica) {
        let (id, term) = (replica.id, replica.group.term());
        if let Some(other) = self.leaders.get(&term) {
            assert_eq!(*other, id, "election safety: one leader in {term:?}");
            return;
        }
        self.leaders.insert(term, id);
        for (index, (entry, committed_in)) in &self.applied {
            if *committed_in < term && *index >= replica.group.first_index() {
                assert_eq!(
                    replica.group.term_at(*index),
                    Some(entry.term),
                    "leader completeness: {id:?} of {term:?} lacks {index:?}"
                );
            }
        }
    }

    /// One replica's own promises, and its part in the common ones.
    pub fn check(&mut self, replica: &Replica) {
        let group = &replica.group;
        self.highest_commit = self.highest_commit.max(group.commit_index());
        if group.is_leader() {
            self.leads(replica);
        }
        assert!(group.applied_index() <= group.commit_index() && group.commit_index() <= group.last_index());
        for index in group.first_index().get()..=group.last_index().get() {
            let index = LogIndex(index);
            assert_eq!(group.term_at(index), replica.disk.written.term(index), "core and disk agree");
            if index <= group.stable_index() {
                assert_eq!(group.term_at(index), replica.disk.durable.term(index), "stable is durable");
            }
        }
    }

    /// Whom a quorum of stores supports under promises to him in his term has no successor (`docs/liveness.md`, claim 2), so a
    /// read that he serves sees all that was committed anywhere (claim 3).
    pub fn check_fortified(&mut self, replicas: &[Replica], supports: &Supports) {
        for replica in replicas {
            let (id, term) = (replica.id, replica.group.term());
            let Some(index) = replica.group.fortified_read_index() else { continue };
            if !replica.group.is_fortified_by(|voter, epoch| supports.is_given(id, voter, epoch)) {
                continue;
            }
            self.fortified += 1;
            let newest = self.leaders.last_key_value().map(|(term, _)| *term);
            assert!(newest <= Some(term), "{id:?} is fortified in {term:?}, and {newest:?} has a leader");
            assert!(index >= self.highest_commit, "{id:?} would serve reads at {index:?}");
        }
    }

    /// A snapshot holds what was applied, and all of it.
    pub fn snapshot(&self, state: &State) {
        let commands = self.applied.range(..=state.applied).filter(|(_, (entry, _))| entry.kind == EntryKind::Command);
        let expected: Vec<_> =
            commands.map(|(index, (entry, _))| (*index, entry.term, entry.data.to_bytes())).collect();
        assert_eq!(state.commands, expected);
    }
}

/// Log matching: logs that agree on a term at an index agree on all before.
pub fn check_logs(replicas: &[Replica]) {
    for a in replicas {
        for b in replicas {
            let (a, b) = (&a.disk.written, &b.disk.written);
            let from = a.truncated_index.max(b.truncated_index);
            let mut index = a.last_index().min(b.last_index());
            let mut agreed = false;
            while index > from {
                let (left, right) = (a.entry(index), b.entry(index));
                agreed |= left.map(|entry| entry.term) == right.map(|entry| entry.term);
                assert!(!agreed || left == right, "log matching at {index:?}");
                index = index.prev();
            }
        }
    }
}
