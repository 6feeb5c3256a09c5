//! A group at rest: all that a [`Group`] is, in as few bytes as it takes.
//!
//! Nothing is lost: unpacking gives an equal group. Offsets have four bytes, other numbers seven bits to a byte, lowest first,
//! and what can be told from what stands before is left out. A group of one record takes some twenty bytes, each further record six
//! to eight. Only ever in memory: never on disk.
//!
//! ```text
//! region | flags | last record: segment, offset | sweep | hard state, if any: term, vote, commit, segment
//!        | mark, if any: index, term, segment | number of blocks
//!        | if there are any: entries from the mark to the last, and the blocks: bits and count, length, what the bits say
//! ```
//!
//! Segments but the first are differences from that of the last record.

use std::collections::VecDeque;

use multiraft_raft::{HardState, LogIndex, RegionId, ReplicaId, Term};

use super::blocks::{Block, Blocks};
use super::format::Loc;
use super::group::{Group, Head, NOWHERE, Tip};

/// The most that one group may take.
pub(crate) const PACKED_MAX: usize = 256;
/// No group with more blocks can fit, so there is no need to try.
const BLOCKS_MAX: usize = PACKED_MAX / 2;
/// Room for the next few records of a group that is being unpacked.
const BLOCKS_TO_COME: usize = 3;

const SUSPECT: u8 = 1;
const HARD_STATE: u8 = 2;
const MARK: u8 = 4;

/// The block is the group's newest record.
const IS_LAST_RECORD: u8 = 1;
/// The block begins where the one before ends, or after the mark.
const FOLLOWS: u8 = 2;
/// Its term is that of the block before, or of the hard state.
const SAME_TERM: u8 = 4;
/// It lies in the segment of the block before, or of the newest record.
const SAME_SEGMENT: u8 = 8;
/// Above these bits stands the count, or this if the count follows.
const COUNT_SHIFT: u32 = 4;
const COUNT_FOLLOWS: u8 = 15;

/// A packed group on its way to where it stays.
#[derive(Debug)]
pub(crate) struct Packed {
    bytes: [u8; PACKED_MAX],
    length: usize,
}

impl Packed {
    /// `None` if the group is too large.
    pub(crate) fn new(region: RegionId, group: &Group) -> Option<Self> {
        let Group { head, blocks } = group;
        if blocks.len() > BLOCKS_MAX {
            return None;
        }
        let mut out = Self { bytes: [0; PACKED_MAX], length: 0 };
        out.number(region.0)?;
        let has_state = head.hard_state != HardState::default() || head.hard_state_segment != NOWHERE;
        let has_mark = (head.truncated, head.truncated_term, head.mark_segment) != (0, 0, NOWHERE);
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        out.byte(flag(head.suspect, SUSPECT) | flag(has_state, HARD_STATE) | flag(has_mark, MARK))?;
        let last = head.last_record;
        out.number(u64::from(last.segment))?;
        out.offset(last.offset)?;
        out.near(head.sweep_segment, last.segment)?;
        if has_state {
            out.number(head.hard_state.term.0)?;
            out.number(head.hard_state.vote.0)?;
            out.number(head.hard_state.commit.0)?;
            out.near(head.hard_state_segment, last.segment)?;
        }
        if has_mark {
            out.number(head.truncated)?;
            out.number(head.truncated_term)?;
            out.near(head.mark_segment, last.segment)?;
        }
        out.number(blocks.len() as u64)?;
        if blocks.len() > 0 {
            out.number(group.last_index().wrapping_sub(head.truncated))?;
        }
        let mut before = Before::new(head);
        for block in blocks.iter() {
            out.block(block, &before, last)?;
            before.pass(block);
        }
        Some(out)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn block(&mut self, block: &Block, before: &Before, last_record: Loc) -> Option<()> {
        let flag = |set: bool, flag: u8| if set { flag } else { 0 };
        let count = u8::try_from(block.count).map_or(COUNT_FOLLOWS, |count| count.min(COUNT_FOLLOWS));
        let bits = flag(block.at == last_record, IS_LAST_RECORD)
            | flag(block.first == before.end, FOLLOWS)
            | flag(block.term == before.term, SAME_TERM)
            | flag(block.at.segment == before.segment, SAME_SEGMENT);
        self.byte(bits | count << COUNT_SHIFT)?;
        self.number(u64::from(block.length))?;
        if count == COUNT_FOLLOWS {
            self.number(u64::from(block.count))?;
        }
        if bits & FOLLOWS == 0 {
            self.number(block.first)?;
        }
        if bits & SAME_TERM == 0 {
            self.number(block.term)?;
        }
        if bits & IS_LAST_RECORD == 0 {
            if bits & SAME_SEGMENT == 0 {
                self.near(block.at.segment, last_record.segment)?;
            }
            self.offset(block.at.offset)?;
        }
        Some(())
    }

    fn byte(&mut self, byte: u8) -> Option<()> {
        *self.bytes.get_mut(self.length)? = byte;
        self.length += 1;
        Some(())
    }

    fn number(&mut self, mut number: u64) -> Option<()> {
        while number >= 0x80 {
            self.byte(number as u8 | 0x80)?;
            number >>= 7;
        }
        self.byte(number as u8)
    }

    fn offset(&mut self, offset: u32) -> Option<()> {
        *self.bytes.get_mut(self.length..)?.first_chunk_mut()? = offset.to_le_bytes();
        self.length += 4;
        Some(())
    }

    /// A number that is likely to be close to `base`, on either side.
    fn near(&mut self, number: u32, base: u32) -> Option<()> {
        let difference = number.wrapping_sub(base) as i32;
        self.number(u64::from(((difference << 1) ^ (difference >> 31)) as u32))
    }
}

/// What the next block is told apart from.
struct Before {
    end: u64,
    term: u64,
    segment: u32,
}

impl Before {
    fn new(head: &Head) -> Self {
        let end = head.truncated.wrapping_add(1);
        Self { end, term: head.hard_state.term.0, segment: head.last_record.segment }
    }

    fn pass(&mut self, block: &Block) {
        *self = Self { end: block.end(), term: block.term, segment: block.at.segment };
    }
}

/// Whose group it is.
pub(crate) fn region(packed: &[u8]) -> RegionId {
    RegionId(Unpack { bytes: packed }.number())
}

/// Where its log ends, without unpacking the rest.
pub(crate) fn tip(packed: &[u8]) -> Tip {
    let mut bytes = Unpack { bytes: packed };
    let (Head { last_record, truncated, suspect, .. }, count) = bytes.head();
    let last_index = if count == 0 { truncated } else { truncated.wrapping_add(bytes.number()) };
    Tip { last_record, truncated, last_index, suspect }
}

/// The group itself.
pub(crate) fn unpack(packed: &[u8]) -> Group {
    let mut bytes = Unpack { bytes: packed };
    let (head, count) = bytes.head();
    if count == 0 {
        return Group { head, blocks: Blocks::default() };
    }
    bytes.number();
    let mut before = Before::new(&head);
    let mut blocks = VecDeque::with_capacity(count + BLOCKS_TO_COME);
    blocks.extend((0..count).map(|_| {
        let block = bytes.block(&before, head.last_record);
        before.pass(&block);
        block
    }));
    Group { head, blocks: Blocks::restore(blocks) }
}

/// What is still to be read of a packed group. Bytes behind it do no harm.
struct Unpack<'a> {
    bytes: &'a [u8],
}

impl Unpack<'_> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().expect("a packed group is whole");
        self.bytes = rest;
        *first
    }

    fn number(&mut self) -> u64 {
        let first = self.byte();
        if first < 0x80 { u64::from(first) } else { self.rest_of_number(first) }
    }

    fn rest_of_number(&mut self, first: u8) -> u64 {
        let (mut number, mut shift) = (u64::from(first & 0x7f), 7);
        loop {
            let byte = self.byte();
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return number;
            }
            shift += 7;
        }
    }

    fn offset(&mut self) -> u32 {
        let (first, rest) = self.bytes.split_first_chunk().expect("a packed group is whole");
        self.bytes = rest;
        u32::from_le_bytes(*first)
    }

    fn small(&mut self) -> u32 {
        self.number() as u32
    }

    fn near(&mut self, base: u32) -> u32 {
        let folded = self.small();
        base.wrapping_add((folded >> 1) ^ (folded & 1).wrapping_neg())
    }

    /// All but the blocks, and how many of these follow.
    fn head(&mut self) -> (Head, usize) {
        self.number();
        let flags = self.byte();
        let last_record = Loc { segment: self.small(), offset: self.offset() };
        let sweep_segment = self.near(last_record.segment);
        let mut head = Head { last_record, suspect: flags & SUSPECT != 0, ..Group::new(sweep_segment).head };
        if flags & HARD_STATE != 0 {
            head.hard_state = HardState {
                term: Term(self.number()),
                vote: ReplicaId(self.number()),
                commit: LogIndex(self.number()),
            };
            head.hard_state_segment = self.near(last_record.segment);
        }
        if flags & MARK != 0 {
            (head.truncated, head.truncated_term) = (self.number(), self.number());
            head.mark_segment = self.near(last_record.segment);
        }
        let count = self.number() as usize;
        (head, count)
    }

    fn block(&mut self, before: &Before, last_record: Loc) -> Block {
        let bits = self.byte();
        let length = self.small();
        let count = match bits >> COUNT_SHIFT {
            COUNT_FOLLOWS => self.small(),
            count => u32::from(count),
        };
        let first = if bits & FOLLOWS != 0 { before.end } else { self.number() };
        let term = if bits & SAME_TERM != 0 { before.term } else { self.number() };
        let at = if bits & IS_LAST_RECORD != 0 {
            last_record
        } else {
            let segment = if bits & SAME_SEGMENT != 0 { before.segment } else { self.near(last_record.segment) };
            Loc { segment, offset: self.offset() }
        };
        Block { first, term, count, length, at }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Numbers of every magnitude.
    fn number() -> impl Strategy<Value = u64> {
        (any::<u64>(), 0..64_u32).prop_map(|(number, shift)| number >> shift)
    }

    fn small() -> impl Strategy<Value = u32> {
        prop_oneof![
            Just(0),
            Just(1),
            Just(u32::MAX),
            (any::<u32>(), 0..32_u32).prop_map(|(number, shift)| number >> shift)
        ]
    }

    fn loc() -> impl Strategy<Value = Loc> {
        (small(), small()).prop_map(|(segment, offset)| Loc { segment, offset })
    }

    fn head() -> impl Strategy<Value = Head> {
        let numbers = (number(), number(), number(), number(), number());
        (numbers, loc(), small(), small(), small(), any::<bool>()).prop_map(
            |((term, vote, commit, truncated, truncated_term), last_record, state, mark, sweep_segment, suspect)| {
                Head {
                    hard_state: HardState { term: Term(term), vote: ReplicaId(vote), commit: LogIndex(commit) },
                    truncated,
                    truncated_term,
                    last_record,
                    hard_state_segment: state,
                    mark_segment: mark,
                    sweep_segment,
                    suspect,
                }
            },
        )
    }

    fn block(last_record: Loc) -> impl Strategy<Value = Block> {
        let at = prop_oneof![Just(last_record), loc()];
        (number(), number(), small(), small(), at).prop_map(|(first, term, count, length, at)| Block {
            first: first >> 1,
            term,
            count,
            length,
            at,
        })
    }

    fn group() -> impl Strategy<Value = Group> {
        head().prop_flat_map(|head| {
            let blocks = prop::collection::vec(block(head.last_record), 0..5);
            (Just(head), blocks, any::<bool>()).prop_map(|(head, mut blocks, contiguous)| {
                let mut end = head.truncated.wrapping_add(1) >> 1;
                for block in blocks.iter_mut().filter(|_| contiguous) {
                    block.first = end;
                    end = block.end();
                }
                Group { head, blocks: Blocks::restore(blocks.into()) }
            })
        })
    }

    proptest! {
        #[test]
        fn unpacking_gives_what_was_packed(id in number(), group in group()) {
            let packed = Packed::new(RegionId(id), &group);
            let packed = packed.expect("four blocks fit, whatever they say");
            // A place may be larger than what lies there.
            let bytes = [packed.bytes(), &[0xff; 4]].concat();
            prop_assert_eq!(region(&bytes), RegionId(id));
            prop_assert_eq!(&unpack(&bytes), &group);
            prop_assert_eq!(tip(&bytes), group.tip());
        }
    }

    fn quiet(records: u32) -> Group {
        let mut group = Group::new(40);
        let at = |number| Loc { segment: 40, offset: (9 << 20) + number * (1 << 20) };
        group.head.hard_state = HardState { term: Term(2), vote: ReplicaId(200_000), commit: LogIndex(2) };
        (group.head.last_record, group.head.hard_state_segment) = (at(records - 1), 40);
        let block = |number| Block { first: u64::from(number) + 1, term: 2, count: 1, length: 90, at: at(number) };
        group.blocks = Blocks::restore((0..records).map(block).collect());
        group
    }

    #[test]
    fn a_quiet_group_takes_few_bytes() {
        let length = |group: &Group| Packed::new(RegionId(100_000), group).unwrap().bytes().len();
        assert_eq!([1, 2, 3].map(|records| length(&quiet(records))), [20, 26, 32]);
    }

    #[test]
    fn a_group_with_too_many_records_is_not_packed() {
        assert!(Packed::new(RegionId(1), &quiet(38)).is_some());
        assert!(Packed::new(RegionId(1), &quiet(50)).is_none());
        assert!(Packed::new(RegionId(1), &quiet(1_000)).is_none());
    }
}
