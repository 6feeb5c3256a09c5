//! A store that begins anew takes its floor from the root region, notes it, and lets replicas come (`docs/regions.md`, section "A store
//! begins anew").
//!
//! Invariant: the floor is durable before any replica comes. What fails is begun again; each attempt's floor is as good as another's.

use std::sync::Weak;
use std::time::Duration;

use crate::engine::Engine;
use crate::logic::{Floor, Input};
use crate::shell::{Running, Work};

/// How long one attempt takes at most.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How long after an attempt that came to nothing the next one is made.
const PAUSE: Duration = Duration::from_secs(1);

/// If the store has lost its directory and has no floor yet, sees to it that it gets one. Ends with the store.
pub(crate) fn start(engine: &Engine) {
    if engine.running().store_file.floor() == Floor::Unknown {
        tracing::warn!("this store begins anew: it takes no replica before the root region has given it ids");
        let (running, user) = engine.watch();
        tokio::spawn(begin_anew(running, user));
    }
}

async fn begin_anew(running: Weak<Running>, user: Weak<()>) {
    loop {
        let Some(running) = running.upgrade().filter(|_| user.strong_count() > 0) else { return };
        let engine = Engine::of_store(running);
        if engine.running().fault.ends_waiting() {
            return;
        }
        match take_floor(&engine).await {
            Ok(floor) => {
                tracing::info!(?floor, "this store has begun anew: its replicas up to there are lost, others may come");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "this store waits for the root region, and takes no replica meanwhile");
            }
        }
        drop(engine);
        tokio::time::sleep(PAUSE).await;
    }
}

async fn take_floor(engine: &Engine) -> Result<Floor, Box<dyn std::error::Error + Send + Sync>> {
    let first = engine.allocate_block(Floor::IDS, engine.deadline(Some(ATTEMPT))).await?;
    let floor = Floor::after(first);
    let file = engine.running().store_file.clone();
    tokio::task::spawn_blocking(move || file.amend(|file| file.floor = floor)).await??;
    for mailbox in &engine.running().mailboxes {
        // Closed: the worker has stopped.
        let _ = mailbox.send_reserved(Work::Input(Input::Floor(floor)));
    }
    Ok(floor)
}
