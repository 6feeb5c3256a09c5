//! Cycles in the graph of what comes before what: strongly connected components (Tarjan, "Depth-first search and linear graph
//! algorithms", 1972), and in each a short cycle.

use std::collections::VecDeque;

use rustc_hash::{FxHashMap, FxHashSet};

use super::super::verdict::Judgement;
use super::graph::{Graph, Why};
use super::transaction::Transactions;

/// A kind of cycle: which edges it may have, and whether only one of them may be a read that misses a write. The first that
/// fits is what a cycle is called.
const LEVELS: [(&str, &[Why], bool); 8] = [
    ("G0", &[Why::Ww], false),
    ("G1c", &[Why::Ww, Why::Wr], false),
    ("G-single", &[Why::Ww, Why::Wr, Why::Rw], true),
    ("G2-item", &[Why::Ww, Why::Wr, Why::Rw], false),
    ("G0-realtime", &[Why::Ww, Why::Realtime], false),
    ("G1c-realtime", &[Why::Ww, Why::Wr, Why::Realtime], false),
    ("G-single-realtime", &[Why::Ww, Why::Wr, Why::Rw, Why::Realtime], true),
    ("G2-item-realtime", &[Why::Ww, Why::Wr, Why::Rw, Why::Realtime], false),
];

/// From how many nodes of a component the shortest cycle is looked for. A shorter one may be missed, none is missed altogether.
const STARTS_MAX: usize = 16;

/// How many edges are followed in a component for a cycle with just one missed write; if that is not enough, the cycle is called
/// by the wider name.
const FOLLOWED_MAX: usize = 20_000_000;

/// A way through the graph: nodes, and why each comes before the next. The last comes before the first.
type Cycle = Vec<(usize, Why)>;

pub(super) fn check(graph: &Graph, transactions: &Transactions<'_>, judgement: &mut Judgement) {
    let everywhere: Vec<usize> = (0..graph.edges.len()).collect();
    let all = &[Why::Ww, Why::Wr, Why::Rw, Why::Realtime];
    let suspects: Vec<Vec<usize>> = components(graph, &everywhere, all);
    let mut found: Vec<Cycle> = Vec::new();
    for (name, whys, has_one_missed) in LEVELS {
        for suspect in &suspects {
            for component in components(graph, suspect, whys) {
                let inside: FxHashSet<usize> = component.iter().copied().collect();
                let is_told = |cycle: &Cycle| cycle.iter().all(|(node, _)| inside.contains(node));
                if found.iter().any(is_told) {
                    continue;
                }
                let cycle = if has_one_missed {
                    cycle_with_one_missed(graph, &component, &inside, whys)
                } else {
                    shortest_cycle(graph, &component, &inside, whys)
                };
                if let Some(cycle) = cycle {
                    tell(name, &cycle, graph, transactions, judgement);
                    found.push(cycle);
                }
            }
        }
    }
}

fn is_allowed(why: Why, whys: &[Why]) -> bool {
    why == Why::Behind || whys.contains(&why)
}

/// What is known of a node during the search for components.
#[derive(Clone, Copy)]
struct Visit {
    number: usize,
    low: usize,
    is_open: bool,
}

fn lower(visits: &mut FxHashMap<usize, Visit>, node: usize, low: usize) {
    if let Some(visit) = visits.get_mut(&node) {
        visit.low = visit.low.min(low);
    }
}

/// Strongly connected components of more than one node, among `nodes` and by edges of these kinds.
fn components(graph: &Graph, nodes: &[usize], whys: &[Why]) -> Vec<Vec<usize>> {
    let inside: FxHashSet<usize> = nodes.iter().copied().collect();
    let mut visits: FxHashMap<usize, Visit> = FxHashMap::default();
    let mut open: Vec<usize> = Vec::new();
    let mut components = Vec::new();
    for &root in nodes {
        if visits.contains_key(&root) {
            continue;
        }
        // Node and next edge: recursion would be as deep as the history is long.
        let mut trail: Vec<(usize, usize)> = vec![(root, 0)];
        while let Some((node, edge)) = trail.last_mut() {
            let node = *node;
            if *edge == 0 {
                let number = visits.len();
                visits.entry(node).or_insert_with(|| {
                    open.push(node);
                    Visit { number, low: number, is_open: true }
                });
            }
            if let Some(&(next, why)) = graph.edges[node].get(*edge) {
                *edge += 1;
                if !inside.contains(&next) || !is_allowed(why, whys) {
                    continue;
                }
                match visits.get(&next).copied() {
                    None => trail.push((next, 0)),
                    Some(other) if other.is_open => lower(&mut visits, node, other.number),
                    Some(_) => {}
                }
                continue;
            }
            trail.pop();
            let visit = visits[&node];
            if let Some((parent, _)) = trail.last() {
                lower(&mut visits, *parent, visit.low);
            }
            if visit.low == visit.number {
                let start = open.iter().rposition(|other| *other == node).expect("an open node is on the stack");
                let component = open.split_off(start);
                for member in &component {
                    if let Some(visit) = visits.get_mut(member) {
                        visit.is_open = false;
                    }
                }
                if component.len() > 1 {
                    components.push(component);
                }
            }
        }
    }
    components
}

/// A short cycle in a component that has one.
fn shortest_cycle(graph: &Graph, component: &[usize], inside: &FxHashSet<usize>, whys: &[Why]) -> Option<Cycle> {
    let cycles = component.iter().take(STARTS_MAX);
    cycles.filter_map(|start| path(graph, (*start, *start), inside, whys, &mut { usize::MAX })).min_by_key(Vec::len)
}

/// A cycle in which one edge is a read that misses a write.
fn cycle_with_one_missed(graph: &Graph, component: &[usize], inside: &FxHashSet<usize>, whys: &[Why]) -> Option<Cycle> {
    let others: Vec<Why> = whys.iter().copied().filter(|why| *why != Why::Rw).collect();
    let mut missed = component.iter().flat_map(|reader| {
        let edges = graph.edges[*reader].iter().filter(|(next, why)| *why == Why::Rw && inside.contains(next));
        edges.map(|(writer, _)| (*reader, *writer))
    });
    let mut followed_max = FOLLOWED_MAX;
    missed.find_map(|(reader, writer)| {
        let path = path(graph, (writer, reader), inside, &others, &mut followed_max)?;
        Some(std::iter::once((reader, Why::Rw)).chain(path).collect())
    })
}

/// A shortest way from one node to another, or back to itself, as the nodes on it without the last. It follows at most so many
/// edges, and takes those that it followed off that number.
fn path(
    graph: &Graph,
    (from, to): (usize, usize),
    inside: &FxHashSet<usize>,
    whys: &[Why],
    followed_max: &mut usize,
) -> Option<Cycle> {
    let mut came: FxHashMap<usize, (usize, Why)> = FxHashMap::default();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front().filter(|_| !came.contains_key(&to)) {
        for &(next, why) in &graph.edges[node] {
            *followed_max = followed_max.checked_sub(1)?;
            if inside.contains(&next) && is_allowed(why, whys) && !came.contains_key(&next) {
                came.insert(next, (node, why));
                queue.push_back(next);
            }
        }
    }
    let mut path = vec![*came.get(&to)?];
    while let Some((node, _)) = path.last().filter(|(node, _)| *node != from) {
        path.push(*came.get(node)?);
    }
    path.reverse();
    Some(path)
}

fn tell(name: &str, cycle: &Cycle, graph: &Graph, transactions: &Transactions<'_>, judgement: &mut Judgement) {
    let mut what = "each comes before the next, and the last before the first:".to_owned();
    let mut records = Vec::new();
    for (node, why) in cycle {
        if let Some(list) = graph.list_of(*node) {
            // There are two nodes for it, which may follow each other.
            let place = format!(" behind all that was read of key {}", transactions.keys[list]);
            if !what.ends_with(&place) {
                what.push_str(&place);
            }
        } else {
            let operation = transactions.all[*node].operation;
            what.push_str(&format!("\n    {operation}  --{}-->", why.name()));
            records.extend(operation.records());
        }
    }
    judgement.found(name, what, records);
}
