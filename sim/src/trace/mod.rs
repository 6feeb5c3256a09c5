//! A trace of one group, for checking the core against etcd's TLA+ specification of Raft.
//!
//! The shipped core, three to five replicas, in one causal order: elections, lost and reordered messages, restarts,
//! conflicting appends, single-step membership changes, snapshots. Pre-vote and check-quorum are off, nobody transfers
//! leadership, every turn is flushed before anything of it is delivered.
//!
//! The specification follows etcd in liberties that this core does not take, and the other way round; where the two would
//! part, the message counts as lost:
//! * etcd ignores all of an append that begins below the follower's commit index, this core takes what is new in it;
//! * etcd acknowledges each append by itself, this core acknowledges all that is verified;
//! * this core votes for nobody in a term whose leader it knows;
//! * a repeated probe of this core withholds the commit index; the trace shows what etcd's would carry;
//! * an old leader's heartbeat is answered as a heartbeat here, as an append there.

mod line;
mod replica;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use multiraft_raft::{
    AppendOutcome, Body, ChangeOp, EntryKind, Membership, Options, Payload, Proposal, ReplicaId, Role, SnapshotOutcome,
    StoreId, Time,
};
use serde_json::Value;

use self::line::View;
use self::replica::{Content, Packet, Replica};
use crate::random::Random;

/// No turn begins after so many lines, so that a trace stays below a thousand.
const LINES_ENOUGH: usize = 900;

/// The lines of the trace of a seed, each a JSON object.
#[must_use]
pub fn trace(seed: u64) -> Vec<String> {
    let mut run = Run::new(seed);
    while run.lines.len() < LINES_ENOUGH {
        run.step();
    }
    run.lines.iter().map(Value::to_string).collect()
}

struct Run {
    random: Random,
    options: Arc<Options>,
    now: Time,
    replicas: BTreeMap<ReplicaId, Replica>,
    /// Whoever joins begins with it, and comes to the present one by the log or a snapshot.
    first_membership: Membership,
    on_their_way: Vec<Packet>,
    lines: Vec<Value>,
    next_id: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0x7ace);
        let options = Arc::new(Options {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(1000),
            election_timeout_max: Duration::from_millis(2000),
            pre_vote: false,
            check_quorum: false,
            eager_commit: random.chance(500),
            ..Options::default()
        });
        let count = if random.chance(300) { 5 } else { 3 };
        let ids: Vec<ReplicaId> = (1..=count).map(ReplicaId).collect();
        let membership = Membership::from_roles(ids.iter().map(|id| (*id, Role::Voter)).collect());
        let mut lines = Vec::new();
        let mut replicas = BTreeMap::new();
        for id in ids {
            // One entry for each member, as etcd bootstraps a group.
            let replica = Replica::new(id, Arc::clone(&options), count, membership.clone(), random.number());
            replica.introduce(&mut lines);
            replicas.insert(id, replica);
        }
        Self {
            random,
            options,
            now: Time::ZERO,
            replicas,
            first_membership: membership,
            on_their_way: Vec::new(),
            lines,
            next_id: count + 1,
        }
    }

    fn step(&mut self) {
        if !self.on_their_way.is_empty() && self.random.chance(880) {
            let at = self.random.below(self.on_their_way.len() as u64) as usize;
            let packet = self.on_their_way.swap_remove(at);
            return self.deliver(packet);
        }
        match self.random.below(100) {
            0..=44 => self.propose(),
            45..=46 => self.restart(),
            47..=58 => self.change_membership(),
            59 => self.compact(),
            _ => self.pass_time(),
        }
    }

    fn deliver(&mut self, packet: Packet) {
        let is_lost = self.random.chance(40);
        let is_snapshot = matches!(packet.content, Content::Snapshot { .. });
        let (from, to) = (packet.from, packet.to);
        let delivered = match self.replicas.get_mut(&to) {
            Some(replica) if !is_lost && replica.agrees_on(&packet) => {
                let before = View::of(&replica.group);
                let expected = match &packet.content {
                    Content::Message(message) => replica.expected_match(message),
                    Content::Snapshot { .. } => None,
                };
                let mut sent = Vec::new();
                let is_request = line::family(&packet.shown).ends_with("Request");
                replica.receive(self.now, packet, &mut self.lines);
                replica.finish(self.now, &before, is_request, &mut self.lines, &mut sent);
                sent.retain(|reply| !is_snapshot && acknowledges(reply).is_none_or(|index| expected == Some(index)));
                self.on_their_way.extend(sent);
                true
            }
            _ => false,
        };
        if is_snapshot {
            let outcome = if delivered { SnapshotOutcome::Installed } else { SnapshotOutcome::Failed };
            self.turn(from, |replica, now| replica.on_snapshot_sent(now, to, outcome));
        }
    }

    /// Lets a replica do something, and notes what came of it.
    fn turn(&mut self, id: ReplicaId, act: impl FnOnce(&mut Replica, Time)) {
        let Some(replica) = self.replicas.get_mut(&id) else { return };
        let before = View::of(&replica.group);
        act(replica, self.now);
        replica.finish(self.now, &before, false, &mut self.lines, &mut self.on_their_way);
    }

    fn leader(&self) -> Option<ReplicaId> {
        let leaders = self.replicas.values().filter(|replica| replica.group.is_leader());
        leaders.max_by_key(|replica| replica.group.term()).map(|replica| replica.group.id())
    }

    fn propose(&mut self) {
        let count = self.random.between(1, 3);
        let Some(leader) = self.leader() else { return self.pass_time() };
        self.turn(leader, |replica, now| {
            let command = Proposal { kind: EntryKind::Command, data: Payload::copy_from_slice(b"command") };
            let mut commands = vec![command; count as usize];
            // Refused commands leave no trace.
            let _ = replica.group.propose(now, &mut commands);
        });
    }

    fn restart(&mut self) {
        let ids: Vec<ReplicaId> = self.replicas.keys().copied().collect();
        let id = self.random.pick(&ids);
        if let Some(replica) = self.replicas.get_mut(&id) {
            replica.restart(self.now, &mut self.lines);
        }
    }

    fn compact(&mut self) {
        if let Some(leader) = self.leader() {
            self.turn(leader, |replica, _| replica.compact());
        }
    }

    /// Adds a voter or removes one that does not lead; one that is to go is not heard of any more.
    fn change_membership(&mut self) {
        let Some(leader) = self.leader().filter(|leader| !self.replicas[leader].owes_change) else { return };
        let members: Vec<ReplicaId> = line::voters(self.replicas[&leader].group.membership());
        let others: Vec<ReplicaId> = members.iter().copied().filter(|id| *id != leader).collect();
        let all_live = members.iter().all(|id| self.replicas.contains_key(id));
        if !all_live || self.replicas.len() != members.len() {
            return;
        }
        let op = if members.len() < 5 && (members.len() <= 3 || self.random.chance(500)) {
            ChangeOp::AddVoter { id: ReplicaId(self.next_id), store: StoreId(self.next_id) }
        } else {
            ChangeOp::Remove { id: self.random.pick(&others) }
        };
        if matches!(op, ChangeOp::AddVoter { .. }) && self.random.chance(600) {
            // Whoever joins then needs a snapshot.
            self.compact();
        }
        let mut taken = false;
        self.turn(leader, |replica, now| taken = replica.propose_change(now, op));
        match op {
            ChangeOp::AddVoter { id, .. } if taken => {
                self.next_id += 1;
                let seed = self.random.number();
                let replica = Replica::new(id, Arc::clone(&self.options), 0, self.first_membership.clone(), seed);
                replica.introduce(&mut self.lines);
                self.replicas.insert(id, replica);
            }
            ChangeOp::Remove { id } if taken => {
                self.replicas.remove(&id);
            }
            _ => {}
        }
    }

    /// Moves on to the next moment at which a replica has something to do by itself.
    fn pass_time(&mut self) {
        let due = self.replicas.values().map(|replica| (replica.group.next_deadline(), replica.group.id())).min();
        let Some((at, id)) = due.filter(|(at, _)| *at != Time::NEVER) else { return };
        self.now = self.now.max(at);
        self.turn(id, |replica, now| replica.group.handle_deadline(now));
    }
}

/// The index that a reply acknowledges, if that is what it does.
fn acknowledges(reply: &Packet) -> Option<multiraft_raft::LogIndex> {
    match &reply.content {
        Content::Message(message) => match message.body {
            Body::AppendReply(AppendOutcome::Accepted { match_index }) => Some(match_index),
            _ => None,
        },
        Content::Snapshot { .. } => None,
    }
}
