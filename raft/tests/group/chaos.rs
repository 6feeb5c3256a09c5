//! A small cluster under random faults, from a seed: messages are lost, doubled and overtaken, disks flush late, replicas
//! crash and lose what was not flushed, links break in one direction, members come and go. After every step the promises
//! of Raft are checked (dissertation, figure 3.2); at the end the faults stop and the cluster must recover.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{
    AppendOutcome, Body, ChangeOp, EntryKind, LogIndex, MembershipChange, Message, Options, Payload, Proposal,
    Replica as Member, ReplicaId, Role, SnapshotOutcome, StoreId, Time,
};

use crate::checker::{Checker, check_logs};
use crate::dice::Dice;
use crate::replica::{Replica, State};
use crate::support::Supports;

type Action = (u64, fn(&mut Cluster));

/// What may happen, and how often it does on average.
const ACTIONS: [Action; 22] = [
    (420, Cluster::deliver),
    (180, Cluster::flush),
    (100, Cluster::pass_time),
    (80, Cluster::apply),
    (100, Cluster::propose),
    (20, Cluster::read),
    (20, Cluster::fetch),
    (10, Cluster::compact),
    (15, Cluster::finish_snapshot),
    (20, Cluster::change_members),
    (12, Cluster::transfer),
    (8, Cluster::crash),
    (8, Cluster::toggle_link),
    (4, Cluster::lose_link),
    (4, Cluster::campaign),
    (4, Cluster::pause),
    (30, Cluster::lose_message),
    (40, Cluster::learn_commit),
    (10, Cluster::end_support),
    (40, Cluster::renew_support),
    (30, Cluster::tell_withdrawals),
    (60, Cluster::repack),
];

struct Cluster {
    options: Arc<Options>,
    dice: Dice,
    now: Time,
    replicas: Vec<Replica>,
    net: Vec<Message>,
    cut: Vec<(ReplicaId, ReplicaId)>,
    snapshots: Vec<(ReplicaId, ReplicaId, State)>,
    next_id: u64,
    next_read: u64,
    commands: u64,
    checker: Checker,
    supports: Supports,
    rests: u64,
    repacked: [u64; 3],
    weights: [u64; ACTIONS.len()],
    installed: u64,
}

impl Cluster {
    fn new(seed: u64) -> Self {
        let mut dice = Dice(seed);
        let options = Arc::new(Options {
            max_append_bytes: 100,
            max_inflight_appends: 4,
            max_inflight_bytes: 400,
            max_cached_bytes: 150,
            max_committed_bytes: 200,
            max_applying_bytes: 500,
            max_uncommitted_bytes: 2000,
            pre_vote: dice.roll(8) != 0,
            check_quorum: dice.roll(8) != 0,
            eager_commit: dice.roll(2) == 0,
            ..Options::default()
        });
        // Each seed has a character of its own: slow disks, lost messages, many elections...
        let weights = ACTIONS.map(|(weight, _)| 1 + weight * [8, 8, 4, 4, 2, 1, 0][dice.roll(7) as usize]);
        let voters = [1, 3, 3, 3, 5][dice.roll(5) as usize];
        let members: Vec<_> =
            (1..=voters).map(|n| Member { id: ReplicaId(n), store: StoreId(n), role: Role::Voter }).collect();
        let now = Time(1_000_000_000);
        let replicas = members
            .iter()
            .map(|member| Replica::bootstrap(&options, member.id, members.clone(), seed ^ member.id.get(), now))
            .collect();
        Self {
            options,
            dice,
            now,
            replicas,
            net: Vec::new(),
            cut: Vec::new(),
            snapshots: Vec::new(),
            next_id: voters + 1,
            next_read: 1,
            commands: 0,
            checker: Checker::default(),
            supports: Supports::default(),
            rests: 0,
            repacked: [0; 3],
            weights,
            installed: 0,
        }
    }

    fn any(&mut self) -> usize {
        self.dice.roll(self.replicas.len() as u64) as usize
    }

    fn leader(&self) -> Option<usize> {
        let leads = |at: &usize| self.replicas[*at].group.is_leader();
        (0..self.replicas.len()).filter(leads).max_by_key(|at| self.replicas[*at].group.term())
    }

    fn step(&mut self) {
        let total = self.weights.iter().sum();
        let mut roll = self.dice.roll(total);
        for (weight, (_, act)) in self.weights.iter().zip(ACTIONS) {
            if roll < *weight {
                return act(self);
            }
            roll -= weight;
        }
    }

    fn turn(&mut self, at: usize) {
        let now = self.now;
        self.replicas[at].turn(now, &mut self.net);
        let replica = &mut self.replicas[at];
        let from = replica.id;
        for to in std::mem::take(&mut replica.snapshots) {
            self.snapshots.push((from, to, replica.state.clone()));
        }
        for read in &replica.out.reads {
            let (_, asked_at) = self.checker.reads.remove(&read.context).expect("each read is answered once");
            assert!(read.index >= asked_at, "a read sees all that was committed before it was asked");
            self.checker.answered += 1;
        }
        for context in &replica.out.reads_failed {
            self.checker.reads.remove(context).expect("each read is answered once");
        }
        self.checker.check(&self.replicas[at]);
        self.checker.check_fortified(&self.replicas, &self.supports);
    }

    fn deliver(&mut self) {
        if self.net.is_empty() {
            return;
        }
        // Mostly in order, sometimes not; sometimes twice.
        let at = if self.dice.roll(4) == 0 { self.dice.roll(self.net.len() as u64) as usize } else { 0 };
        let message = if self.dice.roll(50) == 0 { self.net[at].clone() } else { self.net.remove(at) };
        self.hand_over(message);
    }

    fn hand_over(&mut self, message: Message) {
        if self.cut.contains(&(message.from, message.to)) || !self.supports.admits(&message) {
            return;
        }
        let Some(at) = self.replicas.iter().position(|replica| replica.id == message.to) else { return };
        if self.replicas[at].polled && self.absorb(at, &message) {
            self.turn(at);
            assert!(self.replicas[at].out.is_empty(), "what was absorbed left something to do: {message:?}");
            return;
        }
        self.replicas[at].group.handle_message(self.now, message);
        self.replicas[at].polled = false;
        // Several messages may share a turn.
        if self.dice.roll(3) != 0 {
            self.turn(at);
        }
    }

    /// Whether the group takes the message without a turn.
    fn absorb(&mut self, at: usize, message: &Message) -> bool {
        let (now, from, term) = (self.now, message.from, message.term);
        let group = &mut self.replicas[at].group;
        match message.body {
            Body::Heartbeat { commit, round } => {
                let is_quiet = group.absorb_heartbeat(now, from, term, commit);
                if is_quiet {
                    let body = Body::HeartbeatReply { round };
                    self.net.push(Message { from: message.to, to: from, term, body });
                }
                is_quiet
            }
            Body::HeartbeatReply { round } => group.absorb_heartbeat_reply(now, from, term, round),
            Body::AppendReply(AppendOutcome::Accepted { match_index }) => {
                group.absorb_accepted(now, from, term, match_index)
            }
            _ => false,
        }
    }

    fn flush(&mut self) {
        let at = self.any();
        let count = 1 + self.dice.roll(3) as usize;
        let now = self.now;
        let polled = self.replicas[at].polled;
        if self.replicas[at].flush(now, count, &mut self.net) {
            self.turn(at);
            let Replica { flush_matters, out, .. } = &self.replicas[at];
            assert!(!polled || *flush_matters || out.is_empty(), "a flush that left nothing to do: {out:?}");
        }
    }

    /// One replica hears beside the protocol how far another is.
    fn learn_commit(&mut self) {
        let (to, of) = (self.any(), self.any());
        let (term, commit) = (self.replicas[of].group.term(), self.replicas[of].group.commit_index());
        self.replicas[to].group.learn_commit(term, commit);
        self.turn(to);
    }

    fn pass_time(&mut self) {
        self.now = self.now.plus(Duration::from_millis(1 + self.dice.roll(120)));
        for at in 0..self.replicas.len() {
            self.meet_deadline(at);
        }
    }

    fn meet_deadline(&mut self, at: usize) {
        if self.replicas[at].group.next_deadline() <= self.now {
            self.supports.brief(&mut self.replicas[at]);
            let rested = self.replicas[at].group.is_resting();
            self.replicas[at].group.handle_deadline(self.now);
            self.rests += u64::from(!rested && self.replicas[at].group.is_resting());
            self.turn(at);
        }
    }

    /// Two different replicas: whose store asks for support, and whose gives it.
    fn any_pair(&mut self) -> Option<(usize, usize)> {
        let (asker, supporter) = (self.any(), self.any());
        (asker != supporter).then_some((asker, supporter))
    }

    fn end_support(&mut self) {
        let Some((asker, supporter)) = self.any_pair() else { return };
        let (a, b) = (self.replicas[asker].id, self.replicas[supporter].id);
        match self.dice.roll(3) {
            0 => self.supports.withdraw(a, b),
            _ => {
                self.supports.lose(a, b);
                let (supports, group) = (&self.supports, &mut self.replicas[asker].group);
                if group.is_resting() && !group.is_fortified_by(|id, epoch| supports.held(a, id) == Some(epoch)) {
                    group.wake(self.now);
                }
            }
        }
    }

    fn renew_support(&mut self) {
        let Some((asker, supporter)) = self.any_pair() else { return };
        self.renew(asker, supporter);
    }

    fn renew(&mut self, asker: usize, supporter: usize) {
        let (a, b) = (self.replicas[asker].id, self.replicas[supporter].id);
        let before = self.supports.held(a, b);
        self.supports.renew(a, b);
        if self.supports.held(a, b) != before && self.replicas[asker].group.is_resting() {
            self.replicas[asker].group.wake(self.now);
        }
    }

    fn tell_withdrawals(&mut self) {
        let (count, wait) = (1 + self.dice.roll(3) as usize, Duration::from_millis(self.dice.roll(200)));
        for at in self.supports.tell(count, &mut self.replicas, self.now, wait) {
            self.turn(at);
        }
    }

    fn apply(&mut self) {
        let at = self.any();
        let count = 1 + self.dice.roll(8) as usize;
        self.apply_some(at, count);
    }

    fn apply_some(&mut self, at: usize, count: usize) {
        let now = self.now;
        let entries = self.replicas[at].apply(now, count);
        let term = self.replicas[at].group.term();
        for entry in &entries {
            self.checker.applied(entry, term);
        }
        self.turn(at);
    }

    fn propose(&mut self) {
        let at = if self.dice.roll(10) == 0 { Some(self.any()) } else { self.leader() };
        let Some(at) = at else { return };
        let mut proposals = Vec::new();
        for _ in 0..=self.dice.roll(3) {
            self.commands += 1;
            let size = self.dice.roll(40) as usize;
            let mut data = self.commands.to_le_bytes().to_vec();
            data.resize(8 + size, 7);
            proposals.push(Proposal { kind: EntryKind::Command, data: Payload::from(data) });
        }
        // A refusal is one of the outcomes that a caller must live with.
        let _ = self.replicas[at].group.propose(self.now, &mut proposals);
        self.replicas[at].polled = false;
        if self.dice.roll(3) != 0 {
            self.turn(at);
        }
        if self.dice.roll(2) == 0 {
            let intervals = self.dice.roll(5) as u32;
            self.replicas[at].group.put_off_beats(self.now, intervals);
        }
    }

    fn read(&mut self) {
        let Some(at) = self.leader() else { return };
        let context = self.next_read;
        if self.replicas[at].group.read_index(self.now, context).is_ok() {
            self.next_read += 1;
            self.checker.reads.insert(context, (self.replicas[at].id, self.checker.highest_commit));
            self.turn(at);
        }
    }

    fn fetch(&mut self) {
        let at = self.any();
        let now = self.now;
        if self.dice.roll(10) == 0 {
            for fetch in std::mem::take(&mut self.replicas[at].fetches) {
                self.replicas[at].group.fetch_failed(now, fetch);
            }
            self.turn(at);
        } else if self.replicas[at].answer_fetches(now) {
            self.turn(at);
        }
    }

    fn compact(&mut self) {
        let at = self.any();
        let applied = self.replicas[at].group.applied_index();
        let upto = LogIndex(applied.get().saturating_sub(self.dice.roll(10)));
        self.replicas[at].group.compact(upto);
        if self.dice.roll(4) == 0 {
            self.replicas[at].group.release_memory();
        }
        self.turn(at);
    }

    fn finish_snapshot(&mut self) {
        if self.snapshots.is_empty() {
            return;
        }
        let at = self.dice.roll(self.snapshots.len() as u64) as usize;
        let (from, to, state) = self.snapshots.swap_remove(at);
        let lost = self.dice.roll(5) == 0;
        let outcome = if lost { SnapshotOutcome::Failed } else { SnapshotOutcome::Installed };
        if !lost && let Some(at) = self.replicas.iter().position(|replica| replica.id == to) {
            let now = self.now;
            self.checker.snapshot(&state);
            self.installed += u64::from(self.replicas[at].install(now, &state));
            self.turn(at);
        }
        if let Some(at) = self.replicas.iter().position(|replica| replica.id == from) {
            self.replicas[at].group.on_snapshot_sent(self.now, to, outcome);
            self.turn(at);
        }
    }

    fn change_members(&mut self) {
        let Some(at) = self.leader() else { return };
        let members = self.replicas[at].state.members.clone();
        let change = if self.replicas[at].group.membership().is_joint() && self.dice.roll(2) == 0 {
            MembershipChange::LeaveJoint
        } else if self.dice.roll(2) == 0 {
            MembershipChange::Simple(self.random_op(&members))
        } else {
            let count = 1 + self.dice.roll(3);
            let ops = (0..count).map(|_| self.random_op(&members)).collect();
            MembershipChange::Joint { ops, auto_leave: self.dice.roll(3) != 0 }
        };
        let group = &mut self.replicas[at].group;
        if group.propose_membership(self.now, &change, Bytes::from_static(b"epoch")).is_ok() {
            let ops = match &change {
                MembershipChange::Simple(op) => vec![*op],
                MembershipChange::Joint { ops, .. } => ops.clone(),
                MembershipChange::LeaveJoint => vec![],
            };
            for op in ops {
                if let ChangeOp::AddVoter { id, .. } | ChangeOp::AddLearner { id, .. } = op {
                    let seed = self.dice.roll(u64::MAX);
                    let replica =
                        Replica::start(&self.options, id, Default::default(), State::default(), seed, self.now);
                    self.replicas.push(replica);
                }
            }
            self.turn(at);
        }
    }

    fn random_op(&mut self, members: &[Member]) -> ChangeOp {
        let some = members[self.dice.roll(members.len() as u64) as usize].id;
        match self.dice.roll(6) {
            0..2 if members.len() < 6 => {
                let id = ReplicaId(self.next_id);
                let store = StoreId(self.next_id);
                self.next_id += 1;
                if self.dice.roll(2) == 0 {
                    ChangeOp::AddVoter { id, store }
                } else {
                    ChangeOp::AddLearner { id, store }
                }
            }
            2 | 3 => ChangeOp::Promote { id: some },
            4 => ChangeOp::Demote { id: some },
            _ => ChangeOp::Remove { id: some },
        }
    }

    fn transfer(&mut self) {
        let Some(at) = self.leader() else { return };
        let to = self.any();
        let to = self.replicas[to].id;
        let _ = self.replicas[at].group.transfer_leader(self.now, to);
        self.turn(at);
    }

    fn crash(&mut self) {
        let at = self.any();
        let seed = self.dice.roll(u64::MAX);
        let (options, now) = (Arc::clone(&self.options), self.now);
        self.replicas[at].restart(&options, seed, now);
        let others: Vec<_> = self.replicas.iter().map(|replica| replica.id).collect();
        self.supports.restart(self.replicas[at].id, &others);
        // What was asked of it is never answered.
        let crashed = self.replicas[at].id;
        self.checker.reads.retain(|_, (asked, _)| *asked != crashed);
        self.turn(at);
    }

    fn toggle_link(&mut self) {
        let (a, b) = (self.any(), self.any());
        let link = (self.replicas[a].id, self.replicas[b].id);
        match self.cut.iter().position(|cut| *cut == link) {
            Some(at) => drop(self.cut.remove(at)),
            None if self.cut.len() < 4 => self.cut.push(link),
            None => self.cut.clear(),
        }
    }

    fn lose_link(&mut self) {
        let (a, b) = (self.any(), self.any());
        let (from, to) = (self.replicas[a].id, self.replicas[b].id);
        self.net.retain(|message| (message.from, message.to) != (from, to));
        self.replicas[a].group.on_peer_unreachable(self.now, to);
        self.turn(a);
    }

    fn campaign(&mut self) {
        let at = self.any();
        self.replicas[at].group.campaign(self.now);
        self.turn(at);
    }

    /// Nobody notices that a group was packed and unpacked again.
    fn repack(&mut self) {
        let at = self.any();
        let replica = &mut self.replicas[at];
        if replica.repack(&self.options) {
            let group = &replica.group;
            let kind = if group.is_resting() { 2 } else { usize::from(group.is_leader()) };
            self.repacked[kind] += 1;
        }
    }

    fn pause(&mut self) {
        let Some(at) = self.leader() else { return };
        let to = self.any();
        let to = self.replicas[to].id;
        if self.dice.roll(2) == 0 {
            self.replicas[at].group.pause_peer(to);
        } else {
            self.replicas[at].group.resume_peer(to);
        }
        self.turn(at);
    }

    fn lose_message(&mut self) {
        if !self.net.is_empty() {
            let at = self.dice.roll(self.net.len() as u64) as usize;
            self.net.remove(at);
        }
    }

    /// The faults are over: everything is delivered and flushed, for `length`.
    fn run_well(&mut self, length: Duration) {
        self.cut.clear();
        let end = self.now.plus(length);
        while self.now < end {
            self.now = self.now.plus(Duration::from_millis(5));
            self.settle();
            for at in 0..self.replicas.len() {
                if let Some(leader) = self.leader() {
                    let id = self.replicas[at].id;
                    self.replicas[leader].group.resume_peer(id);
                }
                for other in (0..self.replicas.len()).filter(|other| *other != at) {
                    self.renew(at, other);
                }
                self.meet_deadline(at);
            }
            self.supports.tell(usize::MAX, &mut self.replicas, self.now, Duration::from_millis(50));
            self.repack();
        }
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..2000 {
            let mut quiet = true;
            for message in std::mem::take(&mut self.net) {
                quiet = false;
                if !self.supports.admits(&message) {
                    continue;
                }
                if let Some(at) = self.replicas.iter().position(|replica| replica.id == message.to) {
                    self.answer_the_lonely(at, &message);
                    self.replicas[at].group.handle_message(self.now, message);
                    self.turn(at);
                }
            }
            while !self.snapshots.is_empty() {
                quiet = false;
                self.finish_snapshot();
            }
            for at in 0..self.replicas.len() {
                let now = self.now;
                let busy = self.replicas[at].flush(now, usize::MAX, &mut self.net)
                    | self.replicas[at].answer_fetches(now)
                    | !self.replicas[at].to_apply.is_empty()
                    | self.replicas[at].out.more;
                if busy {
                    quiet = false;
                    self.apply_some(at, usize::MAX);
                }
            }
            if quiet {
                return;
            }
        }
        panic!("a cluster without faults comes to rest");
    }

    /// Who finds no leader is told by the drivers of the others what those know to be committed. Without it nobody might ever be
    /// elected where a change that only one knows of took the vote, or more, from him: he holds more than the rest, and may not lead.
    fn answer_the_lonely(&mut self, at: usize, message: &Message) {
        if !matches!(message.body, Body::PreVote { .. } | Body::Vote { .. }) {
            return;
        }
        let State { applied, applied_term, .. } = self.replicas[at].state;
        let asker = self.replicas.iter().position(|replica| replica.id == message.from);
        if let Some(asker) = asker
            && self.replicas[asker].group.learn_committed(applied, applied_term)
        {
            self.turn(asker);
        }
    }

    fn recovers(&mut self) {
        for at in 0..self.replicas.len() {
            self.turn(at);
        }
        self.run_well(Duration::from_secs(30));
        if !self.options.pre_vote {
            // Who was removed and has not heard of it unseats leaders for ever; a driver does away with it.
            let newest = self.replicas.iter().max_by_key(|replica| replica.state.applied).expect("some");
            let members: Vec<_> = newest.state.members.iter().map(|member| member.id).collect();
            self.replicas.retain(|replica| members.contains(&replica.id));
            self.run_well(Duration::from_secs(5));
        }
        let leader = self.leader().expect("a cluster without faults has a leader");
        let mut proposals = vec![Proposal { kind: EntryKind::Command, data: Payload::copy_from_slice(b"the last") }];
        let index = self.replicas[leader].group.propose(self.now, &mut proposals).expect("a leader takes proposals");
        self.turn(leader);
        self.run_well(Duration::from_secs(3));
        let members = self.replicas[leader].state.members.clone();
        for replica in self.replicas.iter().filter(|replica| members.iter().any(|member| member.id == replica.id)) {
            assert!(replica.state.applied >= index, "{:?} catches up: {:?}", replica.id, replica.group);
            assert_eq!(replica.state.commands, self.replicas[leader].state.commands);
        }
        check_logs(&self.replicas);
    }
}

/// What happened in some runs.
#[derive(Debug, Default)]
struct Tally {
    applied: usize,
    answered: u64,
    leaders: usize,
    changes: usize,
    installed: u64,
    rests: u64,
    repacked: [u64; 3],
    fortified: u64,
}

fn run(seed: u64, steps: u64, tally: &mut Tally) {
    let mut cluster = Cluster::new(seed);
    for step in 0..steps {
        cluster.step();
        if step % 100 == 0 {
            check_logs(&cluster.replicas);
        }
    }
    cluster.recovers();
    let Checker { applied, answered, leaders, .. } = &cluster.checker;
    tally.applied += applied.len();
    tally.answered += answered;
    tally.leaders += leaders.len();
    tally.changes += applied.values().filter(|(entry, _)| entry.kind == EntryKind::Membership).count();
    tally.installed += cluster.installed;
    tally.rests += cluster.rests;
    (0..3).for_each(|kind| tally.repacked[kind] += cluster.repacked[kind]);
    tally.fortified += cluster.checker.fortified;
}

/// `CHAOS_SEED=n cargo nextest run -p multiraft-raft chaos` replays one seed, `CHAOS_SEEDS=n` runs the first n.
#[test]
#[expect(clippy::disallowed_methods, reason = "a person chooses the seeds")]
fn raft_keeps_its_promises_under_random_faults() {
    let number = |name| std::env::var(name).ok().and_then(|value: String| value.parse::<u64>().ok());
    let seeds = match number("CHAOS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("CHAOS_SEEDS").unwrap_or(300),
    };
    let count = seeds.end - seeds.start;
    let mut tally = Tally::default();
    for seed in seeds {
        // A panic inside names the promise; this names the seed.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(seed, 3000, &mut tally)));
        if let Err(panic) = outcome {
            eprintln!("replay with: CHAOS_SEED={seed} cargo nextest run -p multiraft-raft chaos");
            std::panic::resume_unwind(panic);
        }
    }
    // Runs in which nothing happens would prove nothing.
    if count >= 300 {
        assert!(tally.applied > 8000 && tally.answered > 1500 && tally.leaders > 600, "{tally:?}");
        assert!(tally.changes > 100 && tally.installed > 100, "{tally:?}");
        assert!(tally.rests > 100 && tally.fortified > 10_000, "{tally:?}");
        assert!(tally.repacked.iter().all(|count| *count > 100), "{tally:?}");
    }
}
