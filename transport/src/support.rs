//! What stores say to each other of the support between them (`docs/liveness.md`, sections L and R1). Plain data.
//!
//! Below, the *asker* is the store that wants support, and the *supporter* the one that gives it; every store is both, for
//! each peer. An epoch is an incarnation of the asker and a number in it.

use multiraft_raft::Incarnation;

use crate::Lane;

/// One message about support.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupportMessage {
    /// From asker to supporter, once an interval.
    Heartbeat(SupportHeartbeat),
    /// The supporter's answer to a heartbeat.
    Answer(SupportAnswer),
    /// From asker to supporter: "do you support me now?"
    Round(SupportRound),
    /// The supporter's answer to a round.
    RoundAnswer(SupportRoundAnswer),
}

impl SupportMessage {
    /// The lane that it travels on.
    #[must_use]
    pub fn lane(&self) -> Lane {
        match self {
            Self::Heartbeat(_) | Self::Answer(_) => Lane::Liveness,
            Self::Round(_) | Self::RoundAnswer(_) => Lane::Control,
        }
    }
}

/// Asks for support, at one epoch, for some time to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SupportHeartbeat {
    /// The asker's incarnation.
    pub incarnation: Incarnation,
    /// Which of that incarnation's epochs towards the supporter, from one.
    pub number: u64,
    /// Grows with each heartbeat and answer of this incarnation to this peer, from one.
    pub sequence: u64,
    /// The newest sequence that the asker has heard from the supporter, with the supporter's incarnation; zeros: none.
    pub heard: (Incarnation, u64),
    /// For how long the asker wishes support, in milliseconds.
    pub wish_ms: u32,
    /// The asker gives this epoch up, and asks for nothing any more: it stops.
    pub farewell: bool,
}

/// Says what became of a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SupportAnswer {
    /// The asker's incarnation, as in the heartbeat.
    pub asker: Incarnation,
    /// The number of the epoch, as in the heartbeat.
    pub number: u64,
    /// The sequence of the heartbeat.
    pub answered: u64,
    /// The supporter's incarnation.
    pub incarnation: Incarnation,
    /// The supporter's own sequence: of the same count as that of its heartbeats to the asker.
    pub sequence: u64,
    /// What became of it.
    pub verdict: SupportVerdict,
}

/// What a supporter says to a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SupportVerdict {
    /// The epoch is supported, for at least so long from when the heartbeat was sent.
    Supported {
        /// In milliseconds.
        duration_ms: u32,
    },
    /// The epoch was withdrawn, and will never be supported again.
    Withdrawn,
    /// The heartbeat changes nothing: it does not show that the asker hears the supporter, or the supporter stops.
    NotNow,
}

/// Begins a round: is this store supported now?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SupportRound {
    /// The asker's incarnation.
    pub incarnation: Incarnation,
    /// The asker's name for the round.
    pub round: u64,
    /// The asker's present epoch towards the supporter, by its number.
    pub number: u64,
}

/// Answers a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SupportRoundAnswer {
    /// The asker's incarnation, as in the round.
    pub asker: Incarnation,
    /// The name of the round.
    pub round: u64,
    /// The supporter's incarnation.
    pub incarnation: Incarnation,
    /// The number of the epoch, of the asker's incarnation above, that is supported now; `None`: none is.
    pub number: Option<u64>,
}
