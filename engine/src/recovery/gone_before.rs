//! Recoveries of stores on which a replica had gone before, or goes first: its entries, and what its tombstone says; and of one
//! whose disk fails in between.

use std::path::Path;
use std::sync::Arc;

use multiraft_raft::{LogIndex, LogTicket, RegionDescriptor, RegionId, ReplicaId, Role, StoreId, Term};
use multiraft_storage::{GroupRecord, LogBatch, LogChange};

use super::carry_out::NoSnapshots;
use super::offline::{Opened, RecoveryError};
use super::tests::{Case, DEAD, Form, Given, What, config, copy, dump, epoch, log, open, options, recovery, region};
use super::{Loss, PlanOptions, Verdict, make_plan};
use crate::apply::{ApplyEnd, Cause};
use crate::logic::{AdminCommand, ApplyTask, RegionHandle};
use crate::shell::open_log;
use crate::snapshots::SnapshotFiles;

/// A stopped store's replica of a region goes; its entries stay in the log.
fn destroy(dir: &Path, form: Form, known: &RegionDescriptor, cause: Cause) {
    let opened = open(dir, form);
    let mut applier = opened.backend.applier(opened.regions.clone());
    let (region, known, committed) = (known.id, Arc::new(known.clone()), (LogIndex(2), Term(3)));
    let task: ApplyTask<()> = ApplyTask::Destroy { region, known, cause, committed };
    let (_, end) = applier.apply(vec![task], &NoSnapshots);
    assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    opened.backend.flush().unwrap();
}

/// A stopped store whose state is not durable by itself has it in a file, as far as it is applied.
fn save_applied(dir: &Path, given: &Given) {
    let opened = open(dir, Form::Memory);
    let mut applier = opened.backend.applier(opened.regions.clone());
    let region = given.descriptor.id;
    let handle = RegionHandle { region, slot: 0, generation: 0 };
    let entries = given.log[..given.applied as usize - 1].to_vec();
    let task: ApplyTask<()> = ApplyTask::Entries { handle, entries, replies: Vec::new() };
    let (_, end) = applier.apply(vec![task], &NoSnapshots);
    assert!(matches!(end, ApplyEnd::Done), "{end:?}");
    let source = applier.capture(region).unwrap().unwrap();
    drop((applier, opened));
    SnapshotFiles::open(&dir.join("snapshots")).unwrap().save(vec![source]).unwrap();
}

#[test]
fn entries_of_a_replica_that_was_removed_before_go_though_nothing_else_is_left_of_its_region() {
    for form in [Form::Disk, Form::Memory] {
        let base = tempfile::tempdir().unwrap();
        let given = |id, start, end| Given {
            descriptor: region(id, start, end, &[1, 7, 8]),
            log: log([(epoch(1, 1), What::Put("p=1"))]),
            applied: 1,
        };
        let case = Case { form, stores: vec![(1, vec![given(2, "", "m"), given(3, "m", "")])] };
        let dirs = case.make(base.path());
        let dir = &dirs[0].1;
        // The store dies when the state is gone and the entries are not.
        let mut known = region(3, "m", "", &[7, 8]);
        known.epoch = epoch(2, 1);
        destroy(dir, form, &known, Cause::Removed);
        let last_of = |opened: &Opened| opened.recovered.groups[&RegionId(3)].log.last_index;
        assert_eq!(last_of(&open(dir, form)), LogIndex(2));

        let plan = case.plan(&dirs);
        assert_eq!(plan.region(RegionId(3)).unwrap().verdict, Verdict::Lost);
        recovery(dir, form).apply(&plan, &options(&plan)).unwrap();
        let opened = open(dir, form);
        assert_eq!(last_of(&opened), LogIndex::ZERO);
        assert_eq!(opened.recovered.groups[&RegionId(3)].hard_state.term, Term(3), "promises stay");
        assert!(opened.assembled.residue.tombstones.contains_key(&RegionId(3)));
    }
}

#[test]
fn a_root_region_is_made_anew_where_a_witness_of_it_was_whose_log_was_cut() {
    for form in [Form::Disk, Form::Memory] {
        let base = tempfile::tempdir().unwrap();
        let mut root = region(1, "", "", &[1, 7, 8]);
        root.replicas[0].role = Role::Witness;
        let ids = || (epoch(1, 1), What::Admin(AdminCommand::AllocateIds { count: 10 }));
        let data = Given {
            descriptor: region(2, "", "", &[1, 7, 8]),
            log: log([(epoch(1, 1), What::Put("a=1"))]),
            applied: 2,
        };
        let witness = Given { descriptor: root, log: log((0..8).map(|_| ids())), applied: 6 };
        let case = Case { form, stores: vec![(1, vec![witness.clone(), data])] };
        let dirs = case.make(base.path());
        let dir = &dirs[0].1;
        if form == Form::Memory {
            save_applied(dir, &witness);
        }
        let cut = LogChange::Truncate { index: LogIndex(5), term: Term(3) };
        let records = vec![GroupRecord { region: RegionId::ROOT, log: cut, hard_state: None }];
        let (mut writer, ..) = open_log(dir, &config()).unwrap();
        writer.commit(vec![LogBatch { ticket: LogTicket { lane: 0, seq: 1 }, records }]).unwrap();
        drop(writer);

        let options_of_plan = PlanOptions { fill_gaps: true, ..PlanOptions::default() };
        let plan = make_plan(&[recovery(dir, form).survey().unwrap()], &DEAD, &options_of_plan).unwrap();
        let is_made = matches!(plan.region(RegionId::ROOT).unwrap().verdict, Verdict::Create { .. });
        assert!(is_made, "{plan:?}");
        let untouched = base.path().join("as it was");
        copy(dir, &untouched);
        let mut steps = 0;
        recovery(dir, form)
            .apply_by_steps(&plan, &options(&plan), &mut |_| {
                steps += 1;
                Ok(())
            })
            .unwrap();
        let whole = dump(dir, form);
        for end in 0..steps {
            let again = tempfile::tempdir().unwrap();
            copy(&untouched, again.path());
            assert_eq!(case.recover_interrupted(again.path(), end, &plan), whole, "ended before step {end}");
        }
    }
}

#[test]
fn a_region_that_was_absorbed_on_another_store_and_goes_on_all_the_same_may_come_back_there() {
    let base = tempfile::tempdir().unwrap();
    let given = |id, start, end, stores: &[u64]| Given {
        descriptor: region(id, start, end, stores),
        log: log([(epoch(1, 1), What::Put("p=1"))]),
        applied: 1,
    };
    let (source, other) = (given(3, "m", "", &[1, 2, 7, 8]), given(2, "", "m", &[1, 7, 8]));
    let case = Case { form: Form::Disk, stores: vec![(1, vec![other, source.clone()]), (2, vec![source.clone()])] };
    let dirs = case.make(base.path());
    // On store 1 a neighbour has absorbed it that is on no surviving store any more.
    destroy(&dirs[0].1, case.form, &source.descriptor, Cause::Merged);
    let plan = case.plan(&dirs);
    let Verdict::Keep(keep) = &plan.region(RegionId(3)).unwrap().verdict else { panic!("{plan:?}") };
    assert_eq!((keep.store, keep.loss), (StoreId(2), Loss::Possible));
    for (_, dir) in &dirs {
        recovery(dir, case.form).apply(&plan, &options(&plan)).unwrap();
    }
    let opened = open(&dirs[0].1, case.form);
    let tombstone = &opened.assembled.residue.tombstones[&RegionId(3)];
    assert_eq!((tombstone.cause, &*tombstone.descriptor), (Cause::Removed, &keep.becomes));
    assert!(tombstone.forbids(ReplicaId(301)) && !tombstone.forbids(keep.becomes.replicas[0].id));
}

#[test]
fn a_state_that_cannot_be_read_in_the_middle_is_no_reason_to_give_its_entries_up() {
    let base = tempfile::tempdir().unwrap();
    let given = |puts: u64| Given {
        descriptor: region(2, "", "", &[1, 2, 7, 8, 9]),
        log: log((0..puts).map(|_| (epoch(1, 1), What::Put("p=1")))),
        applied: 1,
    };
    let case = Case { form: Form::Memory, stores: vec![(1, vec![given(1)]), (2, vec![given(2)])] };
    let dirs = case.make(base.path());
    let plan = case.plan(&dirs);
    let dir = &dirs[0].1;
    let mut steps = 0;
    let ended = recovery(dir, case.form).apply_by_steps(&plan, &options(&plan), &mut |_| {
        steps += 1;
        let what = "a test".to_owned();
        if steps > 1 { Err(RecoveryError::Interrupted { what }) } else { Ok(()) }
    });
    assert!(matches!(ended, Err(RecoveryError::Interrupted { .. })), "{ended:?}");
    let files: Vec<_> = std::fs::read_dir(dir.join("snapshots")).unwrap().map(|file| file.unwrap().path()).collect();
    let whole: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    for (file, whole) in files.iter().zip(&whole) {
        let changed: Vec<u8> = whole.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at >= 32)).collect();
        std::fs::write(file, changed).unwrap();
    }
    let refused = recovery(dir, case.form).apply(&plan, &options(&plan)).unwrap_err().to_string();
    assert!(refused.contains("region 2 could be read when this was begun"), "{refused}");
    for (file, whole) in files.iter().zip(&whole) {
        std::fs::write(file, whole).unwrap();
    }
    let applied = recovery(dir, case.form).apply(&plan, &options(&plan)).unwrap();
    assert_eq!(applied.removed, [RegionId(2)]);
}
