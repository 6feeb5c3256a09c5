//! Who is on a local network, and which two have a link.
//!
//! Two stores have a link while both are there, are of one cluster, and neither has declared the other dead or removed it. A link
//! that was closed is over once both ends have said so to their handlers, each on its own link thread; only then is there another:
//! so links of one pair never overlap.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use multiraft_raft::{Incarnation, StoreId};

use super::{
    links::{Node, adopt},
    wire::{End, Wire},
};
use crate::{DownReason, TransportError};

/// A network inside of one process: its stores reach each other by their ids, without addresses and certificates.
///
/// For tests and simulations of clusters. Clones are the same network. One network serves several clusters, but each store id only
/// once; a store's place is free again when it has shut down.
#[derive(Clone, Default)]
pub struct LocalNetwork(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    stores: BTreeMap<StoreId, Arc<Node>>,
    /// The highest incarnation that each store has had here.
    newest: BTreeMap<StoreId, Incarnation>,
    /// Who has removed whom.
    removed: BTreeSet<(StoreId, StoreId)>,
    /// All links that are not over at both ends.
    wires: BTreeMap<Pair, Held>,
    last_number: u64,
}

/// The lower id stands first.
type Pair = (StoreId, StoreId);

struct Held {
    wire: Arc<Wire>,
    /// At which ends it is over, in the order of the pair.
    is_over: [bool; 2],
}

fn pair(a: StoreId, b: StoreId) -> Pair {
    (a.min(b), a.max(b))
}

impl LocalNetwork {
    /// A network with nobody on it.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives `node` its place, and links with all others.
    pub(super) fn join(&self, node: &Arc<Node>) -> Result<(), TransportError> {
        let (store, found) = (node.config.store, node.config.incarnation);
        let mut state = self.state();
        if state.stores.contains_key(&store) {
            return Err(TransportError::StoreTaken(store));
        }
        let newest = state.newest.entry(store).or_default();
        if found < *newest {
            return Err(TransportError::Stale { store, found, newest: *newest });
        }
        *newest = found;
        state.stores.insert(store, Arc::clone(node));
        state.removed.retain(|(by, other)| *by != store && *other != store);
        state.connect_all(store);
        Ok(())
    }

    /// Takes the place of `node` away and closes its links.
    pub(super) fn leave(&self, node: &Arc<Node>) {
        let mut state = self.state();
        let store = node.config.store;
        // Its place may be that of its next life by now.
        if state.stores.get(&store).is_some_and(|found| Arc::ptr_eq(found, node)) {
            state.stores.remove(&store);
            state.wires_of(node).for_each(|held| held.wire.close(store, DownReason::Shutdown));
        }
    }

    /// Whatever links `node` still holds are over at its end: its link thread has ended.
    pub(super) fn let_go(&self, node: &Arc<Node>) {
        let mut state = self.state();
        let wires: Vec<_> = state.wires_of(node).map(|held| Arc::clone(&held.wire)).collect();
        for wire in wires {
            let side = usize::from(Arc::ptr_eq(&wire.ends[1].node, node));
            state.on_over(&wire, side);
        }
    }

    /// A link is over at one side.
    pub(super) fn on_over(&self, wire: &Wire, side: usize) {
        let mut state = self.state();
        state.on_over(wire, side);
        let (own, other) = (&wire.ends[side].node, wire.ends[1 - side].node.config.store);
        if state.removed.contains(&(own.config.store, other)) {
            own.forget(other);
        }
    }

    /// Links the two if there is nothing against it.
    fn connect(&self, pair: Pair) {
        self.state().connect(pair);
    }

    /// Links the two again, if one of them had removed the other.
    pub(super) fn rejoin(&self, a: StoreId, b: StoreId) {
        let mut state = self.state();
        let was_removed = [(a, b), (b, a)].map(|removed| state.removed.remove(&removed));
        if was_removed.contains(&true) {
            state.connect(pair(a, b));
        }
    }

    /// Keeps the two apart, closes their link for `node`, and has it forget the other one.
    pub(super) fn part(&self, node: &Node, other: StoreId) {
        let mut state = self.state();
        let by = node.config.store;
        state.removed.insert((by, other));
        if let Some(held) = state.wires.get(&pair(by, other)) {
            held.wire.close(by, DownReason::Requested);
        }
        node.forget(other);
    }
}

impl State {
    fn wires_of(&self, node: &Arc<Node>) -> impl Iterator<Item = &Held> {
        self.wires.values().filter(move |held| held.wire.ends.iter().any(|end| Arc::ptr_eq(&end.node, node)))
    }

    fn connect_all(&mut self, store: StoreId) {
        let others: Vec<StoreId> = self.stores.keys().copied().filter(|other| *other != store).collect();
        for other in others {
            self.connect(pair(store, other));
        }
    }

    fn connect(&mut self, pair: Pair) {
        let (Some(a), Some(b)) = (self.stores.get(&pair.0), self.stores.get(&pair.1)) else { return };
        let is_removed = self.removed.contains(&pair) || self.removed.contains(&(pair.1, pair.0));
        if is_removed || self.wires.contains_key(&pair) || is_refused(a, b) || is_refused(b, a) {
            return;
        }
        self.last_number += 1;
        let ((a_end, a_incoming), (b_end, b_incoming)) = (End::new(a, pair.1), End::new(b, pair.0));
        let wire = Arc::new(Wire::new(self.last_number, [a_end, b_end]));
        for (side, (node, incoming)) in [(a, a_incoming), (b, b_incoming)].into_iter().enumerate() {
            node.runtime.spawn(adopt(Arc::clone(&wire), side, incoming));
        }
        self.wires.insert(pair, Held { wire, is_over: [false; 2] });
    }

    fn on_over(&mut self, wire: &Wire, side: usize) {
        let pair = wire.pair();
        let Some(held) = self.wires.get_mut(&pair).filter(|held| held.wire.number == wire.number) else { return };
        held.is_over[side] = true;
        if held.is_over != [true; 2] {
            return;
        }
        self.wires.remove(&pair);
        let Some(pause) = wire.pause() else { return self.connect(pair) };
        // Of those that are there, since an end may belong to a store that has gone. Whoever goes or comes meanwhile makes its links itself.
        let Some(node) = [pair.0, pair.1].iter().find_map(|store| self.stores.get(store)) else { return };
        let network = node.network.clone();
        node.runtime.spawn(async move {
            tokio::time::sleep(pause).await;
            network.connect(pair);
        });
    }
}

/// Whether `node` has no link with `other`, whatever that one thinks.
fn is_refused(node: &Arc<Node>, other: &Arc<Node>) -> bool {
    let (own, theirs) = (&node.config, &other.config);
    if own.fenced.contains(&theirs.store) {
        let (other, by) = (Arc::clone(other), own.store);
        other.runtime.clone().spawn(async move {
            let reason = "it was declared dead by a recovery: its regions go on without it, it must never serve again";
            other.handler.on_fenced(by, reason);
        });
        return true;
    }
    // Rarely more than a look-up: what is new is written down before there is a link.
    let admitted =
        own.births.as_ref().map_or(Ok(()), |births| births.admit(theirs.store, theirs.incarnation, theirs.birth));
    if let Err(reason) = &admitted {
        tracing::warn!(store = %own.store, peer = %theirs.store, reason, "no link");
    }
    own.cluster != theirs.cluster || admitted.is_err()
}

impl fmt::Debug for LocalNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stores: Vec<StoreId> = self.state().stores.keys().copied().collect();
        f.debug_struct("LocalNetwork").field("stores", &stores).finish_non_exhaustive()
    }
}
