//! The commands of one round, what is said to them, and how much of that is held at a time.
//!
//! Lanes are carried out beside each other, those with the earliest commands first. How long answers are is known only when they are
//! there. So a lane stops once it has answered [`LANE_REPLY_BYTES`], and none begins while [`ROUND_REPLY_BYTES`] are held: what is
//! answered from the front on is sent first. The lane with the first command that has no answer yet always goes on, so that there
//! always comes something to send.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use multiraft::{RegionDescriptor, RegionId};

use super::lanes::Item;
use super::reply::{Protocol, Reply};

/// No lane begins while so many bytes of answers are held.
pub(super) const ROUND_REPLY_BYTES: usize = 4 << 20;
/// A lane stops, perhaps to go on later, when it has answered so many bytes.
pub(super) const LANE_REPLY_BYTES: usize = 256 << 10;
/// The most lanes beside each other.
pub(super) const LANES_AT_ONCE: usize = 64;
/// What is put together to be sent.
const SENT_AT_ONCE_BYTES: usize = 256 << 10;

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Round {
    /// The replies that are not sent yet, each with the protocol version that it goes out in.
    replies: VecDeque<(Protocol, Option<Reply>)>,
    /// How many were sent.
    sent: usize,
    /// The bytes of those that are there and not sent.
    held: usize,
    lanes: HashMap<RegionId, Lane>,
}

/// The commands for one region, as it was when the first of them was sorted in.
#[derive(Debug)]
struct Lane {
    region: Arc<RegionDescriptor>,
    items: VecDeque<Item>,
}

impl Round {
    /// The place of the next command.
    pub(super) fn next_slot(&self) -> usize {
        self.sent + self.replies.len()
    }

    /// Gives the next command its place, perhaps with its reply.
    pub(super) fn push(&mut self, protocol: Protocol, reply: Option<Reply>) {
        self.held += reply.as_ref().map_or(0, Reply::bytes);
        self.replies.push_back((protocol, reply));
    }

    /// A command is answered.
    pub(super) fn answer(&mut self, slot: usize, reply: Reply) {
        self.held += reply.bytes();
        self.replies[slot - self.sent].1 = Some(reply);
    }

    /// Whether what is answered has to be sent before more is asked for.
    pub(super) fn is_full(&self) -> bool {
        self.held >= ROUND_REPLY_BYTES
    }

    /// Where commands for a region go; `None` if the lanes have to be carried out first. That is when the regions change
    /// while commands are sorted in: two lanes that share a key would be carried out beside each other, out of order.
    pub(super) fn lane(&mut self, region: &Arc<RegionDescriptor>) -> Option<&mut VecDeque<Item>> {
        let is_same = |lane: &Lane| lane.region.id == region.id && lane.region.epoch.version == region.epoch.version;
        let known = self.lanes.get(&region.id).is_some_and(is_same);
        if !known && self.lanes.values().any(|lane| lane.region.id == region.id || overlap(&lane.region, region)) {
            return None;
        }
        let lane = self.lanes.entry(region.id);
        let lane = lane.or_insert_with(|| Lane { region: Arc::clone(region), items: VecDeque::new() });
        Some(&mut lane.items)
    }

    /// All lanes, to be carried out, by the place of their first command.
    pub(super) fn take_lanes(&mut self) -> BTreeMap<usize, VecDeque<Item>> {
        let lanes = std::mem::take(&mut self.lanes).into_values();
        lanes.filter_map(|lane| Some((lane.items.front()?.slot, lane.items))).collect()
    }

    /// Encodes some of what is answered from the front on; whether that was all of it.
    pub(super) fn encode_some(&mut self, output: &mut BytesMut) -> bool {
        while let Some((protocol, reply)) = self.replies.pop_front_if(|(_, reply)| reply.is_some()) {
            let Some(reply) = reply else { break };
            self.held -= reply.bytes();
            self.sent += 1;
            reply.encode(protocol, output);
            if output.len() >= SENT_AT_ONCE_BYTES {
                return false;
            }
        }
        true
    }
}

/// Whether two regions share a key.
fn overlap(one: &RegionDescriptor, other: &RegionDescriptor) -> bool {
    let reaches = |end: &Bytes, start: &Bytes| end.is_empty() || start < end;
    reaches(&one.range.end, &other.range.start) && reaches(&other.range.end, &one.range.start)
}

#[cfg(test)]
mod tests {
    use multiraft::{KeyRange, RegionEpoch};

    use super::*;
    use crate::machine::Op;
    use crate::resp::command::Shape;

    fn region(id: u64, start: &str, end: &str, version: u64) -> Arc<RegionDescriptor> {
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        Arc::new(RegionDescriptor {
            id: RegionId(id),
            range: KeyRange { start: bytes(start), end: bytes(end) },
            epoch: RegionEpoch { conf_version: 1, version },
            replicas: Vec::new(),
        })
    }

    fn item(slot: usize) -> Item {
        Item { slot, op: Op::Get { key: Bytes::from_static(b"k") }, shape: Shape::Plain }
    }

    #[test]
    fn regions_that_share_a_key_with_another_lane_wait_for_it() {
        let mut round = Round::default();
        for known in [region(1, "", "k", 4), region(2, "k", "", 7), region(1, "", "k", 4)] {
            round.lane(&known).unwrap().push_back(item(0));
        }
        assert_eq!(round.lanes[&RegionId(1)].items.len(), 2);
        // The second has split: neither what it kept nor what it gave away may run beside what was sorted in before.
        for changed in [region(2, "k", "p", 8), region(3, "p", "", 8), region(4, "j", "k", 9), region(1, "", "j", 5)] {
            assert!(round.lane(&changed).is_none(), "{changed:?}");
        }
        round.take_lanes();
        for fresh in [region(2, "k", "p", 8), region(3, "p", "", 8)] {
            assert!(round.lane(&fresh).is_some());
        }
    }

    #[test]
    fn lanes_come_by_their_first_command() {
        let mut round = Round::default();
        for (slot, id) in [(0, 7), (1, 3), (2, 7), (3, 5)] {
            let (start, end) = (format!("{id}"), format!("{id}~"));
            round.lane(&region(id, &start, &end, 1)).unwrap().push_back(item(slot));
        }
        let lanes: Vec<Vec<usize>> =
            round.take_lanes().into_values().map(|items| items.iter().map(|item| item.slot).collect()).collect();
        assert_eq!(lanes, [vec![0, 2], vec![1], vec![3]]);
    }

    #[test]
    fn what_is_answered_from_the_front_on_is_sent_in_order_and_held_no_more() {
        let value = |byte: u8| Reply::Bulk(vec![byte; ROUND_REPLY_BYTES / 3].into());
        let mut round = Round::default();
        for _ in 0..4 {
            round.push(Protocol::Two, None);
        }
        let mut output = BytesMut::new();
        for slot in [1, 2, 3] {
            assert!(!round.is_full());
            round.answer(slot, value(b'0' + slot as u8));
            assert!(round.encode_some(&mut output) && output.is_empty(), "the first has no answer yet");
        }
        assert!(round.is_full());
        round.answer(0, Reply::Simple("OK"));
        assert_eq!(round.next_slot(), 4);
        let mut all = Vec::new();
        loop {
            let is_all = round.encode_some(&mut output);
            assert!(output.len() < SENT_AT_ONCE_BYTES + ROUND_REPLY_BYTES / 3 + 64);
            all.extend(output.split());
            if is_all {
                break;
            }
        }
        assert!(all.starts_with(b"+OK\r\n$") && all.ends_with(b"33\r\n"));
        assert!(round.replies.is_empty() && round.held == 0 && round.next_slot() == 4);
    }
}
