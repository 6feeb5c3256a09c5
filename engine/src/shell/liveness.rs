//! The liveness thread: the store's support, given and held, on the store's clock and links (`docs/liveness.md`, L).
//!
//! ```text
//!  link thread --messages of support--> inbox --> Liveness --news--> every worker's mailbox
//!                                          ^          |
//!  workers, appliers, the log: progress ---+          +--messages--> lanes
//! ```
//!
//! One turn: take what waits, read the clock, handle it, do what is due. After each step the workers are told of what it changed,
//! then what it says is sent: no confirmation leaves after they have heard of the withdrawal.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use multiraft_raft::{StoreId, Time};
use multiraft_router::{Clock, Mailbox};
use multiraft_transport::{PeerMessage, SupportAnswer, SupportMessage, SupportVerdict, Transport};

use crate::liveness::{
    Health, Liveness, LivenessConfig, LivenessCounters, LivenessOptions, LivenessOutput, Scores, Standstills,
    SupportNews,
};
use crate::logic::Input;
use crate::shell::fault::{Fault, PanicGuard};
use crate::shell::progress::Watch;
use crate::shell::worker::Work;
use crate::shell::{SharedStoreFile, StoreFile};

/// How many messages of one peer may wait; of more the last are dropped, as a network may.
const WAITING_MAX: usize = 1024;
/// How long a store that stops waits for its peers to confirm that they have heard of it.
const FAREWELL_WAIT: Duration = Duration::from_millis(100);

/// What other threads have for the liveness thread, and what it tells them.
#[derive(Clone, Default)]
pub(crate) struct SupportDesk {
    inner: Arc<Desk>,
}

#[derive(Default)]
struct Desk {
    inbox: Mutex<SupportInbox>,
    wake: Condvar,
    standing: Mutex<BTreeMap<StoreId, SupportStanding>>,
}

/// What waits for the liveness thread. Bounded: a few messages for each peer there is.
#[derive(Default)]
struct SupportInbox {
    messages: BTreeMap<StoreId, VecDeque<SupportMessage>>,
    /// Peers that have a link now, or are to be forgotten, in this order.
    changes: Vec<PeerChange>,
    is_stopping: bool,
}

enum PeerChange {
    Known(StoreId),
    Removed(StoreId),
}

/// How support between this store and a peer stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SupportStanding {
    /// This store holds the peer's.
    pub(crate) held: bool,
    /// This store gives it its own.
    pub(crate) given: bool,
}

impl SupportDesk {
    /// Takes messages of a peer. Never blocks.
    pub(super) fn push(&self, from: StoreId, messages: impl IntoIterator<Item = SupportMessage>) {
        let mut inbox = self.inbox();
        let waiting = inbox.messages.entry(from).or_default();
        let room = WAITING_MAX.saturating_sub(waiting.len());
        waiting.extend(messages.into_iter().take(room));
        drop(inbox);
        self.inner.wake.notify_one();
    }

    /// There is a link to a peer.
    pub(super) fn add_peer(&self, peer: StoreId) {
        self.inbox().changes.push(PeerChange::Known(peer));
        self.inner.wake.notify_one();
    }

    /// A peer has left the cluster: nothing is asked of it any more.
    pub(crate) fn remove_peer(&self, peer: StoreId) {
        self.inbox().changes.push(PeerChange::Removed(peer));
        self.inner.wake.notify_one();
    }

    /// The store stops: says farewell and ends the thread.
    pub(super) fn stop(&self) {
        self.inbox().is_stopping = true;
        self.inner.wake.notify_one();
    }

    /// How support with a peer stands, as the workers were last told.
    pub(crate) fn standing(&self, peer: StoreId) -> SupportStanding {
        self.standings().get(&peer).copied().unwrap_or_default()
    }

    /// Waits until something is there or `until` has come; takes it.
    fn take(&self, until: Option<Instant>) -> SupportInbox {
        let mut inbox = self.inbox();
        while inbox.messages.is_empty() && inbox.changes.is_empty() && !inbox.is_stopping {
            let Some(until) = until else {
                inbox = self.inner.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inbox = self.inner.wake.wait_timeout(inbox, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        std::mem::take(&mut *inbox)
    }

    fn inbox(&self) -> MutexGuard<'_, SupportInbox> {
        self.inner.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn standings(&self) -> MutexGuard<'_, BTreeMap<StoreId, SupportStanding>> {
        self.inner.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that owns the liveness core.
pub(super) struct LivenessThread {
    pub(super) core: Liveness,
    pub(super) desk: SupportDesk,
    pub(super) clock: Clock,
    pub(super) transport: Arc<Transport>,
    pub(super) mailboxes: Vec<Mailbox<Work>>,
    /// Whether the rest of the store gets on with its work.
    pub(super) watch: Watch,
    pub(super) health: Health,
    pub(super) fault: Fault,
    /// What may have been promised, durably.
    pub(super) promised: SharedStoreFile,
    pub(super) options: LivenessOptions,
    pub(super) meters: LivenessMeters,
    pub(super) out: LivenessOutput,
}

impl LivenessThread {
    /// A core for this life of the store, which knows these peers.
    pub(super) fn core(
        file: &StoreFile,
        promised_before: Duration,
        options: LivenessOptions,
        peers: impl IntoIterator<Item = StoreId>,
        now: Time,
    ) -> Liveness {
        let config = LivenessConfig { store: file.store, incarnation: file.incarnation, options, promised_before };
        let mut core = Liveness::new(config, now);
        peers.into_iter().for_each(|peer| core.add_peer(now, peer));
        core
    }

    /// Starts it. It ends when the desk is told to stop.
    pub(super) fn start(self) -> std::io::Result<JoinHandle<()>> {
        std::thread::Builder::new().name("multiraft-liveness".to_owned()).spawn(move || self.run())
    }

    fn run(mut self) {
        let _guard = PanicGuard { fault: self.fault.clone(), thread: "liveness" };
        loop {
            let until = self.clock.instant(self.core.next_deadline());
            let inbox = self.desk.take(until);
            let is_stopping = inbox.is_stopping;
            self.turn(inbox);
            if is_stopping {
                return self.say_farewell();
            }
        }
    }

    fn turn(&mut self, inbox: SupportInbox) -> BTreeSet<StoreId> {
        // After what is handled was taken: a reading from before it was sent would end the support before the asker's lease.
        let now = self.clock.now();
        for change in inbox.changes {
            match change {
                PeerChange::Known(peer) => self.core.add_peer(now, peer),
                PeerChange::Removed(peer) => self.core.remove_peer(now, peer, &mut self.out),
            }
            self.carry_out();
        }
        let mut took_leave = BTreeSet::new();
        for (from, messages) in inbox.messages {
            for message in messages {
                self.core.handle(now, from, &message, &mut self.out);
                self.carry_out();
                if let SupportMessage::Answer(SupportAnswer { verdict: SupportVerdict::Withdrawn, .. }) = message {
                    took_leave.insert(from);
                }
            }
        }
        let standstills = self.watch.look(now);
        let progress = standstills.worst() <= self.options.progress_bound() && !self.fault.is_set();
        self.core.tick(now, progress, &mut self.out);
        self.carry_out();
        self.meters.record(self.core.counters());
        self.judge_health(now, standstills);
        took_leave
    }

    /// Tells the workers when this store has become slow, or well again.
    fn judge_health(&mut self, now: Time, standstills: Standstills) {
        let changed = self.health.observe(now, standstills);
        self.meters.record_scores(self.health.scores());
        let Some(is_slow) = changed else { return };
        let Scores { workers, appliers, log } = self.health.scores();
        if is_slow {
            tracing::warn!(workers, appliers, log, "this store is slow (scores of 100): it hands its leaders over");
        } else {
            tracing::info!("this store is not slow any more, and may lead again");
        }
        for mailbox in &self.mailboxes {
            let _ = mailbox.send_reserved(Work::Input(Input::Slow { is_slow }));
        }
    }

    /// The news first, to every worker, in order; then the messages.
    fn carry_out(&mut self) {
        for news in self.out.news.drain(..) {
            self.meters.note(&self.desk, &news);
            for mailbox in &self.mailboxes {
                // Closed: the worker has stopped, and promises nothing any more.
                let _ = mailbox.send_reserved(Work::Input(Input::Support(news.clone())));
            }
            if news == SupportNews::MayVote {
                lower_promise(&self.promised, self.options);
            }
        }
        let sends = std::mem::take(&mut self.out.sends);
        // An answer and the heartbeat after it share a frame.
        for part in sends.chunk_by(|(a, first), (b, second)| a == b && first.lane() == second.lane()) {
            let (to, lane) = (part[0].0, part[0].1.lane());
            let mut messages: Vec<_> = part.iter().map(|(_, message)| PeerMessage::Support(*message)).collect();
            // What does not get through is followed by the next, or asked for again.
            let _ = self.transport.hand_over(to, lane, &mut messages);
        }
    }

    /// Tells the peers that this store stops, and waits a little until those that can be reached have heard it.
    fn say_farewell(mut self) {
        self.core.farewell(self.clock.now(), &mut self.out);
        self.carry_out();
        let peers = self.transport.status();
        let mut left: BTreeSet<StoreId> =
            peers.into_iter().filter(|peer| peer.link.is_some()).map(|peer| peer.store).collect();
        let end = Instant::now() + FAREWELL_WAIT;
        while !left.is_empty() && Instant::now() < end && !self.fault.is_set() {
            let inbox = self.desk.take(Some(end));
            let heard = self.turn(inbox);
            left.retain(|peer| !heard.contains(peer));
        }
    }
}

/// What earlier lives may have promised has run out: from now on only this one's promises count.
fn lower_promise(file: &SharedStoreFile, options: LivenessOptions) {
    let most = u64::from(options.duration_ms());
    let lowered = file.amend(|file| file.longest_support_ms = file.longest_support_ms.min(most));
    if let Err(error) = lowered {
        tracing::warn!(%error, "the next start waits for support that nobody was promised: harmless");
    }
}

/// What the thread tells the metrics.
pub(super) struct LivenessMeters {
    withdrawals: metrics::Counter,
    withheld: metrics::Counter,
    /// Of the workers, the appliers, the log; as last told.
    scores: [(metrics::Gauge, u32); 3],
    before: LivenessCounters,
    is_withholding: bool,
}

impl LivenessMeters {
    pub(super) fn new() -> Self {
        Self {
            withdrawals: metrics::counter!("liveness_withdrawals_total"),
            withheld: metrics::counter!("liveness_heartbeats_withheld_total"),
            scores: ["workers", "appliers", "log"].map(|part| (metrics::gauge!("store_slow_score", "part" => part), 0)),
            before: LivenessCounters::default(),
            is_withholding: false,
        }
    }

    fn record(&mut self, now: LivenessCounters) {
        let before = std::mem::replace(&mut self.before, now);
        self.withdrawals.increment(now.withdrawals - before.withdrawals);
        self.withheld.increment(now.withheld - before.withheld);
        if now.withheld > before.withheld && !std::mem::replace(&mut self.is_withholding, true) {
            tracing::warn!("this store does not get on with its work: it asks for no support until it does");
        }
        if now.heartbeats > before.heartbeats && std::mem::take(&mut self.is_withholding) {
            tracing::info!("this store gets on with its work again, and asks for support");
        }
    }

    fn record_scores(&mut self, scores: Scores) {
        for ((gauge, told), score) in self.scores.iter_mut().zip([scores.workers, scores.appliers, scores.log]) {
            if std::mem::replace(told, score) != score {
                gauge.set(f64::from(score));
            }
        }
    }

    fn note(&self, desk: &SupportDesk, news: &SupportNews) {
        let (peer, held, given) = match news {
            SupportNews::Given { peer, .. } => (*peer, None, Some(true)),
            SupportNews::Withdrawn { peer, epoch } => {
                tracing::info!(%peer, number = epoch.number, "support withdrawn");
                (*peer, None, Some(false))
            }
            SupportNews::Held { peer, .. } => (*peer, Some(true), None),
            SupportNews::Lost { peer } => (*peer, Some(false), None),
            SupportNews::MayVote | SupportNews::RoundAnswered { .. } => return,
        };
        let mut standings = desk.standings();
        let standing = standings.entry(peer).or_default();
        standing.given = given.unwrap_or(standing.given);
        standing.held = held.unwrap_or(standing.held);
        if let Some(held) = held {
            let gauge = metrics::gauge!("liveness_support_held", "peer" => peer.get().to_string());
            gauge.set(f64::from(u8::from(held)));
        }
    }
}
