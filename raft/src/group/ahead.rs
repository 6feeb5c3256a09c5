//! Reading ahead: a driver that knows which of its many groups come next has them read from memory side by side, rather than wait for
//! each in turn.
//!
//! A processor looks some hundreds of instructions ahead, and has a dozen and more reads of memory under way at once; steps of groups are longer
//! than that, and each waits for what the one before has read. Plain reads in a short loop over several groups do what a
//! prefetch instruction would, without `unsafe`. They change nothing.

use super::core::{Core, RoleState};

/// How far from the group itself something lies, in pointers. Reads of one distance do not wait for each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distance {
    /// Within the group.
    Own,
    /// Behind one pointer.
    Near,
    /// Behind two.
    Far,
}

impl Core {
    pub(crate) fn read_ahead(&self, distance: Distance) -> u64 {
        match distance {
            Distance::Own => self.read_own(),
            Distance::Near => self.read_near(),
            Distance::Far => match &self.role {
                RoleState::Leader(leader) => {
                    leader.followers.iter().fold(0, |all, follower| all ^ follower.read_ahead())
                }
                _ => 0,
            },
        }
    }

    /// Something of each cache line, as far as that is in the hands of who writes the source.
    fn read_own(&self) -> u64 {
        let own = self.id.0 ^ self.hard.term.0 ^ self.hard.commit.0 ^ self.effects.len() as u64;
        let election = self.election.leader.0 ^ self.election.deadline.0 ^ u64::from(self.election.refusals);
        let bonds = u64::from(self.bond.is_some()) ^ u64::from(self.releases.is_some());
        let role = match &self.role {
            RoleState::Follower(following) => following.verified.0 ^ following.told.0,
            RoleState::PreCandidate(_) | RoleState::Candidate(_) | RoleState::Leader(_) => 1,
        };
        let parts =
            self.log.read_own() ^ self.durability.read_own() ^ self.applying.read_own() ^ self.members.read_own();
        own ^ election ^ bonds ^ role ^ parts
    }

    fn read_near(&self) -> u64 {
        let leader = match &self.role {
            RoleState::Leader(leader) => {
                leader.term_start.0 ^ leader.beat_at.0 ^ leader.reads.newest_round() ^ leader.followers.len() as u64
            }
            _ => 0,
        };
        leader
            ^ self.log.read_near()
            ^ self.durability.read_near()
            ^ self.applying.read_near()
            ^ self.members.read_near()
    }
}
