//! What really happened over the seeds, and how much of it there has to be: a simulator whose faults never fire proves
//! nothing.

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident $floor:literal),* $(,)?) => {
        /// How often each kind of fault, operation and event happened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Adds another run's numbers.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Name, number, and the least number that a hundred seeds must show.
            #[must_use]
            pub fn list(&self) -> Vec<(&'static str, u64, u64)> {
                vec![$((stringify!($name), self.$name, $floor)),*]
            }
        }
    };
}

counters! {
    /// Events that the simulator carried out.
    events 100_000,
    /// Worker turns.
    turns 100_000,
    /// Frames delivered.
    frames 50_000,
    /// Operations that clients began.
    operations 50_000,
    /// Writes acknowledged.
    writes_acknowledged 10_000,
    /// Reads answered.
    reads_answered 5_000,
    /// Compare-and-sets that swapped.
    cas_swapped 100,
    /// Operations whose outcome stayed unknown.
    unknown_outcomes 200,
    /// Requests sent on from one store to another.
    forwarded 2_000,
    /// Requests refused because something was full.
    busy 5,
    /// Commands of a session that were sent again.
    session_duplicates 300,
    /// Commands sent again that were answered from the session's record.
    session_duplicates_hit 100,
    /// Times that a replica became leader.
    elections_won 2_000,
    /// Leader transfers asked for that moved the leader.
    transfers_done 20,
    /// Entries applied, over all replicas.
    applied 50_000,
    /// Snapshots installed.
    snapshots_installed 50,
    /// Snapshot streams that broke off.
    snapshots_broken 10,
    /// Snapshot streams that went on where an earlier one had broken off.
    snapshots_resumed 5,
    /// Times that entries had to be read back from the log.
    fetches 500,
    /// Log segments that were emptied and given back.
    log_segments_released 20,
    /// Flushes of logs.
    log_flushes 20_000,
    /// Stores that died.
    crashes 200,
    /// Stores that died at a chosen point inside their work.
    crashes_inside 100,
    /// Crashes in the middle of a write to the log.
    torn_writes 20,
    /// Times that all stores were dead at once.
    all_dead 5,
    /// Stores that stopped in order.
    restarts 30,
    /// Two-way cuts.
    cuts 30,
    /// One-way cuts.
    one_way_cuts 30,
    /// Stores cut off from all others.
    isolations 20,
    /// Connections that broke while in use.
    resets 200,
    /// Frames that were lost with their connection.
    frames_lost 200,
    /// Links that were slow for a while.
    slow_links 20,
    /// Times that an append lane was full.
    lanes_full 10,
    /// Log flushes that took long.
    disk_stalls 20,
    /// Log syncs that failed.
    sync_failures 20,
    /// Times that a log's sectors changed while its store was down.
    damaged_logs 10,
    /// Times that they lay in a log's last frame, so that no log could tell it from a torn write: left as they were.
    damage_like_torn 1,
    /// Replicas that may have lost records to that, and are out of service for good.
    replicas_lost 10,
    /// Stores that lost their whole disk.
    wipes 20,
    /// Stores that were cut off while another lost its disk.
    hermits 5,
    /// Times that a store was to lose its disk, and some region could not have done without it: it came back with it.
    wipes_spared 1,
    /// Replicas on such stores that their regions gave up.
    replicas_given_up 50,
    /// Such stores that came back on an empty disk.
    rejoins 10,
    /// Those that some region still named then.
    rejoins_named 5,
    /// Floors that stores took from the root region.
    floors 10,
    /// Replicas that came to be on them.
    replicas_given_back 20,
    /// Log commits refused for want of space.
    log_no_space 5,
    /// State writes refused for want of space.
    state_no_space 5,
    /// Entries of new leaders that were applied beside a state write that had been.
    applied_beside 1,
    /// Snapshot files refused for want of space.
    files_no_space 1,
    /// State stores that were slow for a while.
    slow_states 20,
    /// Stores that stood still for a while.
    pauses 20,
    /// Checkpoints.
    checkpoints 2_000,
    /// Requests that came under an epoch that was over.
    epoch_mismatches 15,
    /// Requests that were carried out after they had gone to the wrong region.
    epoch_mismatches_healed 500,
    /// Splits applied, over all replicas.
    splits 300,
    /// Children whose replica had come to be by a vote before the split was applied beside it.
    children_by_vote 100,
    /// Children whose replica was ahead of the split that makes it.
    children_ahead 0,
    /// Splits applied once more after a restart.
    splits_replayed 0,
    /// Replicas that came to be by a message.
    replicas_created 500,
    /// Replicas removed.
    replicas_removed 400,
    /// Replicas that came to a store that had one of their region before.
    replicas_readded 200,
    /// Snapshots installed by replicas without a state.
    snapshots_into_empty 400,
    /// Messages for replicas that are gone.
    tombstone_refusals 50,
    /// Replicas that were told of their end by a store that had known it.
    tombstones_told 50,
    /// Regions frozen.
    freezes 100,
    /// Merges committed.
    merges 50,
    /// Merges committed of a region that was itself a target at that time.
    merges_of_targets 0,
    /// Freezes that were rolled back.
    merges_rolled_back 10,
    /// Fences applied.
    fences 5,
    /// Merges committed with the death of one of their stores between freeze and commit.
    merges_across_crashes 5,
    /// Merges in whose middle a store was struck on purpose.
    merges_struck 5,
    /// Freezes refused because source and target were not on the same stores.
    merges_apart_refused 1,
    /// Operators that were told that their merge was done.
    merges_told_done 20,
    /// Operators that were told that their merge was rolled back.
    merges_told_rolled_back 5,
    /// Witnesses that regions were given.
    witnesses_added 60,
    /// Merges of regions with witnesses.
    merges_with_witnesses 10,
    /// Merges whose outcome their operator did not wait for.
    merges_left 1,
    /// Runs in whose end a frozen region was waited for until its merge was given up.
    merges_awaited 0,
    /// Replicas absorbed.
    replicas_absorbed 100,
    /// Replicas of absorbed regions that went because the target's replica beside them was gone.
    replicas_released 0,
    /// Replicas that went with a snapshot of the region that had absorbed theirs.
    snapshots_covering 1,
    /// Snapshots that brought a merge to a replica that had not applied it.
    snapshots_across_merges 1,
    /// Times that stores died for good and took a region's quorum with them.
    disasters 3,
    /// Plans of a recovery that were carried out on all survivors.
    recoveries 3,
    /// Disasters after which survivors could not be recovered from, so that the dead were repaired.
    recoveries_refused 0,
    /// Attempts to carry a plan out on a store that lost power in the middle.
    recoveries_interrupted 2,
    /// Regions that were recovered from one replica.
    regions_recovered 15,
    /// Those of them that may have lost writes.
    regions_lossy 5,
    /// Regions made anew, empty.
    regions_made_anew 0,
    /// Keys whose last acknowledged writes were allowed to be lost.
    keys_lossy 20,
    /// Times that a store began to support another.
    support_given 500,
    /// Times that a store withdrew its support from another.
    support_withdrawn 500,
    /// Heartbeats for support that were not sent because the store did not get on with its work.
    heartbeats_withheld 10,
    /// Times that a store became slow, and handed its leaders over.
    stores_slow 5,
    /// Leases of one store on another that were held against what that one gives.
    leases_judged 100_000,
    /// Times a leader came to rest, as those stores count that live in the end; likewise the following.
    rests 5_000,
    /// Replicas that were put to sleep in their packed form, likewise, and woken out of it.
    replicas_packed 1_000,
    /// See before.
    replicas_unpacked 500,
    /// Promises to leaders that ended with a withdrawal.
    promises_ended 400,
    /// Rounds of stores for reads.
    read_rounds 3_000,
    /// Reads that they confirmed.
    reads_by_round 3_000,
    /// Reads by lease that a worker has seen to. Those of other stores come to it only where their word does not do.
    reads_by_lease 1_500,
    /// Reads that a worker confirmed because another store had asked for them.
    reads_by_word 300,
    /// Reads by lease that their stores answered without a worker.
    reads_past_workers 500,
    /// Reads for which a store asked the leader's, without a worker.
    reads_asked_for 5_000,
    /// Such questions that were answered without a worker.
    reads_answered_past_workers 5_000,
    /// Reads of bounded age that a replica answered from what it had.
    reads_by_age 500,
    /// Consistency checks that came to their end.
    checks 1000,
    /// States held against the same region's at the same index elsewhere.
    states_compared 50000,
}

impl Counters {
    /// The kinds that did not happen often enough over so many seeds. Fewer than a hundred seeds prove nothing either way.
    #[must_use]
    pub fn below_floor(&self, seeds: u64) -> Vec<String> {
        if seeds < 100 {
            return Vec::new();
        }
        let wanted = |floor: u64| floor * seeds / 100;
        self.list()
            .into_iter()
            .filter(|(_, number, floor)| *number < wanted(*floor))
            .map(|(name, number, floor)| format!("{name}: {number}, at least {} wanted", wanted(floor)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_never_happened_is_named() {
        let below = Counters::default().below_floor(100);
        assert!(below.iter().any(|line| line.starts_with("crashes: 0, at least 200")), "{below:?}");
        assert!(Counters::default().below_floor(99).is_empty());
    }
}
