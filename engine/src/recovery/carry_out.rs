//! Carrying a plan out on one stopped store.
//!
//! ```text
//!  checks --> RECOVERY "begun" --> logs of kept replicas applied to their ends --> other replicas removed
//!                 |                   --> kept regions rewritten --> their logs reset, with the record first --> RECOVERY "done"
//!                 +-- from here on the store does not start until the plan is carried out to the end
//! ```
//!
//! Every step looks first whether it is done: whoever carries the plan out again, after a crash anywhere, comes to the same.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    Entry, EntryKind, HardState, LogIndex, LogTicket, RegionDescriptor, RegionId, ReplicaId, StoreId, Term,
};
use multiraft_storage::{GroupRecord, LogBatch, LogChange};
use multiraft_transport::SnapshotHeader;

use super::audit::RecoveryRecord;
use super::fence::Fence;
use super::offline::{Opened, Recovery, RecoveryError, applied_region, read_some};
use super::plan::{Keep, Plan, PlanId, RegionPlan, Verdict};
use crate::apply::{
    AppliedRegion, Applier, ApplyEnd, Cause, Chunks, Destroyed, Effect, FIRST_INDEX, FIRST_TERM, ReceivedSnapshots,
    Rewrite,
};
use crate::logic::{AdminCommand, ApplyTask, MergeState, RegionChange, RegionHandle, StoreStanding};
use crate::region::command::Command;
use crate::region::is_witness;
use crate::region::stores::{decode_stores, encode_stores};

/// How many records go into one batch of the log.
const RECORDS_PER_BATCH: usize = 256;

/// Each write of the log has tickets of its own.
const LANE: u32 = 0;
const BEFORE_LANE: u32 = 1;

/// What is done unasked, and what only if told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApplyOptions {
    /// The plan, as whoever carries it out has read it.
    pub confirm: PlanId,
    /// Go on although the plan leaves keys without a region, or regions without service.
    pub accept_gaps: bool,
}

impl ApplyOptions {
    /// Confirms a plan.
    #[must_use]
    pub fn confirm(plan: PlanId) -> Self {
        Self { confirm: plan, accept_gaps: false }
    }

    /// Goes on although the plan leaves keys without a region, or regions without service.
    #[must_use]
    pub fn accept_gaps(self) -> Self {
        Self { accept_gaps: true, ..self }
    }
}

/// Called in front of every durable step.
pub(super) type Steps<'a> = &'a mut dyn FnMut(&'static str) -> Result<(), RecoveryError>;

/// What was done on a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppliedPlan {
    /// On which store.
    pub store: StoreId,
    /// By which plan.
    pub plan: PlanId,
    /// It had been carried out before: nothing was done.
    pub already: bool,
    /// The regions that live on here alone.
    pub kept: Vec<RegionId>,
    /// The regions of which a replica was removed here.
    pub removed: Vec<RegionId>,
    /// The regions that were made here, empty.
    pub created: Vec<RegionId>,
}

impl Recovery {
    /// Carries a plan out on this store. Blocks. To be done on every store that the plan was made from, in any order, before any
    /// of them is started; a store on which it is forgotten finds out from the others.
    ///
    /// # Errors
    /// [`RecoveryError`]. Nothing was changed, save after [`RecoveryError::Interrupted`] and [`RecoveryError::Unforeseen`]: the
    /// store then does not start before the plan has been carried out to its end.
    pub fn apply(self, plan: &Plan, options: &ApplyOptions) -> Result<AppliedPlan, RecoveryError> {
        self.apply_by_steps(plan, options, &mut |_| Ok(()))
    }

    /// The same, with a look in front of every durable step, which may end it there.
    pub(super) fn apply_by_steps(
        self,
        plan: &Plan,
        options: &ApplyOptions,
        step: Steps<'_>,
    ) -> Result<AppliedPlan, RecoveryError> {
        let id = plan.id();
        if options.confirm != id {
            return Err(RecoveryError::Unconfirmed { plan: id });
        }
        if !plan.does_something() {
            return Err(RecoveryError::Nothing);
        }
        let left = plan.unrecovered().filter(|region| !matches!(region.verdict, Verdict::Waits { .. })).count();
        if !options.accept_gaps && (left > 0 || !plan.gaps.is_empty()) {
            return Err(RecoveryError::Gaps { gaps: plan.gaps.len(), regions: left });
        }
        let opened = self.open()?;
        let top = Arc::clone(&opened.top);
        let mut done = AppliedPlan {
            store: opened.file.store,
            plan: id,
            already: false,
            kept: Vec::new(),
            removed: Vec::new(),
            created: Vec::new(),
        };
        if opened.check(plan)? {
            // What says so may have been renamed in front of a crash and never synced.
            top.sync_dir().map_err(|error| marking(&error))?;
            done.already = true;
            return Ok(done);
        }
        let (dead, out_of_service) = (plan.dead.clone(), opened.out_of_service()?);
        let mut fence = Fence { plan: id, done: false, ids_upto: plan.ids_upto, dead, out_of_service };
        let mark = |fence: &Fence| fence.write_on(&*top).map_err(|error| marking(&error));
        step("begin")?;
        mark(&fence)?;
        opened.carry_out(plan, &mut done, step)?;
        fence.done = true;
        step("end")?;
        mark(&fence)?;
        Ok(done)
    }
}

impl Opened {
    /// Whether the plan is for this very store; true: it has been carried out here.
    fn check(&self, plan: &Plan) -> Result<bool, RecoveryError> {
        let (store, id) = (self.file.store, plan.id());
        if plan.cluster != self.file.cluster {
            return Err(RecoveryError::OtherCluster);
        }
        let source = plan.sources.iter().find(|source| source.store == store);
        let source = source.ok_or(RecoveryError::NotInPlan { store })?;
        match &self.fence {
            Some(fence) if fence.plan == id => return Ok(fence.done),
            Some(fence) if !fence.done => return Err(RecoveryError::Unfinished { plan: fence.plan }),
            _ => {}
        }
        let is_same = source.incarnation == self.file.incarnation && source.fingerprint == self.survey()?.fingerprint();
        if is_same { Ok(false) } else { Err(RecoveryError::Stale { store }) }
    }

    /// The regions whose replicas could not start when the plan was begun here. The plan knows of no others: one that cannot be
    /// read now only because a disk fails keeps what it has until it can be.
    fn out_of_service(&self) -> Result<Vec<RegionId>, RecoveryError> {
        let begun = self.fence.as_ref().filter(|fence| !fence.done);
        let Some(begun) = begun else {
            return Ok(self.assembled.damaged.iter().map(|(region, _)| *region).collect());
        };
        match self.assembled.damaged.iter().find(|(region, _)| !begun.out_of_service.contains(region)) {
            None => Ok(begun.out_of_service.clone()),
            Some((region, reason)) => {
                let what = format!("region {region} could be read when this was begun, and cannot now: {reason}");
                Err(RecoveryError::Interrupted { what })
            }
        }
    }

    fn carry_out(mut self, plan: &Plan, done: &mut AppliedPlan, step: Steps<'_>) -> Result<(), RecoveryError> {
        let store = self.file.store;
        let mut applier = self.backend.applier(self.assembled.starts.iter().map(applied_region));
        let here = |region: &RegionPlan| match &region.verdict {
            Verdict::Keep(keep) if keep.store == store => Some(keep.clone()),
            _ => None,
        };
        let kept: Vec<Keep> = plan.regions.iter().filter_map(here).collect();
        for keep in &kept {
            step("roll forward")?;
            self.roll_forward(&mut applier, keep)?;
        }
        for keep in &kept {
            check_outcome(&applier, keep)?;
        }
        let mut records = Vec::new();
        for region in &plan.regions {
            step("remove")?;
            if self.remove(&mut applier, region, store, &mut records)? {
                done.removed.push(region.known.id);
            }
        }
        for keep in &kept {
            let position = (keep.last.0.next(), keep.term);
            step("rewrite")?;
            self.rewrite(&mut applier, plan, &keep.becomes, position)?;
            let record = RecoveryRecord::new(plan, keep);
            records.extend(new_life(&keep.becomes, position, &record));
            done.kept.push(keep.becomes.id);
        }
        let made = |region: &&RegionPlan| matches!(&region.verdict, Verdict::Create { store: on, .. } if *on == store);
        let made: Vec<&RegionPlan> = plan.regions.iter().filter(made).collect();
        let mut before = Vec::new();
        for region in &made {
            step("make room")?;
            self.make_room(&mut applier, region, &mut before)?;
        }
        step("log of what was before")?;
        self.write_log(BEFORE_LANE, before)?;
        for region in made {
            let Verdict::Create { becomes, .. } = &region.verdict else { continue };
            step("create")?;
            let (position, record) = self.create(&mut applier, plan, becomes, &region.known)?;
            records.extend(new_life(becomes, position, &record));
            done.created.push(becomes.id);
        }
        step("log")?;
        self.write_log(LANE, records)
    }

    /// Applies what a kept replica's log holds: with it, all of that counts as committed.
    fn roll_forward(&self, applier: &mut Applier, keep: &Keep) -> Result<(), RecoveryError> {
        let region = keep.becomes.id;
        let handle = RegionHandle { region, slot: 0, generation: 0 };
        while let Some(applied) = applier.applied(region).filter(|applied| applied.index < keep.last.0) {
            let entries = read_some(&self.reader, region, applied.index.next(), keep.last.0);
            let entries = entries.map_err(|what| RecoveryError::Interrupted { what })?;
            run(applier, region, vec![ApplyTask::Entries { handle, entries, replies: Vec::new() }])?;
        }
        Ok(())
    }

    /// Removes what is here of a region that lives on elsewhere, or nowhere.
    fn remove(
        &self,
        applier: &mut Applier,
        plan: &RegionPlan,
        store: StoreId,
        records: &mut Vec<GroupRecord>,
    ) -> Result<bool, RecoveryError> {
        let mut without = plan.known.clone();
        without.replicas.retain(|replica| replica.store != store);
        let (known, cause) = match &plan.verdict {
            Verdict::Keep(keep) if keep.store != store => (&keep.becomes, Cause::Removed),
            Verdict::Create { store: on, becomes } if *on != store => (becomes, Cause::Removed),
            Verdict::Superseded { .. } => (&plan.known, Cause::Merged),
            // A witness has nothing that could be saved, and would be in the way of who owns the keys next; nor have entries of a
            // replica that was removed before, whose state went first.
            Verdict::Lost
                if self.has_witness(applier, &plan.known)
                    || self.assembled.residue.leftovers.contains(&plan.known.id) =>
            {
                (&without, Cause::Removed)
            }
            _ => return Ok(false),
        };
        let region = known.id;
        let is_here = applier.applied(region).is_some();
        // A region that lives on though a neighbour had absorbed it here: its replicas may come here again.
        let was_absorbed = matches!(plan.verdict, Verdict::Keep(_) | Verdict::Create { .. })
            && self
                .assembled
                .residue
                .tombstones
                .get(&region)
                .is_some_and(|tombstone| tombstone.cause == Cause::Merged && tombstone.is_before_recovery(known));
        if is_here || was_absorbed {
            let committed = (LogIndex::ZERO, Term::ZERO);
            let known = Arc::new(known.clone());
            run(applier, region, vec![ApplyTask::Destroy { region, known, cause, committed }])?;
        }
        self.remove_entries(region, cause, records);
        Ok(is_here)
    }

    /// The entries of a replica go once its state is durably gone; what was promised stays (C5).
    fn remove_entries(&self, region: RegionId, cause: Cause, records: &mut Vec<GroupRecord>) {
        let group = self.recovered.groups.get(&region).filter(|group| group.log.last_index > LogIndex::ZERO);
        if let Some(group) = group {
            records.push(GroupRecord { region, log: LogChange::Remove, hard_state: None });
            if cause == Cause::Removed {
                let promised = HardState { commit: LogIndex::ZERO, ..group.hard_state };
                records.push(GroupRecord { region, log: LogChange::None, hard_state: Some(promised) });
            }
        }
    }

    /// Whether what is here of a region is a replica without data.
    fn has_witness(&self, applier: &Applier, known: &RegionDescriptor) -> bool {
        let store = self.file.store;
        let here = applier.applied(known.id).map(|applied| Arc::clone(&applied.descriptor));
        here.map_or_else(|| is_witness(known, store), |descriptor| is_witness(&descriptor, store))
    }

    /// Gives a region its new descriptor, with a state that stands for an entry of its new term.
    fn rewrite(
        &self,
        applier: &mut Applier,
        plan: &Plan,
        becomes: &RegionDescriptor,
        (index, term): (LogIndex, Term),
    ) -> Result<(), RecoveryError> {
        let region = becomes.id;
        let interrupted = |error: &dyn std::fmt::Display| RecoveryError::Interrupted {
            what: format!("region {region} could not be rewritten: {error}"),
        };
        if applier.applied(region).is_some_and(|applied| (applied.index, applied.term) == (index, term)) {
            return Ok(());
        }
        let mut rewrite = Rewrite { becomes: Arc::new(becomes.clone()), index, term, next_id: None, stores: None };
        if region == RegionId::ROOT {
            rewrite.next_id = Some(plan.ids_upto.saturating_add(1));
            rewrite.stores = self.stores_without(&plan.dead).map_err(|error| interrupted(&error))?;
        }
        applier.rewrite(&rewrite).map_err(|error| interrupted(&error))
    }

    /// The record of the stores, in which the dead have left.
    fn stores_without(&self, dead: &[StoreId]) -> Result<Option<Bytes>, multiraft_storage::StateError> {
        let Some(mut stores) = self.backend.stores()?.and_then(|stored| decode_stores(&stored)) else {
            return Ok(None);
        };
        for store in dead {
            if let Some(record) = stores.get_mut(store) {
                record.standing = StoreStanding::Left;
            }
        }
        Ok(Some(encode_stores(&stores)))
    }

    /// Removes what is here of a region that is about to be made anew: a witness, or entries of a replica that is gone. The new
    /// state stands for a lower index than they may have come to, and beside them it would look like one that the log contradicts.
    fn make_room(
        &self,
        applier: &mut Applier,
        plan: &RegionPlan,
        records: &mut Vec<GroupRecord>,
    ) -> Result<(), RecoveryError> {
        let Verdict::Create { becomes, .. } = &plan.verdict else { return Ok(()) };
        let region = becomes.id;
        if self.has_witness(applier, &plan.known) && applier.applied(region).is_some() {
            let (cause, committed) = (Cause::Removed, (LogIndex::ZERO, Term::ZERO));
            let known = Arc::new(becomes.clone());
            run(applier, region, vec![ApplyTask::Destroy { region, known, cause, committed }])?;
        }
        // Beside a state there are only those of its new life.
        if applier.applied(region).is_none() {
            self.remove_entries(region, Cause::Removed, records);
        }
        Ok(())
    }

    /// Makes a region anew, empty, and then treats it as one that was kept.
    fn create(
        &self,
        applier: &mut Applier,
        plan: &Plan,
        becomes: &RegionDescriptor,
        known: &RegionDescriptor,
    ) -> Result<((LogIndex, Term), RecoveryRecord), RecoveryError> {
        let region = becomes.id;
        let failed = |error: &dyn std::fmt::Display| RecoveryError::Interrupted {
            what: format!("region {region} could not be made: {error}"),
        };
        let position = (FIRST_INDEX.next(), Term(FIRST_TERM.get() + super::planner::EPOCH_STEP));
        if applier.applied(region).is_none() {
            let descriptor = Arc::new(becomes.clone());
            if self.backend.is_durable() {
                self.backend.create_regions(&[Arc::clone(&descriptor)]).map_err(|error| failed(&error))?;
            } else {
                self.restore_empty(&descriptor).map_err(|error| failed(&error))?;
            }
            let task = ApplyTask::Register { descriptor, index: FIRST_INDEX, term: FIRST_TERM };
            run(applier, region, vec![task])?;
        }
        self.rewrite(applier, plan, becomes, position)?;
        let record = RecoveryRecord {
            plan: plan.id(),
            note: plan.note.clone(),
            dead: plan.dead.clone(),
            store: self.file.store,
            last: (LogIndex::ZERO, Term::ZERO),
            before: known.clone(),
        };
        Ok((position, record))
    }

    fn restore_empty(&self, descriptor: &Arc<RegionDescriptor>) -> io::Result<()> {
        let mut chunks = Vec::new();
        self.backend.first_snapshot(descriptor).stream(&mut |chunk| {
            chunks.push(chunk);
            Ok(())
        })?;
        let region = AppliedRegion {
            descriptor: Arc::clone(descriptor),
            index: FIRST_INDEX,
            term: FIRST_TERM,
            installed: true,
            merge: MergeState::default(),
        };
        let chunks: Chunks<'static> = Box::new(chunks.into_iter().map(Ok));
        self.backend.restore(&region, chunks).map(drop)
    }

    fn write_log(&mut self, lane: u32, records: Vec<GroupRecord>) -> Result<(), RecoveryError> {
        let mut batches = Vec::new();
        for (records, seq) in records.chunks(RECORDS_PER_BATCH).zip(1..) {
            batches.push(LogBatch { ticket: LogTicket { lane, seq }, records: records.to_vec() });
        }
        if batches.is_empty() {
            return Ok(());
        }
        let written = self.writer.commit(batches);
        written.map(drop).map_err(|error| RecoveryError::Interrupted { what: format!("writing the log: {error}") })
    }
}

fn marking(error: &io::Error) -> RecoveryError {
    RecoveryError::Interrupted { what: format!("marking the store: {error}") }
}

/// Has tasks applied, and children registered, to the end.
fn run(applier: &mut Applier, region: RegionId, tasks: Vec<ApplyTask<Infallible>>) -> Result<(), RecoveryError> {
    let interrupted = |what: String| RecoveryError::Interrupted { what: format!("region {region}: {what}") };
    let (batch, end) = applier.apply(tasks, &NoSnapshots);
    match end {
        ApplyEnd::Done => {}
        ApplyEnd::Stalled { .. } => return Err(interrupted("there is no space for its state".to_owned())),
        ApplyEnd::Failed(error) => return Err(interrupted(error.to_string())),
    }
    if !batch.parked.is_empty() {
        return Err(interrupted("its log waits for a neighbour to be frozen, which does not come".to_owned()));
    }
    let stays = |effect: &Effect| matches!(effect, Effect::Destroyed(Destroyed { tombstone: None, .. }));
    if batch.effects.iter().any(stays) {
        return Err(interrupted("there is no space to remove it".to_owned()));
    }
    let mut follow_up = Vec::new();
    for applied in batch.applied() {
        let children = applied.split.iter().flat_map(|split| &split.children);
        for (descriptor, _) in children.filter(|(_, adopted)| *adopted) {
            let descriptor = Arc::clone(descriptor);
            follow_up.push(ApplyTask::Register { descriptor, index: FIRST_INDEX, term: FIRST_TERM });
        }
        if let Some(RegionChange::Merged { tombstone, .. }) = &applied.change {
            follow_up.push(ApplyTask::Forget { region: tombstone.descriptor.id });
        }
    }
    if !follow_up.is_empty() {
        return run(applier, region, follow_up);
    }
    applier.record_all().map_err(|error| interrupted(error.to_string()))
}

/// Whether a kept replica has become what the plan foresaw, or has been rewritten already.
fn check_outcome(applier: &Applier, keep: &Keep) -> Result<(), RecoveryError> {
    let region = keep.becomes.id;
    let unforeseen = |reason: String| Err(RecoveryError::Unforeseen { region, reason });
    let Some(applied) = applier.applied(region) else {
        return unforeseen("it has no state here".to_owned());
    };
    let is_rewritten = *applied.descriptor == keep.becomes && applied.index == keep.last.0.next();
    let is_as_foreseen = *applied.descriptor == keep.expected && (applied.index, applied.term) == keep.last;
    if is_rewritten || is_as_foreseen {
        return Ok(());
    }
    unforeseen(format!("at entry {} it is {:?}", applied.index, applied.descriptor))
}

/// The log of a region that begins anew behind its state: what is to be remembered of the recovery stands first.
fn new_life(becomes: &RegionDescriptor, (index, term): (LogIndex, Term), record: &RecoveryRecord) -> [GroupRecord; 2] {
    let region = becomes.id;
    let command = AdminCommand::Recovered(record.encode());
    let data = Command::encode_admin(becomes.epoch, &command.encode());
    let entry = Entry { term, index: index.next(), kind: EntryKind::Command, data };
    let hard_state = HardState { term, vote: ReplicaId::ZERO, commit: index };
    [
        GroupRecord { region, log: LogChange::Reset { index, term }, hard_state: Some(hard_state) },
        GroupRecord { region, log: LogChange::Append(vec![entry]), hard_state: None },
    ]
}

/// Nothing is received while nothing runs.
pub(super) struct NoSnapshots;

impl ReceivedSnapshots for NoSnapshots {
    fn open(&self, _: StoreId, _: &SnapshotHeader) -> io::Result<Chunks<'static>> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn discard(&self, _: StoreId, _: &SnapshotHeader) {}
}

/// The stores among these directories' that a plan is still to be carried out on.
#[must_use]
pub fn unfinished(plan: &Plan, fences: &[(StoreId, Option<Fence>)]) -> BTreeSet<StoreId> {
    let is_done = |fence: &Option<Fence>| fence.as_ref().is_some_and(|fence| fence.plan == plan.id() && fence.done);
    let done: BTreeSet<StoreId> = fences.iter().filter(|(_, fence)| is_done(fence)).map(|(store, _)| *store).collect();
    plan.sources.iter().map(|source| source.store).filter(|store| !done.contains(store)).collect()
}
