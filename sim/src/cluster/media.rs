//! Disks that break: a log sync that fails, and log sectors that change while their store is down.
//!
//! A replica that may have lost records is out of service for good here: nobody replaces it. So no more stores get a damaged
//! log than every region can do without.

use std::collections::BTreeSet;
use std::sync::Arc;

use multiraft_raft::RegionId;
use multiraft_storage::disk::{CrashStyle, Disk};
use multiraft_storage::log::{CommitError, LogError};
use multiraft_storage::{LogWriter, Recovered, SimDisk};
use multiraft_transport::PeerMessage;

use super::{Cluster, Event, id_of};
use crate::random::Random;
use crate::schedule::MILLI;

/// What a medium loses at once.
const SECTOR: u64 = 512;
/// How many places are tried: most of a log's bytes mean nothing any more.
const PLACES: u32 = 16;

/// What a changed sector would do to a log.
enum Harm {
    /// Nothing: no living record is there.
    None,
    /// The next start names it.
    Named,
    /// It lies in the last frame, and so looks like a write that a crash has torn. No log can tell the two apart.
    LikeTorn,
    /// A region comes back without something, and passes for sound.
    Silent,
}

impl Cluster {
    /// A sync of the store's log will fail, soon.
    pub(super) fn fail_sync(&mut self, store: usize) {
        let node = &mut self.nodes[store];
        if node.process.is_some() {
            node.sync_fails = true;
            node.disk.fail_sync_after(self.random.below(4));
        }
    }

    /// A commit found the log poisoned: that is final, and the store serves nobody any more until it is started again.
    pub(super) fn on_poisoned(&mut self, store: usize, life: u64, cause: &str) {
        let id = id_of(store);
        if !self.nodes[store].sync_fails {
            return self.fail("the log takes what it is given", format!("{id}: poisoned: {cause}"));
        }
        self.say(|| format!("{id} has failed: {cause}"));
        self.counters.sync_failures += 1;
        let syncs = self.nodes[store].disk.syncs();
        let Some(process) = &mut self.nodes[store].process else { return };
        process.failed = true;
        let again = [process.writer.commit(Vec::new()).err(), process.writer.maintain().err()];
        let is_final = again.iter().all(|error| matches!(error, Some(CommitError::Poisoned(_))));
        if !is_final || self.nodes[store].disk.syncs() != syncs {
            return self.fail("a failed sync is final", format!("{id}: the log answered {again:?} afterwards"));
        }
        let wait = self.random.below(1_500 * MILLI);
        self.schedule.plan_in(wait, Event::Failed { store, life });
    }

    /// The process of a store that has failed is ended, by its operator or with the power, and started again.
    pub(super) fn on_failed(&mut self, store: usize, life: u64) {
        if !self.nodes[store].lives(life) {
            return;
        }
        let style = self.random.pick(&[CrashStyle::KeepAll, CrashStyle::KeepAll, CrashStyle::Mix, CrashStyle::LoseAll]);
        self.say(|| format!("{} is ended ({style:?})", id_of(store)));
        self.kill(store, style);
        let wait = self.random.around(500 * MILLI);
        self.schedule.plan_in(wait, Event::Start { store });
    }

    /// Sectors of a dead store's log change, if every region can do without its replica there.
    pub(super) fn damage_log(&mut self, store: usize) {
        let spare_stores = (self.plan.first_stores() - 1) / 2;
        let is_new = self.nodes[store].damages == 0;
        let damaged = self.nodes.iter().filter(|node| node.damages > 0).count();
        if self.nodes[store].process.is_some() || (is_new && damaged >= spare_stores) {
            return;
        }
        let disk = self.nodes[store].disk.clone();
        let Ok(sound) = self.look(&disk) else { return };
        for place in 0..PLACES {
            // By chance alone, the last frame would seldom be hit.
            let aims = place == 0 && self.random.chance(150);
            let aimed = aims.then(|| last_frame(&disk, &sound)).flatten();
            let aimed = aimed.map(|(name, at)| (name, at / SECTOR * SECTOR));
            let Some((name, sector)) = aimed.or_else(|| pick_sector(&disk, &mut self.random)) else { return };
            let flips: Vec<(u64, u8)> = (0..self.random.between(1, 8))
                .map(|_| (sector + self.random.below(SECTOR), self.random.between(1, 255) as u8))
                .collect();
            let copy = disk.fork();
            flip(&copy, &name, &flips);
            let found = match self.look(&copy) {
                Ok(found) => found,
                Err(LogError::NoSpace { .. }) => continue,
                Err(error) => {
                    let detail = format!("{}: {name}, sector at {sector}: {flips:?}: {error}", id_of(store));
                    return self.fail("a damaged log can be opened", detail);
                }
            };
            let last = last_frame(&disk, &sound);
            let hits_last = last.is_some_and(|(file, at)| file == name && flips.iter().any(|(place, _)| *place >= at));
            match harm(&sound, &found, hits_last) {
                Harm::None => {}
                Harm::LikeTorn => self.counters.damage_like_torn += 1,
                Harm::Silent => {
                    let detail = format!("{}: {name}, sector at {sector}: {flips:?}", id_of(store));
                    return self.fail("damage of the log is named", detail);
                }
                Harm::Named => {
                    flip(&disk, &name, &flips);
                    self.nodes[store].damages += 1;
                    self.counters.damaged_logs += 1;
                    self.record(7, store as u64);
                    return self.say(|| format!("{} has damage: {:?}", id_of(store), found.damage));
                }
            }
        }
    }

    /// What a log would be opened as.
    fn look(&self, disk: &SimDisk) -> Result<Recovered, LogError> {
        LogWriter::open(Arc::new(disk.fork()), self.plan.log).map(|(_, _, recovered)| recovered)
    }

    /// Judges which regions a store that starts leaves out of service: those that damage may have cost records, each for
    /// good, and no others.
    pub(super) fn leave_out(
        &mut self,
        store: usize,
        recovered: &Recovered,
        damaged: &[(RegionId, String)],
    ) -> Result<(), String> {
        let node = &mut self.nodes[store];
        let out: BTreeSet<RegionId> = damaged.iter().map(|(region, _)| *region).collect();
        if let Some((region, reason)) = damaged.iter().find(|(region, _)| !recovered.is_suspect(*region)) {
            return Err(format!("region {region} cannot start: {reason}"));
        }
        if let Some(region) = node.out.difference(&out).next() {
            return Err(format!("region {region} serves again, though it may have lost records"));
        }
        self.counters.replicas_lost += out.len() as u64 - node.out.len() as u64;
        out.iter().for_each(|region| self.consensus.on_lost(id_of(store), *region));
        node.out = out;
        Ok(())
    }

    /// A replica that may have lost records says nothing to its group: no vote, no acknowledgement, nothing.
    pub(super) fn judge_silence(&mut self, from: usize, messages: &[PeerMessage]) {
        let out = &self.nodes[from].out;
        if out.is_empty() {
            return;
        }
        let speaks = |message: &PeerMessage| match message {
            PeerMessage::Raft(raft) => out.contains(&raft.region),
            PeerMessage::Snapshot(snapshot) => out.contains(&snapshot.region),
            PeerMessage::Beats(beats) => beats.beats.iter().any(|beat| out.contains(&beat.region)),
            PeerMessage::BeatReplies(beats) => beats.replies.iter().any(|reply| out.contains(&reply.region)),
            PeerMessage::Forward(_)
            | PeerMessage::ForwardReply(_)
            | PeerMessage::Region(_)
            | PeerMessage::Support(_) => false,
        };
        if let Some(message) = messages.iter().find(|message| speaks(message)) {
            let detail = format!("{} sends {message:?}", id_of(from));
            self.fail("a replica that may have lost records is silent", detail);
        }
    }
}

/// A sector of a log file that has been written to: half the time of the newest segment, where writing goes on.
fn pick_sector(disk: &SimDisk, random: &mut Random) -> Option<(String, u64)> {
    let names = disk.list().ok()?;
    let segments: Vec<&String> = names.iter().filter(|name| name.starts_with("seg-")).collect();
    let newest = *segments.iter().max()?;
    let name =
        if random.chance(500) { newest.clone() } else { names[random.below(names.len() as u64) as usize].clone() };
    let content = disk.content(&name)?;
    let used = content.iter().rposition(|byte| *byte != 0)? as u64 + 1;
    Some((name, random.below(used.div_ceil(SECTOR)) * SECTOR))
}

/// The newest segment with a whole frame in it, and where the last of them begins.
fn last_frame(disk: &SimDisk, sound: &Recovered) -> Option<(String, u64)> {
    const MAGIC: &[u8] = b"MRFR";
    let names = disk.list().ok()?;
    let newest_first =
        names.iter().rev().filter_map(|name| Some((name, name.strip_prefix("seg-")?.parse::<u32>().ok()?)));
    newest_first.take(2).find_map(|(name, number)| {
        let content = disk.content(name)?;
        let cut =
            sound.torn.as_ref().filter(|torn| torn.file.ends_with(name.as_str())).map(|torn| torn.offset as usize);
        // Frames of the file's earlier lives name other segments.
        let begins =
            |at: &usize| content[*at..].starts_with(MAGIC) && content[*at + 8..].starts_with(&number.to_le_bytes());
        let at = (0..cut.unwrap_or(content.len() - 12)).step_by(8).rev().find(begins)?;
        Some((name.clone(), at as u64))
    })
}

fn flip(disk: &SimDisk, name: &str, flips: &[(u64, u8)]) {
    for (offset, bits) in flips {
        disk.corrupt(name, *offset, *bits);
    }
}

fn harm(sound: &Recovered, found: &Recovered, hits_last: bool) -> Harm {
    let is_lost = |region: &RegionId| found.groups.get(region) != sound.groups.get(region);
    let mut regions = sound.groups.keys().chain(found.groups.keys());
    if regions.any(|region| is_lost(region) && !found.is_suspect(*region)) {
        return if hits_last { Harm::LikeTorn } else { Harm::Silent };
    }
    if found.damage == sound.damage { Harm::None } else { Harm::Named }
}
