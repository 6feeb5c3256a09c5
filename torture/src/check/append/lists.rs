//! What each list tells by itself.

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::verdict::Judgement;
use super::transaction::{Element, Key, Part, Transactions};
use super::{ABORTED, DUPLICATE, INCOMPATIBLE, INTERMEDIATE, INTERNAL, LOST, PHANTOM, STALE, TORN};

/// What a transaction saw of a list before its own appends.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) transaction: usize,
    pub(super) elements: Vec<Element>,
}

/// A list over the whole history.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Its elements in their order, as far as anybody read them.
    pub(super) longest: Vec<Element>,
    /// All that was seen of it.
    pub(super) seen: Vec<Seen>,
    /// Elements whose append took effect and that nobody read: they come after the others.
    pub(super) unread: Vec<Element>,
    /// Reads contradict each other: nothing is known of its order.
    pub(super) is_incompatible: bool,
}

pub(super) fn check(transactions: &Transactions<'_>, judgement: &mut Judgement) -> Vec<List> {
    let mut lists: Vec<List> = transactions.keys.iter().map(|_| List::default()).collect();
    let mut whole_reads: Vec<Vec<Seen>> = vec![Vec::new(); lists.len()];
    for (number, transaction) in transactions.all.iter().enumerate() {
        if transaction.operation.is_ok() {
            for (key, whole, seen) in reads_of(number, transactions, judgement) {
                whole_reads[key].push(whole);
                lists[key].seen.extend(seen);
            }
        }
    }
    for (key, reads) in whole_reads.iter().enumerate() {
        let list = &mut lists[key];
        find_strange_elements(reads, transactions, judgement);
        if let Some(longest) = reads.iter().max_by_key(|read| read.elements.len()) {
            list.longest.clone_from(&longest.elements);
            for read in reads.iter().filter(|read| !longest.elements.starts_with(&read.elements)) {
                list.is_incompatible = true;
                let operations = [longest, read].map(|read| transactions.all[read.transaction].operation);
                let [one, other] = operations;
                let key = &transactions.keys[key];
                let what = format!("key {key}: neither is a beginning of the other:\n    {one}\n    {other}");
                judgement.found(INCOMPATIBLE, what, operations.iter().flat_map(|op| op.records()).collect());
            }
        }
    }
    find_unread(&mut lists, &whole_reads, transactions);
    for list in &lists {
        find_torn(list, transactions, judgement);
        find_intermediate(list, transactions, judgement);
        find_missing(list, transactions, judgement);
    }
    lists
}

/// What a transaction read: each list whole, and, if it fits what the transaction did itself, as it was without that.
fn reads_of(
    number: usize,
    transactions: &Transactions<'_>,
    judgement: &mut Judgement,
) -> Vec<(Key, Seen, Option<Seen>)> {
    let transaction = &transactions.all[number];
    let mut own: FxHashMap<Key, Vec<Element>> = FxHashMap::default();
    let mut known: FxHashMap<Key, Vec<Element>> = FxHashMap::default();
    let mut reads = Vec::new();
    for part in &transaction.parts {
        match part {
            Part::Append(key, element) => {
                own.entry(*key).or_default().push(*element);
                if let Some(known) = known.get_mut(key) {
                    known.push(*element);
                }
            }
            Part::Read(_, None) => {}
            Part::Read(key, Some(list)) => {
                let appended = own.get(key).map_or(&[][..], Vec::as_slice);
                let is_early = |element: &Element| {
                    let is_own = transactions.writers[*element].is_some_and(|writer| writer.transaction == number);
                    is_own && !appended.contains(element)
                };
                let fits = known.get(key).map_or_else(|| list.ends_with(appended), |known| known == list)
                    && !list.iter().any(is_early);
                if !fits {
                    let operation = transaction.operation;
                    judgement.found(INTERNAL, operation.to_string(), operation.records());
                }
                let before = &list[..list.len().saturating_sub(appended.len())];
                let seen = Seen { transaction: number, elements: before.to_vec() };
                let whole = Seen { transaction: number, elements: list.clone() };
                reads.push((*key, whole, fits.then_some(seen)));
                known.entry(*key).or_insert_with(|| list.clone());
            }
        }
    }
    reads
}

/// Elements that stand twice, that nobody appended, or whose append failed. Each is told once.
fn find_strange_elements(reads: &[Seen], transactions: &Transactions<'_>, judgement: &mut Judgement) {
    let mut told: FxHashSet<Element> = FxHashSet::default();
    for read in reads {
        let reader = transactions.all[read.transaction].operation;
        let mut here: FxHashSet<Element> = FxHashSet::default();
        for &element in &read.elements {
            let is_twice = !here.insert(element);
            let writer = transactions.writers[element].map(|writer| transactions.all[writer.transaction].operation);
            let kind = match writer {
                _ if is_twice => DUPLICATE,
                None => PHANTOM,
                Some(writer) if writer.has_failed() => ABORTED,
                Some(_) => continue,
            };
            if told.insert(element) {
                let what = format!("{} in\n    {reader}", transactions.name(element));
                let records = reader.records().into_iter().chain(writer.into_iter().flat_map(|one| one.records()));
                judgement.found(kind, what, records.collect());
            }
        }
    }
}

/// Appends that took effect, by their answer or because something else of their transaction was read, and that nobody read.
fn find_unread(lists: &mut [List], reads: &[Vec<Seen>], transactions: &Transactions<'_>) {
    let mut is_read = vec![false; transactions.elements.len()];
    let mut took_effect: Vec<bool> = transactions.all.iter().map(|one| one.operation.is_ok()).collect();
    for &element in reads.iter().flatten().flat_map(|read| &read.elements) {
        is_read[element] = true;
        if let Some(writer) = transactions.writers[element] {
            took_effect[writer.transaction] |= !transactions.all[writer.transaction].operation.has_failed();
        }
    }
    for (element, (key, _)) in transactions.elements.iter().enumerate() {
        if !is_read[element] && transactions.writers[element].is_some_and(|writer| took_effect[writer.transaction]) {
            lists[*key].unread.push(element);
        }
    }
}

/// Appends of one transaction stand together and in their order.
fn find_torn(list: &List, transactions: &Transactions<'_>, judgement: &mut Judgement) {
    let mut told: FxHashSet<usize> = FxHashSet::default();
    for (place, &element) in list.longest.iter().enumerate() {
        let Some(writer) = transactions.writers[element] else { continue };
        let before = place.checked_sub(1).map(|before| list.longest[before]);
        let after = list.longest.get(place + 1);
        let is_torn = (writer.before.is_some() && writer.before != before)
            || (writer.after.is_some() && after.is_some_and(|after| writer.after != Some(*after)));
        let writing = transactions.all[writer.transaction].operation;
        if is_torn && !writing.has_failed() && told.insert(writer.transaction) {
            let what = format!("around {}:\n    {writing}", transactions.name(element));
            judgement.found(TORN, what, writing.records());
        }
    }
}

fn find_intermediate(list: &List, transactions: &Transactions<'_>, judgement: &mut Judgement) {
    for seen in &list.seen {
        let Some(&last) = seen.elements.last() else { continue };
        let Some(writer) = transactions.writers[last] else { continue };
        let writing = transactions.all[writer.transaction].operation;
        if writer.after.is_some() && writer.transaction != seen.transaction && !writing.has_failed() {
            let reader = transactions.all[seen.transaction].operation;
            let what = format!(
                "{} is the last that was read, but not the last of its transaction:\n    {reader}\n    {writing}",
                transactions.name(last)
            );
            judgement.found(INTERMEDIATE, what, [reader.records(), writing.records()].concat());
        }
    }
}

/// Answered appends that a read which began later does not show.
fn find_missing(list: &List, transactions: &Transactions<'_>, judgement: &mut Judgement) {
    // A read of a list whose order is unknown shows what it holds, not what it misses.
    if list.is_incompatible {
        return;
    }
    let places = list.longest.iter().copied().zip(0..);
    let unread = list.unread.iter().map(|element| (*element, usize::MAX));
    let mut appends = Vec::new();
    for (element, place) in places.chain(unread) {
        let Some(writer) = transactions.writers[element] else { continue };
        let operation = transactions.all[writer.transaction].operation;
        if operation.is_ok() {
            appends.push((operation.end, element, place));
        }
    }
    appends.sort_unstable();
    // Of the appends up to each, the one that comes last in the list.
    let mut latest: Vec<(Element, usize)> = Vec::new();
    for (_, element, place) in &appends {
        let before = latest.last().filter(|(_, latest)| latest >= place);
        latest.push(before.copied().unwrap_or((*element, *place)));
    }
    let mut lost: FxHashSet<Element> = FxHashSet::default();
    for seen in &list.seen {
        let reader = transactions.all[seen.transaction].operation;
        let before = appends.partition_point(|(end, ..)| *end < reader.begin);
        let Some(&(element, place)) = before.checked_sub(1).and_then(|last| latest.get(last)) else { continue };
        if place < seen.elements.len() {
            continue;
        }
        let missing = appends[..before].iter().filter(|(.., place)| *place >= seen.elements.len());
        for &(_, element, place) in missing {
            if place == usize::MAX && lost.insert(element) {
                tell_missing(LOST, element, seen, transactions, judgement);
            }
        }
        if place != usize::MAX {
            tell_missing(STALE, element, seen, transactions, judgement);
        }
    }
}

fn tell_missing(kind: &str, element: Element, seen: &Seen, transactions: &Transactions<'_>, judgement: &mut Judgement) {
    let reader = transactions.all[seen.transaction].operation;
    let writer = transactions.writers[element].map(|writer| transactions.all[writer.transaction].operation);
    let appended = writer.map_or_else(String::new, ToString::to_string);
    let what = format!("{} is not in\n    {reader}\n  although before it\n    {appended}", transactions.name(element));
    let records = reader.records().into_iter().chain(writer.into_iter().flat_map(|one| one.records()));
    judgement.found(kind, what, records.collect());
}
