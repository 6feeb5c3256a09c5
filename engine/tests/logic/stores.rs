//! The list of stores, and reports: a worker's turns and a real applier.

use std::any::Any;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::apply::{AppliedRegion, Applier, Backend};
use multiraft::assembly::{bootstrap_regions, empty_start};
use multiraft::logic::{
    AdminCommand, AdminRequest, Input, LaneKind, MergeState, Notice, Outcome, Outgoing, StoreCommand, Worker,
};
use multiraft::{
    ApplyContext, Incarnation, LogIndex, OwnState, RegionDescriptor, RegionEpoch, RegionId, SnapshotWrite, StoreFault,
    StoreId, StoreRecord, StoreStanding, Term,
};
use multiraft_raft::Time;
use multiraft_storage::{LogOptions, LogWriter, MemStore, SimDisk};
use multiraft_transport::{Forward, ForwardOutcome, ForwardReply, ForwardRequest, PeerMessage};

use crate::nothing::{Nothing, apply};
use crate::turns::take_turns;
use crate::worker_config::worker_config;

const REGION: RegionId = RegionId(2);
const SECOND: StoreId = StoreId(2);

impl OwnState for Nothing {
    fn apply(&mut self, _: ApplyContext<'_>, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn lookup(&self, _: &RegionDescriptor, _: &[u8]) -> Bytes {
        Bytes::new()
    }

    fn snapshot(&self) -> SnapshotWrite {
        Box::new(|_| Ok(()))
    }

    fn restore(&mut self, _: &mut dyn Read) -> io::Result<()> {
        Ok(())
    }

    fn split_off(&mut self, _: &[u8]) -> Box<dyn OwnState> {
        Box::new(Self)
    }

    fn absorb(&mut self, _: Box<dyn OwnState>) {}

    fn as_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Store 1 alone, with the root region and another one, which it leads.
struct Store {
    worker: Worker<u32>,
    log: LogWriter,
    applier: Applier,
    now: Time,
    /// What it has answered, and what it has told those who watch.
    replies: Vec<(u32, Outcome)>,
    notices: Vec<Notice>,
    sends: Vec<Outgoing>,
}

impl Store {
    fn new(backend: Backend) -> Self {
        let (log, _, recovered) = LogWriter::open(Arc::new(SimDisk::new(1)), LogOptions::small()).unwrap();
        let starts: Vec<_> = bootstrap_regions(&[], &[StoreId(1)]).into_iter().map(empty_start).collect();
        let config = worker_config(&[SECOND]);
        let worker = Worker::new(config, recovered.token(0), &starts, Time::ZERO);
        backend.begin(&starts, &BTreeMap::new());
        let regions = starts.iter().map(|start| AppliedRegion {
            descriptor: Arc::clone(&start.descriptor),
            index: start.applied,
            term: start.applied_term,
            installed: false,
            merge: MergeState::default(),
        });
        let applier = backend.applier(regions);
        let (replies, notices, sends) = (Vec::new(), Vec::new(), Vec::new());
        let mut store = Self { worker, log, applier, now: Time::ZERO, replies, notices, sends };
        store.now = store.now.plus(Duration::from_millis(100));
        store.run(vec![Input::Link { peer: SECOND, up: Some(Incarnation(1)) }]);
        assert!(store.worker.status(RegionId::ROOT).unwrap().is_leader);
        store.notices.clear();
        store
    }

    fn shared() -> Self {
        Self::new(Backend::shared(Arc::new(Nothing), Arc::new(MemStore::new())))
    }

    /// Takes turns, with every append durable at once, until nothing more happens.
    fn run(&mut self, inputs: Vec<Input<u32>>) {
        take_turns((&mut self.worker, &mut self.log), self.now, inputs, |out, inputs| {
            self.replies.append(&mut out.replies);
            self.notices.append(&mut out.notices);
            self.sends.append(&mut out.sends);
            let mut batch = apply(&mut self.applier, out, inputs);
            self.replies.append(&mut batch.replies);
        });
    }

    fn deadline(&self) -> Time {
        self.now.plus(Duration::from_secs(5))
    }

    /// Has a region of this store asked for something.
    fn ask(&mut self, region: RegionId, request: AdminRequest) -> Outcome {
        let deadline = self.deadline();
        self.run(vec![Input::Admin { region, epoch: None, request, deadline, reply: 1 }]);
        assert_eq!(self.replies.len(), 1);
        self.replies.remove(0).1
    }

    fn change(&mut self, command: StoreCommand) -> Result<BTreeMap<StoreId, StoreRecord>, StoreFault> {
        match self.ask(RegionId::ROOT, AdminRequest::Command(AdminCommand::Store(command))) {
            Outcome::Applied { reply, .. } => StoreCommand::read_answer(&reply).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    /// What was sent to store 2 on its lanes for answers and for requests.
    fn sent(&mut self) -> Vec<PeerMessage> {
        let sends = std::mem::take(&mut self.sends).into_iter();
        let spoken = sends.filter(|sent| sent.to == SECOND && sent.lane != LaneKind::Liveness);
        spoken.flat_map(|sent| sent.messages).collect()
    }
}

fn record(id: u64) -> StoreRecord {
    let labels = BTreeMap::from([("zone".to_owned(), "a".to_owned())]);
    StoreRecord { id: StoreId(id), address: format!("host{id}:1"), weight: 1, labels, standing: StoreStanding::Up }
}

#[test]
fn the_root_region_keeps_the_stores_in_both_forms_of_state() {
    let own = Backend::own(Arc::new(|_: &RegionDescriptor| Box::new(Nothing) as Box<dyn OwnState>));
    let descriptors = bootstrap_regions(&[], &[StoreId(1)]);
    for descriptor in &descriptors {
        let region = AppliedRegion {
            descriptor: Arc::clone(descriptor),
            index: LogIndex(1),
            term: Term(1),
            installed: false,
            merge: MergeState::default(),
        };
        let mut chunks = Vec::new();
        let mut keep = |chunk| {
            chunks.push(Ok(chunk));
            Ok(())
        };
        own.first_snapshot(descriptor).stream(&mut keep).unwrap();
        own.restore(&region, Box::new(chunks.into_iter())).unwrap();
    }
    for mut store in [Store::shared(), Store::new(own)] {
        assert_eq!(store.change(StoreCommand::List), Ok(BTreeMap::new()));
        assert_eq!(store.change(StoreCommand::Drain(SECOND)), Err(StoreFault::Unknown));
        store.change(StoreCommand::Join(Arc::new(record(1)))).unwrap();
        let both = store.change(StoreCommand::Join(Arc::new(record(2)))).unwrap();
        assert_eq!(both, BTreeMap::from([(StoreId(1), record(1)), (SECOND, record(2))]));
        assert_eq!(store.change(StoreCommand::Leave(SECOND)), Err(StoreFault::NotDrained));
        store.change(StoreCommand::Drain(SECOND)).unwrap();
        store.change(StoreCommand::Drained(SECOND)).unwrap();
        let left = store.change(StoreCommand::Leave(SECOND)).unwrap();
        assert_eq!(left[&SECOND].standing, StoreStanding::Left);
        assert_eq!(store.change(StoreCommand::Forget(SECOND)), Ok(BTreeMap::from([(StoreId(1), record(1))])));
        assert_eq!(store.change(StoreCommand::List), Ok(BTreeMap::from([(StoreId(1), record(1))])));
        let epoch = store.worker.status(RegionId::ROOT).unwrap().descriptor.epoch;
        assert_eq!(epoch, descriptors[0].epoch, "what stores do changes no epoch");
    }
}

#[test]
fn only_the_root_region_keeps_stores_and_takes_reports() {
    let mut store = Store::shared();
    let command = AdminRequest::Command(AdminCommand::Store(StoreCommand::List));
    assert!(matches!(store.ask(REGION, command), Outcome::Refused { .. }));
    let report = AdminRequest::Report(Bytes::from_static(b"news"));
    assert!(matches!(store.ask(REGION, report), Outcome::Refused { .. }));
    assert_eq!(store.notices, []);
}

#[test]
fn what_lies_on_the_stores_is_told_by_the_root_regions_leader_in_the_term_in_which_it_plans() {
    let mut store = Store::shared();
    let is_refused =
        |outcome: Outcome| matches!(outcome, Outcome::Refused { reason } if reason.contains("nobody plans"));
    assert!(is_refused(store.ask(RegionId::ROOT, AdminRequest::Loads)));
    let term = store.worker.status(RegionId::ROOT).unwrap().term;
    let loads = Bytes::from_static(b"a table");
    store.run(vec![Input::Loads { term, loads: loads.clone() }]);
    let outcome = Outcome::Applied { reply: loads.clone(), index: LogIndex::ZERO };
    assert_eq!(store.ask(RegionId::ROOT, AdminRequest::Loads), outcome);
    assert!(is_refused(store.ask(REGION, AdminRequest::Loads)), "no other region's leader");
    store.run(vec![Input::Loads { term: Term(term.get() + 1), loads }]);
    assert!(is_refused(store.ask(RegionId::ROOT, AdminRequest::Loads)), "of another term");
}

#[test]
fn a_report_is_passed_on_with_who_sent_it_and_answered_with_the_term() {
    let mut store = Store::shared();
    let term = store.worker.status(RegionId::ROOT).unwrap().term;
    let report = Bytes::from_static(b"news");
    let taken = Bytes::copy_from_slice(&term.get().to_be_bytes());
    let outcome = store.ask(RegionId::ROOT, AdminRequest::Report(report.clone()));
    assert_eq!(outcome, Outcome::Applied { reply: taken.clone(), index: LogIndex::ZERO });
    let request = ForwardRequest::Admin { request: AdminRequest::Report(report.clone()).encode() };
    let (region, epoch) = (RegionId::ROOT, RegionEpoch::default());
    let forward = Forward { id: 77, region, epoch, term: Term::ZERO, timeout_ms: 1000, request };
    store.sent();
    store.run(vec![Input::Messages { from: SECOND, messages: vec![PeerMessage::Forward(forward)] }]);
    let outcome = ForwardOutcome::Applied { reply: taken, index: LogIndex::ZERO };
    assert_eq!(store.sent(), [PeerMessage::ForwardReply(ForwardReply { id: 77, outcome })]);
    let notice = |from| Notice::Report { from, term, report: report.clone() };
    assert_eq!(store.notices, [notice(StoreId(1)), notice(SECOND)]);
}

#[test]
fn a_worker_tells_what_it_leads_page_by_page() {
    let store = Store::shared();
    let first = store.worker.led_page(0, 1);
    assert_eq!((first.led.len(), first.held, first.next), (1, 1, Some(1)));
    assert_eq!(first.led[0].descriptor.id, RegionId::ROOT);
    assert_eq!((&first.led[0].behind[..], first.led[0].pending), (&[][..], false));
    let second = store.worker.led_page(1, 1024);
    assert_eq!((second.led.len(), second.held, second.next), (1, 1, None));
}
