//! What can be set, with its default and its bounds.

use std::time::Duration;

use crate::error::StartError;
use crate::liveness::LivenessOptions;
use crate::logic::SnapshotLimits;
use crate::steward::Placement;

/// The settings of a store. Stores of one cluster should agree on `raft`, `liveness` and `max_command_bytes`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Worker threads, at most 255; zero: as many as the machine has cores.
    pub workers: usize,
    /// Timers and flow control of every group.
    pub raft: multiraft_raft::Options,
    /// Support between stores.
    pub liveness: LivenessOptions,
    /// How long a call of the engine waits before it gives up; the outcome of a proposal is then unknown.
    pub request_timeout: Duration,
    /// The largest command, in bytes. At most 8 MiB.
    pub max_command_bytes: usize,
    /// What may wait in front of one worker, in bytes; more is answered by `Busy`.
    pub mailbox_bytes: usize,
    /// How long commands of callers may take to be answered before callers that have much under way are told `Busy`: those of a region
    /// with more than 64 KiB, while all callers of this store together have more than is answered in this time (1 MiB at least); and
    /// with the less, the more they have beyond that: at twice as much everybody is told. Four times the shortest answer of late counts
    /// instead if that is more. Zero: never for this reason.
    pub busy_after: Duration,
    /// What may wait to be applied behind one worker, in bytes; beyond, proposals are answered by `Busy` and followers read
    /// committed entries back from the log later.
    pub apply_queue_bytes: usize,
    /// What may wait to be sent to one peer on one append lane, in bytes; beyond, appends to that peer pause.
    pub send_queue_bytes: usize,
    /// Size of a log segment file, in bytes.
    pub log_segment_bytes: u64,
    /// Whether the log is written past the system's page cache (`O_DIRECT`) where the file system can: for less processor time and
    /// memory, while followers that lag by more than their leader keeps in memory, and starts, read the log from the disk. As durable
    /// either way.
    pub log_direct_io: bool,
    /// The memory that sled may fill with pages of state, in bytes; about 1 MiB at least. What is not in it is read from the file
    /// when it is wanted, through the system's own cache. The default, 4 MiB, holds some 20,000 small pairs. Where more than that
    /// are used all the time, and memory is there, more of it makes a read of those cost less: see `docs/performance.md`.
    pub state_cache_bytes: u64,
    /// How often applied state is made durable, so that the log can be cut.
    pub checkpoint_interval: Duration,
    /// With state in memory or state machines that hold their own: how many bytes of entries the log may hold before the
    /// regions with the most are written to snapshot files.
    pub volatile_log_bytes: usize,
    /// A region's log is cut when it has grown by this many entries beyond what is durably applied...
    pub compact_entries: u64,
    /// ...and keeps this many applied entries for followers that lag.
    pub compact_keep_entries: u64,
    /// How many snapshots a store sends, and how many it receives, at once. Each worker has an equal part of them, and one at
    /// least.
    pub snapshots_at_once: usize,
    /// How fast this store sends snapshots, all of them together, in bytes per second: at least 262144 (256 KiB), or zero for
    /// no limit.
    pub snapshot_bytes_per_second: u64,
    /// How fast this store takes in snapshots that peers send, likewise.
    pub snapshot_receive_bytes_per_second: u64,
    /// How long snapshots may take, and what may be kept for them.
    pub snapshots: SnapshotLimits,
    /// Whether a leader hands over to the region's preferred store when that one is back and holds everything. Has no effect
    /// with `placement`, which sees to that then.
    pub balance_leaders: bool,
    /// Who plans where replicas and leaders should be: replaces what is lost with its store, empties stores that are to leave,
    /// keeps replicas in different failure domains, spreads replicas and leaders. `None`: nobody does, and stores cannot be
    /// drained. To be set alike on all stores: one that does not report counts as lost after a while.
    pub placement: Option<Placement>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            workers: 0,
            // A follower hears of a commit with the next append, heartbeat or read, not in a message of its own: with many
            // regions that message would be most of what a write costs a follower.
            raft: multiraft_raft::Options {
                heartbeat_interval: Duration::from_millis(200),
                eager_commit: false,
                ..Default::default()
            },
            liveness: LivenessOptions::default(),
            request_timeout: Duration::from_secs(5),
            max_command_bytes: 8 << 20,
            mailbox_bytes: 64 << 20,
            busy_after: Duration::from_millis(100),
            apply_queue_bytes: 64 << 20,
            send_queue_bytes: 16 << 20,
            log_segment_bytes: 64 << 20,
            log_direct_io: true,
            state_cache_bytes: 4 << 20,
            checkpoint_interval: Duration::from_secs(2),
            volatile_log_bytes: 512 << 20,
            compact_entries: 4096,
            compact_keep_entries: 1024,
            snapshots_at_once: 8,
            snapshot_bytes_per_second: 64 << 20,
            snapshot_receive_bytes_per_second: 0,
            snapshots: SnapshotLimits::default(),
            balance_leaders: true,
            placement: None,
        }
    }
}

impl Config {
    /// The largest command that any configuration allows.
    pub const MAX_COMMAND_BYTES: usize = 8 << 20;
    /// One number less than a byte holds: the last names those who ask other stores without a worker.
    pub(crate) const WORKERS_MAX: usize = 255;

    pub(crate) fn validate(&self) -> Result<(), StartError> {
        let refuse = |what: &str| Err(StartError::Config(what.to_owned()));
        if self.max_command_bytes == 0 || self.max_command_bytes > Self::MAX_COMMAND_BYTES {
            return refuse("max_command_bytes must lie between 1 and 8388608 (8 MiB)");
        }
        if self.workers > Self::WORKERS_MAX {
            return refuse("workers must be at most 255, or 0 for as many as the machine has cores");
        }
        if self.request_timeout.is_zero() {
            return refuse("request_timeout must be more than zero");
        }
        if self.log_segment_bytes < 64 << 10 {
            return refuse("log_segment_bytes must be at least 65536 (64 KiB)");
        }
        if self.mailbox_bytes < self.max_command_bytes || self.apply_queue_bytes < self.max_command_bytes {
            return refuse(
                "mailbox_bytes and apply_queue_bytes must each hold at least one command of max_command_bytes",
            );
        }
        if self.compact_keep_entries > self.compact_entries {
            return refuse("compact_keep_entries must not exceed compact_entries");
        }
        if self.snapshots_at_once == 0 {
            return refuse("snapshots_at_once must be at least 1");
        }
        // A chunk must get through well within the time that a step may take, also beside others.
        let is_too_slow = |rate: u64| rate != 0 && rate < 256 << 10;
        if is_too_slow(self.snapshot_bytes_per_second) || is_too_slow(self.snapshot_receive_bytes_per_second) {
            return refuse(
                "snapshot_bytes_per_second and snapshot_receive_bytes_per_second must be 0 (no limit) or at least 262144",
            );
        }
        if self.snapshots.step_timeout < Duration::from_secs(5) {
            return refuse("snapshots.step_timeout must be at least 5 s: signs of movement come once a second");
        }
        if self.raft.max_append_bytes > Self::MAX_COMMAND_BYTES {
            return refuse("raft.max_append_bytes must not exceed 8388608 (8 MiB), so that appends fit into a frame");
        }
        if let Some(placement) = &self.placement {
            placement.validate().map_err(StartError::Config)?;
        }
        self.liveness.validate().map_err(|error| StartError::Config(format!("liveness: {error}")))?;
        self.raft.validate().map_err(|error| StartError::Config(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_workers_than_have_a_number_are_refused() {
        let of = |workers| Config { workers, ..Config::default() }.validate();
        assert!(of(0).is_ok() && of(255).is_ok());
        let refused = of(256).expect_err("one too many").to_string();
        assert!(refused.contains("workers must be at most 255"), "{refused}");
    }
}
