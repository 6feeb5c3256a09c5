//! One task for each peer: dials it while there is an address and no link, with growing pauses.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    net::lookup_host,
    time::{Instant, timeout},
};

use crate::{
    PeerAddress, endpoint,
    link::{GreetError, greet_dialed},
    peer::Peer,
    shared::Shared,
    tls::store_dns_name,
};

/// A link that lived so long ends a series of failures.
const STABLE: Duration = Duration::from_secs(1);

/// Why a dial came to nothing.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot resolve the address: {0}")]
    Resolve(#[from] io::Error),
    #[error("the name has no address of the family that this store listens on")]
    NoAddress,
    #[error("cannot dial: {0}")]
    Connect(#[from] quinn::ConnectError),
    #[error(transparent)]
    Greet(#[from] GreetError),
    #[error("this store is shutting down")]
    Stopping,
    #[error("no answer")]
    TimedOut,
}

/// Starts the task. It ends when the peer is removed or the runtime stops.
pub(crate) fn spawn(shared: &Arc<Shared>, peer: &Arc<Peer>) {
    shared.runtime.spawn(run(Arc::clone(shared), Arc::clone(peer)));
}

/// What there is to do for a dialer.
enum Next {
    Dial(PeerAddress),
    Wait,
    End,
}

async fn run(shared: Arc<Shared>, peer: Arc<Peer>) {
    let mut pauses = Pauses::new(&shared, &peer);
    let mut told = String::new();
    let mut up_since: Option<Instant> = None;
    loop {
        match next(&shared, &peer) {
            Next::End => return,
            Next::Wait => {
                if peer.state().link.is_some() {
                    up_since.get_or_insert_with(Instant::now);
                }
                peer.changed.notified().await;
                continue;
            }
            Next::Dial(address) => match up_since.take() {
                Some(since) if since.elapsed() >= STABLE => pauses.reset(),
                // The last link was hardly up: not another one at once.
                Some(_) => {}
                None => match dial(&shared, &peer, &address).await {
                    Ok(()) => {
                        told.clear();
                        up_since = Some(Instant::now());
                        continue;
                    }
                    Err(error) => {
                        if let DialError::Greet(error) = &error
                            && let Some(reason) = error.fenced()
                        {
                            shared.handler.on_fenced(peer.id, &reason);
                        }
                        report(&peer, &address, &error, &mut told);
                    }
                },
            },
        }
        pause(&peer, pauses.next()).await;
    }
}

fn next(shared: &Arc<Shared>, peer: &Arc<Peer>) -> Next {
    if shared.is_stopping() {
        return Next::End;
    }
    let (address, is_linked, is_removed) = {
        let state = peer.state();
        (state.address.clone(), state.link.is_some(), state.is_removed)
    };
    match address {
        _ if is_removed && !is_linked && shared.forget(peer) => Next::End,
        Some(address) if !is_linked && !is_removed => Next::Dial(address),
        _ => Next::Wait,
    }
}

/// Sleeps, but no longer than until a link is up or the address changes.
async fn pause(peer: &Peer, pause: Duration) {
    let until = Instant::now() + pause;
    // A link that goes down at once must not cut the pause short, so what has changed is looked at.
    let address = peer.state().address.clone();
    while tokio::time::timeout_at(until, peer.changed.notified()).await.is_ok() {
        let state = peer.state();
        if state.link.is_some() || state.is_removed || state.address != address {
            // For the loop, which will wait for the next change.
            peer.changed.notify_one();
            return;
        }
    }
}

async fn dial(shared: &Arc<Shared>, peer: &Arc<Peer>, address: &PeerAddress) -> Result<(), DialError> {
    let limit = shared.config.link.handshake_timeout;
    let attempt = async {
        let address = resolve(shared, address).await?;
        let client = endpoint::client(&shared.config, &shared.tls(), address.ip());
        let endpoint = shared.endpoint().ok_or(DialError::Stopping)?;
        let connecting = endpoint.connect_with(client, address, &store_dns_name(peer.id))?;
        let connection = connecting.await.map_err(GreetError::from)?;
        greet_dialed(shared, peer, &connection).await?;
        Ok(())
    };
    timeout(limit, attempt).await.unwrap_or(Err(DialError::TimedOut))
}

/// The first address of the socket's own family.
async fn resolve(shared: &Shared, address: &PeerAddress) -> Result<SocketAddr, DialError> {
    let found = lookup_host(address.as_str()).await?.find(|found| found.is_ipv6() == shared.is_v6);
    found.ok_or(DialError::NoAddress)
}

/// Warns once for each new reason; a peer that stays away must not fill the log.
fn report(peer: &Peer, address: &PeerAddress, error: &DialError, told: &mut String) {
    if matches!(error, DialError::Greet(error) if error.is_ordinary()) {
        tracing::debug!(peer = %peer.id, %address, %error, "a dial was not needed");
        return;
    }
    peer.metrics.dial_failures.add(1);
    let reason = error.to_string();
    if reason == *told {
        tracing::debug!(peer = %peer.id, %address, %error, "a dial failed again");
    } else {
        tracing::warn!(peer = %peer.id, %address, %error, "a dial failed; trying on");
        *told = reason;
    }
}

/// Pauses that double, each shortened by a random part of up to a half, so that stores that lost each other at one
/// moment do not come back at one moment.
struct Pauses {
    min: Duration,
    max: Duration,
    next: Duration,
    random: u64,
}

impl Pauses {
    fn new(shared: &Shared, peer: &Peer) -> Self {
        let link = &shared.config.link;
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let seed = time.subsec_nanos() as u64 ^ shared.config.store.0.rotate_left(32) ^ peer.id.0;
        Self { min: link.backoff_min, max: link.backoff_max, next: link.backoff_min, random: seed | 1 }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    fn next(&mut self) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        // xorshift64: enough to spread dials.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        whole.mul_f64(0.5 + (self.random >> 11) as f64 / (1_u64 << 53) as f64 / 2.0)
    }
}
