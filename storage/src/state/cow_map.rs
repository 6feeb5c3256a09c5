//! An ordered map whose copies cost nothing: a B+ tree of shared nodes, copied where written.
//!
//! ```text
//!            inner: seps [  g  |  p  ]
//!                  kids /    |     \            a subtree holds the keys from its left separator (included) to its right
//!           leaf [a c]  leaf [g k]  leaf [p z]  one (excluded); the outermost ones are unbounded
//! ```
//!
//! A clone shares all nodes. A write copies the nodes on its way that some clone still holds and changes the others in place,
//! so a map without clones is written in place, and an open clone costs at most one copy of each node.
//!
//! Invariants: keys ascend in every leaf; all leaves lie at one depth; no node but the root is empty; an inner node has one
//! separator fewer than kids, and a separator is above every key to its left and at or below every key to its right.

use std::{hint::black_box, sync::Arc};

use multiraft_raft::Payload;

use super::{
    small::Small,
    sorted_keys::{CAPACITY, SortedKeys},
};

/// The most entries of a leaf, and the most kids of an inner node.
const FANOUT: usize = CAPACITY - 1;

/// A node with fewer than this is merged with a neighbour, if both fit.
const SPARSE: usize = FANOUT / 4;

/// Two neighbours are merged if they have at most this together, which leaves room for some inserts before the next split.
const MERGED_MAX: usize = FANOUT * 3 / 4;

/// The map. See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(super) struct CowMap {
    root: Arc<Node>,
}

/// What a removal cut off, to be dropped where nobody waits for it.
#[derive(Debug, Default)]
pub(super) struct Garbage {
    _nodes: Vec<Arc<Node>>,
}

#[derive(Debug)]
enum Node {
    /// Invariant: `values[n]` belongs to `keys[n]`.
    Leaf {
        keys: SortedKeys,
        values: Vec<Small>,
    },
    Inner {
        seps: SortedKeys,
        kids: Vec<Arc<Node>>,
    },
}

/// Where a key was found: which kid on each level, and the place in the leaf. Fanouts fit into a byte.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    turns: [u8; TURNS_MAX],
    levels: u8,
    place: u8,
}

/// So many levels above the leaves a way remembers: more than any memory holds, even if nodes are as sparse as may be.
const TURNS_MAX: usize = 10;

/// A key that is looked for, how far down that has come, and by which way.
type Walk<'m, 'k> = (&'k [u8], &'m Arc<Node>, Way);

impl Way {
    fn turn(&mut self, level: usize, at: usize) {
        if let Some(turn) = self.turns.get_mut(level) {
            *turn = at as u8;
        }
    }

    /// Notes the place in the leaf, at this depth; whether the key is there, and the way can be told.
    fn end(&mut self, depth: usize, place: Result<usize, usize>) -> bool {
        self.levels = (depth - 1) as u8;
        self.place = place.unwrap_or_else(|place| place) as u8;
        place.is_ok() && depth <= TURNS_MAX
    }

    fn turns(&self) -> &[u8] {
        &self.turns[..usize::from(self.levels)]
    }

    fn place(&self) -> usize {
        usize::from(self.place)
    }
}

/// The right half of a node that was split, and the separator before it.
type Split = Option<(Small, Arc<Node>)>;

impl CowMap {
    pub(super) fn get(&self, key: &[u8]) -> Option<&Small> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Leaf { keys, values } => return keys.find(key).ok().map(|at| &values[at]),
                Node::Inner { seps, kids } => node = &kids[kid_of(seps, key)],
            }
        }
    }

    pub(super) fn insert(&mut self, key: Payload, value: Payload) {
        if let Some((sep, right)) = insert(&mut self.root, key, value) {
            let left = std::mem::take(&mut self.root);
            self.root = Arc::new(Node::Inner { seps: sep.into(), kids: vec![left, right] });
        }
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        if self.get(key).is_some() {
            remove(&mut self.root, key);
            self.lower_root();
        }
    }

    /// How many levels there are, the leaves included.
    pub(super) fn depth(&self) -> usize {
        let (mut node, mut depth) = (&*self.root, 1);
        while let Node::Inner { kids, .. } = node {
            (node, depth) = (&kids[0], depth + 1);
        }
        depth
    }

    /// Goes down to all these keys at once, one level after another: the ways do not depend on each other, so what they have to
    /// wait for from memory overlaps, while it comes one after another for keys that are looked for one by one. What lies on the
    /// ways is in the processor's caches afterwards. Adds to `ways` where each key is, or none if it is not there.
    pub(super) fn locate<'k>(&self, keys: impl Iterator<Item = &'k [u8]>, ways: &mut Vec<Option<Way>>) {
        let depth = self.depth();
        let mut walks: Vec<Walk<'_, 'k>> = keys.map(|key| (key, &self.root, Way::default())).collect();
        for level in 0..depth {
            // The count of holders lies before the node: whoever writes there looks at it first.
            black_box(walks.iter().fold(0, |all, (_, node, _)| all ^ node.touch() ^ Arc::strong_count(node) as u64));
            for (key, node, way) in &mut walks {
                if let Node::Inner { seps, kids } = &***node {
                    let at = kid_of(seps, key);
                    way.turn(level, at);
                    *node = &kids[at];
                }
            }
        }
        let first = ways.len();
        ways.extend(walks.iter_mut().map(|(key, node, way)| way.end(depth, node.place_of(key)).then_some(*way)));
        // Where values will be replaced, and where keys will be put in.
        black_box(
            walks
                .iter()
                .zip(&ways[first..])
                .fold(0, |all, ((_, node, last), way)| all ^ node.touch_at(way.unwrap_or(*last).place())),
        );
    }

    /// Sets the key to which a way led, if it still does.
    ///
    /// # Errors
    /// The value: it does not lead there any more.
    pub(super) fn replace(&mut self, way: &Way, key: &[u8], value: Payload) -> Result<(), Payload> {
        let mut node = &mut self.root;
        for at in way.turns() {
            let Node::Inner { kids, .. } = Arc::make_mut(node) else { return Err(value) };
            let Some(kid) = kids.get_mut(usize::from(*at)) else { return Err(value) };
            node = kid;
        }
        match Arc::make_mut(node) {
            Node::Leaf { keys, values } if keys.holds(way.place(), key) => {
                values[way.place()] = value.into();
                Ok(())
            }
            _ => Err(value),
        }
    }

    /// Removes the keys from `start` to `end` (excluded; `None`: no bound). Takes time for the two edges only; what lay
    /// between them is handed back.
    pub(super) fn remove_range(&mut self, start: &[u8], end: Option<&[u8]>) -> Garbage {
        let mut cut = Vec::new();
        if end.is_none_or(|end| start < end) {
            remove_range(&mut self.root, Some(start), end, &mut cut);
            self.lower_root();
        }
        Garbage { _nodes: cut }
    }

    /// Shows the pairs from `start` to `end` (excluded; `None`: no bound) in order until `visit` answers false.
    pub(super) fn visit(&self, start: &[u8], end: Option<&[u8]>, mut visit: impl FnMut(&Small, &Small) -> bool) {
        visit_from(&self.root, start, &mut |key, value| {
            end.is_none_or(|end| key.as_slice() < end) && visit(key, value)
        });
    }

    fn lower_root(&mut self) {
        while let Node::Inner { kids, .. } = &*self.root {
            match kids.as_slice() {
                [] => self.root = Arc::default(),
                [only] => self.root = Arc::clone(only),
                _ => break,
            }
        }
    }
}

impl Node {
    /// The first key of a leaf that is not empty.
    fn first_key(&self) -> &Small {
        match self {
            Self::Leaf { keys, .. } => &keys.as_slice()[0],
            Self::Inner { kids, .. } => kids[0].first_key(),
        }
    }

    fn touch(&self) -> u64 {
        match self {
            Self::Leaf { keys, .. } | Self::Inner { seps: keys, .. } => keys.touch(),
        }
    }

    /// Where a key is in a leaf, or would have to be.
    fn place_of(&self, key: &[u8]) -> Result<usize, usize> {
        match self {
            Self::Leaf { keys, .. } => keys.find(key),
            Self::Inner { .. } => Err(0),
        }
    }

    /// As [`Self::touch`], for a place in a leaf.
    fn touch_at(&self, place: usize) -> usize {
        match self {
            Self::Leaf { values, .. } => values.get(place).map_or(0, |value| value.as_slice().len()),
            Self::Inner { .. } => 0,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Leaf { keys, .. } => keys.len(),
            Self::Inner { kids, .. } => kids.len(),
        }
    }
}

impl Default for Node {
    fn default() -> Self {
        Self::Leaf { keys: SortedKeys::default(), values: Vec::new() }
    }
}

impl Clone for Node {
    /// A copy is made to be changed: it gets room for one more.
    fn clone(&self) -> Self {
        match self {
            Self::Leaf { keys, values } => Self::Leaf { keys: keys.roomy(), values: roomy(values) },
            Self::Inner { seps, kids } => Self::Inner { seps: seps.roomy(), kids: roomy(kids) },
        }
    }
}

fn roomy<T: Clone>(items: &[T]) -> Vec<T> {
    let mut copy = Vec::with_capacity(FANOUT + 1);
    copy.extend_from_slice(items);
    copy
}

/// Moves the items from `at` on into a vector of their own.
fn cut_off<T>(items: &mut Vec<T>, at: usize) -> Vec<T> {
    let mut right = Vec::with_capacity(FANOUT + 1);
    right.extend(items.drain(at..));
    right
}

/// Which kid holds `key`.
fn kid_of(seps: &SortedKeys, key: &[u8]) -> usize {
    match seps.find(key) {
        Ok(at) => at + 1,
        Err(at) => at,
    }
}

/// Where to split a full node, given where it grew. A node that grows at its end stays nearly full: keys that arrive in
/// order would otherwise leave every node half empty.
fn split_point(grew_at: usize) -> usize {
    if grew_at >= FANOUT { FANOUT - 2 } else { FANOUT / 2 }
}

fn insert(node: &mut Arc<Node>, key: Payload, value: Payload) -> Split {
    match Arc::make_mut(node) {
        Node::Leaf { keys, values } => {
            let at = match keys.find(&key) {
                Ok(at) => {
                    values[at] = value.into();
                    return None;
                }
                Err(at) => at,
            };
            keys.insert(at, key.into());
            values.insert(at, value.into());
            if keys.len() <= FANOUT {
                return None;
            }
            let point = split_point(at);
            let right = Node::Leaf { keys: keys.cut_off(point), values: cut_off(values, point) };
            Some((right.first_key().clone(), Arc::new(right)))
        }
        Node::Inner { seps, kids } => {
            let at = kid_of(seps, &key);
            let (sep, right) = insert(&mut kids[at], key, value)?;
            seps.insert(at, sep);
            kids.insert(at + 1, right);
            if kids.len() <= FANOUT {
                return None;
            }
            let point = split_point(at + 1);
            let right_kids = cut_off(kids, point);
            let right_seps = seps.cut_off(point);
            let sep = seps.pop().expect("a split leaves at least two kids on the left");
            Some((sep, Arc::new(Node::Inner { seps: right_seps, kids: right_kids })))
        }
    }
}

/// Removes a key that is there.
fn remove(node: &mut Arc<Node>, key: &[u8]) {
    match Arc::make_mut(node) {
        Node::Leaf { keys, values } => {
            if let Ok(at) = keys.find(key) {
                keys.remove(at);
                values.remove(at);
            }
        }
        Node::Inner { seps, kids } => {
            let at = kid_of(seps, key);
            remove(&mut kids[at], key);
            mend(seps, kids, at);
        }
    }
}

/// Removes the keys from `start` (`None`: no bound) to `end` (excluded; `None`: no bound).
fn remove_range(node: &mut Arc<Node>, start: Option<&[u8]>, end: Option<&[u8]>, cut: &mut Vec<Arc<Node>>) {
    match Arc::make_mut(node) {
        Node::Leaf { keys, values } => {
            let from = start.map_or(0, |start| keys.count_below(start));
            let to = end.map_or(keys.len(), |end| keys.count_below(end));
            keys.remove_range(from..to);
            let values = values.drain(from..to).collect();
            cut.push(Arc::new(Node::Leaf { keys: SortedKeys::default(), values }));
        }
        Node::Inner { seps, kids } => {
            let first = start.map_or(0, |start| kid_of(seps, start));
            let last = end.map_or(kids.len() - 1, |end| kid_of(seps, end));
            if first == last {
                remove_range(&mut kids[first], start, end, cut);
                mend(seps, kids, first);
                return;
            }
            // The kids between the edges go as they are. The separator before the last one stays: it bounds both edges.
            cut.extend(kids.drain(first + 1..last));
            seps.remove_range(first..last - 1);
            remove_range(&mut kids[first + 1], None, end, cut);
            remove_range(&mut kids[first], start, None, cut);
            // Empty ones go before anything is merged: an empty inner node has no edge to merge at.
            drop_empty(seps, kids, first + 1);
            drop_empty(seps, kids, first);
            merge_sparse(seps, kids, first + 1);
            merge_sparse(seps, kids, first);
        }
    }
}

/// Restores the invariants after kid `at` became smaller.
fn mend(seps: &mut SortedKeys, kids: &mut Vec<Arc<Node>>, at: usize) {
    if !drop_empty(seps, kids, at) {
        merge_sparse(seps, kids, at);
    }
}

/// Removes kid `at` if it is empty; a neighbour's bounds grow over its place.
fn drop_empty(seps: &mut SortedKeys, kids: &mut Vec<Arc<Node>>, at: usize) -> bool {
    if kids[at].len() > 0 {
        return false;
    }
    kids.remove(at);
    if seps.len() > 0 {
        seps.remove(at.saturating_sub(1));
    }
    true
}

/// Merges kid `at`, if it is there and sparse, with a neighbour, if both fit into one.
fn merge_sparse(seps: &mut SortedKeys, kids: &mut Vec<Arc<Node>>, at: usize) {
    if kids.len() < 2 || kids.get(at).is_none_or(|kid| kid.len() >= SPARSE) {
        return;
    }
    let left = at.saturating_sub(1);
    if kids[left].len() + kids[left + 1].len() <= MERGED_MAX {
        let sep = seps.remove(left);
        let right = kids.remove(left + 1);
        merge(&mut kids[left], sep, right);
    }
}

fn merge(left: &mut Arc<Node>, sep: Small, right: Arc<Node>) {
    match (Arc::make_mut(left), Arc::unwrap_or_clone(right)) {
        (Node::Leaf { keys, values }, Node::Leaf { keys: right_keys, values: right_values }) => {
            keys.append(right_keys);
            values.extend(right_values);
        }
        (Node::Inner { seps, kids }, Node::Inner { seps: right_seps, kids: right_kids }) => {
            seps.insert(seps.len(), sep);
            seps.append(right_seps);
            kids.extend(right_kids);
        }
        _ => unreachable!("all leaves lie at one depth"),
    }
}

/// Answers false as soon as `visit` does.
fn visit_from(node: &Node, start: &[u8], visit: &mut impl FnMut(&Small, &Small) -> bool) -> bool {
    match node {
        Node::Leaf { keys, values } => {
            let from = keys.count_below(start);
            keys.as_slice()[from..].iter().zip(&values[from..]).all(|(key, value)| visit(key, value))
        }
        Node::Inner { seps, kids } => kids[kid_of(seps, start)..].iter().all(|kid| visit_from(kid, start, visit)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Checks the module's invariants; answers the depth of the leaves.
    fn check(node: &Node, is_root: bool, from: Option<&[u8]>, to: Option<&[u8]>) -> usize {
        let inside = |key: &[u8]| from.is_none_or(|from| from <= key) && to.is_none_or(|to| key < to);
        assert!(is_root || node.len() > 0);
        assert!(node.len() <= FANOUT);
        match node {
            Node::Leaf { keys, values } => {
                assert_eq!(keys.len(), values.len());
                assert!(keys.as_slice().iter().all(|key| inside(key.as_slice())));
                assert!(keys.as_slice().is_sorted_by(|a, b| a.as_slice() < b.as_slice()));
                1
            }
            Node::Inner { seps, kids } => {
                assert_eq!(seps.len() + 1, kids.len());
                let bound = |at: usize| seps.as_slice().get(at).map(Small::as_slice);
                let depths: Vec<usize> = (0..kids.len())
                    .map(|at| {
                        let (lower, upper) = (at.checked_sub(1).and_then(bound).or(from), bound(at).or(to));
                        check(&kids[at], false, lower, upper)
                    })
                    .collect();
                assert!(depths.windows(2).all(|two| two[0] == two[1]));
                depths[0] + 1
            }
        }
    }

    fn pairs(map: &CowMap, start: &[u8], end: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = Vec::new();
        map.visit(start, end, |key, value| {
            pairs.push((key.as_slice().to_vec(), value.as_slice().to_vec()));
            true
        });
        pairs
    }

    #[derive(Clone, Debug)]
    enum Step {
        Fill { from: u16, count: u16, down: bool },
        Remove(u16),
        RemoveRange(u16, Option<u16>),
        Keep,
        Locate(u16),
        Replace,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..4000u16, 1..600u16, any::<bool>()).prop_map(|(from, count, down)| Step::Fill { from, count, down }),
            3 => (0..4600u16).prop_map(Step::Remove),
            2 => (0..4600u16, proptest::option::of(0..4600u16)).prop_map(|(from, to)| Step::RemoveRange(from, to)),
            1 => Just(Step::Keep),
            2 => (0..4600u16).prop_map(Step::Locate),
            2 => Just(Step::Replace),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn it_equals_a_plain_map_and_its_copies_do_not_change(steps in proptest::collection::vec(step(), 1..40)) {
            let key = |number: u16| Payload::copy_from_slice(&number.to_be_bytes());
            let (mut map, mut model, mut kept) = (CowMap::default(), BTreeMap::new(), Vec::new());
            // Ways are old when they are used: some lead elsewhere by then.
            let (mut sought, mut ways) = (Vec::new(), Vec::new());
            for (turn, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Fill { from, count, down } => for at in 0..count {
                        let key = key(if down { from + count - at } else { from + at });
                        let value = Payload::from(format!("{turn} {at}"));
                        model.insert(key.to_vec(), value.to_vec());
                        map.insert(key, value);
                    },
                    Step::Remove(at) => {
                        for at in at..at.saturating_add(60) {
                            model.remove(&key(at)[..]);
                            map.remove(&key(at));
                        }
                    }
                    Step::RemoveRange(from, to) => {
                        let (from, to) = (key(from), to.map(key));
                        model.retain(|key, _| key[..] < from[..] || to.as_ref().is_some_and(|to| key[..] >= to[..]));
                        map.remove_range(&from, to.as_deref());
                    }
                    Step::Keep => kept.push((map.clone(), model.clone())),
                    Step::Locate(from) => {
                        let keys: Vec<Payload> = (from..from.saturating_add(400)).step_by(3).map(key).collect();
                        map.locate(keys.iter().map(|key| &key[..]), &mut ways);
                        sought.extend(keys);
                        prop_assert_eq!(sought.len(), ways.len());
                    }
                    Step::Replace => for (key, way) in sought.drain(..).zip(ways.drain(..)) {
                        let value = Payload::from(format!("{turn}"));
                        match way.map(|way| map.replace(&way, &key, value.clone())) {
                            Some(Ok(())) => prop_assert!(model.insert(key.to_vec(), value.to_vec()).is_some()),
                            Some(Err(back)) => prop_assert_eq!(back, value),
                            None => {}
                        }
                    },
                }
                check(&map.root, true, None, None);
                prop_assert_eq!(pairs(&map, b"", None), model.clone().into_iter().collect::<Vec<_>>());
            }
            for (map, model) in kept {
                check(&map.root, true, None, None);
                let to = 2000u16.to_be_bytes();
                let want: Vec<_> = model.range(vec![0, 9]..to.to_vec()).map(|(key, value)| (key.clone(), value.clone())).collect();
                prop_assert_eq!(pairs(&map, &[0, 9], Some(&to)), want);
                for number in (0..4600u16).step_by(7) {
                    prop_assert_eq!(map.get(&number.to_be_bytes()).map(Small::as_slice), model.get(&number.to_be_bytes()[..]).map(|v| &v[..]));
                }
            }
        }
    }

    #[test]
    fn what_is_there_is_located_at_every_depth_and_replaced_where_it_was_found() {
        let mut map = CowMap::default();
        for (count, depth) in [(0, 1), (10, 1), (1_000, 2), (40_000, 3), (300_000, 4)] {
            (0..count).for_each(|number: u32| {
                map.insert(Payload::copy_from_slice(&number.to_be_bytes()), Payload::from(&b"v"[..]));
            });
            assert_eq!(map.depth(), depth);
            let (keys, mut ways) = ([5u32, count / 2, count + 1, 7].map(u32::to_be_bytes), Vec::new());
            map.locate(keys.iter().map(|key| &key[..]), &mut ways);
            for (key, way) in keys.iter().zip(ways) {
                assert_eq!(map.get(key).is_some(), way.is_some());
                let replaced = way.map(|way| map.replace(&way, key, Payload::from(&b"w"[..])));
                assert!(matches!(replaced, None | Some(Ok(()))), "the way led there: {replaced:?}");
                assert_eq!(map.get(key).map(Small::as_slice), way.map(|_| &b"w"[..]));
            }
        }
    }

    #[test]
    fn keys_in_order_fill_the_leaves() {
        let mut map = CowMap::default();
        for number in 0..10_000u32 {
            map.insert(Payload::copy_from_slice(&number.to_be_bytes()), Payload::new());
        }
        fn leaves(node: &Node) -> usize {
            match node {
                Node::Leaf { .. } => 1,
                Node::Inner { kids, .. } => kids.iter().map(|kid| leaves(kid)).sum(),
            }
        }
        assert!(leaves(&map.root) <= 10_000 / (FANOUT - 2) + 1);
    }
}
