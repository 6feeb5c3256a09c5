//! One simulated replica: a real [`Group`], a simulated disk, and a state machine that remembers what it was given.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    Entry, EntryKind, Fetch, Gated, Group, LogIndex, LogTicket, Membership, MembershipChange, Message, Options, Output,
    Replica as Member, ReplicaId, Restored, Term, Time, apply_to_replicas,
};

use crate::disk::{Disk, Image, Proof};

/// What applying has made; durable at once, like a state store that is flushed before it reports.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub applied: LogIndex,
    pub applied_term: Term,
    pub members: Vec<Member>,
    pub auto_leave: bool,
    pub commands: Vec<(LogIndex, Term, Bytes)>,
}

impl State {
    pub fn membership(&self) -> Membership {
        Membership::from_replicas(&self.members).with_auto_leave(self.auto_leave)
    }

    /// Applies one entry; the new membership, if it changed that.
    fn apply(&mut self, entry: &Entry) -> Option<Result<Membership, ()>> {
        assert_eq!(entry.index, self.applied.next(), "entries are handed out once, in order, without a gap");
        (self.applied, self.applied_term) = (entry.index, entry.term);
        match entry.kind {
            EntryKind::Empty => None,
            EntryKind::Command => {
                self.commands.push((entry.index, entry.term, entry.data.to_bytes()));
                None
            }
            EntryKind::Membership => {
                let (change, _) = MembershipChange::decode(&entry.data).expect("what was proposed decodes");
                let Ok(members) = apply_to_replicas(&self.members, &change) else { return Some(Err(())) };
                self.members = members;
                self.auto_leave = change.auto_leave();
                Some(Ok(self.membership()))
            }
        }
    }
}

/// One simulated replica.
pub struct Replica {
    pub id: ReplicaId,
    pub group: Group<Proof>,
    pub disk: Disk,
    pub state: State,
    /// Committed entries that were handed out and not yet applied.
    pub to_apply: VecDeque<Entry>,
    pub fetches: Vec<Fetch>,
    /// Followers that need a snapshot.
    pub snapshots: Vec<ReplicaId>,
    pub gated: Vec<Gated<Message, Proof>>,
    pub out: Output<Proof>,
    /// The last turn left nothing over, and nothing was done to the group since.
    pub polled: bool,
    /// The last flush said that it left something to poll.
    pub flush_matters: bool,
    proof: Option<Proof>,
    seq: u64,
}

impl Replica {
    pub fn start(options: &Arc<Options>, id: ReplicaId, disk: Disk, state: State, seed: u64, now: Time) -> Self {
        let mut image = disk.durable;
        if state.applied > image.last_index() {
            // A snapshot was installed and the reset of the log was lost: it is done again.
            image.truncated_index = state.applied;
            image.truncated_term = state.applied_term;
            image.entries.clear();
            image.hard_state.term = image.hard_state.term.max(state.applied_term);
        }
        let restored = Restored {
            hard_state: image.hard_state,
            log: image.summary(),
            applied: state.applied,
            membership: state.membership(),
        };
        restored.validate().expect("what is on disk fits together");
        Self {
            id,
            group: Group::new(Arc::clone(options), id, restored, seed, now),
            disk: Disk::new(image),
            state,
            to_apply: VecDeque::new(),
            fetches: Vec::new(),
            snapshots: Vec::new(),
            gated: Vec::new(),
            out: Output::new(),
            polled: false,
            flush_matters: false,
            proof: None,
            seq: 0,
        }
    }

    /// A member of a group that was made with `members`, as if its log had begun after index 5.
    pub fn bootstrap(options: &Arc<Options>, id: ReplicaId, members: Vec<Member>, seed: u64, now: Time) -> Self {
        let mut image = Image { truncated_index: LogIndex(5), truncated_term: Term(1), ..Image::default() };
        image.hard_state.term = Term(1);
        image.hard_state.commit = LogIndex(5);
        let state = State { applied: LogIndex(5), applied_term: Term(1), members, ..State::default() };
        Self::start(options, id, Disk::new(image), state, seed, now)
    }

    /// A crash: what was not flushed is gone, then it starts again.
    pub fn restart(&mut self, options: &Arc<Options>, seed: u64, now: Time) {
        let disk = Disk::new(self.disk.durable.clone());
        *self = Self::start(options, self.id, disk, self.state.clone(), seed, now);
    }

    /// Ends the turn: polls, writes, and adds what may leave to `net`. What else there is stays in `self.out` and in the
    /// queues until the driver looks.
    pub fn turn(&mut self, now: Time, net: &mut Vec<Message>) {
        self.seq += 1;
        self.out.clear();
        self.group.poll_output(now, LogTicket { lane: 0, seq: self.seq }, &mut self.out);
        self.polled = !self.out.more;
        net.extend(self.out.messages.iter().cloned());
        if !self.out.log.is_empty() || self.out.hard_state.is_some() {
            self.disk.write(self.seq, self.out.log.clone(), self.out.hard_state);
        }
        self.gated.append(&mut self.out.gated);
        self.to_apply.extend(self.out.committed.iter().cloned());
        self.fetches.append(&mut self.out.fetches.clone());
        self.snapshots.append(&mut self.out.snapshots.clone());
        self.open_gates(net);
    }

    /// Puts what the group comes to when it is packed and unpacked in its place; says whether it could be packed.
    pub fn repack(&mut self, options: &Arc<Options>) -> bool {
        let members = self.group.membership().clone();
        let mut packed = Vec::new();
        if !self.group.pack(&members, &mut packed) {
            assert!(packed.is_empty());
            return false;
        }
        let unpacked: Group<Proof> = Group::unpack(Arc::clone(options), members.clone(), &packed);
        assert_eq!(unpacked.status(), self.group.status());
        assert_eq!(unpacked.next_deadline(), self.group.next_deadline());
        assert_eq!(unpacked.promise(), self.group.promise());
        assert_eq!(unpacked.log_summary(), self.group.log_summary());
        let mut again = Vec::new();
        assert!(unpacked.pack(&members, &mut again));
        assert_eq!(packed, again);
        self.group = unpacked;
        true
    }

    /// Flushes the oldest `count` records and reports it to the group.
    pub fn flush(&mut self, now: Time, count: usize, net: &mut Vec<Message>) -> bool {
        let Some(proof) = self.disk.flush(count) else { return false };
        self.proof = Some(proof);
        self.flush_matters = self.group.on_flushed(now, &proof);
        self.open_gates(net);
        true
    }

    fn open_gates(&mut self, net: &mut Vec<Message>) {
        // Before the first flush of a run, what was found at start is all that is durable.
        let proof = self.proof.unwrap_or(Proof { lane: 0, seq: 0 });
        for gated in std::mem::take(&mut self.gated) {
            match gated.release(&proof) {
                Ok(message) => net.push(message),
                Err(still_gated) => self.gated.push(still_gated),
            }
        }
    }

    /// Applies the next `count` entries and reports it.
    pub fn apply(&mut self, now: Time, count: usize) -> Vec<Entry> {
        let count = count.min(self.to_apply.len());
        let entries: Vec<_> = self.to_apply.drain(..count).collect();
        for entry in &entries {
            match self.state.apply(entry) {
                Some(Ok(membership)) => self.group.on_membership_applied(now, entry.index, membership),
                Some(Err(())) => self.group.on_membership_noop(entry.index),
                None => {}
            }
        }
        if let Some(last) = entries.last() {
            self.group.on_applied(now, last.index);
        }
        entries
    }

    pub fn answer_fetches(&mut self, now: Time) -> bool {
        let fetches = std::mem::take(&mut self.fetches);
        for fetch in &fetches {
            self.group.on_fetched(now, *fetch, self.disk.fetch(*fetch));
        }
        !fetches.is_empty()
    }

    /// Installs another replica's state.
    pub fn install(&mut self, now: Time, snapshot: &State) -> bool {
        if !self.group.would_install(snapshot.applied, snapshot.applied_term) {
            return false;
        }
        self.state = snapshot.clone();
        self.to_apply.clear();
        self.group.restore(now, snapshot.applied, snapshot.applied_term, snapshot.membership())
    }
}
