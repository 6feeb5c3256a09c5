//! Writes that come together in one entry: while batches of a group are under way the next one gathers.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::{Batch, Instance, Instances};

/// Gathers the writes to one group.
pub(super) struct Writer<I> {
    group: usize,
    instances: Arc<Instances<I>>,
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

impl<I: Instance> Writer<I> {
    pub(super) fn new(group: usize, leader: usize, instances: Arc<Instances<I>>) -> Self {
        Self { group, instances, leader: AtomicUsize::new(leader), queue: Mutex::default() }
    }

    /// The group's instance in the store at a place.
    pub(super) fn instance(&self, store: usize) -> &I {
        self.instances[store][self.group].get().expect("all instances are made before the first write")
    }

    /// Returns once the command is committed and applied at the leader.
    pub(super) async fn write(self: &Arc<Self>, command: Bytes) -> Result<(), String> {
        let (done, answer) = oneshot::channel();
        let is_idle = {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.commands.push(command);
            queue.waiting.push(done);
            let is_idle = queue.tasks < I::BATCHES_AT_ONCE;
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
        self.instance(leader).write(batch).await.map_err(|refused| {
            if let Some(store) = refused.leader {
                self.leader.store(store as usize - 1, Ordering::Relaxed);
            }
            refused.why
        })
    }
}
