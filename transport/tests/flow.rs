//! What is full holds up nothing else, and nobody for ever.

#![allow(clippy::print_stdout, reason = "tests tell what they measured")]

#[macro_use]
mod support;

use multiraft_raft::StoreId;
use multiraft_transport::{Lane, SendError, TransportConfig};
use support::{Net, Store, message, pair_of};

on_every_network! {
    a_handler_that_gives_nothing_back_stops_the_sender_until_it_does,
    a_full_append_lane_holds_up_no_other_lane,
    what_waits_in_a_lane_goes_out_together,
    a_batch_is_taken_whole_or_not_at_all,
}

/// Small windows and budgets, so that little is needed to fill them.
fn narrow(net: &Net, store: u64) -> TransportConfig {
    let mut config = net.config(store, 1);
    config.link.lane_window_bytes = 64 << 10;
    config.queues.append_send_bytes = 256 << 10;
    config.queues.append_receive_bytes = 256 << 10;
    config.queues.frame_target_bytes = 32 << 10;
    config
}

const LANE: Lane = Lane::Append(0);

/// Sends messages of so many bytes until the lane is full for good: the other side's handler gives nothing back. Returns how
/// many were taken.
fn fill(a: &Store, b: &Store, size: usize) -> u64 {
    let mut sent = 0;
    loop {
        match a.transport.send(StoreId(2), LANE, &[message(sent, size)]) {
            Ok(()) => sent += 1,
            Err(SendError::Full) => {
                // Full for the moment, or for good? What still moves ends in b's budget.
                let status = b.transport.status();
                let received = status[0].received.iter().find(|received| received.lane == LANE);
                if received.is_some_and(|received| received.budget_waits > 0) {
                    return sent;
                }
                std::thread::yield_now();
            }
            Err(error) => panic!("{error}"),
        }
        assert!(sent < 40_000_000 / size as u64, "nothing holds the sender up");
    }
}

fn a_handler_that_gives_nothing_back_stops_the_sender_until_it_does(net: &Net) {
    let (a, b) = pair_of(narrow(net, 1), narrow(net, 2));
    let sent = fill(&a, &b, 4000);
    // Queue, windows and budget, of 4000 bytes each: everything is bounded.
    assert!(sent * 4000 < 2 << 20, "{sent} messages were taken");
    let frame = b.events.frame();
    assert!(frame.permit.bytes() >= 4000);
    let mut received = frame.messages.len() as u64;
    drop(frame);
    while received < sent {
        received += b.events.frame().messages.len() as u64;
    }
    assert_eq!(a.events.ready(), (StoreId(2), LANE));
    a.transport.send(StoreId(2), LANE, &[message(sent, 4000)]).expect("room again");
}

fn a_full_append_lane_holds_up_no_other_lane(net: &Net) {
    let (a, b) = pair_of(narrow(net, 1), narrow(net, 2));
    fill(&a, &b, 4000);
    for id in 0..100 {
        for lane in [Lane::Liveness, Lane::Control, Lane::Append(1)] {
            a.transport.send(StoreId(2), lane, &[message(id, 100)]).expect("room");
            assert_eq!(b.events.messages(lane, 1), [message(id, 100)], "{lane}");
        }
    }
    let status = a.transport.status();
    let lane = status[0].sent.iter().find(|sent| sent.lane == LANE).expect("the lane");
    assert!(lane.queued_bytes > 0, "it is held up still");
}

fn what_waits_in_a_lane_goes_out_together(net: &Net) {
    let config = narrow(net, 1);
    let frame_bytes = config.queues.frame_target_bytes as u64;
    let (a, b) = pair_of(config, narrow(net, 2));
    let sent = fill(&a, &b, 20);
    let lane = |store: &Store| {
        let status = store.transport.status();
        *status[0].sent.iter().find(|sent| sent.lane == LANE).expect("the lane")
    };
    let before = lane(&a);
    let received = b.events.messages(LANE, sent as usize);
    assert_eq!(received.last(), Some(&message(sent - 1, 20)));
    let frames = lane(&a).frames - before.frames;
    println!("{sent} messages, {} waiting bytes in {frames} frames", before.queued_bytes);
    assert!(before.queued_bytes as u64 > 4 * frame_bytes, "{before:?}");
    // As many as fit, and what was being taken at that moment.
    assert!(frames <= before.queued_bytes as u64 / frame_bytes + 2, "{frames} frames of {before:?}");
}

fn a_batch_is_taken_whole_or_not_at_all(net: &Net) {
    let (a, b) = pair_of(narrow(net, 1), narrow(net, 2));
    let batch: Vec<_> = (0..10).map(|id| message(id, 1000)).collect();
    let mut taken = 0;
    while taken < 1000 && a.transport.send(StoreId(2), LANE, &batch).is_ok() {
        taken += 1;
    }
    let mut received = Vec::new();
    while received.len() < taken * 10 {
        received.extend(b.events.frame().messages);
    }
    assert_eq!(received.len(), taken * 10);
    assert!(received.chunks(10).all(|chunk| chunk == batch));
}
