//! Damage: told apart from a torn tail, named, and never taken for "not there"; the other groups go on.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod log_harness;

use log_harness::harness::{Model, Run};
use log_harness::{Dice, append, batch, open, record};
use multiraft_raft::{LogIndex, RegionId};
use multiraft_storage::disk::SimDisk;
use multiraft_storage::log::{Affected, DamageKind, LogChange, LogReadError, Recovered};

fn find(disk: &SimDisk, file: &str, what: &[u8]) -> u64 {
    let content = disk.content(file).unwrap();
    content.windows(what.len()).position(|window| window == what).unwrap() as u64
}

/// Where the frames of a segment begin.
fn frames(disk: &SimDisk, file: &str) -> Vec<u64> {
    let content = disk.content(file).unwrap();
    (0..content.len() - 4).step_by(8).filter(|at| &content[*at..at + 4] == b"MRFR").map(|at| at as u64).collect()
}

fn ids(regions: &[u64]) -> Vec<RegionId> {
    regions.iter().copied().map(RegionId).collect()
}

/// Five commits into one segment: regions 1 and 2, then 3, then 1, then 4, then 5.
fn five_frames() -> SimDisk {
    let disk = SimDisk::new(1);
    let (mut log, ..) = open(&disk);
    let turns = [vec![append(1, 1, 1, 2), append(2, 1, 1, 2)], vec![append(3, 1, 1, 2)], vec![append(1, 3, 1, 2)]];
    for (turn, records) in turns.into_iter().chain([vec![append(4, 1, 1, 2)], vec![append(5, 1, 1, 2)]]).enumerate() {
        log.commit(vec![batch(0, turn as u64 + 1, records)]).unwrap();
    }
    disk
}

const FIRST: &str = "seg-0000000001";

#[test]
fn a_damaged_record_names_its_group_alone_and_others_go_on() {
    let disk = five_frames();
    let at = find(&disk, FIRST, &log_harness::entry(1, 1).data);
    assert!(disk.corrupt(FIRST, at, 1));
    for _ in 0..3 {
        let (mut log, reader, recovered) = open(&disk);
        let [damage] = &recovered.damage[..] else { panic!("{:?}", recovered.damage) };
        assert_eq!((damage.kind, &damage.affected), (DamageKind::Record, &Affected::Regions(ids(&[1]))));
        assert!(damage.file.ends_with(FIRST) && damage.offset < at && at < damage.offset + damage.length);
        assert_eq!(recovered.suspects.iter().copied().collect::<Vec<_>>(), ids(&[1]));
        assert!(!recovered.is_suspect(RegionId(99)), "nothing else can be missing");
        let read = |region| reader.read(RegionId(region), LogIndex(1), LogIndex(9), usize::MAX);
        assert!(matches!(read(1), Err(LogReadError::Suspect(RegionId(1)))));
        assert_eq!(read(2).unwrap().len(), 2);
        // Writing to it does not make it sound.
        log.commit(vec![batch(0, 1, vec![log_harness::hard_state(1, 5)])]).unwrap();
    }
    let (mut log, ..) = open(&disk);
    log.commit(vec![batch(0, 1, vec![record(1, LogChange::Remove), append(1, 1, 7, 1)])]).unwrap();
    drop(log);
    let (_, reader, recovered) = open(&disk);
    assert!(recovered.suspects.is_empty() && recovered.damage.len() == 1);
    assert_eq!(reader.read(RegionId(1), LogIndex(1), LogIndex(9), usize::MAX).unwrap().len(), 1);
}

#[test]
fn a_lost_frame_in_the_last_segment_makes_suspect_whoever_wrote_nothing_since() {
    let disk = five_frames();
    assert!(disk.corrupt(FIRST, frames(&disk, FIRST)[1] + 9, 1));
    for _ in 0..2 {
        let (_, reader, recovered) = open(&disk);
        let [damage] = &recovered.damage[..] else { panic!("{:?}", recovered.damage) };
        assert_eq!((damage.kind, &damage.affected), (DamageKind::Frame, &Affected::Unknown));
        // 1, 4 and 5 have later records, whose chain proves that they lack nothing. 3 is not even known.
        assert_eq!(recovered.groups.keys().copied().collect::<Vec<_>>(), ids(&[1, 4, 5]));
        assert_eq!(recovered.suspects.iter().copied().collect::<Vec<_>>(), ids(&[2]));
        assert!(recovered.is_suspect(RegionId(3)) && !recovered.is_suspect(RegionId(1)));
        assert_eq!(reader.read(RegionId(1), LogIndex(1), LogIndex(9), usize::MAX).unwrap().len(), 4);
    }
}

#[test]
fn a_last_frame_that_is_not_whole_is_no_torn_write_in_a_file_with_damage() {
    for elsewhere in [Some(13), Some(frames(&five_frames(), FIRST)[1] + 9), None] {
        let disk = five_frames();
        assert!(disk.corrupt(FIRST, frames(&disk, FIRST)[4] + 60, 1));
        if let Some(at) = elsewhere {
            assert!(disk.corrupt(FIRST, at, 1));
        }
        for _ in 0..3 {
            let (mut log, _, recovered) = open(&disk);
            assert_eq!(recovered.is_suspect(RegionId(5)), elsewhere.is_some(), "{elsewhere:?}: {:?}", recovered.damage);
            log.commit(vec![batch(0, 1, vec![log_harness::hard_state(9, 1)])]).unwrap();
        }
    }
}

#[test]
fn settled_damage_is_still_named_but_makes_nobody_suspect() {
    let disk = five_frames();
    assert!(disk.corrupt(FIRST, frames(&disk, FIRST)[1] + 9, 1));
    let (mut log, ..) = open(&disk);
    log.commit(vec![batch(0, 1, vec![record(2, LogChange::Remove), record(3, LogChange::Remove)])]).unwrap();
    log.settle_damage().unwrap();
    drop(log);
    let (_, _, recovered) = open(&disk);
    assert_eq!(recovered.damage.len(), 1);
    assert!(recovered.damage[0].settled && recovered.suspects.is_empty() && !recovered.is_suspect(RegionId(3)));
}

#[test]
fn a_lost_frame_in_the_middle_of_a_chain_is_noticed_by_the_next_record() {
    let disk = five_frames();
    // Region 1's second record; its third comes now.
    let (mut log, ..) = open(&disk);
    log.commit(vec![batch(0, 1, vec![append(1, 5, 1, 1)])]).unwrap();
    drop(log);
    assert!(disk.corrupt(FIRST, frames(&disk, FIRST)[2] + 20, 0x40));
    let (_, _, recovered) = open(&disk);
    assert!(recovered.suspects.contains(&RegionId(1)));
    assert!(!recovered.suspects.contains(&RegionId(5)));
}

/// A log of several segments, closed.
fn long_run(seed: u64) -> (SimDisk, Model) {
    let mut run = Run::new(seed);
    run.maker.entry_bytes_max = 600;
    while run.log.as_ref().unwrap().0.stats().segments < 4 {
        run.step();
    }
    run.log = None;
    (run.disk, run.model)
}

fn segments(disk: &SimDisk) -> Vec<String> {
    use multiraft_storage::disk::Disk;
    disk.list().unwrap().into_iter().filter(|name| name.starts_with("seg-")).collect()
}

fn check_sound_groups(model: &Model, recovered: &Recovered, reader: &multiraft_storage::log::LogReader, context: &str) {
    for region in model.groups.keys() {
        if !recovered.is_suspect(*region) {
            model.check_group(*region, reader, context);
        }
    }
}

#[test]
fn a_lost_frame_in_a_sealed_segment_names_exactly_those_it_held() {
    let (disk, model) = long_run(5);
    let names = segments(&disk);
    let sealed = &names[names.len() - 2];
    let all = frames(&disk, sealed);
    assert!(disk.corrupt(sealed, all[all.len() / 2] + 5, 2));
    let (_, reader, recovered) = open(&disk);
    let [damage] = &recovered.damage[..] else { panic!("{:?}", recovered.damage) };
    assert_eq!((damage.kind, damage.offset), (DamageKind::Frame, all[all.len() / 2]));
    let Affected::Regions(regions) = &damage.affected else { panic!("{damage:?}") };
    assert!(!regions.is_empty() && regions.len() < model.groups.len());
    assert!(recovered.suspects.iter().all(|region| regions.contains(region)));
    assert!(!recovered.is_suspect(RegionId(4711)));
    check_sound_groups(&model, &recovered, &reader, "sealed");
}

#[test]
fn damaged_headers_and_footers_are_named_and_cost_nobody_anything() {
    for part in ["header", "footer"] {
        let (disk, model) = long_run(6);
        let names = segments(&disk);
        let sealed = &names[names.len() - 2];
        let size = disk.content(sealed).unwrap().len() as u64;
        let (at, kind) = match part {
            "header" => (13, DamageKind::SegmentHeader),
            _ => (size - 30, DamageKind::Footer),
        };
        assert!(disk.corrupt(sealed, at, 4));
        let (_, reader, recovered) = open(&disk);
        assert_eq!(recovered.damage.iter().map(|damage| damage.kind).collect::<Vec<_>>(), [kind]);
        assert!(recovered.suspects.is_empty());
        model.check(&reader, part);
    }
}

#[test]
fn a_missing_segment_is_noticed_wherever_it_was() {
    let (disk, model) = long_run(7);
    let names = segments(&disk);
    for missing in &names {
        use multiraft_storage::disk::Disk;
        let disk = disk.fork();
        disk.remove(missing).unwrap();
        disk.sync_dir().unwrap();
        for round in 0..2 {
            let (_, reader, recovered) = open(&disk);
            let missed = recovered
                .damage
                .iter()
                .any(|damage| damage.kind == DamageKind::MissingSegment && damage.file.ends_with(missing));
            assert!(missed, "{missing} {round}: {:?}", recovered.damage);
            assert!(recovered.is_suspect(RegionId(4711)));
            check_sound_groups(&model, &recovered, &reader, missing);
        }
    }
    let names = segments(&disk);
    for name in names {
        use multiraft_storage::disk::Disk;
        disk.remove(&name).unwrap();
    }
    for _ in 0..2 {
        let (_, _, recovered) = open(&disk);
        assert!(recovered.groups.is_empty() && recovered.is_suspect(RegionId(1)));
    }
}

/// Which segments are gone by intent stands in the newest one. Where that cannot tell, because its header is damaged and no
/// frame is in it yet, older ones do: no start takes them for lost, and no later one sees it otherwise.
#[test]
fn segments_gone_by_intent_are_not_missed_when_the_newest_header_is_damaged() {
    let mut hits = 0;
    for seed in 50..56 {
        let mut run = Run::new(seed);
        run.maker.entry_bytes_max = 600;
        for _ in 0..600 {
            let oldest = segments(&run.disk)[0].clone();
            run.step();
            let names = segments(&run.disk);
            let newest = names.last().unwrap();
            let [frame] = frames(&run.disk, newest)[..] else { continue };
            // A segment that this very frame let go would have to be there still.
            if names[0] == FIRST || names[0] != oldest || names.len() < 2 {
                continue;
            }
            let disk = run.disk.fork();
            // The frame never reached the disk.
            for (at, byte) in disk.content(newest).unwrap().into_iter().enumerate().skip(frame as usize) {
                if byte != 0 {
                    assert!(disk.corrupt(newest, at as u64, byte));
                }
            }
            assert!(disk.corrupt(newest, 13, 4));
            for round in 0..2 {
                let (_, _, recovered) = open(&disk);
                let kinds: Vec<DamageKind> = recovered.damage.iter().map(|damage| damage.kind).collect();
                assert_eq!(kinds, [DamageKind::SegmentHeader], "seed {seed}, {newest}, start {round}");
                assert!(recovered.suspects.is_empty() && !recovered.is_suspect(RegionId(4711)));
            }
            hits += 1;
        }
    }
    assert!(hits >= 6, "the case comes about: {hits}");
}

/// Damage that is dealt with goes in the end: the damaged segment is emptied like any other.
#[test]
fn after_damage_is_settled_the_log_goes_on_until_nothing_is_left_of_it() {
    for seed in 30..36 {
        let (disk, model) = long_run(seed);
        let names = segments(&disk);
        let sealed = &names[seed as usize % (names.len() - 1)];
        let all = frames(&disk, sealed);
        // Every other time in the directory, which costs the frame; else in a record.
        let at = if seed % 2 == 0 { all[all.len() / 2] + 4 } else { all[all.len() / 2] + 60 };
        assert!(disk.corrupt(sealed, at, 0x20));
        let (mut log, reader, recovered) = open(&disk);
        assert!(!recovered.damage.is_empty());
        check_sound_groups(&model, &recovered, &reader, "after damage");
        let mut run = Run::resume(seed, disk, model);
        for region in &recovered.suspects {
            run.model.groups.remove(region);
        }
        let gone = recovered.suspects.iter().map(|region| record(region.0, LogChange::Remove)).collect();
        log.commit(vec![batch(7, 1, gone)]).unwrap();
        log.settle_damage().unwrap();
        run.log = Some((log, reader));
        for _ in 0..300 {
            run.step();
        }
        run.reopen_and_check();
    }
}

/// Any single fault in a closed log, of one bit or a stretch: never a panic; each group is whole, or suspect, or lacks no
/// more than the last write (which no log can tell from a torn one).
#[test]
fn random_damage_is_never_silent() {
    let (mut damaged, mut suspected) = (0, 0);
    for seed in 0..12 {
        let mut run = Run::new(seed);
        run.maker.entry_bytes_max = 400;
        while run.log.as_ref().unwrap().0.stats().segments < 3 {
            run.step();
        }
        let (before, earlier) = (run.model.clone(), run.disk.fork());
        run.step();
        let (disk, model) = (run.disk.clone(), run.model.clone());
        run.log = None;
        let names = segments(&disk);
        // Where the last commit begins, in the segments that it was written to.
        let begins = |name: &String| {
            let (old, new) = (earlier.content(name).unwrap_or_default(), disk.content(name).unwrap());
            new.iter().zip(&old).position(|(new, old)| new != old).map(|at| at as u64 & !7)
        };
        let mut dice = Dice(seed);
        for case in 0..40 {
            let disk = disk.fork();
            let name = &names[dice.below(names.len() as u64) as usize];
            // Behind the last commit lies what an earlier use of the file has left.
            let used = begins(name).unwrap_or_else(|| *frames(&disk, name).last().unwrap()) + 400;
            let size = disk.content(name).unwrap().len() as u64;
            let at = if dice.below(8) == 0 { dice.below(size) } else { dice.below(used.min(size)) };
            let mut stretch = if dice.below(2) == 0 { 1 } else { 1 + dice.below(700) };
            // What hits the last commit and the one before at once leaves what one torn write would: no log can tell.
            if let Some(begin) = begins(name).filter(|begin| at < *begin && at + stretch > *begin) {
                stretch = begin - at;
            }
            for byte in at..at + stretch {
                disk.corrupt(name, byte, 1 + dice.below(255) as u8);
            }
            let context = format!("seed {seed}, case {case}: {stretch} bytes at {at} of {name}");
            let first = check_damaged(&disk, &before, &model, &context);
            let again = check_damaged(&disk, &before, &model, &context);
            assert_eq!(first.suspects, again.suspects, "{context}: a second start sees the same");
            damaged += usize::from(!first.damage.is_empty());
            suspected += usize::from(!first.suspects.is_empty());
        }
    }
    assert!(damaged > 400 && suspected > 350, "the faults do hit: {damaged}, {suspected}");
}

fn check_damaged(disk: &SimDisk, before: &Model, model: &Model, context: &str) -> Recovered {
    let (_, reader, recovered) = open(disk);
    for region in model.groups.keys().chain(before.groups.keys()) {
        if recovered.is_suspect(*region) {
            assert!(!recovered.damage.is_empty(), "{context}");
            assert!(reader.summary(*region).is_none(), "{context}");
            continue;
        }
        let is = |model: &Model| {
            let want = model.groups.get(region).cloned().unwrap_or_default();
            let summary = reader.summary(*region).unwrap_or_default();
            let state = reader.hard_state(*region).unwrap_or_default();
            summary == want.summary() && state == want.hard_state
        };
        // The last commit may have been several batches of one frame: all of it or nothing.
        if is(model) {
            model.check_group(*region, &reader, context);
        } else {
            before.check_group(*region, &reader, context);
        }
    }
    recovered
}
