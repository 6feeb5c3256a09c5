//! Which transaction must come before which.

use std::collections::{BTreeMap, BTreeSet};

use super::lists::List;
use super::transaction::Transactions;
use crate::history::Moment;

/// Why one transaction comes before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It wrote before the other.
    Ww,
    /// The other read what it wrote.
    Wr,
    /// It did not see what the other wrote.
    Rw,
    /// It was answered before the other began.
    Realtime,
    /// From the place behind all that was read of a list to who appended there.
    Behind,
}

impl Why {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ww => "ww",
            Self::Wr => "wr",
            Self::Rw => "rw",
            Self::Realtime => "realtime",
            Self::Behind => "",
        }
    }
}

/// Transactions that took effect, by their numbers, and behind these two nodes for each list: the place behind all that was
/// read, and the same for those who stand there themselves (see [`add_unread`]).
#[derive(Debug)]
pub(super) struct Graph {
    pub(super) edges: Vec<Vec<(usize, Why)>>,
    /// How many of the nodes are transactions.
    transactions: usize,
}

impl Graph {
    fn add(&mut self, from: Option<usize>, to: Option<usize>, why: Why) {
        if let (Some(from), Some(to)) = (from, to)
            && from != to
        {
            self.edges[from].push((to, why));
        }
    }

    /// The list that a node which is no transaction stands for.
    pub(super) fn list_of(&self, node: usize) -> Option<usize> {
        node.checked_sub(self.transactions).map(|place| place / 2)
    }
}

pub(super) fn build(transactions: &Transactions<'_>, lists: &[List]) -> Graph {
    let count = transactions.all.len();
    let mut graph = Graph { edges: vec![Vec::new(); count + 2 * lists.len()], transactions: count };
    let mut takes_part: Vec<bool> = transactions.all.iter().map(|one| one.operation.is_ok()).collect();
    for element in lists.iter().flat_map(|list| &list.seen).flat_map(|seen| &seen.elements) {
        if let Some(writer) = transactions.writers[*element] {
            takes_part[writer.transaction] |= !transactions.all[writer.transaction].operation.has_failed();
        }
    }
    let writer_of = |element: usize| {
        transactions.writers[element].map(|writer| writer.transaction).filter(|writer| takes_part[*writer])
    };
    for (key, list) in lists.iter().enumerate().filter(|(_, list)| !list.is_incompatible) {
        let writers: Vec<_> = list.longest.iter().map(|element| writer_of(*element)).collect();
        for (before, after) in writers.iter().zip(writers.iter().skip(1)) {
            graph.add(*before, *after, Why::Ww);
        }
        for seen in &list.seen {
            let length = seen.elements.len();
            if let Some(last) = length.checked_sub(1) {
                graph.add(writers[last], Some(seen.transaction), Why::Wr);
            }
            // What the reader itself appended next is not what it missed.
            graph.add(Some(seen.transaction), writers.get(length).copied().flatten(), Why::Rw);
        }
        let readers = list.seen.iter().filter(|seen| seen.elements.len() == list.longest.len());
        let readers: BTreeSet<usize> = readers.map(|seen| seen.transaction).collect();
        let unread: BTreeSet<usize> = list.unread.iter().filter_map(|element| writer_of(*element)).collect();
        add_unread(&mut graph, count + 2 * key, writers.last().copied().flatten(), &readers, &unread);
    }
    add_realtime(&mut graph, transactions, &takes_part);
    for edges in &mut graph.edges {
        edges.sort_unstable();
        edges.dedup();
    }
    graph
}

/// Who appended what nobody read comes after the last writer that is known, and after those who read all that is known. One
/// node in between keeps the edges few; who stands on both sides of it needs another, which does not lead back.
fn add_unread(
    graph: &mut Graph,
    behind: usize,
    last: Option<usize>,
    readers: &BTreeSet<usize>,
    unread: &BTreeSet<usize>,
) {
    let others_only = behind + 1;
    let both: Vec<usize> = unread.iter().copied().filter(|one| readers.contains(one) || last == Some(*one)).collect();
    let places: BTreeMap<usize, usize> = both.iter().copied().zip(0..).collect();
    graph.add(Some(behind), Some(others_only), Why::Behind);
    for one in unread {
        let from = if places.contains_key(one) { behind } else { others_only };
        graph.add(Some(from), Some(*one), Why::Behind);
    }
    for before in readers.iter().copied().map(|reader| (reader, Why::Rw)).chain(last.map(|last| (last, Why::Ww))) {
        let (one, why) = before;
        let Some(place) = places.get(&one) else {
            graph.add(Some(one), Some(behind), why);
            continue;
        };
        graph.add(Some(one), Some(others_only), why);
        // Any two of these who read contradict each other: the next one shows it as well as all would.
        graph.add(Some(one), Some(both[(place + 1) % both.len()]), why);
    }
}

/// Real time, without the edges that follow from others: who begins comes after all that ended before and that nobody who has
/// ended since began after.
fn add_realtime(graph: &mut Graph, transactions: &Transactions<'_>, takes_part: &[bool]) {
    let mut events: Vec<(Moment, bool, usize)> = Vec::new();
    for (number, transaction) in transactions.all.iter().enumerate().filter(|(number, _)| takes_part[*number]) {
        events.push((transaction.operation.begin, false, number));
        if transaction.operation.is_ok() {
            events.push((transaction.operation.end, true, number));
        }
    }
    events.sort_unstable();
    let mut last: BTreeMap<usize, Moment> = BTreeMap::new();
    for (at, is_end, number) in events {
        if is_end {
            let begin = transactions.all[number].operation.begin;
            last.retain(|_, end| *end > begin);
            last.insert(number, at);
        } else {
            for before in last.keys() {
                graph.edges[*before].push((number, Why::Realtime));
            }
        }
    }
}
