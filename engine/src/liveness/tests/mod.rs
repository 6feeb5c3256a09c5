//! The rules of `docs/liveness.md`, section L, by number; and whole clusters on random networks.

mod epochs;
mod random;
mod rounds;
mod start_and_stop;
mod step;
mod support;

use std::time::Duration;

use multiraft_raft::{Incarnation, StoreId, Time};
use multiraft_transport::{SupportAnswer, SupportHeartbeat, SupportMessage, SupportVerdict};

use super::{Held, Liveness, LivenessConfig, LivenessOptions, LivenessOutput, SupportEpoch, SupportNews};

/// This store, in its seventh incarnation, and the peer.
const OWN: StoreId = StoreId(1);
const PEER: StoreId = StoreId(2);
const OWN_LIFE: Incarnation = Incarnation(7);

/// A moment, in milliseconds.
const fn at(ms: u64) -> Time {
    Time(ms * 1_000_000)
}

/// The defaults, with ten heartbeats in the time that support lasts.
fn options() -> LivenessOptions {
    LivenessOptions { heartbeat_interval: Duration::from_millis(100), ..LivenessOptions::default() }
}

fn core(promised_before: Duration) -> Liveness {
    let options = options();
    let config = LivenessConfig { store: OWN, incarnation: OWN_LIFE, options, promised_before };
    let mut core = Liveness::new(config, at(0));
    core.add_peer(at(0), PEER);
    core
}

/// A core that has made one heartbeat, of sequence 1, at moment 0, and heard nothing.
fn begun() -> Liveness {
    let mut core = core(Duration::ZERO);
    assert_eq!(tick(&mut core, 0).sends.len(), 1);
    core
}

fn tick(core: &mut Liveness, ms: u64) -> LivenessOutput {
    let mut out = LivenessOutput::default();
    core.tick(at(ms), true, &mut out);
    out
}

fn take(core: &mut Liveness, ms: u64, message: SupportMessage) -> LivenessOutput {
    let mut out = LivenessOutput::default();
    core.handle(at(ms), PEER, &message, &mut out);
    out
}

/// A heartbeat of the peer that has heard sequence `heard` of this store.
fn heartbeat(epoch: (u64, u64), sequence: u64, heard: u64) -> SupportHeartbeat {
    SupportHeartbeat {
        incarnation: Incarnation(epoch.0),
        number: epoch.1,
        sequence,
        heard: (OWN_LIFE, heard),
        wish_ms: 1000,
        farewell: false,
    }
}

/// What a core makes of a heartbeat: the verdict, if it is answered, and the news.
fn ask(core: &mut Liveness, ms: u64, heartbeat: SupportHeartbeat) -> (Option<SupportVerdict>, Vec<SupportNews>) {
    let out = take(core, ms, SupportMessage::Heartbeat(heartbeat));
    let verdicts: Vec<SupportVerdict> = out.sends.iter().map(|(to, message)| verdict(*to, message)).collect();
    assert!(verdicts.len() <= 1, "{verdicts:?}");
    (verdicts.first().copied().or(core.owed(PEER)), out.news)
}

fn verdict(to: StoreId, message: &SupportMessage) -> SupportVerdict {
    assert_eq!(to, PEER);
    match message {
        SupportMessage::Answer(answer) => answer.verdict,
        other => panic!("unexpected {other:?}"),
    }
}

/// An answer of the peer in an incarnation, for the heartbeat `answered` of an epoch.
fn answer(life: u64, number: u64, answered: u64, verdict: SupportVerdict) -> SupportMessage {
    SupportMessage::Answer(SupportAnswer {
        asker: OWN_LIFE,
        number,
        answered,
        incarnation: Incarnation(life),
        sequence: answered,
        verdict,
    })
}

/// The heartbeats in an output.
fn heartbeats(out: &LivenessOutput) -> Vec<SupportHeartbeat> {
    let heartbeat = |(_, message): &(StoreId, SupportMessage)| match message {
        SupportMessage::Heartbeat(heartbeat) => Some(*heartbeat),
        _ => None,
    };
    out.sends.iter().filter_map(heartbeat).collect()
}

const SUPPORTED: SupportVerdict = SupportVerdict::Supported { duration_ms: 1000 };

fn epoch(incarnation: u64, number: u64) -> SupportEpoch {
    SupportEpoch { incarnation: Incarnation(incarnation), number }
}

fn given(incarnation: u64, number: u64) -> SupportNews {
    SupportNews::Given { peer: PEER, epoch: epoch(incarnation, number) }
}

fn withdrawn(incarnation: u64, number: u64) -> SupportNews {
    SupportNews::Withdrawn { peer: PEER, epoch: epoch(incarnation, number) }
}

/// How long a second of support is good for, in nanoseconds: both clocks may be off by one per cent.
const LEASE: u64 = 980_198_019;

fn held(life: u64, number: u64, sent_ms: u64) -> SupportNews {
    let support = Held::new(number, Incarnation(life), Time(at(sent_ms).0 + LEASE));
    SupportNews::Held { peer: PEER, support }
}

const LOST: SupportNews = SupportNews::Lost { peer: PEER };
