//! Whoever dials this store.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use quinn::{Endpoint, Incoming};
use tokio::{sync::Semaphore, time::timeout};

use crate::{
    endpoint,
    link::{CloseCode, GreetError, greet_accepted},
    metrics::count_stranger,
    shared::Shared,
};

/// How many connections may be in their handshake at a time; the handshake costs a signature, so no more are begun.
const HANDSHAKES_MAX: usize = 64;

/// How many failures are remembered, so that each is warned of once.
const TOLD_MAX: usize = 64;

/// What was warned of: from where, and why.
type Told = Mutex<HashSet<(IpAddr, String)>>;

/// Answers until the endpoint is closed.
pub(crate) async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let told = Arc::new(Told::default());
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            // The dialer tries again after a pause.
            incoming.refuse();
            continue;
        };
        let (shared, told) = (Arc::clone(&shared), Arc::clone(&told));
        tokio::spawn(async move {
            let address = incoming.remote_address();
            if let Err(error) = greet(&shared, incoming).await {
                report(address, &error, &told);
            }
            drop(permit);
        });
    }
}

async fn greet(shared: &Arc<Shared>, incoming: Incoming) -> Result<(), GreetError> {
    let server =
        Arc::new(endpoint::server(&shared.config, &shared.tls(), incoming.remote_address().ip().is_loopback()));
    let limit = shared.config.link.handshake_timeout;
    let greeting = async {
        let connection = incoming.accept_with(server)?.await?;
        match timeout(limit, greet_accepted(shared, &connection)).await {
            Ok(greeted) => greeted.map(drop),
            Err(_) => {
                let reason = "the greeting took too long".to_owned();
                CloseCode::HandshakeTimeout.close(&connection, &reason);
                Err(GreetError::Refused { code: CloseCode::HandshakeTimeout, reason })
            }
        }
    };
    // Bounds the TLS handshake; the greeting has its own bound, so that it can be told.
    let too_long = || GreetError::Stream("the handshake took too long".to_owned());
    timeout(limit * 2, greeting).await.unwrap_or_else(|_| Err(too_long()))
}

/// Warns once for each reason and place: who is turned away comes again and again, and must not fill the log.
fn report(address: SocketAddr, error: &GreetError, told: &Told) {
    if error.is_ordinary() {
        tracing::debug!(%address, %error, "an incoming connection was not needed");
        return;
    }
    count_stranger();
    let is_new = {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert((address.ip(), error.to_string()))
    };
    if is_new {
        tracing::warn!(%address, %error, "an incoming connection came to nothing");
    } else {
        tracing::debug!(%address, %error, "an incoming connection came to nothing again");
    }
}
