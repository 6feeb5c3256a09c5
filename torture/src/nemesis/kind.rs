//! The faults that there are, by name.

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// One store dies (SIGKILL) and is started again.
    Kill,
    /// As many stores as a cluster can lose die at once.
    KillMinority,
    /// So many die at once that no quorum is left.
    KillMajority,
    /// All die at once, as when the power fails and disks keep what they were given.
    KillAll,
    /// Two sides reach one store and not each other; it dies when it has voted for one of them, and is asked by the other.
    KillVoter,
    /// A replica can be filled by a snapshot alone: its store was dead for long, or it is new.
    Snapshot,
    /// A store stands still (SIGSTOP) for longer than any lease, and goes on.
    Pause,
    /// A store is asked to stop, hands over, and is started again.
    Restart,
    /// A store is asked to stop, and started again as one of another release, at the wire: one after the other, until all are.
    Upgrade,
    /// Stores cannot reach each other, in one of several shapes.
    Partition,
    /// Packets between stores are lost.
    Loss,
    /// Packets come late and out of turn.
    Delay,
    /// Packets come twice.
    Duplicate,
    /// Stores' clocks run fast and slow, within the bound that leases allow for.
    Drift,
    /// A store's time of day jumps.
    Jump,
    /// A store's disk is full.
    DiskFull,
    /// A store's disk refuses to sync.
    SyncFails,
    /// A store's disk is slow.
    DiskSlow,
    /// A store dies, and its disk forgets what was not synced.
    PowerLoss,
    /// A store dies, and its log ends in a torn record.
    TornLog,
    /// A store dies, and its log is damaged in the middle.
    DamagedLog,
    /// A store dies and comes back without its data.
    Wipe,
    /// Regions are split.
    Split,
    /// Neighbours are merged.
    Merge,
    /// Replicas move from store to store.
    Move,
    /// Members are added and removed.
    Members,
    /// Leaderships are handed over.
    Transfer,
    /// A store is drained of its regions, and taken back.
    Drain,
}

/// Names for several kinds together.
pub const GROUPS: [(&str, &[Kind]); 5] = [
    (
        "processes",
        &[
            Kind::Kill,
            Kind::KillMinority,
            Kind::KillMajority,
            Kind::KillAll,
            Kind::KillVoter,
            Kind::Pause,
            Kind::Restart,
            Kind::Upgrade,
        ],
    ),
    ("network", &[Kind::Partition, Kind::Loss, Kind::Delay, Kind::Duplicate]),
    ("clocks", &[Kind::Drift, Kind::Jump]),
    (
        "disks",
        &[
            Kind::DiskFull,
            Kind::SyncFails,
            Kind::DiskSlow,
            Kind::PowerLoss,
            Kind::TornLog,
            Kind::DamagedLog,
            Kind::Wipe,
        ],
    ),
    ("regions", &[Kind::Snapshot, Kind::Split, Kind::Merge, Kind::Move, Kind::Members, Kind::Transfer, Kind::Drain]),
];

impl Kind {
    /// All of them.
    pub const ALL: [Self; 28] = [
        Self::Kill,
        Self::KillMinority,
        Self::KillMajority,
        Self::KillAll,
        Self::KillVoter,
        Self::Snapshot,
        Self::Pause,
        Self::Restart,
        Self::Upgrade,
        Self::Partition,
        Self::Loss,
        Self::Delay,
        Self::Duplicate,
        Self::Drift,
        Self::Jump,
        Self::DiskFull,
        Self::SyncFails,
        Self::DiskSlow,
        Self::PowerLoss,
        Self::TornLog,
        Self::DamagedLog,
        Self::Wipe,
        Self::Split,
        Self::Merge,
        Self::Move,
        Self::Members,
        Self::Transfer,
        Self::Drain,
    ];

    /// Its name on the command line and in histories.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::KillMinority => "kill-minority",
            Self::KillMajority => "kill-majority",
            Self::KillAll => "kill-all",
            Self::KillVoter => "kill-voter",
            Self::Snapshot => "snapshot",
            Self::Pause => "pause",
            Self::Restart => "restart",
            Self::Upgrade => "upgrade",
            Self::Partition => "partition",
            Self::Loss => "loss",
            Self::Delay => "delay",
            Self::Duplicate => "duplicate",
            Self::Drift => "drift",
            Self::Jump => "jump",
            Self::DiskFull => "disk-full",
            Self::SyncFails => "sync-fails",
            Self::DiskSlow => "disk-slow",
            Self::PowerLoss => "power-loss",
            Self::TornLog => "torn-log",
            Self::DamagedLog => "damaged-log",
            Self::Wipe => "wipe",
            Self::Split => "split",
            Self::Merge => "merge",
            Self::Move => "move",
            Self::Members => "members",
            Self::Transfer => "transfer",
            Self::Drain => "drain",
        }
    }

    /// The kinds that a name stands for: one, or those of a group.
    #[must_use]
    pub fn named(name: &str) -> Option<Vec<Self>> {
        if let Some((_, kinds)) = GROUPS.iter().find(|(group, _)| *group == name) {
            return Some(kinds.to_vec());
        }
        Self::ALL.into_iter().find(|kind| kind.name() == name).map(|kind| vec![kind])
    }

    /// All names, for people.
    #[must_use]
    pub fn names() -> String {
        let groups = GROUPS.iter().map(|(name, _)| *name);
        Self::ALL.iter().map(|kind| kind.name()).chain(groups).collect::<Vec<_>>().join(", ")
    }

    /// Whether operators do it, through the cluster's own interface.
    #[must_use]
    pub const fn is_change(self) -> bool {
        matches!(self, Self::Split | Self::Merge | Self::Move | Self::Members | Self::Transfer | Self::Drain)
    }

    /// Whether only a proxy between stores can do it.
    #[must_use]
    pub const fn needs_a_proxy(self) -> bool {
        matches!(self, Self::Delay | Self::Duplicate)
    }

    /// Whether it takes more of a store than a program that embeds the engine has: whoever plans, lines in its log, or what it tells of its
    /// links.
    #[must_use]
    pub const fn needs_the_whole_program(self) -> bool {
        matches!(self, Self::Drain | Self::Drift | Self::Jump | Self::Upgrade)
    }

    /// Whether it is between stores.
    #[must_use]
    pub const fn is_between(self) -> bool {
        matches!(self, Self::Partition | Self::Loss | Self::Delay | Self::Duplicate | Self::KillVoter)
    }

    /// Whether only a store that writes can meet it.
    #[must_use]
    pub const fn needs_traffic(self) -> bool {
        matches!(self, Self::DiskFull | Self::SyncFails | Self::DiskSlow)
    }

    /// Whether a store comes back without what it was told: of such there is one at a time, until its replicas are replaced.
    #[must_use]
    pub const fn loses_data(self) -> bool {
        matches!(self, Self::DamagedLog | Self::Wipe)
    }

    /// Whether it can be ended only when nothing else is wrong: whoever gives a store its replicas back needs the others for that.
    #[must_use]
    pub const fn needs_peace(self) -> bool {
        self.loses_data() || matches!(self, Self::Snapshot)
    }

    /// Whether it may leave regions without a quorum for as long as it lasts.
    #[must_use]
    pub const fn takes_quorums(self) -> bool {
        matches!(self, Self::KillMajority | Self::KillAll | Self::KillVoter)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_kind_is_in_one_group_and_found_by_its_name() {
        let grouped: Vec<Kind> = GROUPS.iter().flat_map(|(_, kinds)| kinds.iter().copied()).collect();
        assert_eq!(grouped.iter().copied().collect::<BTreeSet<_>>(), Kind::ALL.into_iter().collect());
        assert_eq!(grouped.len(), Kind::ALL.len());
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(vec![kind]));
        }
        assert_eq!(Kind::named("kil"), None);
        assert_eq!(Kind::named("clocks"), Some(vec![Kind::Drift, Kind::Jump]));
    }
}
