//! What survivors know of one region, put together: its configuration, whether it has a quorum, which replica has the most.

use std::collections::{BTreeMap, BTreeSet};

use multiraft_raft::{
    LogIndex, Membership, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};

use super::plan::Loss;
use super::survey::{BuriedReplica, DamagedReplica, ReplicaSurvey, StoreSurvey};
use crate::apply::{FIRST_INDEX, FIRST_TERM, later_of};

/// What a region's first state stands for.
const FIRST: (LogIndex, Term) = (FIRST_INDEX, FIRST_TERM);

/// One region, as all survivors together know it.
#[derive(Clone, Debug)]
pub(super) struct Known<'a> {
    /// In the newest configuration that is known to be committed.
    pub(super) descriptor: RegionDescriptor,
    /// Configurations after that one that logs hold: perhaps committed, perhaps not.
    later: Vec<&'a RegionDescriptor>,
    /// The sound replicas.
    pub(super) replicas: Vec<(StoreId, &'a ReplicaSurvey)>,
    pub(super) damaged: Vec<(StoreId, &'a DamagedReplica)>,
    buried: Vec<(StoreId, &'a BuriedReplica)>,
    collected: &'a BTreeSet<StoreId>,
    term: Term,
}

/// Gathers all regions, by id.
pub(super) fn gather<'a>(
    surveys: &[&'a StoreSurvey],
    collected: &'a BTreeSet<StoreId>,
) -> BTreeMap<RegionId, Known<'a>> {
    let mut parts: BTreeMap<RegionId, Parts<'a>> = BTreeMap::new();
    for survey in surveys {
        for replica in &survey.replicas {
            parts.entry(replica.descriptor.id).or_default().replicas.push((survey.store, replica));
        }
        for damaged in &survey.damaged {
            parts.entry(damaged.region).or_default().damaged.push((survey.store, damaged));
        }
        for buried in &survey.tombstones {
            parts.entry(buried.descriptor.id).or_default().buried.push((survey.store, buried));
        }
    }
    for survey in surveys {
        for (region, term) in &survey.promises {
            if let Some(parts) = parts.get_mut(region) {
                parts.term = parts.term.max(*term);
            }
        }
    }
    let known = parts.into_iter().filter_map(|(region, parts)| Some((region, parts.assemble(collected)?)));
    known.collect()
}

#[derive(Default)]
struct Parts<'a> {
    replicas: Vec<(StoreId, &'a ReplicaSurvey)>,
    damaged: Vec<(StoreId, &'a DamagedReplica)>,
    buried: Vec<(StoreId, &'a BuriedReplica)>,
    term: Term,
}

impl<'a> Parts<'a> {
    /// `None`: nobody can tell what the region is.
    fn assemble(self, collected: &'a BTreeSet<StoreId>) -> Option<Known<'a>> {
        let Self { replicas, damaged, buried, mut term } = self;
        let committed = replicas.iter().map(|(_, replica)| replica.in_force());
        let committed = committed.chain(damaged.iter().filter_map(|(_, damaged)| damaged.descriptor.as_ref()));
        let committed = committed.chain(buried.iter().map(|(_, buried)| &buried.descriptor));
        let descriptor = committed.max_by_key(|descriptor| key(descriptor))?.clone();
        let in_logs = replicas.iter().flat_map(|(_, replica)| &replica.foreseen.configurations);
        let later = in_logs
            .map(|(_, configuration)| configuration)
            .filter(|configuration| configuration.epoch.conf_version > descriptor.epoch.conf_version);
        let later = later.collect();
        for (_, replica) in &replicas {
            term = term.max(replica.hard_state.term).max(replica.last.1);
        }
        Some(Known { descriptor, later, replicas, damaged, buried, collected, term })
    }
}

fn key(descriptor: &RegionDescriptor) -> (u64, u64) {
    (descriptor.epoch.conf_version, descriptor.epoch.version)
}

impl<'a> Known<'a> {
    /// A region that only a survivor's log tells of: the child of a split that was not applied.
    pub(super) fn foreseen(descriptor: &RegionDescriptor, collected: &'a BTreeSet<StoreId>) -> Self {
        let (replicas, damaged, buried) = (Vec::new(), Vec::new(), Vec::new());
        let (descriptor, later) = (descriptor.clone(), Vec::new());
        Self { descriptor, later, replicas, damaged, buried, collected, term: Term(1) }
    }

    /// Every configuration that may be in force.
    pub(super) fn configurations(&self) -> impl Iterator<Item = &RegionDescriptor> {
        std::iter::once(&self.descriptor).chain(self.later.iter().copied())
    }

    /// The highest term that any survivor has seen in it.
    pub(super) fn term(&self) -> Term {
        self.term
    }

    /// Whether its neighbour has absorbed it, as some survivor knows for certain.
    pub(super) fn is_merged(&self) -> bool {
        self.buried.iter().any(|(_, buried)| buried.merged)
    }

    /// The highest half of its epoch that any survivor has heard of.
    pub(super) fn conf_version_max(&self) -> u64 {
        let foreseen = self.replicas.iter().map(|(_, replica)| replica.foreseen.descriptor.epoch.conf_version);
        let named = self.configurations().map(|descriptor| descriptor.epoch.conf_version);
        foreseen.chain(named).max().unwrap_or(0)
    }

    /// Whether the replica lives on a collected store, and nothing there speaks against it.
    fn is_alive(&self, replica: &Replica) -> bool {
        let is_of = |store: &StoreId| *store == replica.store;
        self.collected.contains(&replica.store)
            && !self.damaged.iter().any(|(store, _)| is_of(store))
            && !self.buried.iter().any(|(store, buried)| is_of(store) && buried.replica >= replica.id)
    }

    /// Whether one that lives and holds data can get the votes of a quorum (of both halves, if joint) of those that live: the
    /// region goes on by itself. Where there are no witnesses, the one with the most can if there is a quorum at all; a witness
    /// may have heard of more than anybody else who lives. A replica asks those whom it knows of: one that has not heard that a
    /// newer configuration is in force must have its quorum by its own, too, and voters that it does not name may not even be there.
    pub(super) fn is_healthy(&self) -> bool {
        self.replicas.iter().any(|(store, survey)| {
            let can_win = |configuration| self.can_win(configuration, *store, survey.last);
            can_win(&self.descriptor) && can_win(survey.in_force())
        })
    }

    /// A change of replicas that a log holds, that may yet come into force, and after which those that live are no quorum.
    pub(super) fn stranding_change(&self) -> Option<&RegionDescriptor> {
        let strands = |configuration: &&&RegionDescriptor| {
            let is_alive = |id| configuration.replica(id).is_some_and(|replica| self.is_alive(replica));
            !Membership::from_replicas(&configuration.replicas).is_quorum(is_alive)
        };
        self.later.iter().find(strands).copied()
    }

    /// Whether the region goes on by itself once a split has given it its first state on this store.
    pub(super) fn lives_with(&self, store: StoreId) -> bool {
        self.can_win(&self.descriptor, store, FIRST)
    }

    /// Whether by this configuration a replica on `store` whose log ends at `last` can get the votes of a quorum of those that live.
    fn can_win(&self, configuration: &RegionDescriptor, store: StoreId, (index, term): (LogIndex, Term)) -> bool {
        let membership = Membership::from_replicas(&configuration.replicas);
        let log_on = |store| self.replicas.iter().find(|(here, _)| *here == store).map(|(_, survey)| survey.last);
        let votes = |id| {
            configuration.replica(id).is_some_and(|voter| {
                let is_behind = log_on(voter.store).is_none_or(|(last, of)| (of, last) <= (term, index));
                self.is_alive(voter) && is_behind
            })
        };
        let own = configuration.replica_on(store);
        own.is_some_and(|own| membership.may_lead(own.id)) && membership.is_quorum(votes)
    }

    /// The replica that is best kept: whatever any survivor knows to be committed is in the log that ends at the highest term
    /// and, there, the highest index (leader completeness and log matching, dissertation section 3.6). A witness holds no data.
    pub(super) fn best(&self) -> Option<(StoreId, &'a ReplicaSurvey)> {
        // Of this very replica: the region may have had another one on the same store since, or have one now.
        let role = |store, survey: &ReplicaSurvey| {
            let own = survey.descriptor.replica_on(store)?;
            Some(self.descriptor.replica(own.id).map_or((own.role, false), |now| (now.role, true)))
        };
        let with_data = self
            .replicas
            .iter()
            .filter(|(store, replica)| role(*store, replica).is_none_or(|(role, _)| role != Role::Witness));
        let rank = |(store, replica): &(StoreId, &ReplicaSurvey)| {
            let (index, term) = replica.last;
            let votes = role(*store, replica).is_some_and(|(role, is_member)| is_member && role != Role::Learner);
            let can_go_on = replica.foreseen.blocked.is_none();
            (term, index, can_go_on, votes, replica.applied.0, std::cmp::Reverse(*store))
        };
        with_data.max_by_key(|sound| rank(sound)).copied()
    }

    /// What may be lost if this replica is kept.
    pub(super) fn loss(&self, kept: &ReplicaSurvey) -> Loss {
        // A log that ends in an earlier term lacks what was committed in a later one, however long it is. No log with data ends
        // later than the one that is kept, but a witness may have heard more, and a removed replica may have been told more.
        let known = self.replicas.iter().map(|(_, replica)| replica.committed);
        let known = known.chain(self.buried.iter().map(|(_, buried)| buried.committed));
        // What is of a life before an earlier recovery was given up by that.
        if let Some(committed) = known.reduce(later_of).filter(|committed| later_of(kept.last, *committed) != kept.last)
        {
            return Loss::Certain { upto: committed.0 };
        }
        let is_sound = |replica: &Replica| {
            self.replicas.iter().any(|(store, survey)| {
                let own = survey.descriptor.replica_on(*store).map(|own| own.id);
                *store == replica.store && own.is_none_or(|own| own == replica.id)
            })
        };
        let dead_alone_commit = self.configurations().any(|configuration| {
            let holds_nothing = |id| {
                let replica = configuration.replica(id);
                replica.is_none_or(|replica| replica.role == Role::Witness || !is_sound(replica))
            };
            let membership = Membership::from_replicas(&configuration.replicas);
            membership.is_quorum(holds_nothing) || may_have_decided_before(configuration, holds_nothing)
        });
        // A change of the region that is known to be committed and not in the log that is kept: nor, perhaps, what came before it.
        let lacks_change = kept.foreseen.descriptor.epoch.is_behind(self.descriptor.epoch);
        if dead_alone_commit || lacks_change { Loss::Possible } else { Loss::Nothing }
    }

    /// Whether a split applied on this store would give its child, this region, a state there.
    pub(super) fn adopts(&self, store: StoreId) -> bool {
        let Some(own) = self.descriptor.replica_on(store) else { return false };
        let is_here = self.replicas.iter().any(|(here, _)| *here == store);
        let is_damaged = self.damaged.iter().any(|(here, _)| *here == store);
        let is_buried =
            |(here, buried): &(StoreId, &BuriedReplica)| *here == store && (buried.merged || buried.replica >= own.id);
        !is_here && !is_damaged && !self.buried.iter().any(is_buried)
    }
}

/// Whether these replicas may have been a quorum of the voters before the last change of a configuration. A leader that has not
/// applied a change commits with the voters from before it; it is behind by one change at most.
fn may_have_decided_before(configuration: &RegionDescriptor, is_in: impl Fn(ReplicaId) -> bool) -> bool {
    let replicas = &configuration.replicas;
    if replicas.iter().any(|replica| replica.role.is_joint()) {
        let outgoing = || replicas.iter().filter(|replica| replica.role.votes_outgoing());
        return outgoing().filter(|voter| is_in(voter.id)).count() * 2 > outgoing().count();
    }
    // One voter more or fewer: that matters to half of an even number, and to nobody else.
    let voters = || replicas.iter().filter(|replica| replica.role.votes_incoming());
    let has_changed = configuration.epoch.conf_version > RegionEpoch::FIRST.conf_version;
    has_changed && voters().filter(|voter| is_in(voter.id)).count() * 2 == voters().count()
}

/// A replica that a split makes while its parent's log is applied to the end.
pub(super) fn newborn(child: &RegionDescriptor) -> ReplicaSurvey {
    ReplicaSurvey {
        descriptor: child.clone(),
        hard_state: multiraft_raft::HardState::default(),
        applied: FIRST,
        committed: FIRST,
        last: FIRST,
        frozen: None,
        absorbed: Vec::new(),
        foreseen: super::survey::Foreseen {
            descriptor: child.clone(),
            frozen: None,
            absorbed: Vec::new(),
            absorbs: Vec::new(),
            configurations: Vec::new(),
            children: Vec::new(),
            blocked: None,
        },
    }
}
