//! Recoveries of stores whose logs hold more than is applied: made by hand, carried out, ended at every step and carried out again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{
    ChangeOp, ClusterId, Entry, EntryKind, HardState, KeyRange, LogIndex, LogTicket, MembershipChange,
    RegionDescriptor, RegionEpoch, RegionId, Replica, ReplicaId, Role, StoreId, Term,
};
use multiraft_storage::{
    GroupRecord, LogBatch, LogChange, LogWriter, MemStore, SledConfig, SledStore, StateError, StateStore,
};

use super::carry_out::{ApplyOptions, NoSnapshots};
use super::offline::{Opened, Recovery, RecoveryError};
use super::{Fence, Loss, Plan, PlanOptions, StoreSurvey, Verdict, make_plan};
use crate::apply::{AppliedRegion, ApplyEnd, Backend, Cause};
use crate::config::Config;
use crate::logic::{AdminCommand, ApplyTask, Child, MergeState, RegionHandle};
use crate::machine::{ApplyContext, RegionView, StateMachine, StateTxn};
use crate::region::command::{Command, encode_epoch};
use crate::region::keys;
use crate::shell::{Newborn, StoreFile, open_log};
use crate::snapshots::SnapshotFiles;

pub(super) const CLUSTER: ClusterId = ClusterId(7);
pub(super) const DEAD: [StoreId; 3] = [StoreId(7), StoreId(8), StoreId(9)];

/// `key=value` sets.
pub(super) struct Pairs;

impl StateMachine for Pairs {
    fn apply(&self, _: ApplyContext<'_>, command: &[u8], state: &mut StateTxn<'_>) -> Result<Bytes, StateError> {
        let mut parts = command.splitn(2, |byte| *byte == b'=');
        let (key, value) = (parts.next().unwrap_or_default().to_vec(), parts.next().unwrap_or_default().to_vec());
        Ok(match state.put(&key, value) {
            Ok(()) => Bytes::from_static(b"ok"),
            Err(outside) => outside.to_string().into(),
        })
    }

    fn lookup(&self, view: &RegionView<'_>, query: &[u8]) -> Result<Bytes, StateError> {
        Ok(view.get(query)?.unwrap_or_default())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Form {
    Disk,
    Memory,
}

/// A region of a store that is made by hand: its first state, its log, and how much of that is applied.
#[derive(Clone)]
pub(super) struct Given {
    pub(super) descriptor: RegionDescriptor,
    pub(super) log: Vec<Entry>,
    pub(super) applied: u64,
}

pub(super) fn region(id: u64, start: &str, end: &str, stores: &[u64]) -> RegionDescriptor {
    let range =
        KeyRange { start: Bytes::copy_from_slice(start.as_bytes()), end: Bytes::copy_from_slice(end.as_bytes()) };
    let replica = |store: &u64| Replica { id: ReplicaId(id * 100 + store), store: StoreId(*store), role: Role::Voter };
    let replicas = stores.iter().map(replica).collect();
    RegionDescriptor { id: RegionId(id), range, epoch: RegionEpoch { conf_version: 1, version: 1 }, replicas }
}

pub(super) const fn epoch(conf_version: u64, version: u64) -> RegionEpoch {
    RegionEpoch { conf_version, version }
}

pub(super) enum What<'a> {
    Put(&'a str),
    Admin(AdminCommand),
    Change(MembershipChange),
}

/// A log behind a first state, in term 3.
pub(super) fn log(parts: impl IntoIterator<Item = (RegionEpoch, What<'static>)>) -> Vec<Entry> {
    let entry = |(index, (epoch, what)): (u64, (RegionEpoch, What<'_>))| {
        let (kind, data) = match what {
            What::Put(pair) => (EntryKind::Command, Command::encode(epoch, None, pair.as_bytes())),
            What::Admin(command) => (EntryKind::Command, Command::encode_admin(epoch, &command.encode())),
            What::Change(change) => (EntryKind::Membership, change.encode(&encode_epoch(epoch)).into()),
        };
        Entry { term: Term(3), index: LogIndex(index), kind, data }
    };
    (2..).zip(parts).map(entry).collect()
}

fn backend(dir: &Path, form: Form) -> Backend {
    let store: Arc<dyn StateStore> = match form {
        Form::Disk => Arc::new(SledStore::open(dir.join("state"), SledConfig::default()).unwrap()),
        Form::Memory => Arc::new(MemStore::new()),
    };
    Backend::shared(Arc::new(Pairs), store)
}

pub(super) fn recovery(dir: &Path, form: Form) -> Recovery {
    Recovery::new(dir.to_owned(), Box::new(move |dir| Ok(backend(dir, form))), config())
}

/// Small files: there are many stores.
pub(super) fn config() -> Config {
    Config { log_segment_bytes: 64 << 10, ..Config::default() }
}

/// The same store once more.
pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Makes a stopped store.
fn make(dir: &Path, store: u64, form: Form, given: &[Given]) {
    std::fs::create_dir_all(dir).unwrap();
    let (mut writer, ..) = open_log(dir, &config()).unwrap();
    let mut file = StoreFile::claim(dir, CLUSTER, StoreId(store), &Newborn::FOUNDER).unwrap();
    file.bootstrapped = true;
    file.write(dir).unwrap();
    let files = SnapshotFiles::open(&dir.join("snapshots")).unwrap();
    fill(&mut writer, &files, &backend(dir, form).of_store(StoreId(store), &files), given);
}

/// Gives a new store its regions and their logs, and applies of these what is to be applied.
pub(super) fn fill(writer: &mut LogWriter, files: &SnapshotFiles, backend: &Backend, given: &[Given]) {
    let regions: Vec<Arc<RegionDescriptor>> = given.iter().map(|given| Arc::new(given.descriptor.clone())).collect();
    if backend.is_durable() {
        backend.create_regions(&regions).unwrap();
    } else {
        files.save(regions.iter().map(|region| backend.first_snapshot(region)).collect()).unwrap();
    }
    let (index, term) = (LogIndex(1), Term(1));
    let records = given.iter().flat_map(|given| {
        let region = given.descriptor.id;
        let hard_state = HardState { term: Term(3), vote: ReplicaId::ZERO, commit: LogIndex(given.applied) };
        let reset = LogChange::Reset { index, term };
        let append = LogChange::Append(given.log.clone());
        [
            GroupRecord { region, log: reset, hard_state: Some(hard_state) },
            GroupRecord { region, log: if given.log.is_empty() { LogChange::None } else { append }, hard_state: None },
        ]
    });
    writer.commit(vec![LogBatch { ticket: LogTicket { lane: 0, seq: 1 }, records: records.collect() }]).unwrap();
    let states: Vec<AppliedRegion> =
        if backend.is_durable() { backend.regions().unwrap() } else { files.restore_all(backend).regions };
    let mut applier = backend.applier(states);
    let starts = regions.iter().map(|region| crate::assembly::empty_start(Arc::clone(region))).collect::<Vec<_>>();
    backend.begin(&starts, &BTreeMap::new());
    for given in given.iter().filter(|given| given.applied > 1) {
        let handle = RegionHandle { region: given.descriptor.id, slot: 0, generation: 0 };
        let entries = given.log[..given.applied as usize - 1].to_vec();
        let task: ApplyTask<()> = ApplyTask::Entries { handle, entries, replies: Vec::new() };
        let (_, end) = applier.apply(vec![task], &NoSnapshots);
        assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    }
    backend.flush().unwrap();
}

/// All that matters of a stopped store.
#[derive(Debug, PartialEq)]
pub(super) struct Dump {
    regions: Vec<(RegionDescriptor, LogIndex, Term)>,
    pairs: Vec<(String, String)>,
    buried: Vec<(RegionId, ReplicaId, Cause)>,
    logs: Vec<(RegionId, LogIndex, LogIndex, HardState)>,
}

pub(super) fn open(dir: &Path, form: Form) -> Opened {
    let opened = recovery(dir, form).open().unwrap();
    assert_eq!(opened.assembled.damaged, [], "everything can start");
    opened
}

pub(super) fn dump(dir: &Path, form: Form) -> Dump {
    dump_of(&open(dir, form))
}

pub(super) fn dump_of(opened: &Opened) -> Dump {
    let mut pairs = Vec::new();
    let starts = &opened.assembled.starts;
    for start in starts.iter().filter(|start| start.descriptor.id != RegionId::ROOT) {
        let all = |letter: u8| {
            let key = Bytes::copy_from_slice(&[letter]);
            let value = opened.backend.lookup(start.descriptor.id, None, &key).unwrap();
            (String::from_utf8_lossy(&key).into_owned(), String::from_utf8_lossy(&value).into_owned())
        };
        let owned = (b'a'..=b'z').filter(|letter| start.descriptor.range.contains(&[*letter]));
        pairs.extend(owned.map(all).filter(|(_, value)| !value.is_empty()));
    }
    pairs.sort();
    let logs = starts
        .iter()
        .map(|start| (start.descriptor.id, start.log.truncated_index, start.log.last_index, start.hard_state));
    Dump {
        regions: starts.iter().map(|start| ((*start.descriptor).clone(), start.applied, start.applied_term)).collect(),
        pairs,
        buried: opened
            .assembled
            .residue
            .tombstones
            .iter()
            .map(|(region, tombstone)| (*region, tombstone.replica, tombstone.cause))
            .collect(),
        logs: logs.collect(),
    }
}

/// Stores made by hand, to be recovered in every way.
pub(super) struct Case {
    pub(super) form: Form,
    pub(super) stores: Vec<(u64, Vec<Given>)>,
}

struct Recovered {
    plan: Plan,
    dumps: BTreeMap<u64, Dump>,
}

impl Recovered {
    fn descriptor(&self, region: u64) -> &RegionDescriptor {
        let all = self.dumps.values().flat_map(|dump| &dump.regions);
        let mut found = all.map(|(descriptor, ..)| descriptor).filter(|it| it.id == RegionId(region));
        let descriptor = found.next().unwrap();
        assert_eq!(found.next(), None, "on one store alone");
        assert_eq!(descriptor.replicas.len(), 1);
        descriptor
    }

    fn range(&self, region: u64) -> (&str, &str) {
        let range = &self.descriptor(region).range;
        (std::str::from_utf8(&range.start).unwrap(), std::str::from_utf8(&range.end).unwrap())
    }

    fn pairs(&self) -> Vec<String> {
        let pairs = self.dumps.values().flat_map(|dump| &dump.pairs);
        pairs.map(|(key, value)| format!("{key}={value}")).collect()
    }
}

impl Case {
    pub(super) fn make(&self, base: &Path) -> Vec<(u64, PathBuf)> {
        let make_one = |(store, given): &(u64, Vec<Given>)| {
            let dir = base.join(store.to_string());
            make(&dir, *store, self.form, given);
            (*store, dir)
        };
        self.stores.iter().map(make_one).collect()
    }

    pub(super) fn plan(&self, dirs: &[(u64, PathBuf)]) -> Plan {
        let surveys: Vec<StoreSurvey> =
            dirs.iter().map(|(_, dir)| recovery(dir, self.form).survey().unwrap()).collect();
        let again: Vec<StoreSurvey> = dirs.iter().map(|(_, dir)| recovery(dir, self.form).survey().unwrap()).collect();
        assert_eq!(again, surveys, "looking changes nothing");
        let options = PlanOptions { note: "by hand".to_owned(), ..PlanOptions::default() };
        make_plan(&surveys, &DEAD, &options).unwrap()
    }

    /// Recovers, whole and ended at each step; all must come to the same.
    fn recover(&self) -> Recovered {
        let base = tempfile::tempdir().unwrap();
        let dirs = self.make(base.path());
        let plan = self.plan(&dirs);
        let (mut dumps, mut steps) = (BTreeMap::new(), BTreeMap::new());
        for (store, dir) in &dirs {
            let untouched = base.path().join(format!("{store} as it was"));
            copy(dir, &untouched);
            let mut count = 0;
            let mut step = |_: &str| {
                count += 1;
                Ok(())
            };
            recovery(dir, self.form).apply_by_steps(&plan, &options(&plan), &mut step).unwrap();
            assert!(Fence::read(dir).unwrap().is_some_and(|fence| fence.done && fence.dead == DEAD));
            dumps.insert(*store, dump(dir, self.form));
            steps.insert(*store, (count, untouched));
        }
        for (store, (count, untouched)) in steps {
            for end in 0..count {
                let again = tempfile::tempdir().unwrap();
                copy(&untouched, again.path());
                let dump = self.recover_interrupted(again.path(), end, &plan);
                assert_eq!(dump, dumps[&store], "ended before step {end}");
            }
        }
        Recovered { plan, dumps }
    }

    /// Recovers one of the stores, ended before a step, and then again to the end.
    pub(super) fn recover_interrupted(&self, dir: &Path, end: usize, plan: &Plan) -> Dump {
        let options = options(plan);
        let mut count = 0;
        let mut step = |_: &str| {
            count += 1;
            let what = "a test".to_owned();
            if count > end { Err(RecoveryError::Interrupted { what }) } else { Ok(()) }
        };
        let ended = recovery(dir, self.form).apply_by_steps(plan, &options, &mut step);
        assert!(matches!(ended, Err(RecoveryError::Interrupted { .. })));
        if end > 0 {
            assert!(Fence::read(dir).unwrap().is_some_and(|fence| !fence.done), "it does not start like this");
            let collected = recovery(dir, self.form).survey();
            assert!(matches!(collected, Err(RecoveryError::Unfinished { plan: begun }) if begun == plan.id()));
        }
        recovery(dir, self.form).apply(plan, &options).unwrap();
        dump(dir, self.form)
    }
}

/// Most of these clusters are without a root region.
pub(super) fn options(plan: &Plan) -> ApplyOptions {
    ApplyOptions::confirm(plan.id()).accept_gaps()
}

fn both_forms(stores: &[(u64, Vec<Given>)], check: impl Fn(&Recovered)) {
    for form in [Form::Disk, Form::Memory] {
        check(&Case { form, stores: stores.to_vec() }.recover());
    }
}

pub(super) fn child(id: u64, start: &'static str, stores: u64) -> Child {
    let replicas = (1..=stores).map(|store| ReplicaId(id * 100 + store)).collect();
    Child { start: Bytes::from_static(start.as_bytes()), region: RegionId(id), replicas }
}

#[test]
fn what_the_log_holds_is_applied_with_a_split_and_ids_in_the_middle_of_it() {
    let split = AdminCommand::Split { children: vec![child(5, "m", 3)] };
    let given = Given {
        descriptor: region(2, "", "", &[1, 7, 8]),
        log: log([
            (epoch(1, 1), What::Put("a=1")),
            (epoch(1, 1), What::Put("p=1")),
            (epoch(1, 1), What::Admin(split)),
            (epoch(1, 2), What::Put("b=2")),
        ]),
        applied: 2,
    };
    let ids = AdminCommand::AllocateIds { count: 1000 };
    let root = Given {
        descriptor: region(1, "", "", &[1, 7, 8]),
        log: log([(epoch(1, 1), What::Admin(ids.clone())), (epoch(1, 1), What::Admin(ids))]),
        applied: 2,
    };
    both_forms(&[(1, vec![root, given])], |recovered| {
        assert_eq!(recovered.pairs(), ["a=1", "b=2", "p=1"]);
        assert_eq!((recovered.range(2), recovered.range(5)), (("", "m"), ("m", "")));
        assert!(recovered.plan.ids_upto >= (1 << 24) + 2000 + (1 << 32));
        let Dump { logs, .. } = &recovered.dumps[&1];
        // The record of the recovery stands first in each log.
        assert!(logs.iter().all(|(_, truncated, last, _)| *last == truncated.next()));
    });
}

#[test]
fn a_joint_change_in_the_middle_is_applied_and_left_behind() {
    let ops = vec![
        ChangeOp::AddVoter { id: ReplicaId(300), store: StoreId(9) },
        ChangeOp::Remove { id: ReplicaId(208) },
        ChangeOp::Demote { id: ReplicaId(207) },
    ];
    let change = MembershipChange::Joint { ops, auto_leave: true };
    let given = Given {
        descriptor: region(2, "", "", &[1, 7, 8]),
        log: log([(epoch(1, 1), What::Change(change)), (epoch(2, 1), What::Put("a=1"))]),
        applied: 1,
    };
    both_forms(&[(1, vec![given])], |recovered| {
        assert_eq!(recovered.pairs(), ["a=1"]);
        let becomes = recovered.descriptor(2);
        assert_eq!((becomes.replicas[0].store, becomes.replicas[0].role), (StoreId(1), Role::Voter));
        assert!(becomes.replicas[0].id > ReplicaId(300) && becomes.epoch.conf_version > 2);
    });
}

#[test]
fn a_replica_whose_log_removes_itself_can_be_kept() {
    let remove = MembershipChange::Simple(ChangeOp::Remove { id: ReplicaId(201) });
    let given = Given {
        descriptor: region(2, "", "", &[1, 7, 8]),
        log: log([(epoch(1, 1), What::Put("a=1")), (epoch(1, 1), What::Change(remove))]),
        applied: 1,
    };
    both_forms(&[(1, vec![given])], |recovered| assert_eq!(recovered.pairs(), ["a=1"]));
}

pub(super) fn frozen_pair(commit: bool) -> Vec<Given> {
    let (source, target) = (region(2, "", "m", &[1, 7, 8]), region(3, "m", "", &[1, 7, 8]));
    let freeze = AdminCommand::Freeze { target: Arc::new(target.clone()) };
    let frozen = RegionDescriptor { epoch: epoch(1, 2), ..source.clone() };
    let absorb = AdminCommand::CommitMerge { index: LogIndex(3), source: Arc::new(frozen) };
    let mut of_target = vec![(epoch(1, 1), What::Put("p=1"))];
    if commit {
        of_target.extend([(epoch(1, 1), What::Admin(absorb)), (epoch(1, 3), What::Put("b=2"))]);
    }
    let log_of_source = log([(epoch(1, 1), What::Put("a=1")), (epoch(1, 1), What::Admin(freeze))]);
    vec![
        Given { descriptor: source, log: log_of_source, applied: 3 },
        Given { descriptor: target, log: log(of_target), applied: 1 },
    ]
}

#[test]
fn a_frozen_region_that_nobody_has_absorbed_goes_on_thawed() {
    both_forms(&[(1, frozen_pair(false))], |recovered| {
        assert_eq!(recovered.pairs(), ["a=1", "p=1"]);
        assert_eq!((recovered.range(2), recovered.range(3)), (("", "m"), ("m", "")));
    });
}

#[test]
fn a_merge_in_the_log_is_carried_out_and_the_source_is_gone() {
    both_forms(&[(1, frozen_pair(true))], |recovered| {
        assert_eq!(recovered.pairs(), ["a=1", "b=2", "p=1"]);
        assert_eq!(recovered.range(3), ("", ""));
        let Dump { regions, buried, .. } = &recovered.dumps[&1];
        assert_eq!(regions.len(), 1);
        assert!(buried.iter().any(|(region, _, cause)| (*region, *cause) == (RegionId(2), Cause::Merged)));
    });
}

#[test]
fn the_replica_with_the_most_is_kept_and_the_other_survivor_gives_way() {
    let descriptor = region(2, "", "", &[1, 2, 7, 8, 9]);
    let short = log([(epoch(1, 1), What::Put("a=1"))]);
    let long = log([(epoch(1, 1), What::Put("a=1")), (epoch(1, 1), What::Put("b=2"))]);
    let stores = [
        (1, vec![Given { descriptor: descriptor.clone(), log: short, applied: 2 }]),
        (2, vec![Given { descriptor, log: long, applied: 1 }]),
    ];
    both_forms(&stores, |recovered| {
        assert_eq!(recovered.pairs(), ["a=1", "b=2"]);
        assert_eq!(recovered.descriptor(2).replicas[0].store, StoreId(2));
        assert_eq!(recovered.dumps[&1].buried, [(RegionId(2), ReplicaId(201), Cause::Removed)]);
    });
}

#[test]
fn a_parent_that_has_not_split_yet_gives_up_what_its_child_owns_elsewhere() {
    let parent = Given {
        descriptor: region(2, "", "", &[1, 7, 8]),
        log: log([(epoch(1, 1), What::Put("a=1")), (epoch(1, 1), What::Put("p=old"))]),
        applied: 3,
    };
    let mut moved = region(5, "m", "", &[2, 8, 9]);
    moved.epoch = epoch(4, 2);
    let child = Given { descriptor: moved, log: log([(epoch(4, 2), What::Put("p=new"))]), applied: 2 };
    both_forms(&[(1, vec![parent]), (2, vec![child])], |recovered| {
        assert_eq!(recovered.pairs(), ["a=1", "p=new"]);
        assert_eq!((recovered.range(2), recovered.range(5)), (("", "m"), ("m", "")));
    });
}

#[test]
fn what_newer_regions_own_altogether_is_removed_wherever_it_is() {
    let mut newer = region(3, "", "", &[1, 7, 8]);
    newer.epoch = epoch(2, 7);
    let newer = Given { descriptor: newer, log: log([(epoch(2, 7), What::Put("p=new"))]), applied: 1 };
    let older =
        Given { descriptor: region(2, "m", "", &[2, 8, 9]), log: log([(epoch(1, 1), What::Put("p=old"))]), applied: 2 };
    both_forms(&[(1, vec![newer]), (2, vec![older])], |recovered| {
        assert_eq!(recovered.pairs(), ["p=new"]);
        assert_eq!(recovered.dumps[&2].buried, [(RegionId(2), ReplicaId(202), Cause::Merged)]);
        assert_eq!(recovered.dumps[&2].regions, []);
    });
}

#[test]
fn keys_without_a_survivor_are_refused_until_told_and_then_made_anew() {
    for form in [Form::Disk, Form::Memory] {
        let base = tempfile::tempdir().unwrap();
        let given = Given {
            descriptor: region(2, "", "m", &[1, 7, 8]),
            log: log([(epoch(1, 1), What::Put("a=1"))]),
            applied: 1,
        };
        let case = Case { form, stores: vec![(1, vec![given])] };
        let dirs = case.make(base.path());
        let dir = &dirs[0].1;
        let plan = case.plan(&dirs);
        assert_eq!(plan.gaps.len(), 1);
        let refused = recovery(dir, form).apply(&plan, &ApplyOptions::confirm(plan.id()));
        assert!(matches!(refused, Err(RecoveryError::Gaps { gaps: 1, regions: 1 })), "{refused:?}");
        assert_eq!(Fence::read(dir).unwrap(), None, "nothing was begun");
        let other = recovery(dir, form).apply(&plan, &ApplyOptions::default());
        assert!(matches!(other, Err(RecoveryError::Unconfirmed { .. })));

        let survey = recovery(dir, form).survey().unwrap();
        let options = PlanOptions { fill_gaps: true, ..PlanOptions::default() };
        let filled = make_plan(&[survey], &DEAD, &options).unwrap();
        let applied = recovery(dir, form).apply(&filled, &ApplyOptions::confirm(filled.id())).unwrap();
        assert_eq!(applied.created.len(), 2, "the root region and the gap");
        let dump = dump(dir, form);
        let owners = dump.regions.iter().filter(|(region, ..)| region.id != RegionId::ROOT);
        let ranges: Vec<_> = owners.map(|(region, ..)| (&region.range.start[..], &region.range.end[..])).collect();
        assert_eq!(ranges, [(&b""[..], &b"m"[..]), (b"m", b"")]);
        assert_eq!(dump.pairs.len(), 1);
    }
}

#[test]
fn a_second_recovery_follows_the_first() {
    let base = tempfile::tempdir().unwrap();
    let given =
        Given { descriptor: region(2, "", "", &[1, 7, 8]), log: log([(epoch(1, 1), What::Put("a=1"))]), applied: 1 };
    let case = Case { form: Form::Disk, stores: vec![(1, vec![given])] };
    let dirs = case.make(base.path());
    let first = case.plan(&dirs);
    recovery(&dirs[0].1, Form::Disk).apply(&first, &options(&first)).unwrap();
    let second = case.plan(&dirs);
    assert_ne!(second.id(), first.id());
    // Its one replica is a quorum now.
    assert_eq!(second.region(RegionId(2)).unwrap().verdict, Verdict::Healthy);
    assert!(!second.does_something());
    let nothing = recovery(&dirs[0].1, Form::Disk).apply(&second, &options(&second));
    assert!(matches!(nothing, Err(RecoveryError::Nothing)), "{nothing:?}");
    let survey = recovery(&dirs[0].1, Form::Disk).survey().unwrap();
    assert_eq!((survey.dead, survey.ids_upto), (DEAD.to_vec(), first.ids_upto));
}

#[test]
fn data_keys_given_up_are_gone_from_the_state() {
    // What a cut leaves behind would come to light again when the region takes the keys over some day.
    let base = tempfile::tempdir().unwrap();
    let parent =
        Given { descriptor: region(2, "", "", &[1, 7, 8]), log: log([(epoch(1, 1), What::Put("p=old"))]), applied: 2 };
    let mut moved = region(5, "m", "", &[2, 8, 9]);
    moved.epoch = epoch(4, 2);
    let child = Given { descriptor: moved, log: Vec::new(), applied: 1 };
    let case = Case { form: Form::Disk, stores: vec![(1, vec![parent]), (2, vec![child])] };
    let dirs = case.make(base.path());
    let plan = case.plan(&dirs);
    assert!(
        plan.regions[1..]
            .iter()
            .all(|region| matches!(&region.verdict, Verdict::Keep(keep) if keep.loss == Loss::Possible))
    );
    recovery(&dirs[0].1, Form::Disk).apply(&plan, &options(&plan)).unwrap();
    let state = SledStore::open(dirs[0].1.join("state"), SledConfig::default()).unwrap();
    assert_eq!(state.view().get(&keys::data(b"p")).unwrap(), None);
}

#[test]
fn merge_state_of_a_kept_region_is_not_frozen() {
    let base = tempfile::tempdir().unwrap();
    let case = Case { form: Form::Disk, stores: vec![(1, frozen_pair(false))] };
    let dirs = case.make(base.path());
    let plan = case.plan(&dirs);
    recovery(&dirs[0].1, Form::Disk).apply(&plan, &options(&plan)).unwrap();
    let opened = open(&dirs[0].1, Form::Disk);
    assert!(opened.assembled.starts.iter().all(|start| start.merge == MergeState::default()));
}
