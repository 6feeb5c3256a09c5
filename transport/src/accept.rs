//! Whoever dials this store.

use std::sync::Arc;

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

/// Answers until the endpoint is closed.
pub(crate) async fn accept(shared: Arc<Shared>, endpoint: Endpoint) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = endpoint.accept().await {
        let Ok(permit) = Arc::clone(&handshakes).try_acquire_owned() else {
            // The dialer tries again after a pause.
            incoming.refuse();
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            greet(&shared, incoming).await;
            drop(permit);
        });
    }
}

async fn greet(shared: &Arc<Shared>, incoming: Incoming) {
    let address = incoming.remote_address();
    let server = Arc::new(endpoint::server(&shared.config, address.ip().is_loopback()));
    let greeting = async {
        let connection = incoming.accept_with(server)?.await?;
        match timeout(shared.config.link.handshake_timeout, greet_accepted(shared, &connection)).await {
            Ok(greeted) => greeted.map(drop),
            Err(_) => {
                let reason = "the greeting took too long".to_owned();
                CloseCode::HandshakeTimeout.close(&connection, &reason);
                Err(GreetError::Refused { code: CloseCode::HandshakeTimeout, reason })
            }
        }
    };
    // Bounds the TLS handshake; the greeting has its own bound, so that it can be told.
    let error = match timeout(shared.config.link.handshake_timeout * 2, greeting).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => GreetError::Stream("the handshake took too long".to_owned()),
    };
    if error.is_ordinary() {
        tracing::debug!(%address, %error, "an incoming connection was not needed");
    } else {
        count_stranger();
        tracing::warn!(%address, %error, "an incoming connection came to nothing");
    }
}
