//! What was collected of one surviving store: plain data, and its file.

use bytes::Bytes;
use multiraft_raft::{
    ClusterId, HardState, Incarnation, LogIndex, RegionDescriptor, RegionId, ReplicaId, StoreId, Term,
};

use super::codec::{FileError, In, Kind, Out, digest, seal, unseal};

/// One stopped store, as its data directory tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreSurvey {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Which store it is.
    pub store: StoreId,
    /// Its last start: after another one this survey is of the past.
    pub incarnation: Incarnation,
    /// Stores that earlier recoveries have declared dead.
    pub dead: Vec<StoreId>,
    /// Ids at or below it are not given away any more, since an earlier recovery.
    pub ids_upto: u64,
    /// The stores of the cluster, with whether they have left; empty if the root region keeps none, or is not here.
    pub stores: Vec<(StoreId, bool)>,
    /// The next id that the root region gives away, as its replica here would know once all of its log is applied.
    pub next_id: Option<u64>,
    /// The replicas that have a state and are sound, by region.
    pub replicas: Vec<ReplicaSurvey>,
    /// The replicas that are kept out of service, by region.
    pub damaged: Vec<DamagedReplica>,
    /// What was promised here for regions without a state, by region.
    pub promises: Vec<(RegionId, Term)>,
    /// Replicas that are gone, by region.
    pub tombstones: Vec<BuriedReplica>,
}

/// A sound replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaSurvey {
    /// The region as applied.
    pub descriptor: RegionDescriptor,
    /// Term, vote, and the commit index that was known to be durable.
    pub hard_state: HardState,
    /// The last entry applied, with its term.
    pub applied: (LogIndex, Term),
    /// The last entry known to be committed, with its term.
    pub committed: (LogIndex, Term),
    /// The last entry held, with its term.
    pub last: (LogIndex, Term),
    /// If it is frozen: by which entry, for which region at which version.
    pub frozen: Option<FrozenFor>,
    /// What the region has absorbed, with the version each had when it was frozen.
    pub absorbed: Vec<(RegionId, u64)>,
    /// What the rest of its log would make of the region.
    pub foreseen: Foreseen,
}

/// For whom a region is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrozenFor {
    /// The entry that froze it.
    pub index: LogIndex,
    /// The region that is to absorb it.
    pub target: RegionId,
    /// At exactly this version.
    pub version: u64,
}

/// What a replica would become if all of its log were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// The region then.
    pub descriptor: RegionDescriptor,
    /// Whether it would be frozen.
    pub frozen: Option<FrozenFor>,
    /// What it would have absorbed in all.
    pub absorbed: Vec<(RegionId, u64)>,
    /// What it would absorb on the way.
    pub absorbs: Vec<RegionId>,
    /// What each change of replicas on the way leads to.
    pub configurations: Vec<(LogIndex, RegionDescriptor)>,
    /// The regions that splits on the way make.
    pub children: Vec<RegionDescriptor>,
    /// Why its log cannot be applied to the end on this store.
    pub blocked: Option<String>,
}

/// A replica that is kept out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DamagedReplica {
    /// The region.
    pub region: RegionId,
    /// The region as its state has it, if that can be read.
    pub descriptor: Option<RegionDescriptor>,
    /// What is wrong.
    pub reason: String,
}

/// What a replica that is gone has left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuriedReplica {
    /// The region when it was last heard of.
    pub descriptor: RegionDescriptor,
    /// The highest id that a replica of it had here.
    pub replica: ReplicaId,
    /// The region was absorbed by a neighbour.
    pub merged: bool,
    /// The last entry known to be committed.
    pub committed: (LogIndex, Term),
}

impl ReplicaSurvey {
    /// The newest configuration that is known to be committed: applied, or in the log at or below the commit index.
    #[must_use]
    pub fn in_force(&self) -> &RegionDescriptor {
        let committed = self.foreseen.configurations.iter().rev().find(|(index, _)| *index <= self.hard_state.commit);
        committed.map_or(&self.descriptor, |(_, descriptor)| descriptor)
    }
}

impl StoreSurvey {
    /// The file.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        seal(Kind::Survey, &self.body())
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn decode(file: &Bytes) -> Result<Self, FileError> {
        let mut body = In::new(unseal(Kind::Survey, file)?);
        Self::read(&mut body).filter(|_| body.is_done()).ok_or(FileError::Damaged)
    }

    /// Tells this very state of the store from any other.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        digest(&self.body())
    }

    /// What there is of a region here.
    #[must_use]
    pub fn replica(&self, region: RegionId) -> Option<&ReplicaSurvey> {
        self.replicas.iter().find(|replica| replica.descriptor.id == region)
    }

    fn body(&self) -> Bytes {
        let mut out = Out::default();
        out.bytes(&self.cluster.0.to_le_bytes());
        out.num(self.store.get());
        out.num(self.incarnation.get());
        out.list(&self.dead, |out, store| out.num(store.get()));
        out.num(self.ids_upto);
        out.list(&self.stores, |out, (store, left)| {
            out.num(store.get());
            out.flag(*left);
        });
        out.option(self.next_id.as_ref(), |out, next| out.num(*next));
        out.list(&self.replicas, put_replica);
        out.list(&self.damaged, |out, damaged| {
            out.num(damaged.region.get());
            out.option(damaged.descriptor.as_ref(), Out::descriptor);
            out.bytes(damaged.reason.as_bytes());
        });
        out.list(&self.promises, |out, (region, term)| {
            out.num(region.get());
            out.num(term.get());
        });
        out.list(&self.tombstones, |out, buried| {
            out.descriptor(&buried.descriptor);
            out.num(buried.replica.get());
            out.flag(buried.merged);
            out.position(buried.committed);
        });
        out.0.freeze()
    }

    fn read(body: &mut In) -> Option<Self> {
        Some(Self {
            cluster: ClusterId(u128::from_le_bytes(body.bytes()?.as_ref().try_into().ok()?)),
            store: body.store()?,
            incarnation: Incarnation(body.num()?),
            dead: body.list(In::store)?,
            ids_upto: body.num()?,
            stores: body.list(|body| Some((body.store()?, body.flag()?)))?,
            next_id: body.option(In::num)?,
            replicas: body.list(read_replica)?,
            damaged: body.list(|body| {
                let (region, descriptor) = (body.region()?, body.option(In::descriptor)?);
                Some(DamagedReplica { region, descriptor, reason: body.text()? })
            })?,
            promises: body.list(|body| Some((body.region()?, Term(body.num()?))))?,
            tombstones: body.list(|body| {
                let (descriptor, replica) = (body.descriptor()?, ReplicaId(body.num()?));
                Some(BuriedReplica { descriptor, replica, merged: body.flag()?, committed: body.position()? })
            })?,
        })
    }
}

fn put_replica(out: &mut Out, replica: &ReplicaSurvey) {
    out.descriptor(&replica.descriptor);
    let HardState { term, vote, commit } = replica.hard_state;
    [term.get(), vote.get(), commit.get()].into_iter().for_each(|number| out.num(number));
    out.position(replica.applied);
    out.position(replica.committed);
    out.position(replica.last);
    put_frozen(out, replica.frozen);
    put_absorbed(out, &replica.absorbed);
    let foreseen = &replica.foreseen;
    out.descriptor(&foreseen.descriptor);
    put_frozen(out, foreseen.frozen);
    put_absorbed(out, &foreseen.absorbed);
    out.list(&foreseen.absorbs, |out, region| out.num(region.get()));
    out.list(&foreseen.configurations, |out, (index, descriptor)| {
        out.num(index.get());
        out.descriptor(descriptor);
    });
    out.list(&foreseen.children, Out::descriptor);
    out.option(foreseen.blocked.as_ref(), |out, reason| out.bytes(reason.as_bytes()));
}

fn read_replica(body: &mut In) -> Option<ReplicaSurvey> {
    Some(ReplicaSurvey {
        descriptor: body.descriptor()?,
        hard_state: HardState { term: Term(body.num()?), vote: ReplicaId(body.num()?), commit: LogIndex(body.num()?) },
        applied: body.position()?,
        committed: body.position()?,
        last: body.position()?,
        frozen: body.option(read_frozen)?,
        absorbed: read_absorbed(body)?,
        foreseen: Foreseen {
            descriptor: body.descriptor()?,
            frozen: body.option(read_frozen)?,
            absorbed: read_absorbed(body)?,
            absorbs: body.list(In::region)?,
            configurations: body.list(|body| Some((LogIndex(body.num()?), body.descriptor()?)))?,
            children: body.list(In::descriptor)?,
            blocked: body.option(In::text)?,
        },
    })
}

fn put_frozen(out: &mut Out, frozen: Option<FrozenFor>) {
    out.option(frozen.as_ref(), |out, frozen| {
        [frozen.index.get(), frozen.target.get(), frozen.version].into_iter().for_each(|number| out.num(number));
    });
}

fn read_frozen(body: &mut In) -> Option<FrozenFor> {
    Some(FrozenFor { index: LogIndex(body.num()?), target: body.region()?, version: body.num()? })
}

fn put_absorbed(out: &mut Out, absorbed: &[(RegionId, u64)]) {
    out.list(absorbed, |out, (region, version)| {
        out.num(region.get());
        out.num(*version);
    });
}

fn read_absorbed(body: &mut In) -> Option<Vec<(RegionId, u64)>> {
    body.list(|body| Some((body.region()?, body.num()?)))
}
