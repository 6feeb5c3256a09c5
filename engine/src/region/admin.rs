//! Commands that change a region itself, as they stand in its log and on the wire.
//!
//! ```text
//! request:  kind (1)
//!   0 membership   an encoded membership change, to the end
//!   1 split        varint count, count x ( bytes first key | varint region | varint count of replicas, so many varint ids )
//!   2 ids          varint count (in the root region only)
//!   3 freeze       descriptor of the target
//!   4 commit merge varint index of the freeze | descriptor of the frozen source
//!   5 fence        varint source | varint its frozen version | varint version of the target that the freeze names
//!   6 roll back    varint index of the freeze
//!   7 store        a change of one store, see `stores` (in the root region only)
//!   8 report       what a store has to tell whoever plans, to the end (to the root region's leader only)
//!   9 describe     nothing: tells what the region is, and changes nothing
//!  10 check        nothing: every replica takes the digest of its state at this entry
//!  11 fence        varint index | digest expected there (32) | varint count of replicas, so many varint ids
//!  12 findings     varint index: what came of the check at this entry, and changes nothing
//!  16 recovered    the record of a recovery of the region's lost quorum, to the end (only in the log)
//! ```
//!
//! A split stands in the log as an ordinary command's envelope with the admin flag; a membership change is an entry of the
//! core's own kind with the epoch as its context.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use multiraft_raft::{
    KeyRange, LogIndex, MembershipChange, RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId,
};

use multiraft_transport::{decode_descriptor, encode_descriptor};

use crate::region::check::StateDigest;
use crate::region::command::{Command, get_varint, put_varint};
use crate::region::stores::StoreCommand;

const MEMBERSHIP: u8 = 0;
const SPLIT: u8 = 1;
const ALLOCATE_IDS: u8 = 2;
const FREEZE: u8 = 3;
const COMMIT_MERGE: u8 = 4;
const FENCE: u8 = 5;
const ROLL_BACK: u8 = 6;
const STORE: u8 = 7;
const REPORT: u8 = 8;
const DESCRIBE: u8 = 9;
const CHECK: u8 = 10;
const FENCE_REPLICAS: u8 = 11;
const FINDINGS: u8 = 12;
const LOADS: u8 = 13;
const RECOVERED: u8 = 16;

/// The most children that one split makes: a bound on what one entry does.
pub(crate) const SPLIT_CHILDREN_MAX: usize = 1024;

/// The first id, of regions and replicas alike, that the root region gives away. Those below are free for the regions of the
/// bootstrap.
pub(crate) const FIRST_ALLOCATED_ID: u64 = 1 << 24;

/// The most ids that are given away at once.
pub(crate) const ALLOCATED_AT_ONCE_MAX: u64 = 1 << 20;

/// A change that is asked of a region's leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminRequest {
    /// Other replicas.
    Membership(MembershipChange),
    /// Another range, or other regions.
    Command(AdminCommand),
    /// No change: what is the region, as its leader knows it?
    Describe,
    /// No change: what came of the consistency check at this entry? Answered by an encoded [`CheckReport`], `Busy` until there is
    /// one.
    ///
    /// [`CheckReport`]: crate::CheckReport
    Findings {
        /// The entry.
        index: LogIndex,
    },
    /// No change: what the sending store has to tell whoever plans. Only the root region's leader takes it; the answer is its
    /// term, big endian.
    Report(Bytes),
    /// No change: what lies on each store, as far as whoever plans was told? Only the root region's leader answers, if it plans.
    Loads,
}

/// A change that is a command in the region's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminCommand {
    /// The region keeps what lies before the first child; each child takes what lies from its key to the next one's.
    Split {
        /// In key order.
        children: Vec<Child>,
    },
    /// The root region gives so many ids away, for regions and replicas; the answer is the first of them, big endian.
    AllocateIds {
        /// How many.
        count: u64,
    },
    /// The region takes nothing any more: it is to be absorbed.
    Freeze {
        /// By whom, at exactly this epoch.
        target: Arc<RegionDescriptor>,
    },
    /// The region absorbs a neighbour that is frozen for it, on every store.
    CommitMerge {
        /// The entry that froze the source.
        index: LogIndex,
        /// The source, frozen.
        source: Arc<RegionDescriptor>,
    },
    /// The region becomes one version newer, so that no commit of an earlier freeze can apply any more.
    Fence {
        /// The source of the merge that is given up.
        source: RegionId,
        /// Its version when it was frozen.
        frozen: u64,
        /// The version of this region that the freeze names.
        version: u64,
    },
    /// The region is no longer frozen: its target has not absorbed it and never will.
    RollBack {
        /// The entry that froze it.
        index: LogIndex,
    },
    /// The root region changes what it knows of a store; the answer is the stores as they are then, or why not.
    Store(StoreCommand),
    /// Every replica takes the digest of its state, as of this entry. Nothing changes.
    Check,
    /// Replicas of the region go out of service: their states are not the region's.
    FenceReplicas {
        /// The check that has shown it.
        index: LogIndex,
        /// What a quorum of the voters had there.
        expected: StateDigest,
        /// Those that had something else.
        replicas: Vec<ReplicaId>,
    },
    /// The region was recovered after it had lost its quorum: what is to be remembered of that. Never proposed: a recovery writes it
    /// into the log, in front of everything that the recovered region decides.
    Recovered(Bytes),
}

/// A region that a split makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its first key.
    pub start: Bytes,
    /// Its name, never used before.
    pub region: RegionId,
    /// Its replicas, one for each of the parent's, in their order; never used before.
    pub replicas: Vec<ReplicaId>,
}

impl AdminRequest {
    /// The wire form.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        match self {
            Self::Membership(change) => {
                let mut out = BytesMut::new();
                out.put_u8(MEMBERSHIP);
                out.put_slice(&change.encode(&[]));
                out.freeze()
            }
            Self::Command(command) => command.encode(),
            Self::Describe => Bytes::from_static(&[DESCRIBE]),
            Self::Loads => Bytes::from_static(&[LOADS]),
            Self::Findings { index } => {
                let mut out = BytesMut::new();
                out.put_u8(FINDINGS);
                put_varint(&mut out, index.get());
                out.freeze()
            }
            Self::Report(report) => {
                let mut out = BytesMut::with_capacity(1 + report.len());
                out.put_u8(REPORT);
                out.put_slice(report);
                out.freeze()
            }
        }
    }

    /// Reads the wire form; `None` if it is none of this version.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        match *bytes.first()? {
            MEMBERSHIP => {
                let (change, context) = MembershipChange::decode(&bytes.slice(1..)).ok()?;
                context.is_empty().then_some(Self::Membership(change))
            }
            DESCRIBE => (bytes.len() == 1).then_some(Self::Describe),
            LOADS => (bytes.len() == 1).then_some(Self::Loads),
            FINDINGS => {
                let mut at = 1;
                let index = LogIndex(get_varint(bytes, &mut at)?);
                (at == bytes.len()).then_some(Self::Findings { index })
            }
            REPORT => Some(Self::Report(bytes.slice(1..))),
            _ => AdminCommand::decode(bytes).map(Self::Command),
        }
    }
}

impl AdminCommand {
    /// What a command in the log asks for, if it is one of the engine's own.
    pub(crate) fn of(command: &Command<'_>) -> Option<Self> {
        Self::decode(&Bytes::copy_from_slice(command.data))
    }

    /// The log form, without the envelope.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Split { children } => {
                out.put_u8(SPLIT);
                put_varint(&mut out, children.len() as u64);
                for child in children {
                    put_varint(&mut out, child.start.len() as u64);
                    out.put_slice(&child.start);
                    put_varint(&mut out, child.region.get());
                    put_varint(&mut out, child.replicas.len() as u64);
                    for replica in &child.replicas {
                        put_varint(&mut out, replica.get());
                    }
                }
            }
            Self::AllocateIds { count } => {
                out.put_u8(ALLOCATE_IDS);
                put_varint(&mut out, *count);
            }
            Self::Freeze { target } => {
                out.put_u8(FREEZE);
                put_descriptor(&mut out, target);
            }
            Self::CommitMerge { index, source } => {
                out.put_u8(COMMIT_MERGE);
                put_varint(&mut out, index.get());
                put_descriptor(&mut out, source);
            }
            Self::Fence { source, frozen, version } => {
                out.put_u8(FENCE);
                put_varint(&mut out, source.get());
                put_varint(&mut out, *frozen);
                put_varint(&mut out, *version);
            }
            Self::RollBack { index } => {
                out.put_u8(ROLL_BACK);
                put_varint(&mut out, index.get());
            }
            Self::Store(command) => {
                out.put_u8(STORE);
                command.encode(&mut out);
            }
            Self::Check => out.put_u8(CHECK),
            Self::FenceReplicas { index, expected, replicas } => {
                out.put_u8(FENCE_REPLICAS);
                put_varint(&mut out, index.get());
                out.put_slice(&expected.0);
                put_varint(&mut out, replicas.len() as u64);
                replicas.iter().for_each(|replica| put_varint(&mut out, replica.get()));
            }
            Self::Recovered(record) => {
                out.put_u8(RECOVERED);
                out.put_slice(record);
            }
        }
        out.freeze()
    }

    /// Reads the log form; `None` if it is none of this version.
    #[must_use]
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let mut at = 1;
        let command = match *bytes.first()? {
            SPLIT => {
                let count = usize::try_from(get_varint(bytes, &mut at)?).ok()?;
                if count > SPLIT_CHILDREN_MAX {
                    return None;
                }
                let children = (0..count).map(|_| read_child(bytes, &mut at)).collect::<Option<Vec<_>>>()?;
                Self::Split { children }
            }
            ALLOCATE_IDS => {
                let count = get_varint(bytes, &mut at)?;
                (1..=ALLOCATED_AT_ONCE_MAX).contains(&count).then_some(Self::AllocateIds { count })?
            }
            FREEZE => return read_descriptor(bytes, at).map(|target| Self::Freeze { target }),
            COMMIT_MERGE => {
                let index = LogIndex(get_varint(bytes, &mut at)?);
                return read_descriptor(bytes, at).map(|source| Self::CommitMerge { index, source });
            }
            FENCE => Self::Fence {
                source: RegionId(get_varint(bytes, &mut at)?),
                frozen: get_varint(bytes, &mut at)?,
                version: get_varint(bytes, &mut at)?,
            },
            ROLL_BACK => Self::RollBack { index: LogIndex(get_varint(bytes, &mut at)?) },
            STORE => Self::Store(StoreCommand::decode(bytes, &mut at)?),
            CHECK => Self::Check,
            FENCE_REPLICAS => {
                let index = LogIndex(get_varint(bytes, &mut at)?);
                let expected = StateDigest::read(bytes, &mut at)?;
                Self::FenceReplicas { index, expected, replicas: read_replicas(bytes, &mut at)? }
            }
            RECOVERED => return Some(Self::Recovered(bytes.slice(at..))),
            _ => return None,
        };
        (at == bytes.len()).then_some(command)
    }
}

/// A descriptor stands last: it goes to the end.
fn put_descriptor(out: &mut BytesMut, descriptor: &RegionDescriptor) {
    let mut encoded = Vec::new();
    encode_descriptor(descriptor, &mut encoded);
    out.put_slice(&encoded);
}

fn read_descriptor(bytes: &Bytes, at: usize) -> Option<Arc<RegionDescriptor>> {
    decode_descriptor(&bytes.slice(at..)).ok().map(Arc::new)
}

fn read_child(bytes: &Bytes, at: &mut usize) -> Option<Child> {
    let length = usize::try_from(get_varint(bytes, at)?).ok()?;
    let end = at.checked_add(length).filter(|end| *end <= bytes.len())?;
    let start = bytes.slice(*at..end);
    *at = end;
    let region = RegionId(get_varint(bytes, at)?);
    Some(Child { start, region, replicas: read_replicas(bytes, at)? })
}

fn read_replicas(bytes: &[u8], at: &mut usize) -> Option<Vec<ReplicaId>> {
    let count = usize::try_from(get_varint(bytes, at)?).ok().filter(|count| *count <= bytes.len())?;
    (0..count).map(|_| get_varint(bytes, at).map(ReplicaId)).collect()
}

/// Why a region cannot be split so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SplitFault {
    /// There is no key.
    #[error("a split needs at least one key")]
    NoKeys,
    /// There are too many keys.
    #[error("one split makes at most {SPLIT_CHILDREN_MAX} regions: use several")]
    TooMany,
    /// A key is empty, not inside the range or its first one, or not greater than the one before it.
    #[error("split keys must ascend strictly and lie inside the region's range, behind its first key")]
    Keys,
    /// The region is the root, which owns no keys.
    #[error("the root region owns no keys and cannot be split")]
    Root,
    /// The region is changing its replicas.
    #[error("the region is in a joint configuration: try again when it has left it")]
    Joint,
    /// Ids are missing or doubled.
    #[error(
        "each child needs a region id and one replica id for each of the parent's replicas, none of them used before"
    )]
    Ids,
}

/// Checks the keys of a split.
///
/// # Errors
/// [`SplitFault`].
pub(crate) fn check_split_keys<'a>(
    parent: &RegionDescriptor,
    keys: impl ExactSizeIterator<Item = &'a Bytes>,
) -> Result<(), SplitFault> {
    if parent.id == RegionId::ROOT {
        return Err(SplitFault::Root);
    }
    match keys.len() {
        0 => return Err(SplitFault::NoKeys),
        count if count > SPLIT_CHILDREN_MAX => return Err(SplitFault::TooMany),
        _ => {}
    }
    let mut before = &parent.range.start;
    for key in keys {
        if key <= before || !parent.range.contains(key) {
            return Err(SplitFault::Keys);
        }
        before = key;
    }
    Ok(())
}

/// What a split makes of a region: its own descriptor, then its children's, in key order.
///
/// All of them are one version further than the region was, so that each key's owner is newer than before.
///
/// # Errors
/// [`SplitFault`]; the region stays as it is.
pub(crate) fn split_descriptor(
    parent: &RegionDescriptor,
    children: &[Child],
) -> Result<Vec<RegionDescriptor>, SplitFault> {
    check_split_keys(parent, children.iter().map(|child| &child.start))?;
    if parent.replicas.iter().any(|replica| replica.role.is_joint()) {
        return Err(SplitFault::Joint);
    }
    check_ids(parent, children)?;
    let epoch = RegionEpoch { version: parent.epoch.version + 1, ..parent.epoch };
    let ends = children.iter().map(|child| child.start.clone()).chain(std::iter::once(parent.range.end.clone()));
    let mut ends = ends.into_iter();
    let mut part = |id, start: Bytes, replicas| {
        let end = ends.next().expect("invariant: one end for each part");
        RegionDescriptor { id, range: KeyRange { start, end }, epoch, replicas }
    };
    let mut parts = vec![part(parent.id, parent.range.start.clone(), parent.replicas.clone())];
    for child in children {
        let replicas = parent.replicas.iter().zip(&child.replicas);
        let mut replicas: Vec<Replica> = replicas.map(|(replica, id)| Replica { id: *id, ..*replica }).collect();
        replicas.sort_by_key(|replica| replica.id);
        parts.push(part(child.region, child.start.clone(), replicas));
    }
    Ok(parts)
}

fn check_ids(parent: &RegionDescriptor, children: &[Child]) -> Result<(), SplitFault> {
    let mut regions: Vec<RegionId> = children.iter().map(|child| child.region).collect();
    regions.push(parent.id);
    let count = regions.len();
    regions.sort_unstable();
    regions.dedup();
    let fits = |child: &Child| {
        let mut replicas = child.replicas.clone();
        replicas.sort_unstable();
        replicas.dedup();
        replicas.len() == parent.replicas.len() && !replicas.contains(&ReplicaId::ZERO)
    };
    let fine = regions.len() == count && regions[0] > RegionId::ROOT && children.iter().all(fits);
    if fine { Ok(()) } else { Err(SplitFault::Ids) }
}

#[cfg(test)]
mod tests {
    use multiraft_raft::{ChangeOp, Role, StoreId};

    use super::*;
    use crate::region::stores::{StoreRecord, StoreStanding};

    fn parent() -> RegionDescriptor {
        let replica = |id| Replica { id: ReplicaId(id), store: StoreId(id), role: Role::Voter };
        let range = KeyRange { start: Bytes::from_static(b"b"), end: Bytes::from_static(b"x") };
        let epoch = RegionEpoch { conf_version: 3, version: 7 };
        RegionDescriptor { id: RegionId(2), range, epoch, replicas: vec![replica(1), replica(2), replica(3)] }
    }

    fn child(start: &'static [u8], region: u64) -> Child {
        let replicas = (0..3).map(|at| ReplicaId(region * 10 + at)).collect();
        Child { start: Bytes::from_static(start), region: RegionId(region), replicas }
    }

    #[test]
    fn requests_survive_a_round_trip_and_cut_ones_are_refused() {
        let split = AdminRequest::Command(AdminCommand::Split { children: vec![child(b"g", 8), child(b"p", 9)] });
        let change = MembershipChange::Simple(ChangeOp::AddLearner { id: ReplicaId(4), store: StoreId(4) });
        let ids = AdminRequest::Command(AdminCommand::AllocateIds { count: 1000 });
        let whole = Arc::new(parent());
        let labels = [("zone", "a"), ("rack", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let joined = Arc::new(StoreRecord {
            id: StoreId(7),
            address: "127.0.0.1:7107".to_owned(),
            weight: 1000,
            labels: labels.into(),
            standing: StoreStanding::Up,
        });
        let commands = [
            AdminCommand::Freeze { target: whole.clone() },
            AdminCommand::CommitMerge { index: LogIndex(300), source: whole },
            AdminCommand::Fence { source: RegionId(4), frozen: 500, version: 9 },
            AdminCommand::RollBack { index: LogIndex(300) },
            AdminCommand::Store(StoreCommand::Join(joined)),
            AdminCommand::Store(StoreCommand::Drain(StoreId(300))),
            AdminCommand::Store(StoreCommand::CancelDrain(StoreId(300))),
            AdminCommand::Store(StoreCommand::Drained(StoreId(300))),
            AdminCommand::Store(StoreCommand::Leave(StoreId(300))),
            AdminCommand::Store(StoreCommand::Forget(StoreId(300))),
            AdminCommand::Store(StoreCommand::List),
            AdminCommand::Check,
            AdminCommand::FenceReplicas {
                index: LogIndex(300),
                expected: StateDigest([7; 32]),
                replicas: vec![ReplicaId(4), ReplicaId(500)],
            },
        ];
        let findings = AdminRequest::Findings { index: LogIndex(300) };
        let others =
            [split, ids, AdminRequest::Describe, AdminRequest::Loads, findings, AdminRequest::Membership(change)];
        for request in commands.map(AdminRequest::Command).into_iter().chain(others) {
            let bytes = request.encode();
            assert_eq!(AdminRequest::decode(&bytes), Some(request));
            for len in 0..bytes.len() {
                assert_eq!(AdminRequest::decode(&bytes.slice(..len)), None, "cut at {len}");
            }
        }
        let report = AdminRequest::Report(Bytes::from_static(b"whatever"));
        assert_eq!(AdminRequest::decode(&report.encode()), Some(report));
        let recovered = AdminCommand::Recovered(Bytes::from_static(b"a record"));
        assert_eq!(AdminCommand::decode(&recovered.encode()), Some(recovered));
        assert_eq!(AdminRequest::decode(&Bytes::from_static(&[99, 1])), None);
        assert_eq!(AdminRequest::decode(&Bytes::from_static(&[SPLIT, 0xff, 0xff, 0xff, 0x7f])), None);
    }

    #[test]
    fn a_split_covers_the_range_without_gap_and_raises_every_version() {
        let parts = split_descriptor(&parent(), &[child(b"g", 8), child(b"p", 9)]).expect("it fits");
        let bounds: Vec<_> =
            parts.iter().map(|part| (part.id.get(), &part.range.start[..], &part.range.end[..])).collect();
        assert_eq!(bounds, [(2, &b"b"[..], &b"g"[..]), (8, b"g", b"p"), (9, b"p", b"x")]);
        assert!(parts.iter().all(|part| part.epoch == RegionEpoch { conf_version: 3, version: 8 }));
        let stores: Vec<_> = parts[1].replicas.iter().map(|replica| (replica.id.get(), replica.store.get())).collect();
        assert_eq!(stores, [(80, 1), (81, 2), (82, 3)]);
    }

    #[test]
    fn splits_that_make_no_sense_are_refused() {
        let fault = |children: &[Child]| split_descriptor(&parent(), children).expect_err("refused");
        assert_eq!(fault(&[]), SplitFault::NoKeys);
        for key in [&b""[..], b"a", b"b", b"x", b"z"] {
            assert_eq!(fault(&[Child { start: Bytes::from_static(key), ..child(b"", 8) }]), SplitFault::Keys);
        }
        assert_eq!(fault(&[child(b"p", 8), child(b"g", 9)]), SplitFault::Keys);
        assert_eq!(fault(&[child(b"g", 8), child(b"g", 9)]), SplitFault::Keys);
        assert_eq!(fault(&[child(b"g", 8), child(b"p", 8)]), SplitFault::Ids);
        assert_eq!(fault(&[child(b"g", 2)]), SplitFault::Ids);
        assert_eq!(fault(&[Child { replicas: vec![ReplicaId(5)], ..child(b"g", 8) }]), SplitFault::Ids);
        assert_eq!(fault(&[Child { replicas: vec![ReplicaId(5); 3], ..child(b"g", 8) }]), SplitFault::Ids);
        let root = RegionDescriptor { id: RegionId::ROOT, ..parent() };
        assert_eq!(split_descriptor(&root, &[child(b"g", 8)]), Err(SplitFault::Root));
        let mut joint = parent();
        joint.replicas[0].role = Role::DemotingVoter;
        assert_eq!(split_descriptor(&joint, &[child(b"g", 8)]), Err(SplitFault::Joint));
    }
}
