//! The shared log's two other threads to the workers: tokens on their way back, and reads of old entries.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender, bounded};
use multiraft_raft::RegionId;
use multiraft_router::Mailbox;
use multiraft_storage::{FlushListener, FlushToken, LogFailure, LogReader};

use crate::logic::{DiskUse, FetchTask, Input, worker_of};
use crate::shell::fault::{Fault, PanicGuard};
use crate::shell::worker::Work;

/// Tells workers what the log's writer has flushed.
pub(super) struct Flushes {
    pub(super) mailboxes: Vec<Mailbox<Work>>,
    pub(super) fault: Fault,
    /// Shared with the status of the store.
    pub(super) damaged: Arc<Mutex<Vec<(RegionId, String)>>>,
}

impl FlushListener for Flushes {
    fn on_flushed(&mut self, tokens: &[FlushToken]) {
        for token in tokens {
            if let Some(mailbox) = self.mailboxes.get(token.upto().lane as usize) {
                // Closed: the worker has stopped, nobody waits.
                let _ = mailbox.send_reserved(Work::Input(Input::Flushed { token: *token }));
            }
        }
    }

    fn on_failed(&mut self, failure: LogFailure) {
        let full = match failure {
            LogFailure::Poisoned { cause } => {
                return self
                    .fault
                    .set(format!("the log has failed: {cause}; check the disk, then start the store again"));
            }
            // Batches wait in the log and go on when there is space again; leaders are given away meanwhile.
            LogFailure::NoSpace { .. } => {
                tracing::error!("the log's disk is full: free some space, the store goes on by itself");
                true
            }
            LogFailure::SpaceReturned => {
                tracing::info!("the log's disk has space again");
                false
            }
            other => return self.fault.set(format!("the log has failed: {other:?}")),
        };
        for mailbox in &self.mailboxes {
            let _ = mailbox.send_reserved(Work::Input(Input::DiskFull { disk: DiskUse::Log, full }));
        }
    }

    fn on_damaged(&mut self, regions: &[RegionId]) {
        for &region in regions {
            let reason = "a living record in the log is damaged: replace this replica";
            tracing::error!(%region, reason, "this replica is taken out of service");
            self.damaged.lock().unwrap_or_else(PoisonError::into_inner).push((region, reason.to_owned()));
            let mailbox = &self.mailboxes[worker_of(region, self.mailboxes.len())];
            let _ = mailbox.send_reserved(Work::Input(Input::Damaged { region }));
        }
    }
}

/// How many reads may wait; a group whose read finds no room asks again later.
const FETCHES_MAX: usize = 4096;

/// Entries that a worker wants read.
pub(super) struct FetchWork {
    pub(super) worker: usize,
    pub(super) task: FetchTask,
}

/// Starts the thread that reads old entries. It ends when all senders are gone.
pub(super) fn start_reader(
    reader: LogReader,
    mailboxes: Vec<Mailbox<Work>>,
    fault: Fault,
) -> std::io::Result<(Sender<FetchWork>, JoinHandle<()>)> {
    let (sender, receiver) = bounded(FETCHES_MAX);
    let thread = std::thread::Builder::new().name("multiraft-fetch".to_owned()).spawn(move || {
        let _guard = PanicGuard { fault, thread: "fetch" };
        read_all(&reader, &mailboxes, &receiver);
    })?;
    Ok((sender, thread))
}

fn read_all(reader: &LogReader, mailboxes: &[Mailbox<Work>], receiver: &Receiver<FetchWork>) {
    for FetchWork { worker, task } in receiver {
        let FetchTask { handle, fetch } = task;
        let read = reader.read(handle.region, fetch.from, fetch.to, fetch.max_bytes);
        let entries = read
            .inspect_err(|error| tracing::warn!(region = %handle.region, %error, "old entries could not be read"))
            .ok();
        let _ = mailboxes[worker].send_reserved(Work::Input(Input::Fetched { handle, fetch, entries }));
    }
}
