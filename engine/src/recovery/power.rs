//! The power goes in the middle of a recovery: before each operation of each of a store's disks, in every way in which that can lose
//! what was not synced. The same plan, carried out again, must come to the same; and no store in between passes for whole.

use std::sync::Arc;

use multiraft_raft::{ChangeOp, Incarnation, MembershipChange, ReplicaId, StoreId};
use multiraft_storage::disk::CrashStyle;
use multiraft_storage::state::SimStore;
use multiraft_storage::{LogOptions, LogWriter, MemStore, SimDisk, StateStore};

use super::offline::{Recovery, RecoveryError, StoppedStore};
use super::tests::{
    CLUSTER, DEAD, Dump, Form, Given, Pairs, What, child, dump_of, epoch, fill, frozen_pair, log, options, region,
};
use super::{Fence, Plan, PlanOptions, StoreSurvey, make_plan};
use crate::apply::Backend;
use crate::logic::{AdminCommand, Floor};
use crate::snapshots::SnapshotFiles;

/// A store on disks that lose what was not synced.
struct Machine {
    form: Form,
    store: StoreId,
    top: SimDisk,
    log: SimDisk,
    files: SimDisk,
    state: SimStore,
}

/// Small files: there are many stores.
fn log_options() -> LogOptions {
    LogOptions { segment_bytes: 16 << 10, ..LogOptions::small() }
}

/// Where the power goes: in front of which operation, counted from the beginning of the recovery.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Top(u64),
    Log(u64),
    Files(u64),
    State(u64),
}

impl Machine {
    fn new(store: u64, form: Form, given: &[Given]) -> Self {
        let store = StoreId(store);
        let disk = |number| SimDisk::new(store.get() * 10 + number);
        let machine = Self { form, store, top: disk(1), log: disk(2), files: disk(3), state: SimStore::new() };
        let (mut writer, ..) = LogWriter::open(Arc::new(machine.log.clone()), log_options()).unwrap();
        let files = SnapshotFiles::open_on(Arc::new(machine.files.clone())).unwrap();
        fill(&mut writer, &files, &machine.backend().of_store(store, &files), given);
        machine
    }

    fn backend(&self) -> Backend {
        let store: Arc<dyn StateStore> = match self.form {
            Form::Disk => Arc::new(self.state.clone()),
            Form::Memory => Arc::new(MemStore::new()),
        };
        Backend::shared(Arc::new(Pairs), store)
    }

    fn recovery(&self) -> Recovery {
        Recovery::on(StoppedStore {
            floor: Floor::Whole,
            cluster: CLUSTER,
            store: self.store,
            incarnation: Incarnation(1),
            top: Arc::new(self.top.clone()),
            log: Arc::new(self.log.clone()),
            log_options: log_options(),
            files: Arc::new(self.files.clone()),
            backend: self.backend(),
        })
    }

    fn fence(&self) -> Option<Fence> {
        Fence::read_on(&self.top).unwrap()
    }

    fn dump(&self, at: &str) -> Dump {
        let opened = self.recovery().open().unwrap();
        assert_eq!(opened.assembled.damaged, [], "{at}: everything can start");
        dump_of(&opened)
    }

    fn operations(&self) -> [u64; 4] {
        [self.top.operations(), self.log.operations(), self.files.operations(), self.state.operations()]
    }

    fn arm(&self, cut: Cut) {
        match cut {
            Cut::Top(count) => self.top.cut_power_after(count),
            Cut::Log(count) => self.log.cut_power_after(count),
            Cut::Files(count) => self.files.cut_power_after(count),
            Cut::State(count) => self.state.cut_power_after(count),
        }
    }

    /// The power goes and comes back.
    fn crash(&self, style: CrashStyle, seed: u64) {
        self.top.crash(style, seed);
        self.log.crash(style, seed + 1);
        self.files.crash(style, seed + 2);
        let kept = match style {
            CrashStyle::KeepAll => self.state.unflushed_batches() as u64,
            CrashStyle::LoseAll => 0,
            CrashStyle::Mix => seed,
        };
        self.state.crash(kept);
    }
}

fn plan(machines: &[Machine]) -> Plan {
    let surveys: Vec<StoreSurvey> = machines.iter().map(|machine| machine.recovery().survey().unwrap()).collect();
    make_plan(&surveys, &DEAD, &PlanOptions { fill_gaps: true, note: "by hand".to_owned() }).unwrap()
}

fn cuts(before: [u64; 4], after: [u64; 4]) -> Vec<Cut> {
    let kinds: [fn(u64) -> Cut; 4] = [Cut::Top, Cut::Log, Cut::Files, Cut::State];
    let spans = kinds.into_iter().zip(before).zip(after);
    spans.flat_map(|((kind, before), after)| (0..after - before).map(kind)).collect()
}

const STYLES: [(CrashStyle, u64); 4] =
    [(CrashStyle::LoseAll, 0), (CrashStyle::KeepAll, 0), (CrashStyle::Mix, 1), (CrashStyle::Mix, 12)];

/// Recovers these stores, without and with every loss of power.
fn recover_through_power_loss(stores: &[(u64, Vec<Given>)], form: Form) -> u64 {
    let make = || stores.iter().map(|(store, given)| Machine::new(*store, form, given)).collect::<Vec<_>>();
    let whole = make();
    let plan = plan(&whole);
    let mut runs = 0;
    for (at, machine) in whole.iter().enumerate() {
        let before = machine.operations();
        machine.recovery().apply(&plan, &options(&plan)).unwrap();
        let after = machine.operations();
        let expected = machine.dump("whole");
        machine.crash(CrashStyle::LoseAll, 0);
        assert_eq!(machine.dump("whole"), expected, "what is called done is durable");
        assert!(machine.fence().is_some_and(|fence| fence.done));
        for cut in cuts(before, after) {
            for (style, seed) in STYLES {
                lose_power(&make()[at], &plan, cut, (style, seed), &expected);
                runs += 1;
            }
        }
    }
    runs
}

fn lose_power(machine: &Machine, plan: &Plan, cut: Cut, (style, seed): (CrashStyle, u64), expected: &Dump) {
    let at = format!("{:?}, {}: {cut:?}, {style:?} {seed}", machine.form, machine.store);
    let untouched = machine.recovery().survey().unwrap();
    machine.crash(CrashStyle::KeepAll, 0);
    machine.arm(cut);
    let ended = machine.recovery().apply(plan, &options(plan));
    machine.crash(style, seed);
    match machine.fence() {
        None => {
            let again = machine.recovery().survey().unwrap();
            assert_eq!(again, untouched, "{at}: nothing was begun, and nothing has changed");
        }
        Some(fence) if !fence.done => {
            assert!(ended.is_err(), "{at}: {ended:?}");
            let collected = machine.recovery().survey();
            assert!(matches!(collected, Err(RecoveryError::Unfinished { .. })), "{at}: {collected:?}");
        }
        Some(_) => assert_eq!(machine.dump(&at), *expected, "{at}: it starts, so it is whole"),
    }
    machine.crash(CrashStyle::KeepAll, 0);
    machine.recovery().apply(plan, &options(plan)).unwrap_or_else(|error| panic!("{at}: {error}"));
    machine.crash(CrashStyle::LoseAll, 0);
    assert_eq!(machine.dump(&at), *expected, "{at}");
    assert!(machine.fence().is_some_and(|fence| fence.done), "{at}");
}

fn both_forms(stores: &[(u64, Vec<Given>)]) {
    for form in [Form::Disk, Form::Memory] {
        let runs = recover_through_power_loss(stores, form);
        assert!(runs > 80, "{form:?}: {runs} runs are not all");
    }
}

#[test]
fn a_log_with_a_split_and_ids_in_it_survives_the_loss_of_power() {
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
    let root =
        Given { descriptor: region(1, "", "", &[1, 7, 8]), log: log([(epoch(1, 1), What::Admin(ids))]), applied: 1 };
    both_forms(&[(1, vec![root, given])]);
}

#[test]
fn merges_in_the_middle_survive_the_loss_of_power() {
    both_forms(&[(1, frozen_pair(true))]);
    both_forms(&[(1, frozen_pair(false))]);
}

#[test]
fn a_joint_change_survives_the_loss_of_power() {
    let ops =
        vec![ChangeOp::AddVoter { id: ReplicaId(300), store: StoreId(9) }, ChangeOp::Remove { id: ReplicaId(208) }];
    let change = MembershipChange::Joint { ops, auto_leave: true };
    let given = Given {
        descriptor: region(2, "", "", &[1, 7, 8]),
        log: log([(epoch(1, 1), What::Change(change)), (epoch(2, 1), What::Put("a=1"))]),
        applied: 1,
    };
    both_forms(&[(1, vec![given])]);
}

#[test]
fn survivors_that_give_way_or_are_cut_survive_the_loss_of_power() {
    let descriptor = region(2, "", "m", &[1, 2, 7, 8, 9]);
    let short = Given { descriptor: descriptor.clone(), log: log([(epoch(1, 1), What::Put("a=1"))]), applied: 2 };
    let long = log([(epoch(1, 1), What::Put("a=1")), (epoch(1, 1), What::Put("b=2"))]);
    let long = Given { descriptor, log: long, applied: 1 };
    let puts = log([(epoch(1, 1), What::Put("n=1")), (epoch(1, 1), What::Put("x=old"))]);
    let parent = Given { descriptor: region(3, "m", "", &[1, 7, 8]), log: puts, applied: 3 };
    let mut moved = region(5, "t", "", &[2, 8, 9]);
    moved.epoch = epoch(4, 2);
    let child = Given { descriptor: moved, log: log([(epoch(4, 2), What::Put("x=new"))]), applied: 2 };
    both_forms(&[(1, vec![short, parent]), (2, vec![long, child])]);
}

#[test]
fn what_newer_regions_own_goes_whatever_power_does() {
    let mut newer = region(3, "", "", &[1, 7, 8]);
    newer.epoch = epoch(2, 7);
    let newer = Given { descriptor: newer, log: log([(epoch(2, 7), What::Put("p=new"))]), applied: 1 };
    let older =
        Given { descriptor: region(2, "m", "", &[2, 8, 9]), log: log([(epoch(1, 1), What::Put("p=old"))]), applied: 2 };
    both_forms(&[(1, vec![newer]), (2, vec![older])]);
}
