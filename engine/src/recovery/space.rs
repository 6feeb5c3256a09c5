//! Whose keys are whose after a recovery: of all claims to a key the newest counts, and no key has two owners (F2).

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use multiraft_raft::{KeyRange, RegionId};

/// A region's claim to a range.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) region: RegionId,
    pub(super) version: u64,
    pub(super) range: KeyRange,
    pub(super) standing: Standing,
}

/// What may be done about a claim.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// The region lives on by itself. Of its range it will give away all but this, by what its log holds already.
    Lives { keeps: KeyRange },
    /// The region is left alone, and whatever newer regions own it does not have.
    Cedes,
    /// The region is recovered and can be cut.
    Kept,
}

/// What came of all claims.
#[derive(Clone, Debug, Default)]
pub(super) struct Ruling {
    /// The pieces that each region gets of its range, in key order.
    pub(super) pieces: BTreeMap<RegionId, Vec<KeyRange>>,
    /// Regions whose claims contradict those of regions that live on.
    pub(super) contradicted: BTreeSet<RegionId>,
    /// What nobody claims.
    pub(super) gaps: Vec<KeyRange>,
}

/// Decides on all claims: the newest first.
pub(super) fn rule(mut claims: Vec<Claim>) -> Ruling {
    claims.sort_by(|a, b| b.version.cmp(&a.version).then(a.region.cmp(&b.region)));
    let mut ruling = Ruling::default();
    let mut taken: Vec<(KeyRange, RegionId)> = Vec::new();
    for claim in claims {
        let mut pieces = subtract(&claim.range, taken.iter().map(|(range, _)| range));
        match &claim.standing {
            Standing::Lives { keeps } => {
                let hurt: Vec<RegionId> =
                    taken.iter().filter(|(range, _)| range.overlaps(keeps)).map(|(_, owner)| *owner).collect();
                if !hurt.is_empty() {
                    ruling.contradicted.insert(claim.region);
                    ruling.contradicted.extend(hurt);
                }
            }
            Standing::Cedes => {}
            // A region has one range: the first piece stays with it.
            Standing::Kept => pieces.truncate(1),
        }
        taken.extend(pieces.iter().map(|piece| (piece.clone(), claim.region)));
        taken.sort_by(|a, b| a.0.start.cmp(&b.0.start));
        ruling.pieces.insert(claim.region, pieces);
    }
    ruling.gaps = subtract(&KeyRange::full(), taken.iter().map(|(range, _)| range));
    ruling
}

/// What is left of a range without others, which ascend and do not overlap.
pub(super) fn subtract<'a>(range: &KeyRange, others: impl Iterator<Item = &'a KeyRange>) -> Vec<KeyRange> {
    let mut left = Vec::new();
    let mut start = range.start.clone();
    for other in others.filter(|other| other.overlaps(range)) {
        if other.start > start {
            left.push(KeyRange { start: start.clone(), end: other.start.clone() });
        }
        if other.end.is_empty() {
            return left;
        }
        start = start.max(Bytes::clone(&other.end));
    }
    if range.end.is_empty() || start < range.end {
        left.push(KeyRange { start, end: range.end.clone() });
    }
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static str, end: &'static str) -> KeyRange {
        KeyRange { start: Bytes::from_static(start.as_bytes()), end: Bytes::from_static(end.as_bytes()) }
    }

    fn claim(region: u64, version: u64, start: &'static str, end: &'static str, standing: Standing) -> Claim {
        Claim { region: RegionId(region), version, range: range(start, end), standing }
    }

    #[test]
    fn a_parent_that_has_not_split_is_cut_to_what_no_newer_region_owns() {
        let ruling = rule(vec![
            claim(2, 5, "", "", Standing::Kept),
            claim(7, 6, "m", "", Standing::Lives { keeps: range("m", "") }),
        ]);
        assert_eq!(ruling.pieces[&RegionId(2)], [range("", "m")]);
        assert!(ruling.gaps.is_empty() && ruling.contradicted.is_empty());
    }

    #[test]
    fn of_several_pieces_the_first_stays_and_the_others_are_gaps() {
        let ruling = rule(vec![claim(2, 5, "b", "y", Standing::Kept), claim(7, 6, "g", "p", Standing::Kept)]);
        assert_eq!(ruling.pieces[&RegionId(2)], [range("b", "g")]);
        assert_eq!(ruling.gaps, [range("", "b"), range("p", "")]);
    }

    #[test]
    fn a_living_parent_gives_away_only_what_its_log_says() {
        let gives = Standing::Lives { keeps: range("", "m") };
        let ruling = rule(vec![claim(2, 5, "", "", gives), claim(7, 6, "m", "", Standing::Kept)]);
        assert!(ruling.contradicted.is_empty());
        assert_eq!(ruling.pieces[&RegionId(2)], [range("", "m")]);
        let stays = Standing::Lives { keeps: range("", "") };
        let ruling = rule(vec![claim(2, 5, "", "", stays), claim(7, 6, "m", "", Standing::Kept)]);
        assert_eq!(ruling.contradicted, BTreeSet::from([RegionId(2), RegionId(7)]));
    }

    #[test]
    fn what_newer_regions_own_altogether_has_nothing_left() {
        let ruling = rule(vec![claim(3, 5, "g", "m", Standing::Kept), claim(2, 8, "", "", Standing::Kept)]);
        assert!(ruling.pieces[&RegionId(3)].is_empty());
    }
}
