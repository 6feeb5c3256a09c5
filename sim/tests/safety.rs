//! The judges of consensus, logs and states against wrong behaviour made by hand: each kind must be refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use multiraft::assembly::bootstrap_regions;
use multiraft::logic::Frozen;
use multiraft_raft::{
    AppendOutcome, Body, Entry, EntryKind, HardState, LogIndex, LogSummary, LogTicket, Message, Payload,
    RegionDescriptor, RegionEpoch, RegionId, ReplicaId, StoreId, Term, TermRun,
};
use multiraft_sim::check::consensus::Consensus;
use multiraft_sim::check::regions::Regions;
use multiraft_sim::check::shadow::Shadows;
use multiraft_sim::check::state::{ReplicaState, check_equal, check_once};
use multiraft_sim::check::{Verdict, Violation};
use multiraft_storage::{GroupRecord, LogBatch, LogChange, RecoveredGroup};

const REGION: RegionId = RegionId(2);
const STORES: [StoreId; 3] = [StoreId(1), StoreId(2), StoreId(3)];

fn entry(index: u64, term: u64, data: &'static str) -> Entry {
    Entry {
        term: Term(term),
        index: LogIndex(index),
        kind: EntryKind::Command,
        data: Payload::copy_from_slice(data.as_bytes()),
    }
}

fn batch(seq: u64, entries: Vec<Entry>) -> LogBatch {
    let term = entries.last().map_or(Term(1), |entry| entry.term);
    let hard_state = Some(HardState { term, vote: ReplicaId(1), commit: LogIndex(0) });
    let first = entries.first().map_or(LogIndex(0), |entry| entry.index);
    let record = GroupRecord { region: REGION, log: LogChange::Append(entries), hard_state };
    // A log that begins with the second entry begins behind a region's first state.
    let reset = LogChange::Reset { index: LogIndex(1), term: Term(1) };
    let reset = GroupRecord { region: REGION, log: reset, hard_state: None };
    let records = if first == LogIndex(2) && seq == 1 { vec![reset, record] } else { vec![record] };
    LogBatch { ticket: LogTicket { lane: 0, seq }, records }
}

fn rule(verdict: Verdict) -> &'static str {
    verdict.map_or_else(|Violation { rule, .. }| rule, |()| "nothing")
}

/// The region, with a voter on each store.
fn regions() -> Regions {
    let mut regions = Regions::default();
    regions.begin(&bootstrap_regions(&[], &STORES)).expect("they cover the key space");
    regions
}

/// A group that has logged and made durable the same entries on the first `count` stores.
fn logged(count: usize, entries: &[Entry]) -> (Consensus, Shadows) {
    let (mut consensus, mut logs) = (Consensus::default(), Shadows::default());
    for store in &STORES[..count] {
        let batch = batch(1, entries.to_vec());
        consensus.on_submitted(*store, &batch, &logs).expect("the entries are in order");
        logs.on_submitted(*store, &batch);
        logs.on_durable(*store, batch.ticket);
    }
    (consensus, logs)
}

#[test]
fn two_leaders_of_one_term_are_refused() {
    let mut consensus = Consensus::default();
    assert_eq!(consensus.on_leader(REGION, Term(1), StoreId(1)), Ok(()));
    assert_eq!(consensus.on_leader(REGION, Term(1), StoreId(1)), Ok(()));
    assert_eq!(consensus.on_leader(REGION, Term(2), StoreId(2)), Ok(()));
    assert_eq!(rule(consensus.on_leader(REGION, Term(1), StoreId(3))), "election safety");
}

#[test]
fn different_entries_at_one_place_of_one_term_are_refused() {
    let (mut consensus, logs) = logged(1, &[entry(2, 1, "a")]);
    let other = batch(1, vec![entry(2, 1, "b")]);
    assert_eq!(rule(consensus.on_submitted(StoreId(2), &other, &logs)), "log matching");
}

#[test]
fn an_entry_that_follows_different_ones_is_refused() {
    let (mut consensus, mut logs) = logged(1, &[entry(2, 1, "a"), entry(3, 3, "b")]);
    let other = batch(1, vec![entry(2, 2, "c")]);
    consensus.on_submitted(StoreId(2), &other, &logs).expect("another term");
    logs.on_submitted(StoreId(2), &other);
    let next = batch(2, vec![entry(3, 3, "b")]);
    assert_eq!(rule(consensus.on_submitted(StoreId(2), &next, &logs)), "log matching");
}

#[test]
fn a_leader_without_a_committed_entry_is_refused() {
    let (mut consensus, logs) = logged(2, &[entry(2, 1, "a"), entry(3, 1, "b")]);
    consensus.on_handed_out(StoreId(1), REGION, Term(1), &[entry(2, 1, "a"), entry(3, 1, "b")]).expect("in order");
    assert_eq!(consensus.on_elected(REGION, Term(2), StoreId(2), &logs), Ok(()));
    assert_eq!(rule(consensus.on_elected(REGION, Term(2), StoreId(3), &logs)), "leader completeness");
    assert_eq!(consensus.on_elected(REGION, Term(1), StoreId(3), &logs), Ok(()), "it was committed in its own term");
}

#[test]
fn different_entries_applied_at_one_index_are_refused() {
    let mut consensus = Consensus::default();
    consensus.on_handed_out(StoreId(1), REGION, Term(1), &[entry(2, 1, "a")]).expect("the first");
    assert_eq!(consensus.on_handed_out(StoreId(2), REGION, Term(1), &[entry(2, 1, "a")]), Ok(()));
    let other = consensus.on_handed_out(StoreId(3), REGION, Term(1), &[entry(2, 1, "b")]);
    assert_eq!(rule(other), "state machine safety");
}

#[test]
fn a_gap_and_a_repetition_in_what_is_applied_are_refused() {
    let hand_out = |indexes: &[u64]| {
        let mut consensus = Consensus::default();
        let entries: Vec<Entry> = indexes.iter().map(|index| entry(*index, 1, "a")).collect();
        rule(consensus.on_handed_out(StoreId(1), REGION, Term(1), &entries))
    };
    assert_eq!(hand_out(&[2, 3, 4]), "nothing");
    assert_eq!(hand_out(&[2, 4]), "entries are applied without a gap");
    assert_eq!(hand_out(&[2, 2]), "entries are applied without a gap");
}

#[test]
fn an_installed_snapshot_lets_the_next_entries_follow_it_or_what_was_before() {
    for next in [3, 7] {
        let mut consensus = Consensus::default();
        let all: Vec<Entry> = (2..=7).map(|index| entry(index, 1, "a")).collect();
        consensus.on_handed_out(StoreId(1), REGION, Term(1), &all).expect("in order");
        consensus.on_handed_out(StoreId(2), REGION, Term(1), &all[..1]).expect("in order");
        consensus.on_installed(StoreId(2), REGION, LogIndex(6));
        let verdict = consensus.on_handed_out(StoreId(2), REGION, Term(1), &[entry(next, 1, "a")]);
        assert_eq!(verdict, Ok(()), "{next}");
    }
}

#[test]
fn entries_may_follow_any_snapshot_of_which_the_group_has_not_heard() {
    for next in [2, 5, 7] {
        let mut consensus = Consensus::default();
        let all: Vec<Entry> = (2..=8).map(|index| entry(index, 1, "a")).collect();
        consensus.on_handed_out(StoreId(1), REGION, Term(1), &all).expect("in order");
        consensus.on_installed(StoreId(2), REGION, LogIndex(4));
        consensus.on_installed(StoreId(2), REGION, LogIndex(6));
        let mut hand_out = |index| consensus.on_handed_out(StoreId(2), REGION, Term(1), &[entry(index, 1, "a")]);
        assert_eq!(hand_out(next), Ok(()), "{next}");
        assert_eq!(rule(hand_out(next)), "entries are applied without a gap", "{next} comes once");
        assert_eq!(rule(hand_out(4)), "entries are applied without a gap", "4 follows nothing");
    }
}

#[test]
fn an_acknowledged_entry_that_no_quorum_holds_durably_is_refused() {
    for (count, expected) in [(1, "what is acknowledged is durable on a quorum"), (2, "nothing"), (3, "nothing")] {
        let (mut consensus, logs) = logged(count, &[entry(2, 1, "a")]);
        consensus.on_handed_out(StoreId(1), REGION, Term(1), &[entry(2, 1, "a")]).expect("in order");
        assert_eq!(rule(consensus.on_acknowledged(REGION, LogIndex(2), &regions(), &logs)), expected, "{count}");
    }
    let (consensus, logs) = logged(3, &[entry(2, 1, "a")]);
    let verdict = consensus.on_acknowledged(REGION, LogIndex(2), &regions(), &logs);
    assert_eq!(rule(verdict), "what is acknowledged is applied");
}

fn recovered(last: u64, term: u64, vote: u64) -> BTreeMap<RegionId, RecoveredGroup> {
    let hard_state = HardState { term: Term(term), vote: ReplicaId(vote), commit: LogIndex(0) };
    let runs = if last == 0 { vec![] } else { vec![TermRun { start: LogIndex(1), term: Term(1) }] };
    let log = LogSummary { last_index: LogIndex(last), runs, ..LogSummary::default() };
    BTreeMap::from([(REGION, RecoveredGroup { hard_state, log })])
}

#[test]
fn a_log_that_lost_what_was_flushed_is_refused() {
    let (_, logs) = logged(1, &[entry(1, 1, "a"), entry(2, 1, "b")]);
    let come_back = |found: &BTreeMap<_, _>| rule(logs.clone().on_recovered(StoreId(1), found));
    assert_eq!(come_back(&recovered(2, 1, 1)), "nothing");
    for found in [recovered(1, 1, 1), recovered(2, 0, 1), recovered(2, 1, 0), recovered(3, 1, 1), BTreeMap::new()] {
        assert_eq!(come_back(&found), "what was flushed survives", "{found:?}");
    }
}

#[test]
fn a_batch_that_was_under_way_may_be_there_as_a_whole_or_not_at_all() {
    let (_, mut logs) = logged(1, &[entry(1, 1, "a")]);
    logs.on_submitted(StoreId(1), &batch(2, vec![entry(2, 1, "b"), entry(3, 1, "c")]));
    let come_back = |last| rule(logs.clone().on_recovered(StoreId(1), &recovered(last, 1, 1)));
    assert_eq!(come_back(1), "nothing");
    assert_eq!(come_back(2), "what was flushed survives");
    assert_eq!(come_back(3), "nothing");
}

#[test]
fn a_state_that_lost_what_was_flushed_is_refused() {
    let mut consensus = Consensus::default();
    consensus.on_state_durable(StoreId(1), REGION, LogIndex(5));
    assert_eq!(consensus.on_state_found(StoreId(1), REGION, LogIndex(7)), Ok(()));
    let lost = consensus.on_state_found(StoreId(1), REGION, LogIndex(4));
    assert_eq!(rule(lost), "applied state that was flushed survives");
}

fn state(store: u64, applied: u64, key: &'static str, value: &[u64]) -> ReplicaState {
    let value: Vec<u8> = value.iter().flat_map(|number| number.to_be_bytes()).collect();
    let pairs = BTreeMap::from([(Bytes::from_static(key.as_bytes()), Bytes::from(value))]);
    ReplicaState { store: StoreId(store), applied: LogIndex(applied), pairs }
}

#[test]
fn replicas_that_differ_are_refused() {
    let first = state(1, 9, "k/1", &[7]);
    let compare = |other: ReplicaState| rule(check_equal(REGION, &[first.clone(), other]));
    assert_eq!(compare(state(2, 9, "k/1", &[7])), "nothing");
    assert_eq!(compare(state(2, 8, "k/1", &[7])), "replicas converge");
    assert_eq!(compare(state(2, 9, "k/1", &[8])), "replicas are equal");
    assert_eq!(compare(state(2, 9, "k/3", &[7])), "replicas are equal");
}

#[test]
fn an_element_that_is_there_twice_is_refused() {
    assert_eq!(check_once(REGION, &state(1, 9, "k/1", &[7, 8])), Ok(()));
    assert_eq!(rule(check_once(REGION, &state(1, 9, "k/1", &[7, 8, 7]))), "a command takes effect at most once");
    assert_eq!(check_once(REGION, &state(1, 9, "k/2", &[7, 7])), Ok(()), "a register is no list");
}

/// Two of three replicas that held entry 2, and that damage has put out of service since.
fn two_lost(mut consensus: Consensus, mut logs: Shadows) -> (Consensus, Shadows) {
    for lost in &STORES[..2] {
        logs.forget(*lost, |region| region == REGION);
        consensus.on_lost(*lost, REGION);
        assert_eq!(logs.on_recovered(*lost, &BTreeMap::new()), Ok(()));
    }
    (consensus, logs)
}

#[test]
fn of_a_region_that_damage_may_have_cost_records_nothing_is_expected_back() {
    let (consensus, logs) = logged(3, &[entry(2, 1, "a")]);
    let (_, mut logs) = two_lost(consensus, logs);
    assert_eq!(rule(logs.on_recovered(STORES[2], &BTreeMap::new())), "what was flushed survives");
}

#[test]
fn a_damaged_log_counts_with_what_it_held_before_and_with_nothing_else() {
    let (mut consensus, logs) = logged(3, &[entry(2, 1, "a")]);
    consensus.on_handed_out(STORES[0], REGION, Term(1), &[entry(2, 1, "a")]).expect("the first entry");
    let (mut consensus, mut logs) = two_lost(consensus, logs);
    let earlier = consensus.on_acknowledged(REGION, LogIndex(2), &regions(), &logs);
    assert_eq!(earlier, Ok(()), "the answer was under way when the logs were damaged");
    for store in STORES {
        logs.on_submitted(store, &batch(2, vec![entry(3, 1, "b")]));
    }
    logs.on_durable(STORES[2], batch(2, Vec::new()).ticket);
    consensus.on_handed_out(STORES[2], REGION, Term(1), &[entry(2, 1, "a"), entry(3, 1, "b")]).expect("in order");
    let later = consensus.on_acknowledged(REGION, LogIndex(3), &regions(), &logs);
    assert_eq!(rule(later), "what is acknowledged is durable on a quorum", "they never held it");

    let (mut consensus, logs) = logged(2, &[entry(2, 1, "a")]);
    consensus.on_handed_out(STORES[2], REGION, Term(2), &[entry(2, 2, "b")]).expect("the first entry");
    let (consensus, logs) = two_lost(consensus, logs);
    let other = consensus.on_acknowledged(REGION, LogIndex(2), &regions(), &logs);
    assert_eq!(rule(other), "what is acknowledged is durable on a quorum", "they held another one");
}

#[test]
fn a_region_is_frozen_until_its_merge_has_an_end() {
    let all = bootstrap_regions(&[Bytes::from_static(b"k")], &STORES);
    let (target, source) = (&all[1], &all[2]);
    let at = |version| {
        let epoch = RegionEpoch { version, ..source.epoch };
        Arc::new(RegionDescriptor { epoch, ..(**source).clone() })
    };
    let mut regions = Regions::default();
    regions.begin(&all).expect("they cover the key space");
    let frozen = Frozen { index: LogIndex(5), target: Arc::clone(target) };
    assert_eq!(regions.on_frozen(LogIndex(5), &at(2), &frozen), Ok(true));
    assert!(regions.is_frozen(b"k") && !regions.is_frozen(b"a"));
    assert_eq!(regions.on_thawed(LogIndex(6), &at(3)), Ok(true));
    assert!(!regions.is_frozen(b"k"));
}

/// The third store has lost its disk and begins anew, with its floor at 6: replica 3 is lost, and 7 is one that it was given since.
#[test]
fn a_replica_lost_with_its_disk_says_nothing_and_never_comes_back() {
    const SILENT: &str = "what was lost with a disk is silent";
    let (mut regions, lost) = (regions(), STORES[2]);
    let message = |from, body| Message { from: ReplicaId(from), to: ReplicaId(1), term: Term(4), body };
    let vote = |from, granted| message(from, Body::VoteReply { granted });
    let rejected = AppendOutcome::Rejected { prev_index: LogIndex(1), hint_index: LogIndex(0), hint_term: Term(0) };
    let with = |own| {
        let mut region = RegionDescriptor::clone(&bootstrap_regions(&[], &STORES)[1]);
        region.replicas[2].id = ReplicaId(own);
        Arc::new(region)
    };
    assert_eq!(regions.on_sent(lost, REGION, &vote(3, true)), Ok(()), "it has lost nothing yet");
    regions.on_wiped(lost);
    regions.on_rejoined(lost);
    assert_eq!(rule(regions.on_floor(lost, ReplicaId(2))), SILENT);
    assert_eq!(regions.on_floor(lost, ReplicaId(6)), Ok(()));
    for said in [vote(3, true), vote(3, false), message(3, Body::AppendReply(rejected))] {
        assert_eq!(rule(regions.on_sent(lost, REGION, &said)), SILENT, "{said:?}");
    }
    assert_eq!(rule(regions.on_acts(lost, REGION, ReplicaId(3))), SILENT);
    assert_eq!(rule(regions.on_created(lost, REGION, ReplicaId(3))), SILENT);
    assert_eq!(rule(regions.on_state_here(lost, &with(3))), SILENT);
    assert_eq!(regions.on_sent(lost, REGION, &vote(7, true)), Ok(()));
    assert_eq!(regions.on_created(lost, REGION, ReplicaId(7)), Ok(()));
    assert_eq!(regions.on_state_here(lost, &with(7)), Ok(()));
    assert_eq!(regions.on_sent(STORES[1], REGION, &vote(2, true)), Ok(()), "of another store");
}

/// What a lost disk held counts for the replica that was lost with it, and for none that its store is given later.
#[test]
fn what_a_lost_disk_held_counts_for_no_later_replica() {
    let (mut consensus, mut logs) = logged(2, &[entry(2, 1, "a")]);
    consensus.on_handed_out(STORES[0], REGION, Term(1), &[entry(2, 1, "a")]).expect("it is the first");
    consensus.on_wiped(STORES[1]);
    logs.on_wiped(STORES[1]);
    assert_eq!(logs.on_recovered(STORES[1], &BTreeMap::new()), Ok(()));
    let judged = |consensus: &Consensus, logs: &Shadows, regions: &Regions| {
        rule(consensus.on_acknowledged(REGION, LogIndex(2), regions, logs))
    };
    assert_eq!(judged(&consensus, &logs, &regions()), "nothing");
    consensus.on_rejoined(STORES[1]);
    logs.on_rejoined(STORES[1]);
    assert_eq!(
        judged(&consensus, &logs, &regions()),
        "what is acknowledged is durable on a quorum",
        "not lost, and not there"
    );
    let mut begun_anew = regions();
    begun_anew.on_wiped(STORES[1]);
    begun_anew.on_rejoined(STORES[1]);
    assert_eq!(judged(&consensus, &logs, &begun_anew), "nothing", "its acknowledgement may have been under way");
    let mut all = bootstrap_regions(&[], &STORES);
    let mut region = RegionDescriptor::clone(&all[1]);
    region.replicas[1].id = ReplicaId(7);
    all[1] = Arc::new(region);
    let mut later = Regions::default();
    later.begin(&all).expect("they cover the key space");
    assert_eq!(judged(&consensus, &logs, &later), "what is acknowledged is durable on a quorum");
}
