//! `MULTI` to `EXEC`: commands that are queued and then carried out together, on one region, at one moment, or not at all.
//!
//! What is queued is kept as it will be proposed. At `EXEC` the keys must lie in one region; the whole is one proposal, or
//! one query if nothing is written. What is known to have had no effect is tried again until the deadline, as for single
//! commands; an unknown outcome is told as `UNCERTAIN`, of the transaction as a whole.

use bytes::BytesMut;
use multiraft::Engine;
use tokio::time::{Instant, sleep};

use super::command::{Shape, reply_of};
use super::lanes::{LAST_TRY, Trouble, attempt, region_of_keys};
use super::reply::Reply;
use crate::machine::{Answer, Batch, Op, encode_whole};

/// The most commands of a transaction.
pub(crate) const MAX_COMMANDS: usize = 512;

pub(crate) const QUEUED: Reply = Reply::Simple("QUEUED");
pub(crate) const NESTED: &str = "ERR MULTI calls can not be nested";

const UNCERTAIN: &str = "UNCERTAIN the outcome is unknown: the transaction may have taken effect, as a whole or not at all; \
    read before you write again";
const CROSS_REGION: &str =
    "CROSSSLOT the keys of this transaction lie in more than one region; nothing was done: send one for each of them";
const ABORTED: &str = "EXECABORT Transaction discarded because of previous errors.";

/// What was queued since `MULTI`.
#[derive(Debug, Default)]
pub(crate) struct Transaction {
    /// The operations, encoded one after the other.
    ops: BytesMut,
    shapes: Vec<Shape>,
    writes: bool,
    /// A command could not be queued: `EXEC` will refuse.
    is_broken: bool,
}

impl Transaction {
    /// Queues a command, or says why not; then the transaction will not be carried out. `max_bytes` is the limit on what is
    /// proposed at once.
    pub(crate) fn queue(&mut self, op: &Op, shape: Shape, max_bytes: usize) -> Reply {
        if self.shapes.len() >= MAX_COMMANDS {
            return self.refuse(Reply::error(format!(
                "ERR the transaction has more than {MAX_COMMANDS} commands: send it in parts"
            )));
        }
        if self.ops.len() + op.encoded_len() > max_bytes {
            return self.refuse(Reply::error(format!(
                "ERR the transaction has more than {max_bytes} bytes: send it in parts, or raise --max-command-bytes on \
                 every store"
            )));
        }
        op.encode(&mut self.ops);
        self.shapes.push(shape);
        self.writes |= op.is_write();
        QUEUED
    }

    /// Takes note that a command could not be queued, and drops what was; passes on why.
    pub(crate) fn refuse(&mut self, reply: Reply) -> Reply {
        *self = Self { is_broken: true, ..Self::default() };
        reply
    }

    /// How many bytes are held.
    pub(crate) fn bytes(&self) -> usize {
        self.ops.len()
    }

    /// Carries it out.
    pub(crate) async fn run(self, engine: &Engine, deadline: Instant) -> Reply {
        if self.is_broken {
            return Reply::Error(ABORTED.into());
        }
        if self.shapes.is_empty() {
            return Reply::Array(Vec::new());
        }
        let batch = encode_whole(self.shapes.len(), &self.ops);
        let Ok(Batch { ops, .. }) = Batch::decode(&batch) else { return not_understood() };
        let keys: Vec<_> = ops.iter().flat_map(Op::keys).collect();
        loop {
            let region = match region_of_keys(engine, &keys, deadline).await {
                Ok(region) => region,
                Err(None) => return Reply::Error(CROSS_REGION.into()),
                Err(Some(reply)) => return reply,
            };
            match attempt(engine, (region.id, region.epoch), batch.clone(), self.writes, deadline).await {
                Ok(answers) => return self.replies(answers),
                Err(Trouble::Again(pause, last)) => {
                    if Instant::now() + pause + LAST_TRY >= deadline {
                        return last;
                    }
                    sleep(pause).await;
                }
                Err(Trouble::Failed(reply)) => return reply,
                Err(Trouble::Uncertain) => return Reply::Error(UNCERTAIN.into()),
            }
        }
    }

    fn replies(&self, mut answers: Vec<Answer>) -> Reply {
        if answers.len() == self.shapes.len() {
            let shaped = answers.into_iter().zip(&self.shapes);
            return Reply::Array(shaped.map(|(answer, shape)| reply_of(answer, *shape)).collect());
        }
        match answers.pop() {
            Some(answer @ Answer::Refused(_)) => reply_of(answer, Shape::Plain),
            _ => not_understood(),
        }
    }
}

fn not_understood() -> Reply {
    Reply::error("ERR the stores of this cluster run versions that do not understand each other")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn get() -> Op {
        Op::Get { key: Bytes::from_static(b"key") }
    }

    fn text(reply: Reply) -> String {
        if let Reply::Error(text) = reply { text.into_owned() } else { panic!("{reply:?}") }
    }

    #[test]
    fn a_transaction_beyond_a_limit_is_refused_and_holds_nothing_any_more() {
        let mut many = Transaction::default();
        for _ in 0..MAX_COMMANDS {
            assert_eq!(many.queue(&get(), Shape::Plain, 1 << 20), QUEUED);
        }
        assert!(text(many.queue(&get(), Shape::Plain, 1 << 20)).starts_with("ERR the transaction has more than 512"));
        assert!(many.is_broken && many.bytes() == 0);
        let mut large = Transaction::default();
        let op = Op::Append { key: Bytes::from_static(b"key"), suffix: Bytes::from(vec![0; 600]) };
        assert_eq!(large.queue(&op, Shape::Plain, 1000), QUEUED);
        assert!(text(large.queue(&op, Shape::Plain, 1000)).starts_with("ERR the transaction has more than 1000 bytes"));
        assert!(large.is_broken && large.bytes() == 0);
    }

    #[test]
    fn a_whole_refusal_is_the_reply_and_a_single_one_stands_in_its_place() {
        use crate::machine::Refusal;
        let mut two = Transaction::default();
        two.queue(&get(), Shape::Plain, 1 << 20);
        two.queue(&get(), Shape::Plain, 1 << 20);
        let refused = |refusal| Answer::Refused(refusal);
        assert!(text(two.replies(vec![refused(Refusal::AnswersTooLong)])).contains("nothing was done"));
        let placed = two.replies(vec![Answer::Value(None), refused(Refusal::NotANumber)]);
        let Reply::Array(placed) = placed else { panic!("{placed:?}") };
        assert!(matches!(placed[..], [Reply::Nil, Reply::Error(_)]));
        assert!(text(two.replies(vec![Answer::Done])).starts_with("ERR the stores"));
    }
}
