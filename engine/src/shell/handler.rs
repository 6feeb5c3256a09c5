//! What comes from the links, on its way to the workers. Runs on the link thread and never blocks.

use std::sync::Arc;

use multiraft_raft::{Incarnation, StoreId};
use multiraft_router::Mailbox;
use multiraft_transport::{
    Handler, Lane, LinkEvent, PeerMessage, ReceivedFrame, SnapshotHeader, SnapshotReceiver, SupportMessage,
};

use crate::events::{Event, EventSender};
use crate::liveness::round_answered;
use crate::logic::{Input, split_by_worker, worker_of_request};
use crate::shell::fault::Fault;
use crate::shell::leased::Leased;
use crate::shell::liveness::SupportDesk;
use crate::shell::receive::Receiving;
use crate::shell::worker::Work;

/// What the answer to a read round counts for in a worker's queue.
const ROUND_ANSWER_BYTES: u64 = 64;

/// Sorts frames by worker.
pub(super) struct LinkHandler {
    pub(super) mailboxes: Vec<Mailbox<Work>>,
    pub(super) receiving: Arc<Receiving>,
    pub(super) events: EventSender,
    pub(super) append_lanes: usize,
    pub(super) fault: Fault,
    pub(super) support: SupportDesk,
    pub(super) incarnation: Incarnation,
    pub(super) leased: Arc<Leased>,
}

impl Handler for LinkHandler {
    fn on_frame(&self, frame: ReceivedFrame) {
        let ReceivedFrame { from, mut messages, permit, lane, .. } = frame;
        if lane == Lane::Liveness || lane == Lane::Control {
            self.take_support(from, &mut messages);
        }
        if lane == Lane::Control {
            self.leased.take(from, &mut messages);
        }
        let parts = split_by_worker(messages, self.mailboxes.len());
        let busy = parts.iter().filter(|part| !part.is_empty()).count();
        let bytes = permit.bytes().checked_div(busy).unwrap_or(0) as u64;
        let permit = Arc::new(permit);
        for (mailbox, messages) in self.mailboxes.iter().zip(parts) {
            if messages.is_empty() {
                continue;
            }
            let work = Work::Frame { from, messages, permit: Arc::clone(&permit) };
            // The permits bound what a peer may have waiting here; a refusal means that the store is stopping.
            let _ = mailbox.try_send_from_peer(work, bytes);
        }
    }

    fn on_link(&self, peer: StoreId, event: LinkEvent) {
        let up = match event {
            LinkEvent::Up { incarnation, .. } => {
                tracing::info!(%peer, %incarnation, "link up");
                self.events.send(Event::StoreUp { store: peer, incarnation });
                self.support.add_peer(peer);
                Some(incarnation)
            }
            LinkEvent::Down { reason, .. } => {
                tracing::info!(%peer, %reason, "link down");
                self.events.send(Event::StoreDown { store: peer });
                self.leased.on_link_lost(peer);
                None
            }
        };
        for mailbox in &self.mailboxes {
            let _ = mailbox.send_reserved(Work::Input(Input::Link { peer, up }));
        }
    }

    fn on_lane_ready(&self, peer: StoreId, lane: Lane) {
        for (worker, mailbox) in self.mailboxes.iter().enumerate() {
            let concerned = match lane {
                Lane::Append(number) => worker % self.append_lanes == usize::from(number),
                Lane::Control | Lane::Liveness => false,
            };
            if concerned {
                let _ = mailbox.send_reserved(Work::Input(Input::LaneReady { peer }));
            }
        }
    }

    fn on_snapshot(&self, from: StoreId, header: SnapshotHeader, stream: SnapshotReceiver) {
        self.receiving.begin(from, header, stream, &self.mailboxes);
    }

    fn on_fenced(&self, by: StoreId, reason: &str) {
        if !self.fault.is_set() {
            self.fault
                .set(format!("store {by} says that this store is given up for good ({reason}): set its data aside"));
        }
    }
}

impl LinkHandler {
    /// Takes out what the stores as such say of support: for the liveness thread, and for the worker that has begun a round.
    fn take_support(&self, from: StoreId, messages: &mut Vec<PeerMessage>) {
        if !messages.iter().any(|message| matches!(message, PeerMessage::Support(_))) {
            return;
        }
        let mut support = Vec::new();
        messages.retain(|message| {
            let PeerMessage::Support(message) = message else { return true };
            match message {
                SupportMessage::RoundAnswer(answer) => {
                    let mailbox = self.mailboxes.get(worker_of_request(answer.round));
                    if let (Some(mailbox), Some(news)) = (mailbox, round_answered(self.incarnation, from, answer)) {
                        // A round that is not answered leaves its reads to the groups.
                        let _ = mailbox.try_send_from_peer(Work::Input(Input::Support(news)), ROUND_ANSWER_BYTES);
                    }
                }
                other => support.push(*other),
            }
            false
        });
        self.support.push(from, support);
    }
}
