//! Writes that come together in one entry.
//!
//! openraft 0.9 takes up an append when the one before is flushed, and makes an entry of its own of each call, so a group would
//! do one write a flush. Users who flush put several writes into one call: while one batch of a group is under way the next one
//! gathers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use openraft::Raft;
use openraft::error::{ClientWriteError, RaftError};
use tokio::sync::oneshot;

use super::{Batch, Rafts, Types};

/// Batches of one group that are under way at once. The instance takes up one append after the other, so one gathers most.
const BATCHES_AT_ONCE: usize = 1;

/// Gathers the writes to one group.
pub(super) struct Writer {
    group: usize,
    rafts: Arc<Rafts>,
    /// The place of the store that leads, as far as is known.
    leader: AtomicUsize,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    commands: Vec<Bytes>,
    waiting: Vec<oneshot::Sender<Result<(), String>>>,
    /// Tasks that empty this queue.
    tasks: usize,
}

impl Writer {
    pub(super) fn new(group: usize, leader: usize, rafts: Arc<Rafts>) -> Self {
        Self { group, rafts, leader: AtomicUsize::new(leader), queue: Mutex::default() }
    }

    /// Returns once the command is committed and applied at the leader.
    pub(super) async fn write(self: &Arc<Self>, command: Bytes) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let is_idle = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.commands.push(command);
            queue.waiting.push(done);
            let is_idle = queue.tasks < BATCHES_AT_ONCE;
            queue.tasks += usize::from(is_idle);
            is_idle
        };
        if is_idle {
            tokio::spawn(Arc::clone(self).empty_queue());
        }
        answer.await.unwrap_or_else(|_| Err("the write was dropped".to_owned()))
    }

    async fn empty_queue(self: Arc<Self>) {
        loop {
            let (commands, waiting) = {
                let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
                if queue.commands.is_empty() {
                    queue.tasks -= 1;
                    return;
                }
                (std::mem::take(&mut queue.commands), std::mem::take(&mut queue.waiting))
            };
            let outcome = self.propose(Batch(commands.into())).await;
            for done in waiting {
                // A client that is gone needs no answer.
                let _ = done.send(outcome.clone());
            }
        }
    }

    async fn propose(&self, batch: Batch) -> Result<(), String> {
        let leader = self.leader.load(Ordering::Relaxed);
        match self.raft(leader).client_write(batch).await {
            Ok(_) => Ok(()),
            Err(error) => {
                if let RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) = &error
                    && let Some(store) = forward.leader_id
                {
                    self.leader.store(store as usize - 1, Ordering::Relaxed);
                }
                Err(error.to_string())
            }
        }
    }

    fn raft(&self, store: usize) -> &Raft<Types> {
        self.rafts[store][self.group].get().expect("all instances are made before the first write")
    }
}
