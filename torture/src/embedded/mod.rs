//! A small program that embeds the engine: a store whose clients live in its own process, with the public interface alone.
//!
//! It takes the flags of `multiraft serve`, says that it is ready in the same words, and ends in the same way, so that a run starts,
//! strikes and stops it as it does the other. What is asked at `--resp` and `--admin` it carries out by the calls that embedders make.

mod admin;
mod command;
mod front;
mod hex;
#[cfg(test)]
mod lone_store;
mod machine;
mod reply;
mod walk;

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use multiraft::{Bootstrap, Config, Consistency, Engine, StateKind, StoreId, Tls};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use front::Front;
use machine::Texts;

/// How long leaders may take to be handed over.
const HANDOVER: Duration = Duration::from_secs(5);
/// How often it is asked whether the store still serves.
const FAULT_INTERVAL: Duration = Duration::from_millis(100);
/// How many keys of the file stand for a region.
const KEYS_A_REGION: usize = 10;

/// What `multiraft serve` would be told.
#[derive(clap::Args)]
pub(crate) struct Flags {
    #[arg(long)]
    store: u64,
    #[arg(long)]
    dir: PathBuf,
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long, value_parser = peer)]
    peer: Vec<(u64, SocketAddr)>,
    #[arg(long)]
    ca: PathBuf,
    #[arg(long)]
    cert: PathBuf,
    #[arg(long)]
    key: PathBuf,
    #[arg(long)]
    resp: SocketAddr,
    #[arg(long)]
    admin: SocketAddr,
    #[arg(long)]
    metrics: SocketAddr,
    #[arg(long)]
    expose: bool,
    #[arg(long, default_value = "sled")]
    state: String,
    #[arg(long, default_value = "linearizable")]
    reads: String,
    #[arg(long)]
    bootstrap_regions: Option<usize>,
    #[arg(long)]
    bootstrap_keys: Option<PathBuf>,
    #[arg(long)]
    rejoin: bool,
    #[arg(long, default_value = "3s", value_parser = seconds)]
    request_timeout: Duration,
    #[arg(long, default_value_t = 2)]
    workers: usize,
}

fn peer(text: &str) -> Result<(u64, SocketAddr), String> {
    let (store, address) = text.split_once('=').ok_or("a peer is N=ADDR")?;
    Ok((store.parse().map_err(|_| "N is a number")?, address.parse().map_err(|_| "ADDR is an address")?))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').and_then(|number| number.parse().ok());
    number.map(Duration::from_secs).ok_or_else(|| "a number of seconds, as 3s".to_owned())
}

/// Runs the store until it is asked to stop: 0; or until it cannot serve any more: 1.
#[allow(clippy::print_stderr, reason = "a program talks to whoever started it")]
pub(crate) fn run(flags: Flags) -> ExitCode {
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    lines.with_max_level(tracing_subscriber::filter::LevelFilter::INFO).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let served = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(serve(flags)).map_err(|error| error.to_string()));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(flags: Flags) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    // Before anything else, so that a signal during the start is not lost.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (resp, admin) = (TcpListener::bind(flags.resp).await?, TcpListener::bind(flags.admin).await?);
    let metrics = TcpListener::bind(flags.metrics).await?;
    let engine = start(&flags).await?;
    let reads = if flags.reads == "lease" { Consistency::Lease } else { Consistency::Linearizable };
    tokio::spawn(admin::serve(engine.clone(), admin));
    tokio::spawn(admin::serve(engine.clone(), metrics));
    tokio::spawn(front::serve(Arc::new(Front::new(engine.clone(), reads)), resp));
    {
        let mut out = std::io::stdout().lock();
        writeln!(out, "ready store={}", flags.store)?;
        out.flush()?;
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        reason = fault(&engine) => return Err(format!("the store has stopped serving: {reason}").into()),
    }
    engine.handover(HANDOVER).await;
    engine.shutdown().await;
    Ok(())
}

async fn start(flags: &Flags) -> Result<Engine, Box<dyn std::error::Error + Send + Sync>> {
    let mut config = Config::default();
    config.workers = flags.workers;
    config.request_timeout = flags.request_timeout;
    config.liveness.leases = flags.reads == "lease";
    let mut builder = Engine::builder()
        .store(StoreId(flags.store))
        .data_dir(&flags.dir)
        .listen(flags.listen)
        .tls(Tls::from_pem_files(&flags.ca, &flags.cert, &flags.key)?)
        .state_machine(Texts)
        .state(if flags.state == "mem" { StateKind::Memory } else { StateKind::Sled })
        .config(config);
    for (store, address) in &flags.peer {
        builder = builder.peer(StoreId(*store), *address);
    }
    if let (Some(regions), Some(file)) = (flags.bootstrap_regions, &flags.bootstrap_keys) {
        let keys = fs::read_to_string(file)?;
        let cuts = keys.lines().step_by(KEYS_A_REGION).skip(1).take(regions.saturating_sub(1));
        let mut stores: Vec<u64> = flags.peer.iter().map(|(store, _)| *store).chain([flags.store]).collect();
        stores.sort_unstable();
        builder = builder.bootstrap(Bootstrap {
            boundaries: cuts.map(|key| Bytes::copy_from_slice(key.as_bytes())).collect(),
            stores: stores.into_iter().map(StoreId).collect(),
        });
    }
    if flags.rejoin {
        builder = builder.rejoin();
    }
    Ok(builder.start().await?)
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
