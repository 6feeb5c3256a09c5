//! Where Redis connections come in.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::connection;
use super::front::Front;

/// How long to wait after an accept failed, for want of file handles.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a refused client may take to be told.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// Serves connections until `stopping` turns true, and then until each has answered what it was asked.
pub(crate) async fn serve(front: Arc<Front>, listener: TcpListener, mut stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|stops| *stops) => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, _)) => match front.admit() {
                Some(admission) => {
                    let served = connection::serve(Arc::clone(&front), admission, socket, stopping.clone());
                    connections.spawn(async move {
                        if let Err(error) = served.await {
                            tracing::debug!(%error, "a connection ended");
                        }
                    });
                }
                None => {
                    tokio::spawn(refuse(socket));
                }
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted: raise the limit of open files (ulimit -n)");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn refuse(mut socket: TcpStream) {
    let told = socket.write_all(b"-ERR max number of clients reached: raise --max-connections\r\n");
    let _ = timeout(REFUSAL_TIMEOUT, told).await;
}
