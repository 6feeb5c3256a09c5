//! The regions' lives, judged from what stores apply, find at their start and send (the rules are those of
//! `docs/regions.md`): every key has one owner at every moment, on one store ranges never overlap, replicas hold the same bytes
//! at the same index, what was removed stays removed, and a replica votes once a term.

mod merges;
mod recoveries;
mod wipes;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use multiraft::apply::{Cause, Tombstone};
use multiraft_raft::{
    Body, LogIndex, Message, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};

use super::{Verdict, Violation};
use merges::Freeze;

pub use merges::{Merged, are_together};
pub use recoveries::Outcome;

/// How many configurations of a region are kept that may still be in force when an entry commits.
const CONFIGURATIONS: usize = 3;

type Descriptor = Arc<RegionDescriptor>;

/// What is known of all regions.
#[derive(Debug, Default)]
pub struct Regions {
    /// The live regions as the newest committed changes have them.
    newest: BTreeMap<RegionId, Descriptor>,
    /// Every descriptor that was ever in force.
    known: BTreeMap<(RegionId, u64, u64), Descriptor>,
    /// The replicas of each region from a log index on.
    configurations: BTreeMap<RegionId, Vec<(LogIndex, Descriptor)>>,
    /// Which region's split made each, unless the cluster began with it.
    parents: BTreeMap<RegionId, RegionId>,
    stores: BTreeMap<StoreId, Store>,
    /// What a region's state was at an index, and on which store that was seen first.
    digests: BTreeMap<(RegionId, LogIndex), (u64, StoreId)>,
    votes: BTreeMap<(RegionId, ReplicaId, Term), ReplicaId>,
    /// Every freeze that was committed, by source and its version when frozen.
    freezes: BTreeMap<(RegionId, u64), Freeze>,
    /// The ids that the root region has given away.
    ids: Vec<Range<u64>>,
}

/// What is known of one store.
#[derive(Debug, Default)]
struct Store {
    /// Its initialised replicas as applied.
    here: BTreeMap<RegionId, Descriptor>,
    /// At which epoch a region's state is durable at the least.
    durable: BTreeMap<RegionId, RegionEpoch>,
    /// The highest id of a replica that is gone, by region.
    tombstones: BTreeMap<RegionId, ReplicaId>,
    /// Regions that were absorbed here, durably.
    absorbed: BTreeSet<RegionId>,
    /// Regions that are or were durably frozen here, by which entry.
    frozen: BTreeSet<(RegionId, LogIndex)>,
    /// The highest ids of replicas that were here before the disk was lost, by region: what they voted and acknowledged is forgotten.
    forgotten: BTreeMap<RegionId, ReplicaId>,
    /// How many other regions each has absorbed, as far as its state here says.
    lists: BTreeMap<RegionId, usize>,
}

fn broken(rule: &'static str, detail: String) -> Verdict {
    Err(Violation::new(rule, detail))
}

const ONE_OWNER: &str = "every key has one owner";
const ONE_STORE: &str = "ranges on one store never overlap";
const EPOCHS: &str = "descriptors of one epoch are equal";
const GONE: &str = "what was removed stays removed";
const DURABLE: &str = "splits, snapshots and removals survive once they are heard of";

impl Regions {
    /// The regions that the cluster begins with.
    ///
    /// # Errors
    /// They do not cover the key space.
    pub fn begin(&mut self, regions: &[Descriptor]) -> Verdict {
        for descriptor in regions {
            self.set_newest(LogIndex(1), descriptor);
        }
        self.check_cover()
    }

    fn set_newest(&mut self, index: LogIndex, descriptor: &Descriptor) {
        let RegionEpoch { conf_version, version } = descriptor.epoch;
        self.known.insert((descriptor.id, conf_version, version), Arc::clone(descriptor));
        self.newest.insert(descriptor.id, Arc::clone(descriptor));
        self.configurations.entry(descriptor.id).or_default().push((index, Arc::clone(descriptor)));
    }

    /// Whether a descriptor was in force before.
    fn is_known(&self, descriptor: &Descriptor) -> Result<bool, Violation> {
        let RegionEpoch { conf_version, version } = descriptor.epoch;
        match self.known.get(&(descriptor.id, conf_version, version)) {
            None => Ok(false),
            Some(known) if known == descriptor => Ok(true),
            Some(known) => Err(Violation::new(EPOCHS, format!("{known:?} and {descriptor:?}"))),
        }
    }

    /// A committed membership change at `index` leads to `descriptor`: for the first time, or as elsewhere before.
    ///
    /// # Errors
    /// It does not follow from what the region was.
    pub fn on_membership(&mut self, index: LogIndex, descriptor: &Descriptor) -> Verdict {
        if self.is_known(descriptor)? {
            return Ok(());
        }
        let before = self.newest.get(&descriptor.id);
        let follows = before.is_some_and(|before| {
            before.range == descriptor.range
                && before.epoch.version == descriptor.epoch.version
                && before.epoch.conf_version + 1 == descriptor.epoch.conf_version
        });
        if !follows {
            return broken(ONE_OWNER, format!("{descriptor:?} does not follow {before:?}"));
        }
        self.set_newest(index, descriptor);
        Ok(())
    }

    /// A committed split at `index` makes these of a region, the region itself first: for the first time, or as elsewhere
    /// before.
    ///
    /// # Errors
    /// It does not follow from what the region was, or leaves a gap or an overlap.
    pub fn on_split(&mut self, index: LogIndex, parts: &[Descriptor]) -> Verdict {
        let Some((parent, children)) = parts.split_first() else { return Ok(()) };
        if self.is_known(parent)? {
            for child in children {
                if !self.is_known(child)? {
                    return broken(EPOCHS, format!("{child:?} is new in a split that was seen before"));
                }
            }
            return Ok(());
        }
        let follows = self.newest.get(&parent.id).is_some_and(|before| {
            before.epoch.conf_version == parent.epoch.conf_version
                && before.epoch.version + 1 == parent.epoch.version
                && before.replicas == parent.replicas
        });
        let is_new = |child: &Descriptor| child.epoch == parent.epoch && !self.configurations.contains_key(&child.id);
        if !follows || !children.iter().all(is_new) {
            return broken(ONE_OWNER, format!("{parts:?} do not follow {:?}", self.newest.get(&parent.id)));
        }
        self.set_newest(index, parent);
        for child in children {
            self.set_newest(LogIndex(1), child);
            self.parents.insert(child.id, parent.id);
        }
        self.check_cover()
    }

    /// The newest descriptors cover the key space once and only once.
    fn check_cover(&self) -> Verdict {
        let mut owners: Vec<&Descriptor> =
            self.newest.values().filter(|descriptor| descriptor.id != RegionId::ROOT).collect();
        owners.sort_by(|one, other| one.range.start.cmp(&other.range.start));
        let mut end = Bytes::new();
        for (at, owner) in owners.iter().enumerate() {
            let begins =
                if at == 0 { owner.range.start.is_empty() } else { !end.is_empty() && owner.range.start == end };
            if !begins {
                return broken(ONE_OWNER, format!("{owner:?} does not begin at {}", end.escape_ascii()));
            }
            end = owner.range.end.clone();
        }
        if end.is_empty() { Ok(()) } else { broken(ONE_OWNER, format!("nobody owns {}", end.escape_ascii())) }
    }

    /// `store` starts and finds these regions and tombstones in its state.
    ///
    /// # Errors
    /// Something is missing, overlaps, or was removed.
    pub fn on_found(
        &mut self,
        store: StoreId,
        found: &[Descriptor],
        tombstones: &BTreeMap<RegionId, Tombstone>,
    ) -> Verdict {
        let tombstones: BTreeMap<RegionId, ReplicaId> =
            tombstones.iter().map(|(region, tombstone)| (*region, forbidden(tombstone))).collect();
        for descriptor in found {
            if !self.is_known(descriptor)? {
                return broken(EPOCHS, format!("store {store} found {descriptor:?}, which nobody has applied"));
            }
        }
        let here = self.stores.entry(store).or_default();
        for (region, epoch) in &here.durable {
            let back = found.iter().find(|descriptor| descriptor.id == *region);
            let is_gone = tombstones.contains_key(region);
            if back.is_none_or(|back| back.epoch.is_behind(*epoch)) && !is_gone {
                return broken(DURABLE, format!("store {store} had region {region} at {epoch:?} and found {back:?}"));
            }
        }
        for (region, replica) in &here.tombstones {
            if tombstones.get(region).is_none_or(|back| back < replica) {
                return broken(
                    DURABLE,
                    format!("store {store} has forgotten the end of replica {replica} of {region}"),
                );
            }
        }
        if let Some(region) = here.absorbed.iter().find(|region| tombstones.get(region) != Some(&ReplicaId(u64::MAX))) {
            return broken(DURABLE, format!("store {store} has forgotten that {region} was absorbed"));
        }
        here.tombstones = tombstones;
        here.here = found.iter().map(|descriptor| (descriptor.id, Arc::clone(descriptor))).collect();
        here.durable = found.iter().map(|descriptor| (descriptor.id, descriptor.epoch)).collect();
        for descriptor in found {
            let own = descriptor.replica_on(store).map(|replica| replica.id);
            if let Some(own) = own.filter(|own| here.tombstones.get(&descriptor.id) >= Some(own)) {
                return broken(GONE, format!("store {store} starts with replica {own} of {}", descriptor.id));
            }
        }
        self.check_store(store)
    }

    /// `store` has applied a change of a region that it holds.
    pub fn on_changed_here(&mut self, store: StoreId, descriptor: &Descriptor) {
        let here = &mut self.stores.entry(store).or_default().here;
        // Later news may have come with a snapshot.
        if here.get(&descriptor.id).is_none_or(|before| !descriptor.epoch.is_behind(before.epoch)) {
            here.insert(descriptor.id, Arc::clone(descriptor));
        }
    }

    /// A split or a snapshot gave `store` this state of a region, durably.
    ///
    /// # Errors
    /// Its replica there was removed before, or lost with the store's disk.
    pub fn on_state_here(&mut self, store: StoreId, descriptor: &Descriptor) -> Verdict {
        let here = self.stores.entry(store).or_default();
        here.here.insert(descriptor.id, Arc::clone(descriptor));
        here.durable.insert(descriptor.id, descriptor.epoch);
        let own = descriptor.replica_on(store).map(|replica| replica.id);
        let is_absorbed = here.absorbed.contains(&descriptor.id);
        match own.filter(|own| is_absorbed || here.tombstones.get(&descriptor.id) >= Some(own)) {
            Some(own) => broken(GONE, format!("store {store} gives replica {own} of {} a state", descriptor.id)),
            None => own.map_or(Ok(()), |own| self.check_not_forgotten(store, descriptor.id, own)),
        }
    }

    /// A snapshot of `descriptor` was installed somewhere.
    ///
    /// # Errors
    /// Nobody has ever applied that descriptor.
    pub fn on_snapshot(&mut self, descriptor: &Descriptor) -> Verdict {
        if self.is_known(descriptor)? { Ok(()) } else { broken(EPOCHS, format!("{descriptor:?} comes from nobody")) }
    }

    /// `store`'s replica of a region is gone: none of up to this id may act there again.
    pub fn on_destroyed(&mut self, store: StoreId, region: RegionId, replica: ReplicaId) {
        let here = self.stores.entry(store).or_default();
        here.here.remove(&region);
        here.durable.remove(&region);
        let gone = here.tombstones.entry(region).or_default();
        *gone = (*gone).max(replica);
    }

    /// `store` lets a replica come to be.
    ///
    /// # Errors
    /// It was removed there before, or lost with the store's disk.
    pub fn on_created(&mut self, store: StoreId, region: RegionId, replica: ReplicaId) -> Verdict {
        if self.is_gone(store, region, replica) {
            return broken(GONE, format!("store {store} creates replica {replica} of {region} again"));
        }
        self.check_not_forgotten(store, region, replica)
    }

    /// Whether a replica of this or a higher id was removed from `store`.
    #[must_use]
    pub fn is_gone(&self, store: StoreId, region: RegionId, replica: ReplicaId) -> bool {
        self.stores.get(&store).is_some_and(|here| here.absorbed.contains(&region))
            || self.is_silent(store, region, replica)
    }

    /// Whether a replica is gone, and its worker knows.
    fn is_silent(&self, store: StoreId, region: RegionId, replica: ReplicaId) -> bool {
        let gone = self.stores.get(&store).and_then(|here| here.tombstones.get(&region));
        gone.is_some_and(|gone| *gone >= replica)
    }

    /// Whether `store` ever removed a replica of a region.
    #[must_use]
    pub fn had(&self, store: StoreId, region: RegionId) -> bool {
        self.stores.get(&store).is_some_and(|here| here.tombstones.contains_key(&region))
    }

    /// Ranges of initialised replicas on one store do not overlap.
    ///
    /// # Errors
    /// They do.
    pub fn check_store(&self, store: StoreId) -> Verdict {
        let Some(here) = self.stores.get(&store) else { return Ok(()) };
        let mut owners: Vec<&Descriptor> =
            here.here.values().filter(|descriptor| descriptor.id != RegionId::ROOT).collect();
        owners.sort_by(|one, other| one.range.start.cmp(&other.range.start));
        match owners.windows(2).find(|pair| pair[0].range.overlaps(&pair[1].range)) {
            Some(pair) => broken(ONE_STORE, format!("store {store}: {:?} and {:?}", pair[0], pair[1])),
            None => Ok(()),
        }
    }

    /// A message of a replica leaves `store`.
    ///
    /// # Errors
    /// The replica was removed there or votes for a second candidate in one term.
    pub fn on_sent(&mut self, store: StoreId, region: RegionId, message: &Message) -> Verdict {
        let Message { from, to, term, body } = message;
        self.on_acts(store, region, *from)?;
        if *body == (Body::VoteReply { granted: true }) {
            let first = *self.votes.entry((region, *from, *term)).or_insert(*to);
            if first != *to {
                let detail = format!("replica {from} of {region} votes for {first} and {to} in term {term}");
                return broken("a replica votes once a term", detail);
            }
        }
        Ok(())
    }

    /// A replica on `store` acts in some way.
    ///
    /// # Errors
    /// It was removed there, or lost with the store's disk.
    pub fn on_acts(&self, store: StoreId, region: RegionId, replica: ReplicaId) -> Verdict {
        if self.is_silent(store, region, replica) {
            return broken(GONE, format!("store {store} speaks for replica {replica} of {region}"));
        }
        self.check_not_forgotten(store, region, replica)
    }

    /// `store`'s state of a region, at an index, has this digest.
    ///
    /// # Errors
    /// It was another one on another store, or earlier.
    pub fn on_state(&mut self, store: StoreId, region: RegionId, index: LogIndex, digest: u64) -> Verdict {
        let first = *self.digests.entry((region, index)).or_insert((digest, store));
        if first.0 == digest {
            return Ok(());
        }
        let detail = format!("region {region} at {index} is one on store {}, and another on store {store}", first.1);
        broken("replicas hold the same bytes at an index", detail)
    }

    /// The root region has given these ids away.
    ///
    /// # Errors
    /// It did before.
    pub fn on_ids(&mut self, ids: Range<u64>) -> Verdict {
        if let Some(before) = self.ids.iter().find(|before| before.start < ids.end && ids.start < before.end) {
            return broken("ids are given away once", format!("{before:?} and {ids:?}"));
        }
        self.ids.push(ids);
        Ok(())
    }

    /// The configurations of which one was in force when the entry at `index` committed, or has been since: a change takes
    /// effect when it is applied, and a leader that has not applied the last ones yet still counts by what it has.
    #[must_use]
    pub fn configurations(&self, region: RegionId, index: LogIndex) -> Vec<&[Replica]> {
        let all = self.configurations.get(&region).map_or(&[][..], |all| &all[..]);
        let before = all.partition_point(|(at, _)| *at < index);
        all[before.saturating_sub(CONFIGURATIONS)..].iter().map(|(_, one)| &one.replicas[..]).collect()
    }

    /// How many witnesses a live region has.
    #[must_use]
    pub fn witnesses(&self, region: RegionId) -> usize {
        let count = |region: &Descriptor| region.replicas.iter().filter(|one| one.role == Role::Witness).count();
        self.newest.get(&region).map_or(0, count)
    }

    /// The live regions, as the newest committed changes have them, in order of id.
    pub fn newest(&self) -> impl Iterator<Item = &Descriptor> {
        self.newest.values()
    }
}

/// Up to which id a replica of a region may not come to be again.
#[must_use]
pub fn forbidden(tombstone: &Tombstone) -> ReplicaId {
    match tombstone.cause {
        Cause::Removed => tombstone.replica,
        Cause::Merged => ReplicaId(u64::MAX),
    }
}

/// Whether those that hold something are a quorum of the voters; of both halves, if there are two.
pub fn is_quorum(replicas: &[Replica], holds: &dyn Fn(StoreId) -> bool) -> bool {
    is_quorum_of(replicas, &|replica| holds(replica.store))
}

/// The same, of replicas that hold something.
pub(super) fn is_quorum_of(replicas: &[Replica], holds: &dyn Fn(&Replica) -> bool) -> bool {
    let half = |counts: &dyn Fn(&Replica) -> bool| {
        let voters = replicas.iter().filter(|replica| counts(replica)).count();
        let holders = replicas.iter().filter(|replica| counts(replica) && holds(replica)).count();
        holders > voters / 2
    };
    half(&|replica| replica.role.votes_incoming()) && half(&|replica| replica.role.votes_outgoing())
}
