//! What the admin endpoint tells of a store, as JSON; the demo reads the same.

use std::collections::BTreeMap;

use multiraft::{Engine, Figures, Floor, RegionStatus, Replica, Role, StoreStatus};
use serde::{Deserialize, Serialize};

/// A store, its replicas and its links.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    pub(crate) store: u64,
    /// How often it has started.
    pub(crate) incarnation: u64,
    pub(crate) regions: Vec<RegionReport>,
    /// Regions that are out of service here, because their records are damaged.
    pub(crate) damaged: Vec<DamageReport>,
    /// The log has lost votes of replicas that nothing else here may tell of: the store has to rejoin before it takes replicas of regions
    /// that are new to it.
    #[serde(default)]
    pub(crate) lacks_promises: bool,
    /// It begins anew after it has lost its data directory, and waits for the root region: it takes no replica yet.
    #[serde(default)]
    pub(crate) rejoining: bool,
    /// Its replicas with ids up to this one were lost with an earlier data directory.
    #[serde(default)]
    pub(crate) floor: Option<u64>,
    /// The newest version of the wire format that it speaks.
    #[serde(default)]
    pub(crate) wire_version: Option<u16>,
    pub(crate) peers: Vec<PeerReport>,
    pub(crate) counters: CounterReport,
}

/// One replica.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RegionReport {
    pub(crate) id: u64,
    /// The first key, in hexadecimal.
    pub(crate) start: String,
    /// The first key behind it, in hexadecimal; empty: to the end.
    pub(crate) end: String,
    pub(crate) conf_version: u64,
    pub(crate) version: u64,
    pub(crate) replicas: Vec<ReplicaReport>,
    pub(crate) leader: Option<u64>,
    pub(crate) is_leader: bool,
    pub(crate) term: u64,
    pub(crate) commit: u64,
    pub(crate) applied: u64,
    pub(crate) last_index: u64,
    /// How large and how busy it is, if this store leads it and plans with others.
    #[serde(default)]
    pub(crate) measured: Option<Measured>,
}

/// How large and how busy a region is, as its leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Of keys and values.
    pub(crate) bytes: u64,
    pub(crate) keys: u64,
    /// Keys written a second.
    pub(crate) writes_per_s: u64,
    /// Keys read a second, by the leader's store.
    pub(crate) reads_per_s: u64,
}

/// What this store has measured of the regions that it leads.
pub(crate) fn measured(engine: &Engine) -> BTreeMap<u64, Measured> {
    let figures = engine.figures();
    let led = figures.iter().filter(|figures| figures.leads);
    let measured = led.map(|figures| {
        let Figures { bytes, keys, writes_per_s, reads_per_s, .. } = *figures;
        (figures.region.get(), Measured { bytes, keys, writes_per_s, reads_per_s })
    });
    measured.collect()
}

impl StatusReport {
    /// How this store stands.
    pub(crate) async fn of(engine: &Engine) -> Self {
        let mut report = Self::from(engine.status().await);
        let measured = measured(engine);
        for region in report.regions.iter_mut().filter(|region| region.is_leader) {
            region.measured = measured.get(&region.id).copied();
        }
        report
    }
}

/// A replica of a region, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplicaReport {
    pub(crate) id: u64,
    pub(crate) store: u64,
    /// `voter`, `learner`, `witness`; while replicas are being replaced `incoming-voter`, `outgoing-voter`, `demoting-voter`.
    pub(crate) role: String,
}

/// A damaged region, and why.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DamageReport {
    pub(crate) region: u64,
    pub(crate) reason: String,
}

/// The link to another store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PeerReport {
    pub(crate) store: u64,
    pub(crate) connected: bool,
    /// How often it has started; null without a link.
    pub(crate) incarnation: Option<u64>,
    /// The version of the wire format that the two talk in; null without a link.
    #[serde(default)]
    pub(crate) wire_version: Option<u16>,
    pub(crate) connections: u64,
    pub(crate) frames_sent: u64,
    pub(crate) messages_sent: u64,
    pub(crate) bytes_sent: u64,
}

/// What was counted since the store started.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct CounterReport {
    pub(crate) log_syncs: u64,
    pub(crate) log_entries: u64,
    pub(crate) log_bytes: u64,
    pub(crate) frames_sent: u64,
    pub(crate) messages_sent: u64,
    pub(crate) beats_sent: u64,
    pub(crate) beat_messages_sent: u64,
    pub(crate) elections_won: u64,
    pub(crate) proposed: u64,
    pub(crate) forwarded: u64,
    pub(crate) applied: u64,
    pub(crate) reads: u64,
    pub(crate) busy: u64,
    pub(crate) snapshots_installed: u64,
}

impl From<StoreStatus> for StatusReport {
    fn from(status: StoreStatus) -> Self {
        let damage = |(region, reason): (multiraft::RegionId, String)| DamageReport { region: region.get(), reason };
        let peer = |peer: multiraft::PeerStatus| PeerReport {
            store: peer.store.get(),
            connected: peer.connected,
            incarnation: peer.incarnation.map(multiraft::Incarnation::get),
            wire_version: peer.wire_version,
            connections: peer.connections,
            frames_sent: peer.frames_sent,
            messages_sent: peer.messages_sent,
            bytes_sent: peer.bytes_sent,
        };
        let counters = status.counters;
        Self {
            store: status.store.get(),
            incarnation: status.incarnation.get(),
            regions: status.regions.iter().map(RegionReport::from).collect(),
            damaged: status.damaged.into_iter().map(damage).collect(),
            lacks_promises: status.lacks_promises,
            rejoining: status.floor == Floor::Unknown,
            floor: match status.floor {
                Floor::Above(last) => Some(last.get()),
                Floor::Whole | Floor::Unknown => None,
            },
            wire_version: Some(status.wire_version),
            peers: status.peers.into_iter().map(peer).collect(),
            counters: CounterReport {
                log_syncs: counters.log_syncs,
                log_entries: counters.log_entries,
                log_bytes: counters.log_bytes,
                frames_sent: counters.frames_sent,
                messages_sent: counters.messages_sent,
                beats_sent: counters.beats_sent,
                beat_messages_sent: counters.beat_messages_sent,
                elections_won: counters.elections_won,
                proposed: counters.proposed,
                forwarded: counters.forwarded,
                applied: counters.applied,
                reads: counters.reads,
                busy: counters.busy,
                snapshots_installed: counters.snapshots_installed,
            },
        }
    }
}

impl From<&RegionStatus> for RegionReport {
    fn from(status: &RegionStatus) -> Self {
        let range = &status.descriptor.range;
        Self {
            id: status.descriptor.id.get(),
            start: crate::hex::encode(&range.start),
            end: crate::hex::encode(&range.end),
            conf_version: status.descriptor.epoch.conf_version,
            version: status.descriptor.epoch.version,
            replicas: status.descriptor.replicas.iter().map(ReplicaReport::from).collect(),
            leader: status.leader.map(multiraft::StoreId::get),
            is_leader: status.is_leader,
            term: status.term.get(),
            commit: status.commit.get(),
            applied: status.applied.get(),
            last_index: status.last_index.get(),
            measured: None,
        }
    }
}

impl From<&Replica> for ReplicaReport {
    fn from(replica: &Replica) -> Self {
        let role = match replica.role {
            Role::Voter => "voter",
            Role::Learner => "learner",
            Role::Witness => "witness",
            Role::IncomingVoter => "incoming-voter",
            Role::OutgoingVoter => "outgoing-voter",
            Role::DemotingVoter => "demoting-voter",
        };
        Self { id: replica.id.get(), store: replica.store.get(), role: role.to_owned() }
    }
}

/// Keys to read on this store, in hexadecimal.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LocalQuery {
    pub(crate) keys: Vec<String>,
    /// How old the answer may be; a leader is asked if this store knows nothing that new. However old, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) staleness_ms: Option<u64>,
}

/// What this store holds under them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LocalAnswer {
    pub(crate) values: Vec<Option<String>>,
}
