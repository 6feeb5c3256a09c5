//! The liveness core: the one state machine that owns all support that a store gives and asks for.
//!
//! Call order: [`Liveness::handle`] for every message that waits, each with a time that was read after the message had been
//! taken out of its queue (L3); then [`Liveness::tick`]. After each call, and before the next, hand out [`LivenessOutput::news`] in
//! order to every worker, then [`LivenessOutput::sends`]: so no confirmation leaves after its withdrawal was told. Call [`Liveness::tick`] again when [`Liveness::next_deadline`] comes.

use std::collections::BTreeMap;
use std::time::Duration;

use multiraft_raft::{Incarnation, StoreId, Time};
use multiraft_transport::{
    SupportAnswer, SupportHeartbeat, SupportMessage, SupportRound, SupportRoundAnswer, SupportVerdict,
};

use super::asker::Asker;
use super::sequences::Sequences;
use super::supporter::Supporter;
use super::{Held, LivenessOptions, SupportEpoch, SupportNews};

/// What a core is made with.
#[derive(Clone, Debug)]
pub struct LivenessConfig {
    /// This store.
    pub store: StoreId,
    /// Its incarnation, which is durable by now.
    pub incarnation: Incarnation,
    /// The settings. A duration as long as [`LivenessOptions::support_duration`] is durably noted as possibly promised (L10).
    pub options: LivenessOptions,
    /// The longest duration that earlier incarnations may have promised; zero for a new store.
    pub promised_before: Duration,
}

/// What a core wants done: the news first, then the messages, both in order.
#[derive(Debug, Default)]
pub struct LivenessOutput {
    /// To be told to every worker, in this order.
    pub news: Vec<SupportNews>,
    /// To be sent.
    pub sends: Vec<(StoreId, SupportMessage)>,
}

/// How often things happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LivenessCounters {
    /// Heartbeats made.
    pub heartbeats: u64,
    /// Heartbeats that were due, or would have left a little early, and were not made because the store did not get on with its work (L6).
    pub withheld: u64,
    /// Epochs of peers that this store withdrew.
    pub withdrawals: u64,
}

/// All support that a store gives and asks for.
#[derive(Debug)]
pub struct Liveness {
    config: LivenessConfig,
    peers: BTreeMap<StoreId, Pair>,
    /// The latest time seen. Invariant: never goes back.
    now: Time,
    /// Until when nobody may vote or campaign here (L10).
    quiet_until: Time,
    may_vote: bool,
    /// It has said farewell: it asks for nothing, and gives nothing new.
    has_stopped: bool,
    counters: LivenessCounters,
}

/// What there is between this store and one peer.
#[derive(Debug)]
struct Pair {
    asker: Asker,
    supporter: Supporter,
    sequences: Sequences,
    /// The newest incarnation of the peer that was heard, and its newest sequence. Invariant: never goes back.
    heard: (Incarnation, u64),
    next_heartbeat: Time,
    /// The answer to a heartbeat that renewed what is given, by its epoch, sequence and duration: it leaves with the next own
    /// heartbeat.
    owed: Option<(SupportEpoch, u64, SupportVerdict)>,
    /// Support is asked of it.
    is_asked: bool,
}

impl Liveness {
    /// A core that knows no peers, at its store's start.
    #[must_use]
    pub fn new(config: LivenessConfig, now: Time) -> Self {
        Self {
            quiet_until: now.plus(config.promised_before),
            config,
            peers: BTreeMap::new(),
            now,
            may_vote: false,
            has_stopped: false,
            counters: LivenessCounters::default(),
        }
    }

    /// Makes a peer known; the first heartbeat to it leaves with the next tick. Does nothing if it is known.
    pub fn add_peer(&mut self, now: Time, peer: StoreId) {
        let now = self.advance(now);
        if peer == self.config.store {
            return;
        }
        let pair = self.peers.entry(peer).or_insert_with(|| Pair {
            asker: Asker::new(),
            supporter: Supporter::default(),
            sequences: Sequences::default(),
            heard: (Incarnation::ZERO, 0),
            next_heartbeat: now,
            owed: None,
            is_asked: false,
        });
        if !std::mem::replace(&mut pair.is_asked, true) {
            pair.next_heartbeat = now;
        }
    }

    /// Asks a peer for nothing any more, and gives the present epoch up. What it was promised stands until it runs out (L8), and
    /// what was withdrawn is kept in mind: a peer that comes back goes on where it was.
    pub fn remove_peer(&mut self, now: Time, peer: StoreId, out: &mut LivenessOutput) {
        self.give_up(now, peer, out);
        if let Some(pair) = self.peers.get_mut(&peer) {
            pair.is_asked = false;
        }
    }

    /// Gives the present epoch towards a peer up (L1): the next heartbeat to it asks at the next one, which withdraws this one
    /// there, with all that was promised under it.
    pub fn give_up(&mut self, now: Time, peer: StoreId, out: &mut LivenessOutput) {
        self.advance(now);
        if let Some(pair) = self.peers.get_mut(&peer) {
            pair.asker.move_on(peer, &mut out.news);
        }
    }

    /// Takes a message of a peer. `now` must have been read after the message had been taken out of whatever queue it waited
    /// in. Messages of stores that are not known are dropped. An answer to a round is for the worker that began it, not for the
    /// core: see [`round_answered`].
    pub fn handle(&mut self, now: Time, from: StoreId, message: &SupportMessage, out: &mut LivenessOutput) {
        let now = self.advance(now);
        let before = out.news.len();
        match message {
            SupportMessage::Heartbeat(heartbeat) => self.handle_heartbeat(now, from, heartbeat, out),
            SupportMessage::Answer(answer) => self.handle_answer(now, from, answer, out),
            SupportMessage::Round(round) => self.handle_round(from, round, out),
            SupportMessage::RoundAnswer(_) => {}
        }
        self.count_withdrawals(&out.news[before..]);
    }

    fn handle_heartbeat(&mut self, now: Time, from: StoreId, heartbeat: &SupportHeartbeat, out: &mut LivenessOutput) {
        let SupportHeartbeat { incarnation, number, sequence, heard, .. } = *heartbeat;
        let Some(pair) = self.peers.get_mut(&from) else { return };
        if number == 0 || !pair.hear(from, incarnation, sequence, &mut out.news) {
            return;
        }
        let freshness = self.config.options.freshness();
        let own = self.config.incarnation;
        let is_fresh = heard.0 == own && pair.sequences.is_fresh(now, heard.1, freshness);
        let giving = (self.config.options.duration_ms(), !self.has_stopped);
        let epoch = SupportEpoch { incarnation, number };
        let may_wait = pair.supporter.given() == Some(epoch) && pair.is_asked && !self.has_stopped;
        let verdict = pair.supporter.handle(now, from, heartbeat, is_fresh, giving, &mut out.news);
        pair.owed = verdict.map(|verdict| (epoch, sequence, verdict));
        // In step with a peer both ends are awake at once, and what one says carries what it owes the other.
        if pair.next_heartbeat <= now.plus(self.config.options.early()) {
            pair.next_heartbeat = now;
        }
        // Only what changes nothing can wait.
        if !may_wait || !matches!(verdict, Some(SupportVerdict::Supported { .. })) {
            pair.answer(now, from, &self.config, &mut out.sends);
        }
    }

    fn handle_answer(&mut self, now: Time, from: StoreId, answer: &SupportAnswer, out: &mut LivenessOutput) {
        let Some(pair) = self.peers.get_mut(&from) else { return };
        let is_heard = pair.hear(from, answer.incarnation, answer.sequence, &mut out.news);
        if is_heard && pair.is_asked && !self.has_stopped {
            let own = self.config.incarnation;
            pair.asker.handle(now, from, own, &self.config.options, answer, &mut out.news);
        }
    }

    fn handle_round(&mut self, from: StoreId, round: &SupportRound, out: &mut LivenessOutput) {
        let Some(pair) = self.peers.get_mut(&from) else { return };
        if !pair.hear(from, round.incarnation, 0, &mut out.news) {
            return;
        }
        let given = pair.supporter.given().filter(|given| given.incarnation == round.incarnation);
        let answer = SupportRoundAnswer {
            asker: round.incarnation,
            round: round.round,
            incarnation: self.config.incarnation,
            number: given.map(|given| given.number),
        };
        out.sends.push((from, SupportMessage::RoundAnswer(answer)));
    }

    /// Does what time has made due: withdraws what has run out, lets go of what is not held any more, sends heartbeats. To be
    /// called when the messages that waited have been handled. `progress`: the store gets on with its work (L6); without that
    /// heartbeats that are due are not made, now or later.
    pub fn tick(&mut self, now: Time, progress: bool, out: &mut LivenessOutput) {
        let now = self.advance(now);
        let before = out.news.len();
        for (peer, pair) in &mut self.peers {
            pair.supporter.tick(now, *peer, &mut out.news);
            pair.asker.tick(now, *peer, &mut out.news);
        }
        self.count_withdrawals(&out.news[before..]);
        if !self.may_vote && (now > self.quiet_until || self.config.promised_before.is_zero()) {
            self.may_vote = true;
            out.news.push(SupportNews::MayVote);
        }
        if self.has_stopped {
            return;
        }
        if !self.peers.values().any(|pair| pair.is_asked && pair.next_heartbeat <= now) {
            return;
        }
        // One time to wake for all peers.
        let soon = now.plus(self.config.options.early());
        for (peer, pair) in self.peers.iter_mut().filter(|(_, pair)| pair.is_asked && pair.next_heartbeat <= soon) {
            // What is late is not made up for.
            pair.next_heartbeat = now.plus(self.config.options.heartbeat_interval);
            pair.answer(now, *peer, &self.config, &mut out.sends);
            if progress {
                self.counters.heartbeats += 1;
                let heartbeat = pair.heartbeat(now, &self.config, false);
                out.sends.push((*peer, SupportMessage::Heartbeat(heartbeat)));
            } else {
                self.counters.withheld += 1;
            }
        }
    }

    /// Gives up all that is held, and says so to every peer (L9): the store stops, and has handed its leaders over. From now on it
    /// asks for nothing and supports nothing new; what it supports it goes on supporting until that runs out.
    pub fn farewell(&mut self, now: Time, out: &mut LivenessOutput) {
        let now = self.advance(now);
        if std::mem::replace(&mut self.has_stopped, true) {
            return;
        }
        for (peer, pair) in self.peers.iter_mut().filter(|(_, pair)| pair.is_asked) {
            pair.asker.lose(*peer, &mut out.news);
            pair.answer(now, *peer, &self.config, &mut out.sends);
            let heartbeat = pair.heartbeat(now, &self.config, true);
            out.sends.push((*peer, SupportMessage::Heartbeat(heartbeat)));
        }
    }

    /// When [`Liveness::tick`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        let of_pair = |pair: &Pair| {
            let is_asked = pair.is_asked && !self.has_stopped;
            let heartbeat = if is_asked { pair.next_heartbeat } else { Time::NEVER };
            heartbeat.min(pair.supporter.deadline()).min(pair.asker.deadline())
        };
        let vote = if self.may_vote { Time::NEVER } else { Time(self.quiet_until.0.saturating_add(1)) };
        self.peers.values().map(of_pair).fold(vote, Time::min)
    }

    /// At which of its epochs this store supports a peer.
    #[must_use]
    pub fn given(&self, peer: StoreId) -> Option<SupportEpoch> {
        self.peers.get(&peer)?.supporter.given()
    }

    /// What this store holds of a peer.
    #[must_use]
    pub fn held(&self, peer: StoreId) -> Option<&Held> {
        self.peers.get(&peer)?.asker.held()
    }

    /// At which epoch this store asks a peer, by its number; `None`: it does not.
    #[must_use]
    pub fn asks_at(&self, peer: StoreId) -> Option<u64> {
        self.peers.get(&peer).filter(|pair| pair.is_asked).map(|pair| pair.asker.number())
    }

    /// The peers that are asked, ascending.
    pub fn peers(&self) -> impl Iterator<Item = StoreId> {
        self.peers.iter().filter(|(_, pair)| pair.is_asked).map(|(peer, _)| *peer)
    }

    /// Whether what earlier incarnations may have promised has run out (L10).
    #[must_use]
    pub fn may_vote(&self) -> bool {
        self.may_vote
    }

    /// How often things happened.
    #[must_use]
    pub fn counters(&self) -> LivenessCounters {
        self.counters
    }

    /// What a peer is about to be told with the next heartbeat.
    #[cfg(test)]
    pub(super) fn owed(&self, peer: StoreId) -> Option<SupportVerdict> {
        self.peers.get(&peer)?.owed.map(|(_, _, verdict)| verdict)
    }

    fn advance(&mut self, now: Time) -> Time {
        self.now = self.now.max(now);
        self.now
    }

    fn count_withdrawals(&mut self, news: &[SupportNews]) {
        let withdrawn = news.iter().filter(|news| matches!(news, SupportNews::Withdrawn { .. }));
        self.counters.withdrawals += withdrawn.count() as u64;
    }
}

impl Pair {
    /// Notes that an incarnation of the peer was heard, with a sequence (zero: none). Of another one than before, it ends the
    /// present epoch (L1). False: it is of an earlier life, and is to be dropped.
    fn hear(&mut self, peer: StoreId, incarnation: Incarnation, sequence: u64, news: &mut Vec<SupportNews>) -> bool {
        if incarnation == Incarnation::ZERO || incarnation < self.heard.0 {
            return false;
        }
        if incarnation > self.heard.0 {
            // Before the first word of the peer none of its incarnations can have supported anything: nothing was fresh.
            if self.heard.0 != Incarnation::ZERO {
                self.asker.move_on(peer, news);
            }
            self.heard = (incarnation, 0);
        }
        self.heard.1 = self.heard.1.max(sequence);
        true
    }

    /// Sends the answer that is owed, unless it would confirm what has been withdrawn by now (L7).
    fn answer(
        &mut self,
        now: Time,
        peer: StoreId,
        config: &LivenessConfig,
        sends: &mut Vec<(StoreId, SupportMessage)>,
    ) {
        let Some((epoch, answered, verdict)) = self.owed.take() else { return };
        if matches!(verdict, SupportVerdict::Supported { .. }) && self.supporter.given() != Some(epoch) {
            return;
        }
        let answer = SupportAnswer {
            asker: epoch.incarnation,
            number: epoch.number,
            answered,
            incarnation: config.incarnation,
            sequence: self.sequences.next(now, config.options.freshness()),
            verdict,
        };
        sends.push((peer, SupportMessage::Answer(answer)));
    }

    fn heartbeat(&mut self, now: Time, config: &LivenessConfig, farewell: bool) -> SupportHeartbeat {
        let options = &config.options;
        let sequence = self.sequences.next(now, options.freshness());
        self.asker.on_sending(now, sequence, options.support_duration);
        SupportHeartbeat {
            incarnation: config.incarnation,
            number: self.asker.number(),
            sequence,
            heard: self.heard,
            wish_ms: options.duration_ms(),
            farewell,
        }
    }
}

/// What the worker that began a round is told of its answer; `None` if the round was of an earlier life of this store.
#[must_use]
pub fn round_answered(own: Incarnation, from: StoreId, answer: &SupportRoundAnswer) -> Option<SupportNews> {
    let SupportRoundAnswer { asker, round, incarnation, number } = *answer;
    (asker == own).then_some(SupportNews::RoundAnswered { peer: from, round, by: incarnation, number })
}

/// Whether an answer confirms support at an epoch: what must never follow the epoch's withdrawal (L7).
#[must_use]
pub fn confirms(message: &SupportMessage) -> Option<SupportEpoch> {
    match *message {
        SupportMessage::Answer(SupportAnswer { asker, number, verdict: SupportVerdict::Supported { .. }, .. }) => {
            Some(SupportEpoch { incarnation: asker, number })
        }
        SupportMessage::RoundAnswer(SupportRoundAnswer { asker, number: Some(number), .. }) => {
            Some(SupportEpoch { incarnation: asker, number })
        }
        _ => None,
    }
}
