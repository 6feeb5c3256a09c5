//! One replica of the traced group: the shipped core, a log in memory, and the lines that its turns leave behind.
//!
//! Every turn is flushed before anything of it is delivered: the specification persists a node's state and releases its
//! messages in one step ("Ready").

use std::sync::Arc;

use multiraft_raft::{
    Body, ChangeOp, Entry, EntryKind, Event, FetchPurpose, FlushProof, Group, HardState, LogIndex, LogStep, LogSummary,
    LogTicket, Membership, MembershipChange, Message, Options, Output, Payload, ReplicaId, Restored, RoleKind,
    SnapshotOutcome, Term, TermRun, Time,
};
use serde_json::{Value, json};

use super::line::{View, family, message_of, names, own_append, own_vote, snapshot, voters};

/// The proof of a flush that takes no time.
#[derive(Clone, Debug)]
pub(super) struct Flushed(LogTicket);

impl FlushProof for Flushed {
    fn covers(&self, ticket: LogTicket) -> bool {
        ticket.seq <= self.0.seq
    }
}

/// What travels between replicas.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) to: ReplicaId,
    pub(super) from: ReplicaId,
    pub(super) shown: Value,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Message(Message),
    Snapshot { index: LogIndex, term: Term, membership: Membership },
}

/// A replica.
pub(super) struct Replica {
    pub(super) group: Group<Flushed>,
    options: Arc<Options>,
    /// What is durable.
    hard_state: HardState,
    base: (LogIndex, Term),
    entries: Vec<Entry>,
    applied: LogIndex,
    membership: Membership,
    ticket: LogTicket,
    seed: u64,
    /// A change that this replica proposed as leader and has not applied while it led: the specification then takes no other.
    pub(super) owes_change: bool,
    /// The change that it proposes in this turn, as the trace shows it.
    change: Option<Value>,
}

impl Replica {
    /// A replica that begins with `count` committed entries of term one, as one that was bootstrapped, or with none.
    pub(super) fn new(id: ReplicaId, options: Arc<Options>, count: u64, membership: Membership, seed: u64) -> Self {
        let entry =
            |index| Entry { term: Term(1), index: LogIndex(index), kind: EntryKind::Empty, data: Payload::new() };
        let (hard_state, entries) = (
            HardState { term: Term(u64::from(count > 0)), vote: ReplicaId::ZERO, commit: LogIndex(count) },
            (1..=count).map(entry).collect::<Vec<_>>(),
        );
        let mut replica = Self {
            group: Group::new(Arc::clone(&options), id, Restored::default(), seed, Time::ZERO),
            options,
            hard_state,
            base: (LogIndex::ZERO, Term::ZERO),
            entries,
            applied: LogIndex(count),
            membership,
            ticket: LogTicket { lane: 0, seq: 0 },
            seed,
            owes_change: false,
            change: None,
        };
        replica.reopen(Time::ZERO);
        replica
    }

    /// Starts on what is durable.
    fn reopen(&mut self, now: Time) {
        self.seed = self.seed.wrapping_add(1);
        let restored = Restored {
            hard_state: self.hard_state,
            log: self.summary(),
            applied: self.applied,
            membership: self.membership.clone(),
        };
        self.group = Group::new(Arc::clone(&self.options), self.group.id(), restored, self.seed, now);
    }

    /// Dies and starts again.
    pub(super) fn restart(&mut self, now: Time, lines: &mut Vec<Value>) {
        self.reopen(now);
        self.owes_change = false;
        lines.push(View::of(&self.group).line("InitState"));
    }

    /// The lines that give a replica's initial state.
    pub(super) fn introduce(&self, lines: &mut Vec<Value>) {
        let view = View::of(&self.group);
        lines.push(view.line("InitState"));
        lines.push(view.line("BecomeFollower"));
        if !view.voters.is_empty() {
            lines.push(self.config_line());
        }
    }

    fn config_line(&self) -> Value {
        let mut line = View::of(&self.group).line("ApplyConfChange");
        line["event"]["prop"] = json!({"cc": {"newconf": names(&voters(self.group.membership()))}});
        line
    }

    fn summary(&self) -> LogSummary {
        let mut runs: Vec<TermRun> = Vec::new();
        for entry in &self.entries {
            if runs.last().is_none_or(|run| run.term < entry.term) {
                runs.push(TermRun { start: entry.index, term: entry.term });
            }
        }
        let (truncated_index, truncated_term) = self.base;
        LogSummary {
            truncated_index,
            truncated_term,
            last_index: truncated_index.plus(self.entries.len() as u64),
            runs,
        }
    }

    /// Proposes to add or remove a voter; says whether that was taken.
    pub(super) fn propose_change(&mut self, now: Time, op: ChangeOp) -> bool {
        let (id, action) = match op {
            ChangeOp::Remove { id } => (id, "RemoveServer"),
            ChangeOp::AddVoter { id, .. } => (id, "AddNewServer"),
            _ => return false,
        };
        let taken = self.group.propose_membership(now, &MembershipChange::Simple(op), bytes::Bytes::new()).is_ok();
        if taken {
            self.owes_change = true;
            self.change = Some(json!({"nid": id.to_string(), "action": action}));
        }
        taken
    }

    /// Forgets what is applied.
    pub(super) fn compact(&mut self) {
        self.group.compact(self.applied);
    }

    /// Ends a turn that began in state `before`: flushes, applies, and notes it all. `has_request`: the turn took a request,
    /// whose answer the specification releases even where the core gives none.
    pub(super) fn finish(
        &mut self,
        now: Time,
        before: &View,
        has_request: bool,
        lines: &mut Vec<Value>,
        sent: &mut Vec<Packet>,
    ) {
        let mut before = before.clone();
        let mut is_ready_due = has_request;
        loop {
            self.ticket.seq += 1;
            let mut out = Output::new();
            self.group.poll_output(now, self.ticket, &mut out);
            let after = View::of(&self.group);
            let is_idle = out.is_empty() && before == after;
            let owed = self.note(&before, &after, &mut out, lines, sent);
            if is_ready_due || !is_idle {
                lines.push(after.line("Ready"));
            }
            is_ready_due = false;
            if self.carry_out(now, &mut out, lines, &after) {
                lines.push(View::of(&self.group).line("Ready"));
            }
            before = View::of(&self.group);
            for (name, own) in owed {
                lines.push(before.message_line(name, &own));
            }
            self.group.on_flushed(now, &Flushed(self.ticket));
            if is_idle && before == View::of(&self.group) {
                return;
            }
        }
    }

    /// Notes what has changed and what is sent; returns what the replica tells itself once that is durable.
    fn note(
        &mut self,
        before: &View,
        after: &View,
        out: &mut Output<Flushed>,
        lines: &mut Vec<Value>,
        sent: &mut Vec<Packet>,
    ) -> Vec<(&'static str, Value)> {
        let mut owed = Vec::new();
        let mut view = View { last: before.last, commit: before.commit, ..after.clone() };
        let became =
            |role| out.events.iter().any(|event| matches!(event, Event::RoleChanged { role: new, .. } if *new == role));
        if became(RoleKind::Candidate) {
            lines.push(View { role: RoleKind::Candidate, ..view.clone() }.line("BecomeCandidate"));
        }
        if became(RoleKind::Leader) {
            lines.push(view.line("BecomeLeader"));
        }
        if after.role == RoleKind::Leader {
            let is_change = out.log.iter().any(|step| {
                matches!(step, LogStep::Append(entries) if entries.iter().any(|entry| entry.kind == EntryKind::Membership))
            });
            while view.last < after.last {
                view.last = view.last.next();
                match self.change.take_if(|_| is_change) {
                    Some(change) => {
                        let mut line = view.line("ChangeConf");
                        line["event"]["prop"] = json!({"cc": {"changes": [change]}});
                        lines.push(line);
                    }
                    None => lines.push(view.line("Replicate")),
                }
            }
            if before.last < after.last || became(RoleKind::Leader) {
                let own = own_append(after.id, after.term, after.last);
                lines.push(view.message_line("SendAppendEntriesResponse", &own));
                owed.push(("ReceiveAppendEntriesResponse", own));
            }
            if before.commit < after.commit {
                lines.push(after.line("Commit"));
            }
        }
        let open = Flushed(self.ticket);
        let gated = out.gated.drain(..).filter_map(|gated| gated.release(&open).ok());
        let messages: Vec<Message> = out.messages.drain(..).chain(gated).collect();
        if became(RoleKind::Candidate) {
            let own = own_vote(after.id, after.term);
            lines.push(after.message_line("SendRequestVoteResponse", &own));
            owed.push(("ReceiveRequestVoteResponse", own));
        }
        for message in messages {
            let Some(shown) = message_of(&message, after.commit) else { continue };
            lines.push(after.message_line(&format!("Send{}", family(&shown)), &shown));
            sent.push(Packet { to: message.to, from: message.from, shown, content: Content::Message(message) });
        }
        for to in out.snapshots.drain(..) {
            let (index, term) = (self.applied, self.group.term_at(self.applied).unwrap_or_default());
            let shown = snapshot(after.id, to, after.term, index);
            lines.push(after.message_line("SendAppendEntriesRequest", &shown));
            let content = Content::Snapshot { index, term, membership: self.membership.clone() };
            sent.push(Packet { to, from: after.id, shown, content });
        }
        owed
    }

    /// Makes a turn's output durable and applies what is committed; returns whether that changed the membership.
    fn carry_out(&mut self, now: Time, out: &mut Output<Flushed>, lines: &mut Vec<Value>, after: &View) -> bool {
        for step in out.log.drain(..) {
            self.write(step);
        }
        self.hard_state = out.hard_state.unwrap_or(self.hard_state);
        for fetch in std::mem::take(&mut out.fetches) {
            let held = self.entries.iter().filter(|entry| entry.index >= fetch.from && entry.index <= fetch.to);
            let entries: Vec<Entry> = held.cloned().collect();
            debug_assert!(matches!(fetch.purpose, FetchPurpose::Send(_) | FetchPurpose::Apply));
            self.group.on_fetched(now, fetch, entries);
        }
        let mut changed = false;
        for entry in out.committed.drain(..) {
            if entry.kind == EntryKind::Membership {
                changed |= self.apply_change(now, &entry);
            }
            self.applied = entry.index;
            self.group.on_applied(now, entry.index);
        }
        if changed {
            self.note_change(lines, after);
        }
        changed
    }

    fn apply_change(&mut self, now: Time, entry: &Entry) -> bool {
        let change = MembershipChange::decode(&entry.data).ok();
        let Some(membership) = change.and_then(|(change, _)| self.membership.apply(&change).ok()) else {
            self.group.on_membership_noop(entry.index);
            return false;
        };
        self.membership = membership.clone();
        self.group.on_membership_applied(now, entry.index, membership);
        true
    }

    /// Several changes that are committed together show as one: the specification goes to the last one at once.
    fn note_change(&mut self, lines: &mut Vec<Value>, after: &View) {
        let mut line = self.config_line();
        line["event"]["role"] = after.line("")["event"]["role"].clone();
        lines.push(line);
        if after.role == RoleKind::Leader {
            self.owes_change = false;
        }
        if after.role == RoleKind::Leader && self.group.role() == RoleKind::Follower {
            // It is no member any more.
            lines.push(View::of(&self.group).line("BecomeFollower"));
        }
    }

    fn write(&mut self, step: LogStep) {
        match step {
            LogStep::Append(entries) => {
                if let Some(first) = entries.first() {
                    self.entries.retain(|entry| entry.index < first.index);
                }
                self.entries.extend(entries);
            }
            LogStep::Truncate { index, term } => {
                self.entries.retain(|entry| entry.index > index);
                self.base = (index, term);
            }
            LogStep::Reset { index, term } => {
                self.entries.clear();
                self.base = (index, term);
            }
        }
    }

    /// Whether the specification does with this packet what the core does. It follows etcd in some liberties: see the
    /// module's documentation.
    pub(super) fn agrees_on(&self, packet: &Packet) -> bool {
        let view = View::of(&self.group);
        let Content::Message(message) = &packet.content else {
            return view.commit == LogIndex::ZERO && view.last == LogIndex::ZERO;
        };
        let is_current = message.term >= view.term;
        match &message.body {
            Body::Vote { .. } => {
                message.term != view.term || view.vote != ReplicaId::ZERO || self.group.leader().is_none()
            }
            Body::Append { prev_index, entries, commit, .. } if is_current => {
                let reach = prev_index.plus(entries.len() as u64);
                let worth = LogIndex(packet.shown["commit"].as_u64().unwrap_or_default());
                if *prev_index < view.commit {
                    return reach <= view.commit && *commit <= view.commit;
                }
                let is_overtaken = view.last > reach && *commit > reach;
                !is_overtaken && (worth <= *commit || worth <= view.commit)
            }
            Body::Heartbeat { commit, .. } => is_current && (view.commit > LogIndex::ZERO || *commit == LogIndex::ZERO),
            _ => true,
        }
    }

    /// The index that the specification acknowledges to this append.
    pub(super) fn expected_match(&self, message: &Message) -> Option<LogIndex> {
        let Body::Append { prev_index, entries, .. } = &message.body else { return None };
        let commit = self.group.commit_index();
        Some(if *prev_index < commit { commit } else { prev_index.plus(entries.len() as u64) })
    }

    /// Takes a packet.
    pub(super) fn receive(&mut self, now: Time, packet: Packet, lines: &mut Vec<Value>) {
        let view = View::of(&self.group);
        lines.push(view.message_line(&format!("Receive{}", family(&packet.shown)), &packet.shown));
        match packet.content {
            Content::Message(message) => {
                self.group.handle_message(now, message);
                let after = View::of(&self.group);
                if after.role == RoleKind::Follower && (after.term, after.role) != (view.term, view.role) {
                    lines.push(after.line("BecomeFollower"));
                }
            }
            Content::Snapshot { index, term, membership } => {
                if self.group.restore(now, index, term, membership.clone()) {
                    (self.applied, self.membership) = (index, membership);
                    lines.push(self.config_line());
                }
            }
        }
    }

    /// What became of a snapshot that this replica sent.
    pub(super) fn on_snapshot_sent(&mut self, now: Time, to: ReplicaId, outcome: SnapshotOutcome) {
        self.group.on_snapshot_sent(now, to, outcome);
    }
}
