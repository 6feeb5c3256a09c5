//! One Raft group, as its driver sees it: the public face of the core, and the contract with whoever drives it. It decides
//! nothing itself; each operation lives in a file of its own beside this one.

mod ahead;
mod apply;
mod core;
mod election;
mod error;
mod follower;
mod fortify;
mod leader;
mod membership;
mod packed;
mod poll;
mod propose;
mod quiet;
mod read;
mod send;
mod snapshot;
mod status;
mod step;
mod transfer;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::ahead::Distance;
use self::core::Core;
pub use self::error::{ProposeError, ReadRefused, TransferRefused};
pub use self::fortify::Promise;
pub(crate) use self::packed::{Packer, Unpacker};
pub use self::snapshot::SnapshotOutcome;
pub use self::status::{PeerStatus, Status};
use crate::output::{Fetch, FetchPurpose};
use crate::{
    Entry, FlushProof, LogIndex, LogTicket, Membership, MembershipChange, Message, Options, Output, Priority, Proposal,
    ReplicaId, Restored, Term, Time,
};

/// The consensus state of one group at one replica.
///
/// # The contract
///
/// A group does nothing by itself. Its driver calls, in any order and as often as it likes within a turn:
///
/// - `handle_*` with what came from outside: messages, and the passing of its [`next_deadline`](Group::next_deadline);
/// - `propose*`, `read_index`, `transfer_leader`, `campaign` with what its users want;
/// - `on_*` with what became of earlier outputs: flushed, applied, fetched, snapshot sent.
///
/// These change state and queue effects. At the end of the turn the driver calls [`poll_output`](Group::poll_output) once,
/// for every group that it has touched, and carries the [`Output`] out:
///
/// 1. `log`, then `hard_state`, go to the shared log under the turn's ticket, as one atomic record. Also when there is
///    nothing else in the turn: what follows may wait for it.
/// 2. `messages` leave at once; `gated` ones when a proof covers their ticket.
/// 3. `committed` entries are applied in order; then [`on_applied`](Group::on_applied). A membership entry is first reported
///    by [`on_membership_applied`](Group::on_membership_applied), or by
///    [`on_membership_noop`](Group::on_membership_noop) if it had no effect.
/// 4. When a flush of the group's lane completes: [`on_flushed`](Group::on_flushed), and another turn for the group if that
///    says so.
///
/// Time is a reading of one monotonic clock per turn and never runs backwards. Messages that wait come before
/// `handle_deadline`, so that a pause of the process is not taken for the silence of others. A group's tickets come from one
/// lane at a time; a group that changes its lane does so while nothing of it is on its way to the disk. What a completion
/// refers to (group, slot, generation) is the driver's to check; what it says about terms and indexes is checked here.
///
/// # Safety and what it rests on
///
/// Plain Raft: terms, votes and entries are durable before anything that asserts them leaves. Clocks influence only when
/// elections happen. See `docs/raft-rules.md` for each rule and the test that holds it.
pub struct Group<P> {
    core: Core,
    proof: PhantomData<fn(&P)>,
}

impl<P: FlushProof> Group<P> {
    /// A replica as it was found on disk, as a follower. `seed` must differ between replicas, or they draw the same
    /// election timeouts.
    ///
    /// # Panics
    /// If [`Restored::validate`] refuses `restored`; check what comes from disk with it first.
    #[must_use]
    pub fn new(options: Arc<Options>, id: ReplicaId, restored: Restored, seed: u64, now: Time) -> Self {
        Self { core: Core::new(options, id, restored, seed, now), proof: PhantomData }
    }

    /// Takes a message from another replica of the group. What makes no sense is dropped.
    pub fn handle_message(&mut self, now: Time, message: Message) {
        self.core.handle_message(now, message);
    }

    /// Takes a heartbeat if it changes nothing but the time: of the known leader, of this term, without news of a commit.
    /// Says whether it did: then the answer is a [`HeartbeatReply`](crate::Body::HeartbeatReply) of this term with the
    /// heartbeat's round, it may leave at once, and there is nothing to poll. Else hand the message in the ordinary way.
    #[must_use]
    pub fn absorb_heartbeat(&mut self, now: Time, from: ReplicaId, term: Term, commit: LogIndex) -> bool {
        self.core.absorb_heartbeat(now, from, term, commit)
    }

    /// Takes the answer to a heartbeat if it changes nothing but the time: of a follower that is owed nothing now. Says whether it did: then there is nothing to poll. Else hand the message in the ordinary way.
    #[must_use]
    pub fn absorb_heartbeat_reply(&mut self, now: Time, from: ReplicaId, term: Term, round: u64) -> bool {
        self.core.absorb_heartbeat_reply(now, from, term, round)
    }

    /// Takes a follower's answer to an append of this term if it completes no quorum and frees nothing that waits to be sent:
    /// as a rule that of the slower follower. Says whether it did: then there is nothing to poll. Else hand the message in
    /// the ordinary way.
    #[must_use]
    pub fn absorb_accepted(&mut self, now: Time, from: ReplicaId, term: Term, match_index: LogIndex) -> bool {
        self.core.absorb_accepted(now, from, term, match_index)
    }

    /// Does what has become due. To be called when [`next_deadline`](Self::next_deadline) has passed; earlier calls do
    /// nothing.
    pub fn handle_deadline(&mut self, now: Time) {
        self.core.handle_deadline(now);
    }

    /// When [`handle_deadline`](Self::handle_deadline) is to be called next; [`Time::NEVER`] if the group waits for nothing.
    /// Any other call may move it.
    #[must_use]
    pub fn next_deadline(&self) -> Time {
        self.core.next_deadline()
    }

    /// Takes all `proposals` into the log, in order and in the current term, or none. Gives the first one's index.
    ///
    /// # Errors
    /// If they cannot be taken now; `proposals` is unchanged.
    pub fn propose(&mut self, now: Time, proposals: &mut Vec<Proposal>) -> Result<LogIndex, ProposeError> {
        self.core.rouse(now);
        self.core.propose(proposals)
    }

    /// Lets a leader's next heartbeats wait for `intervals` more of [`Options::heartbeat_interval`], counted from those that would
    /// be due next now, unless some follower has need of them: one that has not promised under the support that is held
    /// ([`set_support`](Self::set_support)), or is behind, or owes an answer for too long. For drivers of groups that are written to so often
    /// that appends tell the followers what heartbeats would. Followers learn that the newest entries are committed, and what was
    /// lost on the way is sent again, that much later at worst. They are not put off for ever: after twice that wait they are due. Keep it within
    /// [`Options::election_timeout_min`]: it is with the heartbeats that a leader looks whether it still has a quorum.
    pub fn put_off_beats(&mut self, now: Time, intervals: u32) {
        self.core.put_off_beats(now, intervals);
    }

    /// Has followers told at once when the entry at `index` is committed, whatever
    /// [`Options::eager_commit`] says: for an entry that somebody waits to see applied everywhere. Forgotten when leadership
    /// changes. Membership changes need no asking.
    pub fn hurry_commit(&mut self, index: LogIndex) {
        self.core.hurry_commit(index);
    }

    /// Takes a membership change into the log; `context` is kept behind it in the entry. It has effect when it is applied.
    ///
    /// # Errors
    /// If it cannot be taken now, or does not fit the membership.
    pub fn propose_membership(
        &mut self,
        now: Time,
        change: &MembershipChange,
        context: Bytes,
    ) -> Result<LogIndex, ProposeError> {
        self.core.rouse(now);
        self.core.propose_membership(change, context)
    }

    /// Asks for the index that a linearizable read must wait for. Answered once with this `context`, in
    /// [`Output::reads`] or [`Output::reads_failed`]; a read asked before the leader has committed an entry of its own
    /// waits for that.
    ///
    /// # Errors
    /// If this replica does not lead or too many reads wait; then there is no answer.
    pub fn read_index(&mut self, now: Time, context: u64) -> Result<(), ReadRefused> {
        self.core.rouse(now);
        self.core.read_index(context)
    }

    /// Whether this leader is handing its place over.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.core.is_transferring()
    }

    /// Hands leadership to another voter: stops taking proposals, brings it up to date, has it campaign. Given up after an
    /// election timeout.
    ///
    /// # Errors
    /// If this replica does not lead, or the target cannot.
    pub fn transfer_leader(&mut self, now: Time, to: ReplicaId) -> Result<(), TransferRefused> {
        self.core.rouse(now);
        self.core.transfer_leader(now, to)
    }

    /// The replica that leadership was to go to says that it takes none. Gives that transfer up at once, and says whether there
    /// was one.
    pub fn on_transfer_refused(&mut self, by: ReplicaId) -> bool {
        self.core.on_transfer_refused(by)
    }

    /// Whether this replica asks for pre-votes, and nobody has said that a promise keeps it from granting them.
    #[must_use]
    pub fn awaits_pre_votes(&self) -> bool {
        self.core.awaits_pre_votes()
    }

    /// Whether [`handle_deadline`](Self::handle_deadline) would have this replica campaign now. A driver with many groups may put
    /// that off.
    #[must_use]
    pub fn wants_to_campaign(&self, now: Time) -> bool {
        self.core.wants_to_campaign(now)
    }

    /// Campaigns at once, if this replica may; with a pre-vote first, if that is configured.
    pub fn campaign(&mut self, now: Time) {
        self.core.campaign(now, false);
    }

    /// Sets how early this replica campaigns.
    pub fn set_priority(&mut self, now: Time, priority: Priority) {
        if self.core.election.priority != priority {
            self.core.election.priority = priority;
            self.core.rearm(now);
        }
    }

    /// Learns that everything is durable that `proof` covers. Says whether that leaves anything to poll; if not, the turn may
    /// do without this group (what is gated is the driver's to release).
    pub fn on_flushed(&mut self, now: Time, proof: &P) -> bool {
        self.core.on_flushed(now, proof)
    }

    /// Learns beside the leader's messages, for instance with the answer to a read, that `index` was committed when somebody
    /// led `term`. This replica commits as much of it as its log is known to share with the leader of the current term.
    pub fn learn_commit(&mut self, term: Term, index: LogIndex) {
        self.core.learn_commit(term, index);
    }

    /// Learns that every entry up to `applied` has been applied.
    ///
    /// # Panics
    /// If they were never handed out: then state and log contradict each other.
    pub fn on_applied(&mut self, _now: Time, applied: LogIndex) {
        self.core.on_applied(applied);
    }

    /// Learns that the entry at `index`, which was handed out, cannot be applied and never will: only a snapshot that stands for
    /// it, or for a later one, brings this replica further, and [`would_install`](Self::would_install) says so.
    pub fn on_stalled(&mut self, index: LogIndex) {
        self.core.on_stalled(index);
    }

    /// Learns that the membership entry at `index` has been applied, and what it made of the membership. Comes before
    /// [`on_applied`](Self::on_applied) for that index.
    pub fn on_membership_applied(&mut self, now: Time, index: LogIndex, membership: Membership) {
        self.core.on_membership_applied(now, index, membership);
    }

    /// Learns that the membership entry at `index` was refused when it was to be applied, and had no effect.
    pub fn on_membership_noop(&mut self, index: LogIndex) {
        self.core.on_membership_noop(index);
    }

    /// Takes entries that were asked for by `fetch`.
    pub fn on_fetched(&mut self, now: Time, fetch: Fetch, entries: Vec<Entry>) {
        match fetch.purpose {
            FetchPurpose::Send(to) => self.core.on_fetched_to_send(now, to, entries),
            FetchPurpose::Apply => self.core.on_fetched_to_apply(now, entries),
        }
    }

    /// Learns that entries could not be read. They are asked for again, about a heartbeat interval later.
    pub fn fetch_failed(&mut self, now: Time, fetch: Fetch) {
        match fetch.purpose {
            FetchPurpose::Send(to) => self.core.on_fetch_to_send_failed(to),
            FetchPurpose::Apply => self.core.on_fetch_to_apply_failed(now),
        }
    }

    /// Learns what became of the snapshot for a follower that [`Output::snapshots`] asked for.
    pub fn on_snapshot_sent(&mut self, now: Time, to: ReplicaId, outcome: SnapshotOutcome) {
        self.core.on_snapshot_sent(now, to, outcome);
    }

    /// Learns that a snapshot that stands for `index` has been installed: state and membership are durable. Resets the log,
    /// unless it has that entry. Gives `false`, and changes nothing, if this replica has committed as much by itself (and can
    /// apply it) or leads.
    pub fn restore(&mut self, now: Time, index: LogIndex, term: Term, membership: Membership) -> bool {
        self.core.restore(now, index, term, membership)
    }

    /// Whether this follower has heard of its leader within the last election timeout. A learner knows a leader until it hears
    /// of another one, however long that one has been silent.
    ///
    /// Who has promised the leader of its own term to keep quiet hears it for as long as that stands.
    #[must_use]
    pub fn hears_leader(&self, now: Time) -> bool {
        self.core.hears_leader(now) || self.core.keeps_quiet()
    }

    /// Takes over what an earlier replica of the region had promised on this store: a promise is the store's, and outlives the
    /// replica (F4).
    pub fn restore_promise(&mut self, now: Time, promise: Promise) {
        self.core.restore_promise(now, promise);
    }

    /// Somebody who knows says that the entry at `index` of `term` is committed. Takes it at its word if the log holds that very
    /// entry, and returns whether that was news. Of use where a membership change left nobody behind who may lead by what
    /// he has applied, and whoever had applied the change is gone with it.
    pub fn learn_committed(&mut self, index: LogIndex, term: Term) -> bool {
        self.core.learn_committed(index, term)
    }

    /// Whether a snapshot that stands for `index` would be of use here now. To be asked before anything of the state is
    /// replaced.
    #[must_use]
    pub fn would_install(&self, index: LogIndex, term: Term) -> bool {
        self.core.would_install(index, term)
    }

    /// Notes that the leader is alive although it sends neither appends nor heartbeats (a snapshot arrives).
    pub fn note_leader_alive(&mut self, now: Time) {
        self.core.note_leader_alive(now);
    }

    /// Forgets entries up to `upto`, or up to what is applied and durable in the log if that is less. The caller sees to it
    /// that their effect is durable in the state.
    pub fn compact(&mut self, upto: LogIndex) {
        self.core.compact(upto);
    }

    /// Sends no more appends to a follower, until it is resumed. Votes and heartbeats go on. Forgotten when leadership
    /// changes.
    pub fn pause_peer(&mut self, peer: ReplicaId) {
        self.core.set_paused(peer, true);
    }

    /// Ends [`pause_peer`](Self::pause_peer).
    pub fn resume_peer(&mut self, peer: ReplicaId) {
        self.core.set_paused(peer, false);
    }

    /// Learns that the link to a peer was lost, and with it perhaps what was on its way. Appends go on when the peer answers
    /// a heartbeat.
    pub fn on_peer_unreachable(&mut self, now: Time, peer: ReplicaId) {
        self.core.on_peer_unreachable(now, peer);
    }

    /// Hands out no committed entries until it is called again with `false`: for a caller whose queue is full. Entries that
    /// are held back leave memory as the cache fills, and are fetched from the log later.
    pub fn hold_delivery(&mut self, hold: bool) {
        self.core.hold_delivery(hold);
    }

    /// Whether committed entries are ready that have not been handed out.
    #[must_use]
    pub fn has_undelivered(&self) -> bool {
        self.core.has_undelivered()
    }

    /// Starts to wait for deadlines anew, as if the leader had just been heard. For a group whose deadlines were not
    /// served for a while on purpose.
    pub fn wake(&mut self, now: Time) {
        self.core.wake(now);
    }

    /// Gives back the memory that is only useful while the group is busy. Entries that are durable and handed out leave
    /// memory, too.
    pub fn release_memory(&mut self) {
        self.core.release_memory();
    }

    /// Appends the group to `out` in a form that only [`unpack`](Self::unpack) reads, in some 60 to 100 bytes, if nothing of it is under
    /// way: all it has is durable, everything handed out is applied, nobody waits for an answer, and its membership is `known`. Says
    /// whether it did. A form for memory, not for the disk: another build may read another group from it.
    #[must_use]
    pub fn pack(&self, known: &Membership, out: &mut Vec<u8>) -> bool {
        self.core.pack(known, out)
    }

    /// The group that was packed, as it was, but for entries in memory: those are read back when somebody needs them.
    ///
    /// # Panics
    /// If `packed` is not what [`pack`](Self::pack) has written, with this membership.
    #[must_use]
    pub fn unpack(options: Arc<Options>, known: Membership, packed: &[u8]) -> Self {
        Self { core: Core::unpack(options, known, packed), proof: PhantomData }
    }

    /// What this replica has promised to a leader (`docs/liveness.md`, F2). It votes for no other and does not campaign until
    /// [`on_support_withdrawn`](Self::on_support_withdrawn), the leader, or a leader of a later term ends that.
    ///
    /// A driver hands [`Body::Fortify`](crate::Body::Fortify) to the group only if its store supports the leader's in the
    /// period that the message names, and remembers the promise by that store.
    #[must_use]
    pub fn promise(&self) -> Option<Promise> {
        self.core.bond.map(|bond| bond.promise)
    }

    /// Learns that its store has withdrawn the support under which [`promise`](Self::promise) stands. Campaigns after `wait`,
    /// unless a leader is heard first.
    pub fn on_support_withdrawn(&mut self, now: Time, wait: Duration) {
        self.core.on_withdrawn(now, wait);
    }

    /// Somebody who should lead says that it does not: asks the leader that was promised to, if there is one, whether it
    /// still leads.
    pub fn doubt_leader(&mut self, now: Time) {
        self.core.ask_leader(now);
    }

    /// Tells a leader in which period (from one) its store holds the support of another member's store; `None`: it holds none. Of use
    /// before [`handle_deadline`](Self::handle_deadline). With the next heartbeats the member is asked to promise.
    pub fn set_support(&mut self, peer: ReplicaId, epoch: Option<u64>) {
        self.core.set_support(peer, epoch);
    }

    /// Tells a leader whether its driver has nothing open with the group: only then does it come to
    /// [rest](Self::is_resting). To be told before [`handle_deadline`](Self::handle_deadline).
    pub fn allow_rest(&mut self, allowed: bool) {
        self.core.allow_rest(allowed);
    }

    /// Whether this leader is silent, and its [`next_deadline`](Self::next_deadline) never comes: every follower whose store
    /// gives support has promised, and has and knows everything. It begins to beat again with whatever is asked of it, with a
    /// message that calls for it, and by [`wake`](Self::wake). The driver wakes it when the support of a store ends without
    /// which [`is_fortified_by`](Self::is_fortified_by) holds no more, and when a store gives support again without which it
    /// came to rest.
    #[must_use]
    pub fn is_resting(&self) -> bool {
        self.core.is_resting()
    }

    /// Who may have promised to this replica as the leader of a term, and has not been released for certain. For a driver
    /// that does away with the group: he sees to it instead that they are told.
    #[must_use]
    pub fn owed_releases(&self) -> Vec<(ReplicaId, Term)> {
        self.core.owed_releases()
    }

    /// Whether this replica leads and has, itself included, the promises of a quorum (of both halves if the membership is
    /// joint) of voters of which `counts` holds. It is given the voter and the period of its promise (F5).
    #[must_use]
    pub fn is_fortified_by(&self, counts: impl Fn(ReplicaId, u64) -> bool) -> bool {
        self.core.is_fortified_by(counts)
    }

    /// At a leader: the period of the promise of a follower that is on record (F5).
    #[must_use]
    pub fn promised_epoch(&self, follower: ReplicaId) -> Option<u64> {
        self.core.promised_epoch(follower)
    }

    /// The index that a read must wait for which this leader may serve on the strength of promises (R1, R4); none if it has
    /// not committed an entry of its own term, or has asked a follower to campaign in it (F6).
    #[must_use]
    pub fn fortified_read_index(&self) -> Option<LogIndex> {
        self.core.fortified_read_index()
    }

    /// Reads some of what the next steps of this group will look at, and gives a number without meaning, so that the reads are made. Called for
    /// several groups, one distance after the other, before the first of them takes its step, it has the groups wait for memory
    /// together. Worth its while where there are many more groups than fit the processor's caches.
    #[must_use]
    pub fn read_ahead(&self, distance: Distance) -> u64 {
        self.core.read_ahead(distance)
    }

    /// Gathers everything that is to be done, once per turn. `ticket` is this turn's: what the output wants durable is
    /// flushed under it. Adds to `out`, which the caller has cleared.
    pub fn poll_output(&mut self, now: Time, ticket: LogTicket, out: &mut Output<P>) {
        self.core.poll_output(now, ticket, out);
    }
}

impl<P> fmt::Debug for Group<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}
