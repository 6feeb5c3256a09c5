//! A group of which nothing is under way, in as few bytes as hold it: what a store with a hundred thousand sleeping groups keeps
//! of each.
//!
//! Most of what such a group is follows from little: its log is durable and applied, its followers hold what it holds, and times
//! lie near each other. So numbers are written as differences to one that they are likely to equal, in the variable length of
//! seven bits a byte, and what is empty is not written at all. The form lives in memory only and has no versions.
//!
//! Packing forgets nothing that could matter, but entries in memory, which can be read back from the shared log, and which flush
//! came last, all being durable.

use std::sync::Arc;

use super::apply::Applying;
use super::core::{Core, Election, Following, RoleState};
use super::fortify::{Bond, Promise, Rest};
use super::leader::Leader;
use super::membership::Members;
use super::read::Reads;
use crate::durability::Durability;
use crate::log::GroupLog;
use crate::progress::Progress;
use crate::random::Random;
use crate::{HardState, LogIndex, LogSummary, Membership, Options, Priority, ReplicaId, Term, TermRun, Time};

const LEADS: u8 = 1;
const IS_BOUND: u8 = 2;
const IN_LINE: u8 = 4;
const MAY_REST: u8 = 8;
const ASKED_TO_CAMPAIGN: u8 = 16;
const MADE_WAY: u8 = 128;
/// The kind of [`Rest`], in two bits.
const REST_SHIFT: u8 = 5;

/// Writes numbers.
pub(crate) struct Packer<'a> {
    out: &'a mut Vec<u8>,
    /// The time written last: the next is likely to be near it.
    time: u64,
}

impl Packer<'_> {
    pub(crate) fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    pub(crate) fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push((value as u8 & 0x7f) | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    /// A number that is likely to lie near `base`, on either side.
    pub(crate) fn near(&mut self, base: u64, value: u64) {
        let difference = value.wrapping_sub(base).cast_signed();
        self.number(((difference << 1) ^ (difference >> 63)).cast_unsigned());
    }

    pub(crate) fn time(&mut self, time: Time) {
        self.near(self.time, time.0);
        // The end of time lies near nothing.
        if time != Time::NEVER {
            self.time = time.0;
        }
    }
}

/// Reads what a [`Packer`] wrote.
pub(crate) struct Unpacker<'a> {
    bytes: &'a [u8],
    time: u64,
}

impl Unpacker<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().expect("invariant: unpacked as it was packed");
        self.bytes = rest;
        *first
    }

    pub(crate) fn number(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return value;
            }
            shift += 7;
        }
    }

    pub(crate) fn near(&mut self, base: u64) -> u64 {
        let coded = self.number();
        base.wrapping_add((coded >> 1) ^ (coded & 1).wrapping_neg())
    }

    pub(crate) fn time(&mut self) -> Time {
        let time = self.near(self.time);
        if time != u64::MAX {
            self.time = time;
        }
        Time(time)
    }

    pub(crate) fn index(&mut self, base: LogIndex) -> LogIndex {
        LogIndex(self.near(base.0))
    }
}

impl Core {
    /// Appends the group to `out`, if nothing of it is under way and its membership is `known`; says whether it did.
    pub(crate) fn pack(&self, known: &Membership, out: &mut Vec<u8>) -> bool {
        // Taken apart, so that whoever adds something decides here what becomes of it.
        let Self { options: _, id, hard, log, durability, members, applying, election, role, bond, releases, effects } =
            self;
        let is_still = effects.is_empty()
            && releases.is_none()
            && log.is_still()
            && durability.is_still(hard)
            && applying.is_still()
            && members.is_still(applying.applied)
            && members.current == *known;
        if !is_still || !role.is_still(members, *id) {
            return false;
        }
        let Election { leader, heard_at, deadline, priority, random, refusals, stands_in_line, made_way } = election;
        let mut out = Packer { out, time: 0 };
        let mut flags = 0;
        let mut set = |flag: u8, is_set: bool| flags |= if is_set { flag } else { 0 };
        set(IS_BOUND, bond.is_some());
        set(IN_LINE, *stands_in_line);
        set(MADE_WAY, *made_way);
        if let RoleState::Leader(leader) = role {
            set(LEADS, true);
            set(MAY_REST, leader.may_rest);
            set(ASKED_TO_CAMPAIGN, leader.asked_to_campaign);
            set(leader.rest.code() << REST_SHIFT, true);
        }
        out.byte(flags);
        out.number(id.0);
        let summary = log.summary();
        let last = summary.last_index;
        out.number(hard.term.0);
        out.near(id.0, leader.0);
        out.near(leader.0, hard.vote.0);
        out.number(last.0);
        out.number(summary.truncated_index.0);
        out.number(summary.truncated_term.0);
        out.number(summary.runs.len() as u64);
        for TermRun { start, term } in &summary.runs {
            out.number(start.0 - summary.truncated_index.0);
            out.number(term.0);
        }
        out.near(last.0, hard.commit.0);
        out.near(hard.commit.0, durability.handed_commit().0);
        out.near(hard.commit.0, applying.applied.0);
        out.time(*heard_at);
        out.time(*deadline);
        out.byte(priority.0);
        out.number(u64::from(*refusals));
        random.state().to_le_bytes().into_iter().for_each(|byte| out.byte(byte));
        if let Some(Bond { promise: Promise { leader: promised, term, epoch }, ask_at }) = bond {
            out.near(leader.0, promised.0);
            out.near(hard.term.0, term.0);
            out.number(*epoch);
            out.time(*ask_at);
        }
        match role {
            RoleState::Leader(leader) => leader.pack(last, hard.commit, &mut out),
            RoleState::Follower(Following { verified, acknowledged, told, .. }) => {
                out.near(last.0, verified.0);
                out.near(last.0, acknowledged.0);
                out.near(last.0, told.0);
            }
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => unreachable!("invariant: refused above"),
        }
        true
    }

    /// The group that was packed.
    pub(crate) fn unpack(options: Arc<Options>, known: Membership, bytes: &[u8]) -> Self {
        let mut from = Unpacker { bytes, time: 0 };
        let flags = from.byte();
        let is = |flag: u8| flags & flag != 0;
        let id = ReplicaId(from.number());
        let term = Term(from.number());
        let leader = ReplicaId(from.near(id.0));
        let vote = ReplicaId(from.near(leader.0));
        let last = LogIndex(from.number());
        let (truncated_index, truncated_term) = (LogIndex(from.number()), Term(from.number()));
        let count = from.number();
        let runs = (0..count)
            .map(|_| TermRun { start: LogIndex(truncated_index.0 + from.number()), term: Term(from.number()) })
            .collect();
        let log = GroupLog::new(LogSummary { truncated_index, truncated_term, last_index: last, runs });
        let commit = from.index(last);
        let handed = from.index(commit);
        let applied = from.index(commit);
        let (heard_at, deadline) = (from.time(), from.time());
        let priority = Priority(from.byte());
        let refusals = u32::try_from(from.number()).expect("invariant: unpacked as it was packed");
        let random = Random::new(u64::from_le_bytes(std::array::from_fn(|_| from.byte())));
        let bond = is(IS_BOUND).then(|| {
            let promised = ReplicaId(from.near(leader.0));
            let promise = Promise { leader: promised, term: Term(from.near(term.0)), epoch: from.number() };
            Bond { promise, ask_at: from.time() }
        });
        let role = if is(LEADS) {
            let others = known.members().iter().map(|(other, _)| *other).filter(|other| *other != id);
            let mut leader = Leader::unpack(others, last, commit, flags >> REST_SHIFT & 3, &mut from);
            (leader.may_rest, leader.asked_to_campaign) = (is(MAY_REST), is(ASKED_TO_CAMPAIGN));
            RoleState::Leader(Box::new(leader))
        } else {
            let (verified, acknowledged, told) = (from.index(last), from.index(last), from.index(last));
            RoleState::Follower(Following { acknowledged, told, ..Following::new(verified) })
        };
        debug_assert!(from.bytes.is_empty(), "unpacked as it was packed");
        Self {
            options,
            id,
            hard: HardState { term, vote, commit },
            durability: Durability::new(HardState { term, vote, commit: handed }),
            members: Members::new(known, LogIndex::ZERO),
            applying: Applying::new(applied),
            log,
            election: Election {
                leader,
                heard_at,
                deadline,
                priority,
                random,
                refusals,
                stands_in_line: is(IN_LINE),
                made_way: is(MADE_WAY),
            },
            role,
            bond,
            releases: None,
            effects: Vec::new(),
        }
    }
}

impl RoleState {
    fn is_still(&self, members: &Members, own: ReplicaId) -> bool {
        match self {
            Self::Follower(following) => {
                let Following { verified: _, acknowledged: _, answer_due, refused, beat_due, told: _ } = following;
                !answer_due && refused.is_none() && beat_due.is_none()
            }
            Self::PreCandidate(_) | Self::Candidate(_) => false,
            Self::Leader(leader) => {
                let others = members.current.members().iter().map(|(id, _)| *id).filter(|id| *id != own);
                leader.reads.is_still()
                    && leader.transfer.is_none()
                    && leader.followers.iter().map(|progress| progress.id).eq(others)
                    && leader.followers.iter().all(Progress::is_still)
            }
        }
    }
}

impl Leader {
    fn pack(&self, last: LogIndex, commit: LogIndex, out: &mut Packer<'_>) {
        let Self {
            followers,
            term_start,
            pending_change,
            tell_upto,
            uncommitted_bytes,
            beat_at,
            briefed_at,
            reads,
            transfer: _,
            asked_to_campaign: _,
            may_rest: _,
            rest,
        } = self;
        out.near(last.0, term_start.0);
        out.near(term_start.0, pending_change.0);
        out.number(tell_upto.0);
        out.number(*uncommitted_bytes as u64);
        out.time(*beat_at);
        out.time(*briefed_at);
        out.number(reads.newest_round());
        if let Rest::Asked { index, round } = rest {
            out.number(index.0);
            out.number(*round);
        }
        followers.iter().for_each(|progress| progress.pack(last, commit, out));
    }

    fn unpack(
        others: impl Iterator<Item = ReplicaId>,
        last: LogIndex,
        commit: LogIndex,
        rest: u8,
        from: &mut Unpacker<'_>,
    ) -> Self {
        let term_start = from.index(last);
        let pending_change = from.index(term_start);
        let (tell_upto, uncommitted) = (LogIndex(from.number()), from.number());
        let (beat_at, briefed_at) = (from.time(), from.time());
        let reads = Reads::after_round(from.number());
        let rest = match rest {
            1 => Rest::Asked { index: LogIndex(from.number()), round: from.number() },
            2 => Rest::Resting,
            _ => Rest::Awake,
        };
        Self {
            followers: others.map(|id| Progress::unpack(id, last, commit, from)).collect(),
            term_start,
            pending_change,
            tell_upto,
            uncommitted_bytes: uncommitted as usize,
            beat_at,
            briefed_at,
            reads,
            transfer: None,
            asked_to_campaign: false,
            may_rest: false,
            rest,
        }
    }
}

impl Rest {
    fn code(self) -> u8 {
        match self {
            Self::Awake => 0,
            Self::Asked { .. } => 1,
            Self::Resting => 2,
        }
    }
}
