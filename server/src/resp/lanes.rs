//! Carrying out operations on regions: batched by region, in order within one, beside each other between several.
//!
//! ```text
//! commands of a connection   a1 b1 a2 a3 b2 ...            (a, b: regions)
//! lanes                      a: [a1 a2 a3]   b: [b1 b2]    beside each other
//! a lane                     one proposal or query at a time, with as many operations as fit
//! ```
//!
//! What is known to have had no effect is tried again until the deadline. What may have had an effect is never proposed
//! again: its caller is told `UNCERTAIN`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::{
    Consistency, Engine, ProposeError, ProposeOptions, ReadError, ReadOptions, RegionDescriptor, RegionEpoch, RegionId,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::command::{Shape, reply_of};
use super::reply::Reply;
use super::round::LANE_REPLY_BYTES;
use crate::machine::{Answer, Op, Refusal, decode_answers, encode_batch};

/// The most operations in one proposal or query.
const MAX_BATCH_OPS: usize = 512;
/// What a proposal holds at most, in bytes, unless a single operation is larger.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// How long to wait before what had no effect is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(5);
/// The engine is asked to answer this much before the deadline, so that its own answer, which says more, comes first; a
/// tenth of the time if that is less.
const MARGIN: Duration = Duration::from_millis(20);
/// With less time than this left, nothing is tried again: what was told last says more than that the time is up.
pub(crate) const LAST_TRY: Duration = Duration::from_millis(30);

pub(crate) const UNCERTAIN: &str =
    "UNCERTAIN the outcome is unknown: the command may have taken effect; read before you write again";
pub(crate) const NO_REGION: &str = "CLUSTERDOWN this store knows no region for the key: try again, or, if the cluster is new, \
    start every store with --bootstrap-regions N";
pub(crate) const CROSS_REGION: &str =
    "CROSSSLOT the keys of this command lie in more than one region: send a command for each of them";

/// An operation whose reply goes to a place among the connection's replies.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) slot: usize,
    pub(crate) op: Op,
    pub(crate) shape: Shape,
}

/// Why a batch was not answered.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// It had no effect, and may be tried again after a while; else this is the reply.
    Again(Duration, Reply),
    /// It had no effect and never will.
    Failed(Reply),
    /// It may have had an effect, or yet have one.
    Uncertain,
}

/// The region that owns all keys of an operation, as far as this store can find out.
pub(crate) async fn region_of(engine: &Engine, op: &Op, deadline: Instant) -> Result<Arc<RegionDescriptor>, Reply> {
    region_of_keys(engine, &op.keys(), deadline).await.map_err(|none| none.unwrap_or(Reply::Error(CROSS_REGION.into())))
}

/// The region that owns all of some keys. The error is `None` if they lie in more than one.
pub(crate) async fn region_of_keys(
    engine: &Engine,
    keys: &[&Bytes],
    deadline: Instant,
) -> Result<Arc<RegionDescriptor>, Option<Reply>> {
    let Some((first, rest)) = keys.split_first() else { return Err(None) };
    let left = deadline.saturating_duration_since(Instant::now());
    let Some(region) = engine.locate(first, Some(left)).await else {
        return Err(Some(Reply::error(NO_REGION)));
    };
    if rest.iter().all(|key| region.owns(key)) { Ok(region) } else { Err(None) }
}

/// Carries the operations of one region out, in order. Each gets a reply, at the deadline at the latest; but once the replies have
/// [`LANE_REPLY_BYTES`], the operations that are left come back, at least one having been answered.
pub(crate) async fn run_lane(
    engine: Engine,
    mut lane: VecDeque<Item>,
    deadline: Instant,
) -> (Vec<(usize, Reply)>, VecDeque<Item>) {
    let mut replies = Vec::with_capacity(lane.len());
    let mut tried: Option<(RegionId, RegionEpoch, Bytes)> = None;
    let (mut bytes, mut counted) = (0, 0);
    while let Some(first) = lane.front() {
        bytes += replies.iter().skip(counted).map(|(_, reply): &(usize, Reply)| reply.bytes()).sum::<usize>();
        counted = replies.len();
        if bytes >= LANE_REPLY_BYTES {
            break;
        }
        let region = match region_of(&engine, &first.op, deadline).await {
            Ok(region) => region,
            Err(reply) => {
                let item = lane.pop_front().expect("invariant: the loop saw it");
                replies.push((item.slot, reply));
                continue;
            }
        };
        let count = batch_len(&lane, &region);
        let write = lane.iter().take(count).any(|item| item.op.is_write());
        // While a lane waits for room it is not put together anew.
        let batch = match tried.take() {
            Some((id, epoch, batch)) if (id, epoch) == (region.id, region.epoch) => batch,
            _ => encode_batch(lane.iter().take(count).map(|item| &item.op)),
        };
        let target = (region.id, region.epoch);
        match attempt(&engine, target, batch.clone(), write, deadline).await {
            Ok(answers) => settle(&mut lane, count, answers, &mut replies),
            Err(Trouble::Again(pause, last)) => {
                if Instant::now() + pause + LAST_TRY >= deadline {
                    replies.extend(lane.drain(..).map(|item| (item.slot, last.clone())));
                } else {
                    tried = Some((region.id, region.epoch, batch));
                    sleep(pause).await;
                }
            }
            Err(Trouble::Failed(reply)) => {
                replies.extend(lane.drain(..count).map(|item| (item.slot, reply.clone())));
            }
            Err(Trouble::Uncertain) => {
                replies.extend(lane.drain(..count).map(|item| (item.slot, uncertain_reply(&item.op))));
            }
        }
    }
    (replies, lane)
}

/// How many operations from the front on go together: the same region, within the limits; at least one.
fn batch_len(lane: &VecDeque<Item>, region: &RegionDescriptor) -> usize {
    let mut bytes = 0;
    let fits = |item: &&Item| {
        bytes += item.op.encoded_len();
        bytes <= MAX_BATCH_BYTES && item.op.keys().into_iter().all(|key| region.owns(key))
    };
    lane.iter().take(MAX_BATCH_OPS).take_while(fits).count().max(1)
}

/// Hands answers to the operations that were carried out; the others stay in the lane.
fn settle(lane: &mut VecDeque<Item>, count: usize, answers: Vec<Answer>, replies: &mut Vec<(usize, Reply)>) {
    for answer in answers.into_iter().take(count) {
        if let Some(item) = lane.pop_front() {
            replies.push((item.slot, reply_of(answer, item.shape)));
        }
    }
}

/// A read changes nothing, so that its outcome is never in doubt.
fn uncertain_reply(op: &Op) -> Reply {
    if op.is_write() { Reply::Error(UNCERTAIN.into()) } else { Reply::error("TRYAGAIN no answer in time: read again") }
}

/// Proposes or asks once, under the epoch at which the region was found to own the keys: one that has given a key away
/// since does not answer for it.
/// Answers are at least one.
pub(crate) async fn attempt(
    engine: &Engine,
    (region, epoch): (RegionId, RegionEpoch),
    batch: Bytes,
    write: bool,
    deadline: Instant,
) -> Result<Vec<Answer>, Trouble> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = left - MARGIN.min(left / 10);
    if timeout.is_zero() {
        return Err(Trouble::Failed(Reply::error(
            "TRYAGAIN the time was up before the command's turn came; no effect",
        )));
    }
    let silent =
        || if write { Trouble::Uncertain } else { Trouble::Failed(Reply::error("TRYAGAIN no answer in time")) };
    let answer = if write {
        let options = ProposeOptions::new(region).epoch(epoch).timeout(timeout);
        let proposed = timeout_at(deadline, engine.propose_with(options, batch)).await;
        proposed.map_err(|_| silent())?.map_err(of_propose_error)?
    } else {
        // As fresh as any other read, and without a round trip where the store is told that clocks can be trusted.
        let options = ReadOptions::new(region, Consistency::Lease).epoch(epoch).timeout(timeout);
        let read = timeout_at(deadline, engine.read_with(options, batch)).await;
        read.map_err(|_| silent())?.map_err(of_read_error)?
    };
    match decode_answers(&answer) {
        Ok(answers) if answers.first() == Some(&Answer::Refused(Refusal::WrongRegion)) => {
            Err(Trouble::Again(RETRY_PAUSE, changing()))
        }
        Ok(answers) if !answers.is_empty() => Ok(answers),
        _ => Err(silent()),
    }
}

fn changing() -> Reply {
    Reply::error("TRYAGAIN the regions are changing: try again")
}

pub(crate) fn of_propose_error(error: ProposeError) -> Trouble {
    let text = error.to_string();
    match error {
        ProposeError::Uncertain => Trouble::Uncertain,
        ProposeError::NotLeader { .. } => Trouble::Again(RETRY_PAUSE, Reply::error(format!("CLUSTERDOWN {text}"))),
        ProposeError::UnknownRegion { .. } | ProposeError::EpochMismatch { .. } => {
            Trouble::Again(RETRY_PAUSE, changing())
        }
        ProposeError::Unrouted => Trouble::Again(RETRY_PAUSE, Reply::error(NO_REGION)),
        ProposeError::Busy { retry_after } => Trouble::Again(retry_after, Reply::error(format!("BUSY {text}"))),
        _ => Trouble::Failed(Reply::error(format!("ERR {text}"))),
    }
}

pub(crate) fn of_read_error(error: ReadError) -> Trouble {
    let text = error.to_string();
    match error {
        ReadError::NotLeader { .. } => Trouble::Again(RETRY_PAUSE, Reply::error(format!("CLUSTERDOWN {text}"))),
        ReadError::UnknownRegion { .. } | ReadError::EpochMismatch { .. } => Trouble::Again(RETRY_PAUSE, changing()),
        ReadError::Unrouted => Trouble::Again(RETRY_PAUSE, Reply::error(NO_REGION)),
        ReadError::Busy { retry_after } => Trouble::Again(retry_after, Reply::error(format!("BUSY {text}"))),
        _ => Trouble::Failed(Reply::error(format!("ERR {text}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_has_not_heard_of_a_region_yet_is_asked_again() {
        let told = [of_propose_error(ProposeError::Unrouted), of_read_error(ReadError::Unrouted)];
        for trouble in told {
            let Trouble::Again(_, reply) = trouble else { panic!("{trouble:?}") };
            assert_eq!(reply, Reply::error(NO_REGION));
        }
    }
}
