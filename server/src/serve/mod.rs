//! `multiraft serve`: one store, until it is told to stop.
//!
//! Sockets are opened before the engine starts, so that a port in use is told before anything is written; `ready store=N`
//! is printed once all of them are served. SIGTERM and SIGINT hand all leaderships over before the store goes.

mod admin;
mod boundaries;
mod check;
mod config;
mod placement;
mod regions;
mod report;
mod stores;

use std::future::pending;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use multiraft::{Bootstrap, ClusterId, Config, Engine, StartError, StateKind, StoreId, Tls};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

#[cfg(test)]
pub(crate) use check::ReplicaCheckView;
pub(crate) use check::{CheckRequest, CheckView, RepairRequest};
pub(crate) use regions::{
    ChangeKind, ChangeRequest, MergeRequest, RecoveredView, RegionView, RegionsAnswer, ReplicasRequest, SplitRequest,
};
pub(crate) use report::{LocalAnswer, LocalQuery, Measured, ReplicaReport, StatusReport};
pub(crate) use stores::{JoinRequest, StoresAnswer};

use crate::cli::{ServeArgs, StateChoice};
use crate::error::Failure;
use crate::http::{self, Request, Response};
use crate::machine::KeyValue;
use crate::resp::{self, Front, Limits};
use admin::Admin;
use config::ServeConfig;

/// How long connections may take to finish what they were asked when the store stops, beyond the request time-out.
const DRAIN_MARGIN: Duration = Duration::from_secs(1);
/// How long handing leaderships over may take.
const HANDOVER_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it is looked whether the store can still serve.
const FAULT_INTERVAL: Duration = Duration::from_millis(500);
/// How often the metrics recorder tidies its histograms up.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Runs a store; returns when it has stopped in order.
pub(crate) fn run(args: ServeArgs) -> Result<(), Failure> {
    let config = ServeConfig::from_args(args)?;
    let runtime = Runtime::new().map_err(|error| Failure::during("the runtime could not be started", error))?;
    runtime.block_on(serve(config))
}

/// The endpoints of a store, open but not served yet.
struct Doors {
    resp: Option<TcpListener>,
    admin: Option<TcpListener>,
    metrics: Option<TcpListener>,
}

async fn serve(config: ServeConfig) -> Result<(), Failure> {
    // Before anything else, so that a signal during the start is not lost.
    let stop_signal = stop_signal()?;
    let doors = Doors {
        resp: listen("resp", config.resp).await?,
        admin: listen("admin", config.admin).await?,
        metrics: listen("metrics", config.metrics).await?,
    };
    let metrics = if doors.metrics.is_some() { Some(record_metrics()?) } else { None };
    let engine = start_engine(&config).await?;
    if engine.regions().is_empty() {
        tracing::warn!(
            "this store holds no regions: if the cluster is new, start every store with --bootstrap-regions N"
        );
    }
    let (stopping, stops) = watch::channel(false);
    let asked_to_stop = Arc::new(Notify::new());
    let mut tasks = JoinSet::new();
    let mut clients = JoinSet::new();
    if let Some(listener) = doors.admin {
        let planned = config.placement.is_some();
        let admin = Admin { engine: engine.clone(), planned, stop: Arc::clone(&asked_to_stop) };
        tasks.spawn(http::serve(listener, move |request| admin.clone().handle(request)));
    }
    if let (Some(listener), Some(handle)) = (doors.metrics, metrics) {
        tasks.spawn(upkeep(handle.clone()));
        tasks.spawn(http::serve(listener, move |request| metrics_page(handle.clone(), request)));
    }
    if let Some(listener) = doors.resp {
        let limits = Limits {
            request_timeout: config.request_timeout,
            max_command_bytes: config.max_command_bytes,
            max_connections: config.max_connections,
        };
        let port = listener.local_addr().map_or(0, |address| address.port());
        let front = Arc::new(Front::new(engine.clone(), limits, config.store, port));
        clients.spawn(resp::serve(front, listener, stops));
    }
    say_ready(config.store)?;
    tokio::select! {
        () = stop_signal => {}
        () = asked_to_stop.notified() => {}
        reason = fault(&engine) => {
            return Err(Failure::new(format!(
                "the store has stopped serving: {reason}: heal the cause, then start it again"
            )));
        }
    }
    tracing::info!("stopping: handing all leaderships over");
    let alone = !engine.status().await.peers.iter().any(|peer| peer.connected);
    let led = if alone { 0 } else { engine.handover(HANDOVER_TIMEOUT).await };
    if led > 0 {
        tracing::warn!(led, "some regions found no other leader in time: they elect one once this store is gone");
    }
    stopping.send_replace(true);
    let drained = async { while clients.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(config.request_timeout + DRAIN_MARGIN, drained).await;
    engine.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

/// Becomes ready with the first signal that asks the program to end.
fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::during("signals could not be listened to", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        let signalled = tokio::select! {
            signalled = terminate.recv() => signalled,
            signalled = interrupt.recv() => signalled,
        };
        if signalled.is_none() {
            pending::<()>().await;
        }
    })
}

async fn listen(name: &str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, Failure> {
    let Some(address) = address else { return Ok(None) };
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) => Err(Failure::new(format!(
            "cannot listen at --{name} {address}: {error}: choose another port, or stop the program that uses it"
        ))),
    }
}

async fn start_engine(config: &ServeConfig) -> Result<Engine, Failure> {
    let tls = Tls::from_pem_files(&config.ca, &config.cert, &config.key)
        .map_err(|error| Failure::during("the certificates cannot be used", error))?;
    let mut settings = Config::default();
    settings.workers = config.workers;
    settings.request_timeout = config.request_timeout;
    settings.max_command_bytes = config.max_command_bytes;
    settings.liveness.leases = config.leases;
    settings.placement = config.placement.as_ref().map(|(placement, _)| placement.clone());
    let mut builder = Engine::builder()
        .cluster(ClusterId(config.cluster))
        .store(StoreId(config.store))
        .data_dir(&config.dir)
        .listen(config.listen)
        .tls(tls)
        .state_machine(KeyValue)
        .state(match config.state {
            StateChoice::Sled => StateKind::Sled,
            StateChoice::Mem => StateKind::Memory,
        })
        .config(settings);
    for (store, address) in &config.peers {
        builder = builder.peer(StoreId(*store), address.clone());
    }
    if let Some((_, seat)) = &config.placement {
        builder = builder.seat(seat.clone());
    }
    if let Some(bootstrap) = bootstrap(config)? {
        builder = builder.bootstrap(bootstrap);
    }
    if config.rejoins {
        builder = builder.rejoin();
    }
    builder.start().await.map_err(|error: StartError| Failure::new(error.to_string()))
}

/// How a new cluster begins; every store comes to the same by itself.
fn bootstrap(config: &ServeConfig) -> Result<Option<Bootstrap>, Failure> {
    let Some(wish) = &config.bootstrap else { return Ok(None) };
    let boundaries = match &wish.keys {
        Some(path) => boundaries::of_file(path, wish.regions)?,
        None => boundaries::of_benchmark(wish.regions)?,
    };
    let mut stores: Vec<_> = config.peers.keys().copied().chain([config.store]).map(StoreId).collect();
    stores.sort_unstable();
    Ok(Some(Bootstrap { boundaries, stores }))
}

/// From here on the engine's metrics are kept.
fn record_metrics() -> Result<PrometheusHandle, Failure> {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|error| Failure::during("metrics could not be recorded", error))?;
    Ok(handle)
}

/// Becomes ready when the store can no longer serve, with the reason.
async fn fault(engine: &Engine) -> String {
    let mut looks = tokio::time::interval(FAULT_INTERVAL);
    loop {
        looks.tick().await;
        if let Some(reason) = engine.fault() {
            return reason;
        }
    }
}

async fn upkeep(handle: PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_INTERVAL);
    loop {
        ticks.tick().await;
        handle.run_upkeep();
    }
}

async fn metrics_page(handle: PrometheusHandle, request: Request) -> Response {
    match (request.method.as_str(), request.path()) {
        ("GET", "/" | "/metrics") => Response::text(200, handle.render()),
        _ => Response::text(404, "there is GET /metrics\n"),
    }
}

fn say_ready(store: u64) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    let said = writeln!(out, "ready store={store}").and_then(|()| out.flush());
    said.map_err(|error| Failure::during("stdout cannot be written to", error))
}
