//! The process that a peer is measured in: three stores, their groups and the clients, and nothing else.
//!
//! It writes once to each group, rests, measures what the groups cost that nobody uses, then lets the clients run, and says all
//! that in one line of JSON. It ends with its parent.

use std::io::{Read, Write, stdin, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::load::{Load, Peer};
use super::on_openraft::{v0_9, v0_10};
use super::options::{Peer as Options, PeerKind};
use super::{on_multiraft, on_openraft, on_raft_rs};
use crate::cluster::Problem;
use crate::report::ratio;
use crate::usage;

/// How long all groups may take to get a leader and one write.
const FIRST_WITHIN: Duration = Duration::from_secs(300);

/// Runs a peer and says what was measured.
pub(crate) fn run(options: &Options) -> Result<(), Problem> {
    let (ended, gone) = oneshot::channel();
    std::thread::spawn(move || {
        // The parent holds the other end and writes nothing.
        let _ = stdin().lock().read(&mut [0]);
        let _ = ended.send(());
    });
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(options.threads).enable_all().build();
    let runtime = runtime.map_err(|source| Problem::Io { what: "no asynchronous runtime could be started", source })?;
    let measured = async {
        match options.kind {
            PeerKind::Multiraft | PeerKind::MultiraftChannels => {
                Box::pin(measure::<on_multiraft::Stores>(options)).await
            }
            PeerKind::RaftRs => Box::pin(measure::<on_raft_rs::Stores>(options)).await,
            PeerKind::Openraft => Box::pin(measure::<on_openraft::Stores<v0_9::Raft>>(options)).await,
            PeerKind::OpenraftNext => Box::pin(measure::<on_openraft::Stores<v0_10::Raft>>(options)).await,
        }
    };
    let measured = runtime.block_on(async {
        tokio::select! {
            measured = measured => measured.map(Some),
            _ = gone => Ok(None),
        }
    })?;
    // What the peers have running ends with the process: some have no way to be stopped.
    runtime.shutdown_background();
    let Some(measured) = measured else { return Ok(()) };
    let mut out = stdout().lock();
    let written = writeln!(out, "{measured}").and_then(|()| out.flush());
    written.map_err(|source| Problem::Io { what: "the figures could not be written", source })
}

async fn measure<P: Peer>(options: &Options) -> Result<Value, Problem> {
    let load = Arc::new(Load::new(P::start(options).await?, options));
    let begin = Instant::now();
    load.write_once(FIRST_WITHIN).await?;
    let first_s = begin.elapsed().as_secs_f64();
    tokio::time::sleep(Duration::from_secs(options.settle)).await;
    let (begin, cpu) = (Instant::now(), usage::cpu_micros());
    tokio::time::sleep(Duration::from_secs(options.idle)).await;
    let idle_cpu = ratio((usage::cpu_micros() - cpu) as f64, begin.elapsed().as_micros() as f64);
    let rss_bytes = usage::rss_bytes();
    let mut measured = json!({
        "rss_bytes": rss_bytes,
        "idle_cpu_percent_of_core": 100.0 * idle_cpu,
        "first_writes_s": first_s,
    });
    if options.clients == 0 {
        return Ok(measured);
    }
    load.peer.on_rested().await;
    let running = load.start_clients(options.clients, options.seed);
    tokio::time::sleep(Duration::from_secs(options.warmup)).await;
    let before = load.peer.counts().await;
    let (begin, cpu) = (Instant::now(), usage::cpu_micros());
    load.tally.open();
    tokio::time::sleep(Duration::from_secs(options.seconds)).await;
    let counted = load.tally.close();
    let (seconds, cpu) = (begin.elapsed().as_secs_f64(), usage::cpu_micros() - cpu);
    let after = load.peer.counts().await;
    drop(running);
    let writes = counted.latencies.len() as f64;
    if counted.latencies.is_empty() {
        let why = counted.first_error.unwrap_or_else(|| "no write was answered in the window".to_owned());
        return Err(Problem::NothingWritten(why));
    }
    measured["writes_per_s"] = json!(writes / seconds);
    measured["p50_us"] = json!(counted.latencies.value_at_quantile(0.50));
    measured["p99_us"] = json!(counted.latencies.value_at_quantile(0.99));
    measured["cpu_us_per_write"] = json!(cpu as f64 / writes);
    let entries = (after.entries - before.entries) as f64;
    measured["entries_per_fsync"] = json!(ratio(entries, (after.syncs - before.syncs) as f64));
    measured["errors"] = json!(counted.errors);
    measured["first_error"] = json!(counted.first_error);
    Ok(measured)
}
