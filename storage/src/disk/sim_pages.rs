//! The pages of one simulated file: what is written, what of it is durable, what a crash makes of the difference.
//!
//! Knows no names and no faults but the crash.

use std::collections::BTreeMap;

use super::CrashStyle;

/// What the page cache works in.
pub(super) const PAGE: usize = 4096;
/// What a device writes atomically.
const SECTOR: usize = 512;

type Page = Option<Box<[u8; PAGE]>>;

#[derive(Clone, Default)]
pub(super) struct Inode {
    pub(super) len: u64,
    /// `None` is a page of zeros.
    pages: Vec<Page>,
    durable_len: u64,
    /// Pages written since the last sync, as they were then.
    pub(super) before: BTreeMap<usize, Page>,
    /// Pages that a failed sync has left behind, as they are on the medium.
    forsaken: BTreeMap<usize, Page>,
    /// Where the newest write lies, for tearing.
    last_write_end: u64,
}

impl Inode {
    pub(super) fn resize(&mut self, len: u64) {
        self.len = len;
        self.pages.resize((len as usize).div_ceil(PAGE), None);
    }

    pub(super) fn read(&self, into: &mut [u8], offset: u64) {
        for (page, at, range) in spans(offset, into.len()) {
            let into = &mut into[range.clone()];
            match self.pages.get(page) {
                Some(Some(page)) => into.copy_from_slice(&page[at..at + range.len()]),
                _ => into.fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, from: &[u8], offset: u64) {
        for (page, at, range) in spans(offset, from.len()) {
            let slot = &mut self.pages[page];
            let forsaken = self.forsaken.remove(&page);
            self.before.entry(page).or_insert_with(|| forsaken.unwrap_or_else(|| slot.clone()));
            let content = slot.get_or_insert_with(|| Box::new([0; PAGE]));
            content[at..at + range.len()].copy_from_slice(&from[range]);
        }
        self.last_write_end = offset + from.len() as u64;
    }

    pub(super) fn settle(&mut self) {
        self.before.clear();
        self.durable_len = self.len;
    }

    /// A sync failed: what was dirty passes for clean without being durable.
    pub(super) fn forsake(&mut self) {
        let dirty = std::mem::take(&mut self.before);
        self.forsaken.extend(dirty);
    }

    pub(super) fn crash(&mut self, style: CrashStyle, dice: &mut Dice) {
        let mut unsure = std::mem::take(&mut self.before);
        unsure.append(&mut self.forsaken);
        for (page, before) in unsure {
            if style == CrashStyle::Mix {
                self.mix_page(page, before, dice);
            } else {
                self.pages[page] = before;
            }
        }
        let keeps_len = style == CrashStyle::Mix && dice.below(2) == 0;
        let len = if keeps_len { self.len } else { self.durable_len };
        self.resize(len);
        self.durable_len = len;
    }

    /// Keeps all, none or some of a page's sectors, and tears the last write inside its last sector.
    fn mix_page(&mut self, page: usize, before: Page, dice: &mut Dice) {
        const ZEROS: [u8; PAGE] = [0; PAGE];
        let Some(content) = &mut self.pages[page] else { return };
        let old: &[u8; PAGE] = before.as_deref().unwrap_or(&ZEROS);
        let fate = dice.below(4);
        for sector in 0..PAGE / SECTOR {
            let range = sector * SECTOR..(sector + 1) * SECTOR;
            let lost = match fate {
                0 => true,
                1 => false,
                _ => dice.below(2) == 0,
            };
            let end = self.last_write_end as usize;
            if lost {
                content[range.clone()].copy_from_slice(&old[range]);
            } else if end > page * PAGE + range.start && end <= page * PAGE + range.end && dice.below(2) == 0 {
                let torn = range.start + dice.below(SECTOR as u64) as usize..range.end;
                content[torn.clone()].copy_from_slice(&old[torn]);
            }
        }
    }
}

/// Cuts a byte range into pages: (page, offset in the page, range in the caller's buffer).
fn spans(offset: u64, len: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let offset = offset as usize;
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let (page, at) = ((offset + done) / PAGE, (offset + done) % PAGE);
        let step = (PAGE - at).min(len - done);
        done += step;
        Some((page, at, done - step..done))
    })
}

/// A small generator (splitmix64): crashes depend on their seed only.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
