//! What the flags of `--placement` come to: who plans, with which thresholds, and where this store stands.

use std::time::Duration;

use multiraft::placement::{PlacementOptions, Sizes};
use multiraft::{Placement, Seat};

use crate::cli::Settings;
use crate::error::Failure;

/// How often a store may be silent without being taken for gone, in intervals.
const SILENT_INTERVALS: u32 = 10;

/// The placement that the settings ask for, and the store's seat in it; `None` without `--placement`.
pub(super) fn placement(settings: &Settings) -> Result<Option<(Placement, Seat)>, Failure> {
    if !settings.placement {
        return match first_given(settings) {
            None => Ok(None),
            Some(name) => {
                Err(Failure::new(format!("--{name} says nothing without --placement: add that on every store")))
            }
        };
    }
    let mut placement = Placement::default();
    let options = &mut placement.options;
    options.sizes = sizes(settings);
    options.replication.voters = settings.replicas.unwrap_or(options.replication.voters);
    options.repair_after = settings.repair_after.unwrap_or(options.repair_after);
    options.balance.wake_after = settings.balance_after.unwrap_or(options.balance.wake_after);
    if let Some(interval) = settings.placement_interval {
        options.silent_after = options.silent_after.max(SILENT_INTERVALS * interval);
        placement.interval = interval;
    }
    placement.survey_bytes_per_s = settings.survey_rate.unwrap_or(placement.survey_bytes_per_s);
    check(&placement)?;
    Ok(Some((placement, seat(settings)?)))
}

/// Thresholds. Those of merges follow those of splits unless they are given.
fn sizes(settings: &Settings) -> Sizes {
    let default = Sizes::default();
    let split_bytes = settings.split_bytes.unwrap_or(default.split_bytes);
    let split_writes_per_s = settings.split_writes.unwrap_or(default.split_writes_per_s);
    let split_reads_per_s = settings.split_reads.unwrap_or(default.split_reads_per_s);
    let least = split_writes_per_s.min(split_reads_per_s);
    Sizes {
        split_bytes,
        split_writes_per_s,
        split_reads_per_s,
        merge_bytes: settings.merge_bytes.unwrap_or(default.merge_bytes.min(split_bytes / 10)),
        merge_load_per_s: settings.merge_load.unwrap_or(default.merge_load_per_s.min(least / 10)),
        merge_after: settings.merge_after.unwrap_or(default.merge_after),
        regions_max: settings.regions_max.unwrap_or(default.regions_max),
        ..default
    }
}

fn seat(settings: &Settings) -> Result<Seat, Failure> {
    let mut seat = Seat::new();
    if let Some(weight) = settings.weight {
        if weight == 0 {
            return Err(Failure::new("--weight must be at least 1"));
        }
        seat = seat.weight(weight);
    }
    for label in &settings.labels {
        let parts = label.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
        let Some((name, value)) = parts else {
            return Err(Failure::new(format!("--label {label} is not understood: write it as --label zone=a")));
        };
        seat = seat.label(name, value);
    }
    Ok(seat)
}

/// Says what does not fit together in the words of the flags.
fn check(placement: &Placement) -> Result<(), Failure> {
    let PlacementOptions { sizes, replication, .. } = &placement.options;
    let part = sizes.split_part_min_percent;
    let undoes = |merge: u64, split: u64| u128::from(merge) * 100 >= u128::from(split) * u128::from(part);
    if undoes(sizes.merge_bytes, sizes.split_bytes) {
        return Err(Failure::new(format!("--merge-bytes must be below {part} per cent of --split-bytes")));
    }
    if undoes(sizes.merge_load_per_s, sizes.split_writes_per_s.min(sizes.split_reads_per_s)) {
        return Err(Failure::new(format!(
            "--merge-load must be below {part} per cent of --split-writes and of --split-reads"
        )));
    }
    if replication.voters == 0 {
        return Err(Failure::new("--replicas must be at least 1"));
    }
    if placement.interval < Duration::from_millis(20) {
        return Err(Failure::new("--placement-interval must be at least 20ms"));
    }
    Ok(())
}

/// One of the settings that need `--placement`.
fn first_given(settings: &Settings) -> Option<&'static str> {
    let given = [
        ("replicas", settings.replicas.is_some()),
        ("placement-interval", settings.placement_interval.is_some()),
        ("repair-after", settings.repair_after.is_some()),
        ("balance-after", settings.balance_after.is_some()),
        ("split-bytes", settings.split_bytes.is_some()),
        ("split-writes", settings.split_writes.is_some()),
        ("split-reads", settings.split_reads.is_some()),
        ("regions-max", settings.regions_max.is_some()),
        ("merge-bytes", settings.merge_bytes.is_some()),
        ("merge-load", settings.merge_load.is_some()),
        ("merge-after", settings.merge_after.is_some()),
        ("survey-rate", settings.survey_rate.is_some()),
        ("label", !settings.labels.is_empty()),
        ("weight", settings.weight.is_some()),
    ];
    given.into_iter().find(|(_, is_given)| *is_given).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Settings)) -> Placement {
        let mut settings = Settings { placement: true, ..Settings::default() };
        change(&mut settings);
        placement(&settings).unwrap().unwrap().0
    }

    #[test]
    fn without_the_flag_nothing_is_planned_and_with_it_all_is() {
        assert_eq!(placement(&Settings::default()).unwrap(), None);
        assert_eq!(with(|_| ()), Placement::default());
    }

    #[test]
    fn merges_follow_splits_unless_they_are_given() {
        let small = with(|settings| (settings.split_bytes, settings.split_writes) = (Some(1_000_000), Some(100)));
        assert_eq!(small.options.sizes.merge_bytes, 100_000);
        assert_eq!(small.options.sizes.merge_load_per_s, 10);
        let given = with(|settings| (settings.split_bytes, settings.merge_bytes) = (Some(1_000_000), Some(7)));
        assert_eq!(given.options.sizes.merge_bytes, 7);
        assert_eq!(given.options.validate(), Ok(()));
    }

    #[test]
    fn a_long_interval_makes_silence_longer() {
        let slow = with(|settings| settings.placement_interval = Some(Duration::from_secs(5)));
        assert_eq!((slow.interval, slow.options.silent_after), (Duration::from_secs(5), Duration::from_secs(50)));
        let quick = with(|settings| settings.placement_interval = Some(Duration::from_millis(250)));
        assert_eq!(quick.options.silent_after, Duration::from_secs(10));
    }

    #[test]
    fn labels_and_weight_are_the_seat() {
        let labels = vec!["zone=a".to_owned(), "rack=7=b".to_owned()];
        let settings = Settings { placement: true, labels, weight: Some(3), ..Settings::default() };
        let seat = placement(&settings).unwrap().unwrap().1;
        assert_eq!(seat, Seat::new().weight(3).label("zone", "a").label("rack", "7=b"));
    }
}
