//! This project as a peer: three engines in one process, as an embedder starts them; between them QUIC over loopback with
//! certificates on both sides, or a local network: channels, as between the stores of the other peers. State in memory.
//!
//! Clients go to the engine that leads, as the other peers' do: nothing is sent on from one store to another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use multiraft::{Engine, LocalNetwork, RegionId};

use super::load::{Counts, Peer};
use super::options::{Peer as Options, PeerKind};
use crate::args::{Operation, State, Store};
use crate::cluster::{Problem, STORES, free_addresses, write_certificates};
use crate::keyspace::DONE;
use crate::store;

/// Three engines.
pub(crate) struct Stores {
    engines: Vec<Engine>,
    /// In key order.
    regions: Vec<RegionId>,
    /// Which engine leads a region, as far as is known.
    leaders: Vec<AtomicUsize>,
}

impl Peer for Stores {
    async fn start(options: &Options) -> Result<Self, Problem> {
        write_certificates(&options.dir, STORES)?;
        let addresses = free_addresses(STORES)?;
        let network = (options.kind == PeerKind::MultiraftChannels).then(LocalNetwork::new);
        let mut engines = Vec::new();
        for number in 1..=STORES {
            let options = Store {
                store: number,
                dir: options.dir.clone(),
                addresses: addresses.clone(),
                groups: options.groups,
                clients: 0,
                payload: options.payload,
                state: State::Mem,
                operation: Operation::Write,
                threads: options.threads,
                workers: options.workers,
                seed: options.seed,
                leaders_within: 0,
                together: true,
                at_leaders: false,
                channels: network.is_some(),
                rate: None,
                spares: 0,
                places: false,
                keeps_leaders: false,
                snapshot_rate: None,
                replicas_at_once: None,
            };
            engines.push(store::start(&options, network.clone()).await?);
        }
        let regions: Vec<RegionId> = engines[0].regions().iter().map(|region| region.id).collect();
        let leaders = regions.iter().map(|_| AtomicUsize::new(0)).collect();
        Ok(Self { engines, regions, leaders })
    }

    async fn write(&self, group: u64, command: Bytes) -> Result<(), String> {
        let group = usize::try_from(group).expect("a place in a list in memory");
        let leader = self.leaders[group].load(Ordering::Relaxed);
        match self.engines[leader].propose(self.regions[group], command).await {
            Ok(answer) if answer == DONE => Ok(()),
            Ok(answer) => Err(String::from_utf8_lossy(&answer).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    async fn on_rested(&self) {
        let places: HashMap<RegionId, usize> =
            self.regions.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        for (number, engine) in self.engines.iter().enumerate() {
            for region in engine.status().await.regions.iter().filter(|region| region.is_leader) {
                if let Some(place) = places.get(&region.descriptor.id) {
                    self.leaders[*place].store(number, Ordering::Relaxed);
                }
            }
        }
    }

    async fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for engine in &self.engines {
            let counters = engine.status().await.counters;
            counts.entries += counters.log_entries;
            counts.syncs += counters.log_syncs;
        }
        counts
    }
}
