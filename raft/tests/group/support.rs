//! Support between the stores of a simulated group's replicas, one replica a store: who supports whom, in which period, what
//! the other side believes of it, and withdrawals that a replica has yet to hear of.

use std::collections::BTreeMap;
use std::time::Duration;

use multiraft_raft::{Body, Message, ReplicaId, Time};

use crate::replica::Replica;

/// What one replica's store gives another's.
#[derive(Clone, Copy, Debug)]
struct Pair {
    epoch: u64,
    given: bool,
    /// What the asker believes to hold.
    held: Option<u64>,
}

impl Default for Pair {
    fn default() -> Self {
        Self { epoch: 1, given: true, held: Some(1) }
    }
}

/// All pairs, as (asker, supporter).
#[derive(Default)]
pub struct Supports {
    pairs: BTreeMap<(ReplicaId, ReplicaId), Pair>,
    /// Withdrawn, and the supporter's replica not told yet.
    untold: Vec<(ReplicaId, ReplicaId, u64)>,
}

impl Supports {
    fn pair(&mut self, asker: ReplicaId, supporter: ReplicaId) -> &mut Pair {
        self.pairs.entry((asker, supporter)).or_default()
    }

    /// Whether the supporter's store gives support in this period now.
    pub fn is_given(&self, asker: ReplicaId, supporter: ReplicaId, epoch: u64) -> bool {
        let pair = self.pairs.get(&(asker, supporter)).copied().unwrap_or_default();
        pair.given && pair.epoch == epoch
    }

    pub fn held(&self, asker: ReplicaId, supporter: ReplicaId) -> Option<u64> {
        self.pairs.get(&(asker, supporter)).copied().unwrap_or_default().held
    }

    /// A request for a promise reaches the group only under support that is given.
    pub fn admits(&self, message: &Message) -> bool {
        match message.body {
            Body::Fortify { epoch } => self.is_given(message.from, message.to, epoch),
            _ => true,
        }
    }

    pub fn withdraw(&mut self, asker: ReplicaId, supporter: ReplicaId) {
        let pair = self.pair(asker, supporter);
        if std::mem::take(&mut pair.given) {
            let epoch = pair.epoch;
            self.untold.push((asker, supporter, epoch));
        }
    }

    /// The asker hears nothing any more.
    pub fn lose(&mut self, asker: ReplicaId, supporter: ReplicaId) {
        self.pair(asker, supporter).held = None;
    }

    /// The asker hears again: of the same period, or of the next if that was withdrawn.
    pub fn renew(&mut self, asker: ReplicaId, supporter: ReplicaId) {
        let pair = self.pair(asker, supporter);
        if !pair.given {
            pair.epoch += 1;
            pair.given = true;
        }
        pair.held = Some(pair.epoch);
    }

    /// A store begins anew: nobody's support for it lasts, and it has forgotten what it gave.
    pub fn restart(&mut self, store: ReplicaId, others: &[ReplicaId]) {
        for other in others {
            self.withdraw(store, *other);
            self.pair(store, *other).held = None;
            self.pair(*other, store).given = false;
        }
        self.untold.retain(|(_, supporter, _)| *supporter != store);
    }

    /// Tells the replicas of the oldest `count` withdrawals; whom it told.
    pub fn tell(&mut self, count: usize, replicas: &mut [Replica], now: Time, wait: Duration) -> Vec<usize> {
        let mut told = Vec::new();
        for (asker, supporter, epoch) in self.untold.drain(..count.min(self.untold.len())) {
            let Some(at) = replicas.iter().position(|replica| replica.id == supporter) else { continue };
            let is_meant = |promise: multiraft_raft::Promise| promise.leader == asker && promise.epoch == epoch;
            if replicas[at].group.promise().is_some_and(is_meant) {
                replicas[at].group.on_support_withdrawn(now, wait);
                told.push(at);
            }
        }
        told
    }

    /// What a driver tells a leader before its deadline.
    pub fn brief(&self, replica: &mut Replica) {
        let own = replica.id;
        let others: Vec<_> = replica.group.membership().members().iter().map(|(id, _)| *id).collect();
        for other in others.into_iter().filter(|other| *other != own) {
            replica.group.set_support(other, self.held(own, other));
        }
        replica.group.allow_rest(true);
    }
}
