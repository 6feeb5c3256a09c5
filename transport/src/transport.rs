//! The public handle, over whichever network the store is on; and the thread that all its links run on.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use multiraft_raft::{Incarnation, StoreId};

use crate::{
    APPEND_LANES_MAX, Handler, Lane, Network, PeerAddress, PeerMessage, PeerStatus, SnapshotError, SnapshotHeader,
    SnapshotSender, Tls, TlsError, TooLarge, TransportConfig, WIRE_VERSION, codec::WIRE_VERSION_MIN, local::LocalLinks,
    quic::QuicLinks, snapshot,
};

/// The links of one store to all others.
///
/// All methods may be called from any thread. Dropping it shuts it down.
pub struct Transport {
    store: StoreId,
    links: Links,
}

enum Links {
    Quic(QuicLinks),
    Local(LocalLinks),
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("store", &self.store)
            .field("local_addr", &self.local_addr())
            .finish_non_exhaustive()
    }
}

/// Why a transport did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The address cannot be had.
    #[error("cannot listen on {address} (UDP): {source}; choose another address or stop what uses it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificate is not this store's.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A store with this id is on the local network already.
    #[error(
        "store {0} is on the local network already: give each store its own id, and shut one down before it starts again"
    )]
    StoreTaken(StoreId),
    /// A later life of this store has been on the local network.
    #[error(
        "store {store} comes with incarnation {found} after {newest} was seen: \
         two processes run as this store, or its data directory was rolled back"
    )]
    Stale {
        /// The store.
        store: StoreId,
        /// What it comes with.
        found: Incarnation,
        /// The latest that was seen.
        newest: Incarnation,
    },
    /// A setting makes no sense.
    #[error("{setting} is {value}: {rule}")]
    Config {
        /// Which.
        setting: &'static str,
        /// What it is.
        value: String,
        /// What it must be.
        rule: String,
    },
    /// The system refused a thread, a socket or the like.
    #[error("cannot start the link thread: {0}")]
    System(#[from] io::Error),
}

/// Why messages were not queued. Nothing of them will be sent.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The lane is full; [`Handler::on_lane_ready`] tells when it no longer is.
    #[error("the lane is full: wait for it to be ready")]
    Full,
    /// There is no link to the peer at present; [`Handler::on_link`] tells when there is.
    #[error("there is no link to the peer: wait until it is up")]
    NotConnected,
    /// Nobody has named that peer, and it has not dialed in.
    #[error("the peer is not known: add its address")]
    UnknownPeer,
    /// There are not so many append lanes.
    #[error("there is no {0} lane: raise the number of append lanes")]
    UnknownLane(Lane),
    /// One of the messages fits into no frame.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
}

impl Transport {
    /// Binds the socket, or takes its place on the local network, and starts the link thread. When it returns, the store can be
    /// dialed.
    ///
    /// # Errors
    /// The address or the place is taken, the certificate is not this store's, a setting makes no sense.
    pub fn start(config: TransportConfig, handler: Arc<dyn Handler>) -> Result<Self, TransportError> {
        check(&config)?;
        let store = config.store;
        let links = match config.network.clone() {
            Network::Quic { listen, tls } => Links::Quic(QuicLinks::start(config, (listen, tls), handler)?),
            Network::Local(network) => Links::Local(LocalLinks::start(config, network, handler)?),
        };
        Ok(Self { store, links })
    }

    /// Where it listens, with the port that the system chose; `None` on a local network.
    #[must_use]
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.links {
            Links::Quic(links) => Some(links.local_addr()),
            Links::Local(_) => None,
        }
    }

    /// The newest version of the wire format that it speaks; on a local network this release's.
    #[must_use]
    pub fn wire_version_max(&self) -> u16 {
        match &self.links {
            Links::Quic(links) => links.wire_version_max(),
            Links::Local(_) => WIRE_VERSION,
        }
    }

    /// Queues `messages` for `peer`: all of them or none, in this order, after what is queued already. Encodes (on a local network:
    /// copies) them at once; never waits for the network.
    ///
    /// Queued is not delivered: what is queued when the link goes down is lost.
    ///
    /// # Errors
    /// Nothing was queued, and why.
    ///
    /// # Panics
    /// If the entries of an append are not consecutive.
    pub fn send(&self, peer: StoreId, lane: Lane, messages: &[PeerMessage]) -> Result<(), SendError> {
        match &self.links {
            Links::Quic(links) => links.send(peer, lane, messages),
            Links::Local(links) => links.send(peer, lane, &mut messages.to_vec()),
        }
    }

    /// [`Transport::send`] for messages that the caller needs no more: leaves `messages` empty if they were queued, and as they were
    /// if not. On a local network that spares copies.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Panics
    /// As there.
    pub fn hand_over(&self, peer: StoreId, lane: Lane, messages: &mut Vec<PeerMessage>) -> Result<(), SendError> {
        match &self.links {
            Links::Quic(links) => {
                links.send(peer, lane, messages)?;
                messages.clear();
                Ok(())
            }
            Links::Local(links) => links.send(peer, lane, messages),
        }
    }

    /// Begins to send a snapshot over the present link.
    ///
    /// # Errors
    /// There is no link.
    pub fn open_snapshot(&self, peer: StoreId, header: SnapshotHeader) -> Result<SnapshotSender, SnapshotError> {
        match &self.links {
            Links::Quic(links) => links.open_snapshot(peer, header),
            Links::Local(links) => links.open_snapshot(peer, header),
        }
    }

    /// Keeps a link to `peer` from now on, at `address`; changes the address if the peer is known. One that was declared dead is
    /// left alone. False: there are too
    /// many peers, see [`LinkConfig::peers_max`](crate::LinkConfig::peers_max); never so on a local network, where there are no
    /// addresses either.
    pub fn add_peer(&self, peer: StoreId, address: impl Into<PeerAddress>) -> bool {
        match &self.links {
            Links::Quic(links) => links.add_peer(peer, address.into()),
            Links::Local(links) => {
                links.add_peer(peer);
                true
            }
        }
    }

    /// Changes where `peer` is dialed. A link that is up stays up.
    pub fn set_peer_address(&self, peer: StoreId, address: impl Into<PeerAddress>) -> bool {
        self.add_peer(peer, address)
    }

    /// Closes the link to `peer` and dials it no more. It is unknown once its link is down; if it dials in after that, it is let
    /// in like any store of the cluster. On a local network it dials in when it starts again, or names this store with
    /// [`Transport::add_peer`].
    pub fn remove_peer(&self, peer: StoreId) {
        match &self.links {
            Links::Quic(links) => links.remove_peer(peer),
            Links::Local(links) => links.remove_peer(peer),
        }
    }

    /// Uses other certificates from the next connection on, without disturbing those that are up: for certificates that
    /// are about to expire. Has no effect on a local network.
    ///
    /// # Errors
    /// The certificate is not this store's.
    pub fn set_tls(&self, tls: Tls) -> Result<(), TlsError> {
        match &self.links {
            Links::Quic(links) => links.set_tls(tls),
            Links::Local(_) => tls.verify_own(self.store),
        }
    }

    /// Closes the present connection to `peer`; it is dialed anew. For tests and operators.
    pub fn disconnect(&self, peer: StoreId) {
        match &self.links {
            Links::Quic(links) => links.disconnect(peer),
            Links::Local(links) => links.disconnect(peer),
        }
    }

    /// All known peers, in the order of their ids.
    #[must_use]
    pub fn status(&self) -> Vec<PeerStatus> {
        match &self.links {
            Links::Quic(links) => links.status(),
            Links::Local(links) => links.status(),
        }
    }

    /// Closes all links, tells the peers, ends the link thread; frees the address, or the place on the local network; takes some
    /// 150 ms over QUIC. Doing it again does nothing. Called from a handler, it does not wait for the thread that it runs on.
    pub fn shutdown(&self) {
        match &self.links {
            Links::Quic(links) => links.shutdown(),
            Links::Local(links) => links.shutdown(),
        }
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The thread that all links of a store run on.
pub(crate) struct LinkThread(Mutex<Option<JoinHandle<()>>>);

impl LinkThread {
    pub(crate) fn start(store: StoreId, run: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let thread = thread::Builder::new().name(format!("multiraft-link-{store}")).spawn(run)?;
        Ok(Self(Mutex::new(Some(thread))))
    }

    /// Waits for its end, unless this is the thread itself.
    pub(crate) fn join(&self) {
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
        {
            // A panic on that thread was reported there.
            let _ = thread.join();
        }
    }
}

fn check(config: &TransportConfig) -> Result<(), TransportError> {
    let rule = |holds: bool, setting, value: String, rule: String| {
        if holds { Ok(()) } else { Err(TransportError::Config { setting, value, rule }) }
    };
    let (link, queues, limits) = (&config.link, &config.queues, &config.limits);
    let lanes = config.append_lanes;
    rule(config.store.0 != 0, "store", "0".to_owned(), "zero names no store".to_owned())?;
    rule(
        (1..=APPEND_LANES_MAX).contains(&lanes),
        "append_lanes",
        lanes.to_string(),
        format!("must be 1 to {APPEND_LANES_MAX}"),
    )?;
    rule(
        (WIRE_VERSION_MIN..=WIRE_VERSION).contains(&config.wire_version_max),
        "wire_version_max",
        config.wire_version_max.to_string(),
        format!("must be {WIRE_VERSION_MIN} to {WIRE_VERSION}"),
    )?;
    rule(
        (1200..=8900).contains(&link.loopback_mtu),
        "link.loopback_mtu",
        link.loopback_mtu.to_string(),
        "must be 1200 to 8900".to_owned(),
    )?;
    rule(
        link.keep_alive < link.idle_timeout / 2 && link.idle_timeout < Duration::from_secs(600),
        "link.keep_alive",
        format!("{:?}", link.keep_alive),
        format!("must be below half of the idle timeout ({:?}), and that below ten minutes", link.idle_timeout),
    )?;
    rule(
        (1 << 10..=1 << 30).contains(&limits.frame_bytes_max),
        "limits.frame_bytes_max",
        limits.frame_bytes_max.to_string(),
        "must be 1 KiB to 1 GiB".to_owned(),
    )?;
    rule(
        queues.append_receive_bytes / lanes >= queues.frame_target_bytes,
        "queues.append_receive_bytes",
        queues.append_receive_bytes.to_string(),
        format!("must be at least {} for each append lane", queues.frame_target_bytes),
    )?;
    rule(
        snapshot::window_is_wide_enough(config.snapshots.window_bytes),
        "snapshots.window_bytes",
        config.snapshots.window_bytes.to_string(),
        "must be at least 16 KiB".to_owned(),
    )
}
