//! Whether the store gets on with its work (L6): its workers, its appliers, its log.

use std::sync::Arc;

use crossbeam_channel::Sender;
use multiraft_raft::Time;
use multiraft_router::{Clock, Mailbox, Progress, Reading, StallWatch};
use multiraft_storage::SharedLog;

use crate::liveness::Standstills;
use crate::shell::apply::ApplyWork;
use crate::shell::worker::Work;

/// An apply thread's own word of how it gets on. A wait for space on a full disk is no standstill: it says so, round by round.
#[derive(Clone)]
pub(super) struct ApplyProgress {
    progress: Arc<Progress>,
    clock: Clock,
}

impl ApplyProgress {
    pub(super) fn new(clock: Clock) -> Self {
        Self { progress: Arc::new(Progress::new()), clock }
    }

    /// It begins to write.
    pub(super) fn on_start(&self) {
        self.progress.on_turn_start(1);
    }

    /// It has written, or found that there is no space.
    pub(super) fn on_end(&self) {
        self.progress.on_turn_end(self.clock.now());
    }
}

/// Looks after everything that has to move so that this store may ask for support.
pub(super) struct Watch {
    workers: Vec<(Mailbox<Work>, Arc<Progress>, StallWatch)>,
    appliers: Vec<(Sender<ApplyWork>, ApplyProgress, StallWatch)>,
    log: (Arc<SharedLog>, StallWatch),
}

impl Watch {
    pub(super) fn new(
        workers: impl IntoIterator<Item = (Mailbox<Work>, Arc<Progress>)>,
        appliers: impl IntoIterator<Item = (Sender<ApplyWork>, ApplyProgress)>,
        log: Arc<SharedLog>,
    ) -> Self {
        let workers = workers.into_iter().map(|(mailbox, progress)| (mailbox, progress, StallWatch::new()));
        let appliers = appliers.into_iter().map(|(queue, progress)| (queue, progress, StallWatch::new()));
        Self { workers: workers.collect(), appliers: appliers.collect(), log: (log, StallWatch::new()) }
    }

    /// Takes a look: for how long each has stood still, with something to do.
    pub(super) fn look(&mut self, now: Time) -> Standstills {
        let workers = self
            .workers
            .iter_mut()
            .map(|(mailbox, progress, watch)| watch.observe(now, &progress.read(), mailbox.queued()));
        let appliers = self
            .appliers
            .iter_mut()
            .map(|(queue, applier, watch)| watch.observe(now, &applier.progress.read(), queue.len()));
        let (log, watch) = &mut self.log;
        let progress = log.progress();
        let reading = Reading { turns: progress.rounds, in_turn: progress.has_work, ..Reading::default() };
        Standstills {
            workers: workers.max().unwrap_or_default(),
            appliers: appliers.max().unwrap_or_default(),
            log: watch.observe(now, &reading, 0),
        }
    }
}
