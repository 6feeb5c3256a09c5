//! Reads that no worker sees: questions to leaders elsewhere, and answers to theirs.
//!
//! ```text
//!  caller --question--> control lane --> link thread of the leader's store: is it confirmed?   --answer--> control lane
//!    ^                                                     | no: to the worker, which answers                |
//!    +---- link thread: is the index applied here? <-------+-------------------------------------------------+
//!                             | no: to the worker, which waits for it
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use multiraft_raft::{RegionEpoch, RegionId, StoreId, Term, Time};
use multiraft_router::{Clock, Mailbox};
use multiraft_transport::{Forward, ForwardOutcome, ForwardReply, ForwardRequest, Lane, PeerMessage, Transport};

use crate::logic::{Asker, Input, Leases, Look, Outcome, Question, Questions, worker_of};
use crate::shell::Completion;
use crate::shell::fault::Fault;
use crate::shell::worker::{LOOKUP_RETRY, Work};

/// What a read that waits for its index counts for in a worker's queue.
const WAITING_READ_BYTES: u64 = 128;

/// What callers and the link thread share of reads.
pub(crate) struct Leased {
    leases: Arc<Leases>,
    questions: Mutex<Questions<Completion>>,
    clock: Clock,
    mailboxes: Vec<Mailbox<Work>>,
    fault: Fault,
    /// Reads that were answered so.
    served: AtomicU64,
    /// It holds the link's handler, and that this.
    transport: OnceLock<Weak<Transport>>,
}

impl Leased {
    pub(super) fn new(
        questions: Questions<Completion>,
        clock: Clock,
        mailboxes: Vec<Mailbox<Work>>,
        fault: Fault,
    ) -> Self {
        let (leases, questions, served) = (Arc::default(), Mutex::new(questions), AtomicU64::new(0));
        Self { leases, questions, clock, mailboxes, fault, served, transport: OnceLock::new() }
    }

    /// For the workers, which write it.
    pub(super) fn leases(&self) -> Arc<Leases> {
        Arc::clone(&self.leases)
    }

    pub(super) fn connect(&self, transport: &Arc<Transport>) {
        let _ = self.transport.set(Arc::downgrade(transport));
    }

    fn questions(&self) -> MutexGuard<'_, Questions<Completion>> {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a read is answered that has come in, and for which a `lease` will do or not.
    pub(crate) fn look(&self, region: RegionId, epoch: Option<RegionEpoch>, lease: bool) -> Look {
        self.leases.look(region, epoch, lease.then(|| self.lease_time()))
    }

    /// At which reading of the clock a lease must last for what has come in.
    fn lease_time(&self) -> Time {
        let now = self.clock.now();
        #[cfg(feature = "torture")]
        let now = crate::plant::lease_time(now);
        now
    }

    /// A read was answered without a worker.
    pub(crate) fn count(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// How many reads were.
    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Asks the store of a leader from which index on a read may be served; the answer is given once that is applied here. False:
    /// it could not be asked.
    pub(crate) fn ask(
        &self,
        to: StoreId,
        about: (RegionId, RegionEpoch, Term),
        lease: bool,
        reply: Completion,
    ) -> bool {
        let Some(transport) = self.transport.get().and_then(Weak::upgrade) else { return false };
        let Some(forward) = self.questions().ask(self.clock.now(), to, about, lease, reply) else { return false };
        let id = forward.id;
        let sent = transport.hand_over(to, Lane::Control, &mut vec![PeerMessage::Forward(forward)]);
        if sent.is_err() {
            self.questions().take(to, id);
        }
        sent.is_ok()
    }

    /// The link to a store is lost, with all answers that were on their way: who waits for one asks anew.
    pub(super) fn on_link_lost(&self, peer: StoreId) {
        let lost = self.questions().take_all(peer);
        for Question { reply, .. } in lost {
            reply.complete(Outcome::NotLeader { hint: None });
        }
    }

    /// Takes out of a frame what needs no worker. Runs on the link thread.
    pub(super) fn take(&self, from: StoreId, messages: &mut Vec<PeerMessage>) {
        if !messages.iter().any(is_of_reads) {
            return;
        }
        // After all of them have come in.
        let now = self.lease_time();
        let serves = !self.fault.is_set();
        let (mut answers, mut answered) = (Vec::new(), Vec::new());
        messages.retain_mut(|message| match message {
            PeerMessage::Forward(Forward {
                id, region, term, request: ForwardRequest::ReadIndex { lease }, ..
            }) => {
                let asker = Asker { store: from, term: *term, lease_at: lease.then_some(now) };
                let found = self.leases.index_for(*region, &asker).filter(|_| serves);
                let Some((index, term)) = found else { return true };
                let outcome = ForwardOutcome::ReadAt { index, term };
                answers.push(PeerMessage::ForwardReply(ForwardReply { id: *id, outcome }));
                false
            }
            PeerMessage::ForwardReply(ForwardReply { id, outcome }) if Questions::<Completion>::is_named(*id) => {
                answered.push((*id, std::mem::replace(outcome, ForwardOutcome::Uncertain)));
                false
            }
            _ => true,
        });
        if !answers.is_empty()
            && let Some(transport) = self.transport.get().and_then(Weak::upgrade)
        {
            // What cannot be sent is asked for again.
            let _ = transport.hand_over(from, Lane::Control, &mut answers);
        }
        if !answered.is_empty() {
            self.on_answers(from, answered);
        }
    }

    fn on_answers(&self, from: StoreId, answered: Vec<(u64, ForwardOutcome)>) {
        let mut told = Vec::with_capacity(answered.len());
        {
            let mut questions = self.questions();
            let taken = answered.into_iter().map(|(id, outcome)| (questions.take(from, id), outcome));
            told.extend(taken.filter_map(|(question, outcome)| Some((question?, outcome))));
        }
        for (Question { region, asked, reply }, outcome) in told {
            let ForwardOutcome::ReadAt { index, term } = outcome else {
                // Whatever it is, the worker has it out with the leader.
                reply.complete(Outcome::NotLeader { hint: None });
                continue;
            };
            if self.leases.holds(region, index) {
                reply.complete(Outcome::ReadAt { index, term });
                continue;
            }
            self.wait_applied(Input::ReadConfirmed { region, index, term, asked, reply });
        }
    }

    fn wait_applied(&self, input: Input<Completion>) {
        let Input::ReadConfirmed { region, .. } = &input else { return };
        let worker = worker_of(*region, self.mailboxes.len());
        // On the callers' account, for who waits is theirs to bound: a worker may stand still, for want of space perhaps.
        let Err(refused) = self.mailboxes[worker].try_send(Work::Input(input), WAITING_READ_BYTES) else { return };
        if let Work::Input(Input::ReadConfirmed { reply, .. }) = refused.into_input() {
            reply.complete(Outcome::Busy { retry_after: LOOKUP_RETRY });
        }
    }
}

fn is_of_reads(message: &PeerMessage) -> bool {
    match message {
        PeerMessage::Forward(forward) => matches!(forward.request, ForwardRequest::ReadIndex { .. }),
        PeerMessage::ForwardReply(reply) => Questions::<Completion>::is_named(reply.id),
        _ => false,
    }
}
