//! The end of a turn, and the passing of time.

use super::core::{Core, Effect, RoleState};
use crate::{FlushProof, Gated, LogTicket, Output, ReplicaId, Time};

/// So many bytes of entries stay in memory though nobody is known to need them: a new leader finds there what its followers may lack.
const FEW_BYTES: usize = 2 << 10;

impl Core {
    pub(crate) fn poll_output<P: FlushProof>(&mut self, now: Time, ticket: LogTicket, out: &mut Output<P>) {
        self.finish_turn(now);
        self.persist(ticket, out);
        out.more |= self.deliver(&mut out.committed);
        let gate = self.durability.gate(ticket);
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Send(message) => out.messages.push(message),
                Effect::Gate(message) => out.gated.push(Gated::new(gate, message)),
                Effect::Event(event) => out.events.push(event),
                Effect::Read(read) => out.reads.push(read),
                Effect::ReadFailed(context) => out.reads_failed.push(context),
                Effect::Snapshot(to) => out.snapshots.push(to),
                Effect::Fetch(fetch) => out.fetches.push(fetch),
            }
        }
        self.evict();
    }

    /// Draws the conclusions of everything that the turn has brought.
    fn finish_turn(&mut self, now: Time) {
        match self.role {
            RoleState::Leader(_) => {
                self.maybe_commit();
                self.maybe_leave_joint();
                self.serve_reads();
                self.send_appends(now);
                self.drive_transfer();
            }
            RoleState::Follower(_) => self.answer_leader(),
            RoleState::PreCandidate(_) | RoleState::Candidate(_) => {}
        }
    }

    /// Hands out what is to be made durable. The commit index alone is no reason to write; but it goes with every append,
    /// because the rules for membership changes rest on it.
    fn persist<P: FlushProof>(&mut self, ticket: LogTicket, out: &mut Output<P>) {
        let has_entries = self.log.has_unlogged();
        self.log.poll_steps(&mut out.log);
        let has_ballot = self.durability.ballot_changed(&self.hard);
        if has_ballot || (has_entries && self.durability.changed(&self.hard)) {
            self.durability.hand(self.hard);
            out.hard_state = Some(self.hard);
        }
        if has_entries || has_ballot {
            self.durability.begin(ticket, self.log.last_index());
        }
    }

    /// Keeps in memory what is still needed, and a little more. Few groups keep many entries for long: what a group writes next finds
    /// its place in memory that it has used just before.
    fn evict(&mut self) {
        let most = self.options.max_cached_bytes;
        let few = most.min(FEW_BYTES);
        if self.log.cache_bytes() <= few {
            return;
        }
        let delivered = self.applying.delivered;
        let acknowledged = match &self.role {
            RoleState::Leader(leader) => leader.followers.iter().map(|progress| progress.matched).min(),
            _ => None,
        };
        self.log.evict(acknowledged.map_or(delivered, |all| all.min(delivered)), few);
        self.log.evict(delivered, most);
        self.log.evict(self.log.stable(), most.saturating_add(self.options.max_uncommitted_bytes));
    }

    pub(crate) fn handle_deadline(&mut self, now: Time) {
        self.check_transfer(now);
        self.check_fetch(now);
        self.send_releases(now);
        match &self.role {
            RoleState::Leader(leader) if now >= leader.beat_at => self.on_heartbeat_due(now),
            RoleState::Leader(_) => {}
            RoleState::Follower(_) | RoleState::PreCandidate(_) | RoleState::Candidate(_) => {
                if self.has_election_timer() && now >= self.election.deadline {
                    // Of use only if the promise is to a leader of an earlier term than this replica has come to.
                    self.ask_leader(now);
                    self.campaign(now, false);
                }
            }
        }
    }

    pub(crate) fn next_deadline(&self) -> Time {
        let own = match &self.role {
            RoleState::Leader(leader) => {
                let transfer = leader.transfer.map_or(Time::NEVER, |transfer| transfer.deadline);
                leader.beat_at.min(transfer)
            }
            _ if self.has_election_timer() => self.election.deadline,
            _ => Time::NEVER,
        };
        own.min(self.applying.deadline()).min(self.releases_due())
    }

    pub(crate) fn awaits_pre_votes(&self) -> bool {
        matches!(&self.role, RoleState::PreCandidate(candidacy) if !candidacy.was_put_off)
    }

    pub(crate) fn wants_to_campaign(&self, now: Time) -> bool {
        let is_time = self.has_election_timer() && now >= self.election.deadline;
        is_time && !self.is_leader() && self.may_campaign()
    }

    /// Who can never lead does not wait for an election either; nor who has promised the leader of its own term to keep quiet.
    fn has_election_timer(&self) -> bool {
        self.members.current.may_lead(self.id) && !self.keeps_quiet()
    }

    pub(crate) fn set_paused(&mut self, peer: ReplicaId, paused: bool) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.follower(peer) {
            progress.paused = paused;
        }
    }

    pub(crate) fn on_peer_unreachable(&mut self, now: Time, peer: ReplicaId) {
        let RoleState::Leader(leader) = &mut self.role else { return };
        if let Some(progress) = leader.follower(peer) {
            progress.on_unreachable(now);
        }
    }

    pub(crate) fn wake(&mut self, now: Time) {
        self.rouse(now);
        self.arm_heartbeat(now);
        if let RoleState::Leader(leader) = &mut self.role {
            for progress in &mut leader.followers {
                progress.heard_at = now;
            }
        } else {
            self.rearm(now);
        }
    }

    pub(crate) fn release_memory(&mut self) {
        self.log.evict(self.applying.delivered, 0);
        self.log.shrink();
        self.durability.shrink();
        self.applying.shrink();
        self.effects.shrink_to_fit();
        if let RoleState::Leader(leader) = &mut self.role {
            leader.reads.shrink();
            leader.followers.shrink_to_fit();
            leader.followers.iter_mut().for_each(crate::progress::Progress::shrink);
        }
    }
}
