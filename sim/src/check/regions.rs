//! The regions' lives, judged from what stores apply, find at their start and send (the rules are those of
//! `docs/regions.md`): every key has one owner at every moment, on one store ranges never overlap, replicas hold the same bytes
//! at the same index, what was removed stays removed, and a replica votes once a term.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use multiraft::apply::{Cause, Tombstone};
use multiraft::logic::{Absorbed, Frozen, MergeState};
use multiraft_raft::{
    Body, KeyRange, LogIndex, Message, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, StoreId, Term,
};

use super::{Verdict, Violation};

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
    stores: BTreeMap<StoreId, Store>,
    /// What a region's state was at an index, and on which store that was seen first.
    digests: BTreeMap<(RegionId, LogIndex), (u64, StoreId)>,
    votes: BTreeMap<(RegionId, ReplicaId, Term), ReplicaId>,
    /// Every freeze that was committed, by source and its version when frozen.
    freezes: BTreeMap<(RegionId, u64), Freeze>,
    /// The ids that the root region has given away.
    ids: Vec<Range<u64>>,
}

/// A committed freeze.
#[derive(Debug)]
struct Freeze {
    index: LogIndex,
    target: Descriptor,
    end: Option<End>,
    /// Deaths of its stores meanwhile.
    crashes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Absorbed,
    RolledBack,
}

/// What is to be told of a merge that was committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Merged {
    /// Deaths of its stores since the freeze.
    pub crashes: u64,
    /// The source was the target of another merge.
    pub frozen_target: bool,
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
const ONE_END: &str = "a merge has one end";
const ALL_FROZEN: &str = "a merge commits only when every replica of its source is durably frozen";
const TOGETHER: &str = "only regions on the same stores merge";
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
        }
        self.check_cover()
    }

    /// A committed freeze at `index` has made `region` of a region: for the first time (then the answer is yes), or as elsewhere
    /// before.
    ///
    /// # Errors
    /// It does not follow from what the region was, or names a target that is not beside it on the same stores.
    pub fn on_frozen(&mut self, index: LogIndex, region: &Descriptor, frozen: &Frozen) -> Result<bool, Violation> {
        if !self.take_step(index, region)? {
            return Ok(false);
        }
        if !are_together(region, &frozen.target) {
            return Err(Violation::new(TOGETHER, format!("{region:?} is frozen for {:?}", frozen.target)));
        }
        let target = Arc::clone(&frozen.target);
        let freeze = Freeze { index, target, end: None, crashes: 0 };
        self.freezes.insert((region.id, region.epoch.version), freeze);
        Ok(true)
    }

    /// A committed roll-back, likewise.
    ///
    /// # Errors
    /// The region was not frozen, or is absorbed.
    pub fn on_thawed(&mut self, index: LogIndex, region: &Descriptor) -> Result<bool, Violation> {
        if self.is_known(region)? {
            return Ok(false);
        }
        let frozen = (region.id, region.epoch.version - 1);
        match self.freezes.get_mut(&frozen) {
            Some(freeze) if freeze.end.is_none() => freeze.end = Some(End::RolledBack),
            freeze => return Err(Violation::new(ONE_END, format!("{region:?} is rolled back: {freeze:?}"))),
        }
        self.take_step(index, region)
    }

    /// A committed fence, likewise.
    ///
    /// # Errors
    /// It does not follow from what the region was.
    pub fn on_fenced(&mut self, index: LogIndex, region: &Descriptor) -> Result<bool, Violation> {
        self.take_step(index, region)
    }

    /// A committed merge at `index` has made `region` of the target; what it has absorbed in all ends with the source. For the
    /// first time, or (`None`) as elsewhere before.
    ///
    /// # Errors
    /// It is not what the source's freeze was for, comes before every replica of the source was durably frozen, or after it was
    /// rolled back; or leaves a gap or an overlap.
    pub fn on_merged(
        &mut self,
        index: LogIndex,
        region: &Descriptor,
        source: RegionId,
        absorbed: &Absorbed,
    ) -> Result<Option<Merged>, Violation> {
        if self.is_known(region)? {
            return Ok(None);
        }
        let bad = |rule, what: &dyn std::fmt::Debug| Err(Violation::new(rule, format!("{region:?} of {what:?}")));
        let Some(name) = absorbed.0.last().copied().filter(|(last, _)| *last == source) else {
            return bad(ONE_END, absorbed);
        };
        let (before, gone) = (self.newest.get(&region.id).cloned(), self.newest.get(&source).cloned());
        let (Some(before), Some(gone)) = (before, gone) else { return bad(ONE_END, &name) };
        let frozen_target =
            self.freezes.iter().any(|((_, _), freeze)| freeze.end.is_none() && freeze.target.id == source);
        let Some(freeze) = self.freezes.get_mut(&name) else { return bad(ONE_END, &name) };
        if freeze.end.is_some() || gone.epoch.version != name.1 {
            return bad(ONE_END, freeze);
        }
        let version = before.epoch.version.max(gone.epoch.version) + 1;
        let follows = freeze.target.id == region.id
            && freeze.target.epoch == before.epoch
            && region.epoch == RegionEpoch { version, ..before.epoch }
            && region.replicas == before.replicas
            && is_union(&region.range, &before.range, &gone.range);
        if !follows {
            return bad(ONE_OWNER, &(before, gone, freeze));
        }
        let is_frozen = |replica: &&Replica| {
            self.stores.get(&replica.store).is_some_and(|here| here.frozen.contains(&(source, freeze.index)))
        };
        if let Some(missing) = gone.replicas.iter().find(|replica| !is_frozen(replica)) {
            return bad(ALL_FROZEN, missing);
        }
        freeze.end = Some(End::Absorbed);
        let crashes = freeze.crashes;
        self.newest.remove(&source);
        self.set_newest(index, region);
        self.check_cover()?;
        Ok(Some(Merged { crashes, frozen_target }))
    }

    /// A step that makes a region one version newer, and else leaves it what it is: says whether it is new.
    fn take_step(&mut self, index: LogIndex, region: &Descriptor) -> Result<bool, Violation> {
        if self.is_known(region)? {
            return Ok(false);
        }
        let before = self.newest.get(&region.id);
        let follows = before.is_some_and(|before| {
            before.range == region.range
                && before.replicas == region.replicas
                && before.epoch.conf_version == region.epoch.conf_version
                && before.epoch.version + 1 == region.epoch.version
        });
        if !follows {
            return Err(Violation::new(ONE_OWNER, format!("{region:?} does not follow {before:?}")));
        }
        self.set_newest(index, region);
        Ok(true)
    }

    /// `store` has a region durably frozen by the entry at `index`.
    pub fn on_frozen_here(&mut self, store: StoreId, region: RegionId, index: LogIndex) {
        self.stores.entry(store).or_default().frozen.insert((region, index));
    }

    /// What a region's state on `store`, found at a start or brought by a snapshot, says of merges. Says whether it names more
    /// than was known to be absorbed there.
    pub fn on_merge_state(&mut self, store: StoreId, region: RegionId, merge: &MergeState) -> bool {
        if let Some(frozen) = &merge.frozen {
            self.on_frozen_here(store, region, frozen.index);
        }
        self.on_list_here(store, region, &merge.absorbed)
    }

    /// `store`'s replica of a region has this list of what it has absorbed. Says whether it is longer than before.
    pub fn on_list_here(&mut self, store: StoreId, region: RegionId, absorbed: &Absorbed) -> bool {
        let known = self.stores.entry(store).or_default().lists.entry(region).or_default();
        let grows = absorbed.0.len() > *known;
        *known = (*known).max(absorbed.0.len());
        grows
    }

    /// On `store` a region's replica was absorbed, durably; its worker does not know yet.
    pub fn on_absorbed_here(&mut self, store: StoreId, region: RegionId) {
        let here = self.stores.entry(store).or_default();
        here.here.remove(&region);
        here.durable.remove(&region);
        here.absorbed.insert(region);
    }

    /// A read was answered from a region at this version.
    ///
    /// # Errors
    /// It was frozen then.
    pub fn on_read(&self, region: RegionId, version: u64) -> Verdict {
        match self.freezes.get(&(region, version)) {
            Some(freeze) => broken("a frozen region serves no reads", format!("region {region}: {freeze:?}")),
            None => Ok(()),
        }
    }

    /// Somebody is told that a merge is done, or that it is rolled back.
    ///
    /// # Errors
    /// It is not so.
    pub fn on_told_of_merge(&self, source: RegionId, version: u64, is_done: bool) -> Verdict {
        let freeze = self.freezes.get(&(source, version));
        let is_absorbed = freeze.is_some_and(|freeze| freeze.end == Some(End::Absorbed));
        if is_absorbed == is_done {
            return Ok(());
        }
        broken("what is told of a merge is so", format!("{source} at {version}, done: {is_done}, is {freeze:?}"))
    }

    /// A store has died.
    pub fn on_crash(&mut self, store: StoreId) {
        for freeze in self.freezes.values_mut().filter(|freeze| freeze.end.is_none()) {
            freeze.crashes += u64::from(freeze.target.replica_on(store).is_some());
        }
    }

    /// A live region, as the newest committed changes have it.
    #[must_use]
    pub fn newest_of(&self, region: RegionId) -> Option<&RegionDescriptor> {
        self.newest.get(&region).map(AsRef::as_ref)
    }

    /// A region whose merge has not ended.
    #[must_use]
    pub fn unfinished(&self) -> Option<RegionId> {
        self.freezes.iter().find(|(_, freeze)| freeze.end.is_none()).map(|((region, _), _)| *region)
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
    /// Its replica there was removed before.
    pub fn on_state_here(&mut self, store: StoreId, descriptor: &Descriptor) -> Verdict {
        let here = self.stores.entry(store).or_default();
        here.here.insert(descriptor.id, Arc::clone(descriptor));
        here.durable.insert(descriptor.id, descriptor.epoch);
        let own = descriptor.replica_on(store).map(|replica| replica.id);
        let is_absorbed = here.absorbed.contains(&descriptor.id);
        match own.filter(|own| is_absorbed || here.tombstones.get(&descriptor.id) >= Some(own)) {
            Some(own) => broken(GONE, format!("store {store} gives replica {own} of {} a state", descriptor.id)),
            None => Ok(()),
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
    /// It was removed there before.
    pub fn on_created(&mut self, store: StoreId, region: RegionId, replica: ReplicaId) -> Verdict {
        if self.is_gone(store, region, replica) {
            return broken(GONE, format!("store {store} creates replica {replica} of {region} again"));
        }
        Ok(())
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
    /// The replica was removed there, or votes for a second candidate in one term.
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
    /// It was removed there.
    pub fn on_acts(&self, store: StoreId, region: RegionId, replica: ReplicaId) -> Verdict {
        if self.is_silent(store, region, replica) {
            return broken(GONE, format!("store {store} speaks for replica {replica} of {region}"));
        }
        Ok(())
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

/// Whether two regions have replicas of the same kinds on the same stores.
#[must_use]
pub fn are_together(one: &RegionDescriptor, other: &RegionDescriptor) -> bool {
    let places = |region: &RegionDescriptor| {
        let mut places: Vec<_> = region.replicas.iter().map(|replica| (replica.store, replica.role)).collect();
        places.sort_unstable();
        places
    };
    places(one) == places(other)
}

fn is_union(whole: &KeyRange, one: &KeyRange, other: &KeyRange) -> bool {
    let joins = |left: &KeyRange, right: &KeyRange| {
        !left.end.is_empty() && left.end == right.start && whole.start == left.start && whole.end == right.end
    };
    joins(one, other) || joins(other, one)
}

/// Whether those that hold something are a quorum of the voters; of both halves, if there are two.
pub fn is_quorum(replicas: &[Replica], holds: &dyn Fn(StoreId) -> bool) -> bool {
    let half = |counts: &dyn Fn(&Replica) -> bool| {
        let voters = replicas.iter().filter(|replica| counts(replica)).count();
        let holders = replicas.iter().filter(|replica| counts(replica) && holds(replica.store)).count();
        holders > voters / 2
    };
    half(&|replica| replica.role.votes_incoming()) && half(&|replica| replica.role.votes_outgoing())
}
