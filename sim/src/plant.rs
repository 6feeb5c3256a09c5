//! Planted bugs: a driver that does not do what the engine relies on. Each is what a wrong engine or a wrong shell would
//! look like from outside, and the judges must find every one of them. Nothing here touches what ships.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plant {
    /// The disk says "flushed" before it is.
    LyingDisk,
    /// Votes are not written down.
    ForgottenVote,
    /// Terms are not written down.
    ForgottenTerm,
    /// A follower is told that all that it is sent is committed.
    EarlyCommit,
    /// A store that believes that it leads answers reads without asking anybody.
    StaleLeaderRead,
    /// Any store answers reads from what it has applied so far.
    LocalRead,
    /// A conflicting suffix of a log is not replaced.
    KeptConflict,
    /// Commands of sessions are carried out as if they had none.
    LostSession,
    /// A snapshot says that it stands for more than it holds.
    BoastfulSnapshot,
    /// The log is cut by what is applied, not by what is durably applied.
    EagerCompaction,
    /// An acknowledgement is taken for one of another replica.
    BorrowedAcknowledgement,
    /// A committed entry is not applied.
    SkippedEntry,
    /// What an entry says changes on its way to one follower.
    ChangedEntry,
    /// A vote counts for whoever asked, also if it was refused.
    EveryVoteGranted,
    /// A leader commits entries of earlier terms by counting who holds them.
    CountedOldTerm,
    /// A store that starts has forgotten which replicas were removed from it.
    ForgottenTombstone,
    /// Commands are carried out whatever the region has become since they were sent.
    SkippedEpoch,
    /// A split cuts a child off, and its state is lost.
    LostChild,
    /// A source's leader takes every replica for frozen as soon as it asks.
    AssumedFreeze,
    /// A store says that its replica is frozen when the freeze is committed, not when it is applied and durable.
    EarlyFreeze,
    /// A source is rolled back although its target has not passed the version that the freeze names.
    UnprovenRollBack,
    /// A snapshot does not tell what its region has absorbed.
    ForgottenAbsorption,
    /// Reads are answered from a frozen region.
    FrozenRead,
    /// The worker of a region that was absorbed never hears of it.
    UntoldAbsorption,
    /// A store on which a recovery was begun and not finished starts all the same.
    SkippedFence,
    /// A store that starts has forgotten that it may have promised support.
    ForgottenPromise,
    /// Support is counted from a reading of the clock that is older than the message that asks for it.
    StaleClock,
    /// A lease that callers read by is not taken back while its support lasts: not before a transfer, a split, a freeze, or a write.
    KeptLease,
    /// A store that has lost its disk comes back at once, as one of a new cluster: with the first regions, and with votes to give.
    ForgottenRejoin,
    /// A store that has lost its disk rejoins without a floor: any message brings back what it was.
    IgnoredFloor,
}

impl Plant {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::LyingDisk,
        Self::ForgottenVote,
        Self::ForgottenTerm,
        Self::EarlyCommit,
        Self::StaleLeaderRead,
        Self::LocalRead,
        Self::KeptConflict,
        Self::LostSession,
        Self::BoastfulSnapshot,
        Self::EagerCompaction,
        Self::BorrowedAcknowledgement,
        Self::SkippedEntry,
        Self::ChangedEntry,
        Self::EveryVoteGranted,
        Self::CountedOldTerm,
        Self::ForgottenTombstone,
        Self::SkippedEpoch,
        Self::LostChild,
        Self::AssumedFreeze,
        Self::EarlyFreeze,
        Self::UnprovenRollBack,
        Self::ForgottenAbsorption,
        Self::FrozenRead,
        Self::UntoldAbsorption,
        Self::SkippedFence,
        Self::ForgottenPromise,
        Self::StaleClock,
        Self::KeptLease,
        Self::ForgottenRejoin,
        Self::IgnoredFloor,
    ];
}
