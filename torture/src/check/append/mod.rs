//! Lists under keys, which transactions append to and read: Elle's anomalies (Kingsbury and Alvaro, "Elle: inferring isolation
//! anomalies from experimental observations", VLDB 2020; the names are Adya's, "Weak consistency", 1999).
//!
//! `txn [[:append k v] [:r k nil] ...]` answers the same with what was read; `append [k v]` and `read [k nil]`, which answers
//! `[k [..]]`, are transactions of one part. Each element is appended to its list once in a history. The model is strict
//! serializability: all transactions in one order, which keeps real time; for transactions of one part that is linearizability.
//!
//! A list tells the order in which its elements came, so that who wrote before whom (`ww`), who read from whom (`wr`) and who
//! read what somebody wrote later (`rw`) is known, not guessed. A cycle of these, or of these and real time, has no order. What
//! is found is an anomaly under the model; what was never read proves nothing.
//!
//! Cost: linear in the elements of all reads, plus transactions times clients for real time. No search.

mod cycles;
mod graph;
mod lists;
mod transaction;

use super::input::Unusable;
use super::verdict::{Judgement, Kind};
use crate::history::Operation;

use transaction::Transactions;

const DUPLICATE: &str = "duplicate-element";
const PHANTOM: &str = "phantom-element";
const ABORTED: &str = "G1a";
const INTERMEDIATE: &str = "G1b";
const TORN: &str = "torn-append";
const INTERNAL: &str = "internal";
const INCOMPATIBLE: &str = "incompatible-order";
const LOST: &str = "lost-append";
const STALE: &str = "stale-read";

/// What is looked for.
pub const KINDS: [Kind; 17] = [
    Kind { name: DUPLICATE, about: "a list holds an element twice" },
    Kind { name: PHANTOM, about: "a list holds what nobody appended" },
    Kind { name: ABORTED, about: "a read of an append that failed" },
    Kind { name: INTERMEDIATE, about: "a read between two appends of one transaction" },
    Kind { name: TORN, about: "appends of one transaction to a list stand apart, or in another order" },
    Kind { name: INTERNAL, about: "a transaction contradicts what it did or read itself" },
    Kind { name: INCOMPATIBLE, about: "neither of two reads of a list is a beginning of the other" },
    Kind { name: LOST, about: "an answered append is in no read, though the list was read later" },
    Kind { name: STALE, about: "a read without an append that was answered before it began" },
    Kind { name: "G0", about: "a cycle of writes" },
    Kind { name: "G1c", about: "a cycle of writes and reads from them" },
    Kind { name: "G-single", about: "a cycle in which one read misses a write" },
    Kind { name: "G2-item", about: "a cycle in which several reads miss writes" },
    Kind { name: "G0-realtime", about: "a cycle of writes and real time" },
    Kind { name: "G1c-realtime", about: "a cycle of writes, reads from them and real time" },
    Kind { name: "G-single-realtime", about: "a cycle with real time in which one read misses a write" },
    Kind { name: "G2-item-realtime", about: "a cycle with real time in which several reads miss writes" },
];

/// Judges a history of lists.
///
/// # Errors
/// An operation is not of this workload, or an element is appended twice to a list.
pub fn check(operations: &[Operation]) -> Result<Judgement, Unusable> {
    let transactions = Transactions::parse(operations)?;
    let mut judgement = Judgement::new(&KINDS);
    let lists = lists::check(&transactions, &mut judgement);
    let graph = graph::build(&transactions, &lists);
    cycles::check(&graph, &transactions, &mut judgement);
    Ok(judgement)
}
