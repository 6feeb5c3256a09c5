//! A small interpreter: commands move a network of groups, and everything that happens is printed.
//!
//! ```text
//! reset                                  everything begins anew
//! options NAME=VALUE ...                 before the replicas: pre_vote, check_quorum, eager_commit, max_append_bytes, ...
//! cluster 1 2 3 [learners 4] [witnesses 5]   members whose logs begin after x5/t1
//! empty 4                                a replica that knows nothing yet
//! replica 1 of 1 2 3 term 8 log 1 1 4    a member whose log holds entries of these terms from x1 on
//! campaign 1 | propose 1 a b | read 1 7 | transfer 1 2 | priority 1 0 | compact 1 9
//! change 1 add-voter 4, remove 2 [joint|stay] | change 1 leave
//! pause 1 2 | resume 1 2 | unreachable 1 2 | restart 1 | wake 1
//! hold 1 flush | hold 1 apply | free 1   what `settle` leaves alone at replica 1
//! flush 1 | apply 1 | snapshot 1 2 | fail-snapshot 1 2 | fail-fetch 1
//! cut 1 2 | cut 1>2 | heal               links, in both or in one direction
//! deliver [1>2] | drop 1>2               messages that are under way now
//! settle [silent]                        deliver, flush, fetch and apply until all is quiet
//! time 100ms                             the clock moves on; what is due happens; nothing is delivered
//! run 1500ms [silent]                    the clock moves on, and everything is settled all the while
//! status [1] | log 1 | members 1
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft_raft::{
    ChangeOp, Entry, EntryKind, LogIndex, MembershipChange, Message, Options, Payload, Priority, Proposal,
    Replica as Member, ReplicaId, Role, SnapshotOutcome, StoreId, Term, Time,
};

use crate::disk::{Disk, Image};
use crate::format;
use crate::replica::{Replica, State};

pub struct Script {
    options: Options,
    now: Time,
    replicas: Vec<Replica>,
    net: Vec<Message>,
    cut: Vec<(ReplicaId, ReplicaId)>,
    held_flush: Vec<ReplicaId>,
    held_apply: Vec<ReplicaId>,
    lines: Vec<String>,
}

impl Script {
    pub fn new() -> Self {
        Self {
            options: Options::default(),
            now: Time(1_000_000_000),
            replicas: Vec::new(),
            net: Vec::new(),
            cut: Vec::new(),
            held_flush: Vec::new(),
            held_apply: Vec::new(),
            lines: Vec::new(),
        }
    }

    /// Carries one command out; what it printed.
    pub fn run(&mut self, command: &str) -> Vec<String> {
        let words: Vec<_> = command.split_whitespace().collect();
        let (name, words) = words.split_first().expect("a command has a name");
        match *name {
            "reset" => *self = Self::new(),
            "options" => words.iter().for_each(|word| self.set_option(word)),
            "cluster" => self.cluster(words),
            "empty" => self.add(Replica::start(
                &self.shared(),
                id(words[0]),
                Disk::default(),
                State::default(),
                id(words[0]).get(),
                self.now,
            )),
            "replica" => self.replica_with_log(words),
            "cut" | "heal" | "deliver" | "drop" | "settle" | "time" | "run" => self.network(name, words),
            "status" | "log" | "members" => self.show(name, words),
            _ => self.at_replica(name, words),
        }
        std::mem::take(&mut self.lines)
    }

    fn shared(&self) -> Arc<Options> {
        Arc::new(self.options.clone())
    }

    fn set_option(&mut self, word: &str) {
        let (name, value) = word.split_once('=').expect("NAME=VALUE");
        let number = || value.parse().expect("a number");
        let flag = || value.parse().expect("true or false");
        match name {
            "pre_vote" => self.options.pre_vote = flag(),
            "check_quorum" => self.options.check_quorum = flag(),
            "eager_commit" => self.options.eager_commit = flag(),
            "max_append_bytes" => self.options.max_append_bytes = number(),
            "max_inflight_appends" => self.options.max_inflight_appends = number(),
            "max_uncommitted_bytes" => self.options.max_uncommitted_bytes = number(),
            "max_cached_bytes" => self.options.max_cached_bytes = number(),
            other => panic!("no option {other}"),
        }
    }

    fn add(&mut self, replica: Replica) {
        self.replicas.push(replica);
    }

    fn cluster(&mut self, words: &[&str]) {
        let mut role = Role::Voter;
        let mut members = Vec::new();
        for word in words {
            match *word {
                "learners" => role = Role::Learner,
                "witnesses" => role = Role::Witness,
                number => members.push(Member { id: id(number), store: StoreId(id(number).get()), role }),
            }
        }
        for member in &members {
            let replica = Replica::bootstrap(&self.shared(), member.id, members.clone(), member.id.get(), self.now);
            self.add(replica);
        }
    }

    /// `1 of 1 2 3 term 8 log 1 1 4`
    fn replica_with_log(&mut self, words: &[&str]) {
        let at = |name| words.iter().position(|word| *word == name).expect("of, term, log");
        let (of, term, log) = (at("of"), at("term"), at("log"));
        let members = words[of + 1..term]
            .iter()
            .map(|word| Member { id: id(word), store: StoreId(id(word).get()), role: Role::Voter })
            .collect();
        let mut image = Image::default();
        image.hard_state.term = Term(number(words[term + 1]));
        for (at, term) in words[log + 1..].iter().enumerate() {
            let index = LogIndex(at as u64 + 1);
            let entry = Entry { term: Term(number(term)), index, kind: EntryKind::Command, data: Payload::new() };
            image.entries.push(entry);
        }
        let state = State { members, ..State::default() };
        let replica = Replica::start(&self.shared(), id(words[0]), Disk::new(image), state, number(words[0]), self.now);
        self.add(replica);
    }

    fn find(&mut self, word: &str) -> &mut Replica {
        let id = id(word);
        self.replicas.iter_mut().find(|replica| replica.id == id).expect("a replica with this id")
    }

    fn turn(&mut self, id: ReplicaId) {
        let replica = self.replicas.iter_mut().find(|replica| replica.id == id).expect("it exists");
        replica.turn(self.now, &mut self.net);
        self.lines.extend(format::turn(replica));
    }

    fn say(&mut self, line: impl std::fmt::Display) {
        self.lines.push(line.to_string());
    }

    fn say_refusal<T, E: std::fmt::Display>(&mut self, outcome: Result<T, E>) {
        if let Err(error) = outcome {
            self.say(format_args!("refused: {error}"));
        }
    }

    fn at_replica(&mut self, name: &str, words: &[&str]) {
        let now = self.now;
        let who = id(words[0]);
        let rest = &words[1..];
        match name {
            "campaign" => self.find(words[0]).group.campaign(now),
            "propose" => self.propose(words[0], rest),
            "read" => {
                let outcome = self.find(words[0]).group.read_index(now, number(rest[0]));
                self.say_refusal(outcome);
            }
            "transfer" => {
                let outcome = self.find(words[0]).group.transfer_leader(now, id(rest[0]));
                self.say_refusal(outcome);
            }
            "priority" => self.find(words[0]).group.set_priority(now, Priority(number(rest[0]) as u8)),
            "compact" => self.find(words[0]).group.compact(LogIndex(number(rest[0]))),
            "change" => self.change(words[0], rest),
            "pause" => self.find(words[0]).group.pause_peer(id(rest[0])),
            "resume" => self.find(words[0]).group.resume_peer(id(rest[0])),
            "unreachable" => self.find(words[0]).group.on_peer_unreachable(now, id(rest[0])),
            "wake" => self.find(words[0]).group.wake(now),
            "restart" => {
                let options = self.shared();
                self.find(words[0]).restart(&options, who.get() + 100, now);
            }
            "hold" if rest[0] == "flush" => self.held_flush.push(who),
            "hold" => self.held_apply.push(who),
            "free" => {
                self.held_flush.retain(|held| *held != who);
                self.held_apply.retain(|held| *held != who);
            }
            "flush" => {
                self.flush(who, rest.first().map_or(usize::MAX, |count| number(count) as usize));
            }
            "apply" => {
                self.apply(who);
            }
            "snapshot" => self.snapshot(words[0], rest[0]),
            "fail-snapshot" => {
                let replica = self.find(words[0]);
                replica.snapshots.retain(|to| *to != id(rest[0]));
                replica.group.on_snapshot_sent(now, id(rest[0]), SnapshotOutcome::Failed);
            }
            "fail-fetch" => {
                let replica = self.find(words[0]);
                for fetch in std::mem::take(&mut replica.fetches) {
                    replica.group.fetch_failed(now, fetch);
                }
            }
            other => panic!("no command {other}"),
        }
        self.turn(who);
    }

    fn propose(&mut self, at: &str, data: &[&str]) {
        let proposal =
            |word: &&str| Proposal { kind: EntryKind::Command, data: Payload::copy_from_slice(word.as_bytes()) };
        let mut proposals = data.iter().map(proposal).collect();
        let now = self.now;
        let outcome = self.find(at).group.propose(now, &mut proposals);
        self.say_refusal(outcome);
    }

    fn change(&mut self, at: &str, words: &[&str]) {
        let text = words.join(" ");
        let joint = text.ends_with("joint");
        let stay = text.ends_with("stay");
        let steps = text.trim_end_matches("joint").trim_end_matches("stay");
        let op = |step: &str| {
            let (name, number) = step.trim().split_once(' ').expect("a step names a replica");
            let id = id(number);
            let store = StoreId(id.get());
            match name {
                "add-voter" => ChangeOp::AddVoter { id, store },
                "add-learner" => ChangeOp::AddLearner { id, store },
                "add-witness" => ChangeOp::AddWitness { id, store },
                "promote" => ChangeOp::Promote { id },
                "demote" => ChangeOp::Demote { id },
                "remove" => ChangeOp::Remove { id },
                other => panic!("no step {other}"),
            }
        };
        let change = if text == "leave" {
            MembershipChange::LeaveJoint
        } else if joint || stay {
            MembershipChange::Joint { ops: steps.split(',').map(op).collect(), auto_leave: joint }
        } else {
            MembershipChange::Simple(op(steps))
        };
        let now = self.now;
        let outcome = self.find(at).group.propose_membership(now, &change, Bytes::new());
        self.say_refusal(outcome);
    }

    fn flush(&mut self, who: ReplicaId, count: usize) -> bool {
        let replica = self.replicas.iter_mut().find(|replica| replica.id == who).expect("it exists");
        let flushed = replica.flush(self.now, count, &mut self.net);
        if flushed {
            self.say(format_args!("{who:?} flushes"));
        }
        flushed
    }

    fn apply(&mut self, who: ReplicaId) -> bool {
        let replica = self.replicas.iter_mut().find(|replica| replica.id == who).expect("it exists");
        let applied = replica.apply(self.now, usize::MAX);
        for entry in &applied {
            self.lines.push(format!("{who:?} applies {}", format::entry(entry)));
        }
        !applied.is_empty()
    }

    fn snapshot(&mut self, from: &str, to: &str) {
        let now = self.now;
        let sender = self.find(from);
        assert!(sender.snapshots.contains(&id(to)), "the leader has asked for a snapshot");
        sender.snapshots.retain(|other| *other != id(to));
        let state = sender.state.clone();
        let installed = self.find(to).install(now, &state);
        self.say(format_args!("{:?} is offered {:?}, installs it: {installed}", id(to), state.applied));
        self.turn(id(to));
        self.find(from).group.on_snapshot_sent(now, id(to), SnapshotOutcome::Installed);
    }

    fn network(&mut self, name: &str, words: &[&str]) {
        match name {
            "cut" if words.len() == 2 => {
                let (a, b) = (id(words[0]), id(words[1]));
                self.cut.extend([(a, b), (b, a)]);
            }
            "cut" => self.cut.push(link(words[0])),
            "heal" => self.cut.clear(),
            "deliver" => self.deliver(words.first().map(|word| link(word))),
            "drop" => {
                let link = link(words[0]);
                let (lost, kept) =
                    std::mem::take(&mut self.net).into_iter().partition(|message| (message.from, message.to) == link);
                self.net = kept;
                let lost: Vec<Message> = lost;
                self.lines.extend(lost.iter().map(|message| format!("{} (lost)", format::message(message))));
            }
            "settle" => {
                self.settle();
                self.silence(words);
            }
            "time" => self.pass(duration(words[0]), false),
            _ => {
                self.pass(duration(words[0]), true);
                self.silence(&words[1..]);
            }
        }
    }

    fn silence(&mut self, words: &[&str]) {
        if words == ["silent"] {
            self.lines.clear();
        }
    }

    fn deliver(&mut self, link: Option<(ReplicaId, ReplicaId)>) {
        for message in std::mem::take(&mut self.net) {
            if link.is_some_and(|link| link != (message.from, message.to)) {
                self.net.push(message);
                continue;
            }
            let is_cut = self.cut.contains(&(message.from, message.to));
            let target = self.replicas.iter_mut().find(|replica| replica.id == message.to);
            let line = format::message(&message);
            let Some(replica) = target.filter(|_| !is_cut) else {
                self.say(format_args!("{line} (lost)"));
                continue;
            };
            let to = message.to;
            replica.group.handle_message(self.now, message);
            self.say(line);
            self.turn(to);
        }
    }

    fn settle(&mut self) {
        for _ in 0..1000 {
            let mut quiet = self.net.is_empty();
            self.deliver(None);
            for id in self.replicas.iter().map(|replica| replica.id).collect::<Vec<_>>() {
                let mut busy = !self.held_flush.contains(&id) && self.flush(id, usize::MAX);
                let now = self.now;
                let replica = self.replicas.iter_mut().find(|replica| replica.id == id).expect("it exists");
                busy |= replica.answer_fetches(now);
                busy |= !self.held_apply.contains(&id) && self.apply(id);
                if busy {
                    self.turn(id);
                    quiet = false;
                }
            }
            if quiet {
                return;
            }
        }
        panic!("the network comes to rest");
    }

    fn pass(&mut self, length: Duration, settle: bool) {
        let end = self.now.plus(length);
        loop {
            let next = self.replicas.iter().map(|replica| replica.group.next_deadline()).min();
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            for id in self.replicas.iter().map(|replica| replica.id).collect::<Vec<_>>() {
                let now = self.now;
                let replica = self.replicas.iter_mut().find(|replica| replica.id == id).expect("it exists");
                if replica.group.next_deadline() <= now {
                    replica.group.handle_deadline(now);
                    self.turn(id);
                }
            }
            if settle {
                self.settle();
            }
        }
        self.now = end;
    }

    fn show(&mut self, name: &str, words: &[&str]) {
        let lines: Vec<_> = match name {
            "log" => vec![format::log(self.find(words[0]))],
            "members" => vec![format::members(self.find(words[0]))],
            _ if words.is_empty() => self.replicas.iter().flat_map(format::status).collect(),
            _ => format::status(self.find(words[0])),
        };
        self.lines.extend(lines);
    }
}

fn number(word: &str) -> u64 {
    word.parse().expect("a number")
}

fn id(word: &str) -> ReplicaId {
    ReplicaId(number(word))
}

fn link(word: &str) -> (ReplicaId, ReplicaId) {
    let (from, to) = word.split_once('>').expect("FROM>TO");
    (id(from), id(to))
}

fn duration(word: &str) -> Duration {
    Duration::from_millis(number(word.trim_end_matches("ms")))
}
