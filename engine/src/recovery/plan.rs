//! A plan of a recovery: plain data, and its file.

use std::fmt;

use bytes::Bytes;
use multiraft_raft::{ClusterId, Incarnation, KeyRange, LogIndex, RegionDescriptor, RegionId, StoreId, Term};

use super::codec::{FileError, In, Kind, Out, digest, seal, unseal};

/// Names a plan: whoever carries it out says it, so that nobody carries out another than he has read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanId(pub u64);

impl fmt::Display for PlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::str::FromStr for PlanId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_id = text.len() == 16 && text.bytes().all(|digit| digit.is_ascii_hexdigit());
        let id = u64::from_str_radix(text, 16).ok().filter(|_| is_id);
        id.map(Self).ok_or_else(|| "a plan's id has 16 hexadecimal digits".to_owned())
    }
}

/// What is to become of every region that survivors know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The cluster.
    pub cluster: ClusterId,
    /// The stores that never come back, those of earlier recoveries included.
    pub dead: Vec<StoreId>,
    /// The stores that it was made from.
    pub sources: Vec<Source>,
    /// Who recovers, when and why: for the record.
    pub note: String,
    /// Ids at or below it are used up with this plan.
    pub ids_upto: u64,
    /// Each region, by id.
    pub regions: Vec<RegionPlan>,
    /// The keys that no region owns after it.
    pub gaps: Vec<KeyRange>,
}

/// A store as it was collected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Which.
    pub store: StoreId,
    /// Its last start.
    pub incarnation: Incarnation,
    /// See [`StoreSurvey::fingerprint`](super::StoreSurvey::fingerprint).
    pub fingerprint: u64,
}

/// One region's part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionPlan {
    /// The region, in the newest configuration that survivors know to be committed.
    pub known: RegionDescriptor,
    /// What is done with it.
    pub verdict: Verdict,
    /// What a person should know of it.
    pub notes: Vec<String>,
}

/// What is done with a region.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// One of the living can get the votes of a quorum of them: nothing is done.
    Healthy,
    /// One replica is kept and becomes the region's only one; all others go.
    Keep(Keep),
    /// Others own all of its keys, at a newer version: what is left of it goes.
    Superseded {
        /// The region that has absorbed it, if that is how it ended.
        by: Option<RegionId>,
    },
    /// It has no quorum, but whether it still exists, or has its first state yet, is another region's to say, which is left alone:
    /// nothing is done now.
    Waits {
        /// On whom.
        on: RegionId,
    },
    /// No replica with data has survived: what witnesses have of it goes, and nothing else is done.
    Lost,
    /// It is made anew, empty.
    Create {
        /// On which store.
        store: StoreId,
        /// As what.
        becomes: RegionDescriptor,
    },
    /// What survivors say of it contradicts itself, or cannot be carried on from: nothing is done.
    Refused {
        /// Why.
        reason: String,
    },
}

/// A replica that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keep {
    /// On which store.
    pub store: StoreId,
    /// The last entry that it has applied.
    pub applied: (LogIndex, Term),
    /// The last entry that it holds; all up to it is applied first.
    pub last: (LogIndex, Term),
    /// What the region is once that is done.
    pub expected: RegionDescriptor,
    /// What it becomes then.
    pub becomes: RegionDescriptor,
    /// The term that its life goes on in.
    pub term: Term,
    /// What may be lost.
    pub loss: Loss,
}

/// What of a region's acknowledged writes may be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing: the dead alone were no quorum, so whatever was committed is in a survivor's log.
    Nothing,
    /// The dead alone were a quorum: they may have committed what no survivor has.
    Possible,
    /// A survivor knows that entries up to this one were committed, and none that can be kept has them.
    Certain {
        /// The last of them.
        upto: LogIndex,
    },
}

/// How the note ends that a region which has its quorum may yet lose it.
pub(super) const RECOVER_AGAIN: &str = "should that come into force, recover again";

impl RegionPlan {
    /// Whether the region has its quorum and may yet lose it, by a change of replicas that its log holds: the plan is to be made once
    /// more when the stores have run for a while.
    #[must_use]
    pub fn may_be_stranded(&self) -> bool {
        self.verdict == Verdict::Healthy && self.notes.iter().any(|note| note.ends_with(RECOVER_AGAIN))
    }
}

impl Loss {
    /// The same, but that something may be lost.
    pub(super) fn or_possible(self) -> Self {
        if self == Self::Nothing { Self::Possible } else { self }
    }
}

impl Plan {
    /// Its name.
    #[must_use]
    pub fn id(&self) -> PlanId {
        PlanId(digest(&self.body()))
    }

    /// The part of one region.
    #[must_use]
    pub fn region(&self, region: RegionId) -> Option<&RegionPlan> {
        self.regions.iter().find(|plan| plan.known.id == region)
    }

    /// Whether it changes anything at all.
    #[must_use]
    pub fn does_something(&self) -> bool {
        self.regions
            .iter()
            .any(|plan| matches!(plan.verdict, Verdict::Keep(_) | Verdict::Superseded { .. } | Verdict::Create { .. }))
    }

    /// The regions that stay without service after it.
    pub fn unrecovered(&self) -> impl Iterator<Item = &RegionPlan> {
        let is_left = |plan: &&RegionPlan| {
            matches!(plan.verdict, Verdict::Waits { .. } | Verdict::Lost | Verdict::Refused { .. })
        };
        self.regions.iter().filter(is_left)
    }

    /// The file.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        seal(Kind::Plan, &self.body())
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn decode(file: &Bytes) -> Result<Self, FileError> {
        let mut body = In::new(unseal(Kind::Plan, file)?);
        Self::read(&mut body).filter(|_| body.is_done()).ok_or(FileError::Damaged)
    }

    fn body(&self) -> Bytes {
        let mut out = Out::default();
        out.bytes(&self.cluster.0.to_le_bytes());
        out.list(&self.dead, |out, store| out.num(store.get()));
        out.list(&self.sources, |out, source| {
            [source.store.get(), source.incarnation.get(), source.fingerprint]
                .into_iter()
                .for_each(|number| out.num(number));
        });
        out.bytes(self.note.as_bytes());
        out.num(self.ids_upto);
        out.list(&self.regions, |out, region| {
            out.descriptor(&region.known);
            put_verdict(out, &region.verdict);
            out.list(&region.notes, |out, note| out.bytes(note.as_bytes()));
        });
        out.list(&self.gaps, Out::range);
        out.0.freeze()
    }

    fn read(body: &mut In) -> Option<Self> {
        Some(Self {
            cluster: ClusterId(u128::from_le_bytes(body.bytes()?.as_ref().try_into().ok()?)),
            dead: body.list(In::store)?,
            sources: body.list(|body| {
                let (store, incarnation) = (body.store()?, Incarnation(body.num()?));
                Some(Source { store, incarnation, fingerprint: body.num()? })
            })?,
            note: body.text()?,
            ids_upto: body.num()?,
            regions: body.list(|body| {
                let (known, verdict) = (body.descriptor()?, read_verdict(body)?);
                Some(RegionPlan { known, verdict, notes: body.list(In::text)? })
            })?,
            gaps: body.list(In::range)?,
        })
    }
}

fn put_verdict(out: &mut Out, verdict: &Verdict) {
    match verdict {
        Verdict::Healthy => out.num(0),
        Verdict::Keep(keep) => {
            out.num(1);
            out.num(keep.store.get());
            out.position(keep.applied);
            out.position(keep.last);
            out.descriptor(&keep.expected);
            out.descriptor(&keep.becomes);
            out.num(keep.term.get());
            match keep.loss {
                Loss::Nothing => out.num(0),
                Loss::Possible => out.num(1),
                Loss::Certain { upto } => {
                    out.num(2);
                    out.num(upto.get());
                }
            }
        }
        Verdict::Superseded { by } => {
            out.num(2);
            out.option(by.as_ref(), |out, by| out.num(by.get()));
        }
        Verdict::Waits { on } => {
            out.num(3);
            out.num(on.get());
        }
        Verdict::Lost => out.num(4),
        Verdict::Create { store, becomes } => {
            out.num(5);
            out.num(store.get());
            out.descriptor(becomes);
        }
        Verdict::Refused { reason } => {
            out.num(6);
            out.bytes(reason.as_bytes());
        }
    }
}

fn read_verdict(body: &mut In) -> Option<Verdict> {
    Some(match body.num()? {
        0 => Verdict::Healthy,
        1 => Verdict::Keep(Keep {
            store: body.store()?,
            applied: body.position()?,
            last: body.position()?,
            expected: body.descriptor()?,
            becomes: body.descriptor()?,
            term: Term(body.num()?),
            loss: match body.num()? {
                0 => Loss::Nothing,
                1 => Loss::Possible,
                2 => Loss::Certain { upto: LogIndex(body.num()?) },
                _ => return None,
            },
        }),
        2 => Verdict::Superseded { by: body.option(In::region)? },
        3 => Verdict::Waits { on: body.region()? },
        4 => Verdict::Lost,
        5 => Verdict::Create { store: body.store()?, becomes: body.descriptor()? },
        6 => Verdict::Refused { reason: body.text()? },
        _ => return None,
    })
}
