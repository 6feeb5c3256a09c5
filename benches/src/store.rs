//! One store, or all of them: a process that the parent has started and speaks to in lines.
//!
//! ```text
//!   parent                          store
//!                                   {"at":"ready"}              it listens
//!                                   {"at":"led", ...}           leaders are known and steady, or the time was up
//!   fill                      -->   {"at":"filled"}             every key that is read was written
//!   load MILLISECONDS         -->   {"at":"loaded"}             its clients have run that long
//!   measure MILLISECONDS      -->   {"at":"measured", ...}      the window of that length is over
//!   drive JOB                 -->   {"at":"driven", ...}        a job of `live`, in JSON, is done
//!   (end of input)            -->   it stops the engine and exits
//! ```

use std::collections::HashSet;
use std::io::{BufRead, Write, stdin, stdout};
use std::sync::Arc;
use std::time::{Duration, Instant};

use multiraft::placement::{Kind, Kinds};
use multiraft::{
    Bootstrap, Builder, Config, Engine, LocalNetwork, Placement, RegionId, StateKind, StoreCounters, StoreId, Term, Tls,
};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::args::{Operation, State, Store};
use crate::clients::{self, Load, Places, Tally};
use crate::cluster::{Problem, STORES, data_dir, files, number};
use crate::keyspace::{KeySpace, PutMap, value};
use crate::live;
use crate::pace::{Beat, Pace};
use crate::usage;

/// How often a store looks whether all its regions have a leader.
const LOOK: Duration = Duration::from_millis(250);
/// ...and so much longer for each region, where clients are being served meanwhile.
const LOOK_EACH: Duration = Duration::from_micros(100);
/// How long leaders have to stay who they are: after a start, leadership spreads evenly over the stores first.
const STEADY: Duration = Duration::from_secs(2);

/// Runs until the input ends.
pub(crate) fn run(options: Store) -> Result<(), Problem> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads * if options.together { STORES as usize } else { 1 })
        .enable_all()
        .build()
        .map_err(|source| Problem::Io { what: "the runtime cannot be started", source })?;
    let (commands, gone) = read_commands();
    runtime.block_on(async {
        let network = options.channels.then(LocalNetwork::new);
        let mut engines = Vec::new();
        for store in if options.together { 1..=STORES } else { options.store..=options.store } {
            engines.push(start(&Store { store, ..options.clone() }, network.clone()).await?);
        }
        say(&json!({ "at": "ready" }));
        let outcome = tokio::select! {
            outcome = follow(&options, &engines, commands) => outcome,
            _ = gone => Ok(()),
        };
        for engine in engines {
            engine.shutdown().await;
        }
        outcome
    })
}

/// A parent that does not listen any more has ended the input, or is about to: that ends this store, not an output that failed.
fn say(line: &Value) {
    let _ = writeln!(stdout(), "{line}");
}

/// Reads the parent's lines on a thread of its own; the second answer comes when there will be no more.
fn read_commands() -> (mpsc::Receiver<String>, oneshot::Receiver<()>) {
    let (sender, receiver) = mpsc::channel(8);
    let (ended, gone) = oneshot::channel();
    std::thread::spawn(move || {
        for line in stdin().lock().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                break;
            }
        }
        let _ = ended.send(());
    });
    (receiver, gone)
}

/// Starts a store, over QUIC or on `network`.
pub(crate) async fn start(options: &Store, network: Option<LocalNetwork>) -> Result<Engine, Problem> {
    let said = |what: String| Problem::Said { store: options.store, what };
    let mut config = Config::default();
    config.workers = options.workers;
    config.balance_leaders = !options.keeps_leaders;
    config.liveness.leases = options.operation == Operation::Lease;
    config.placement = options.places.then(|| emptying(options.replicas_at_once));
    config.snapshot_bytes_per_second = options.snapshot_rate.unwrap_or(config.snapshot_bytes_per_second);
    let stores: Vec<StoreId> = (1..=options.addresses.len() as u64).map(StoreId).collect();
    let holders: Vec<StoreId> = stores[..stores.len() - options.spares.min(stores.len())].to_vec();
    let mut builder = Engine::builder()
        .store(StoreId(options.store))
        .data_dir(data_dir(&options.dir, options.store))
        .state_machine(PutMap)
        .state(match options.state {
            State::Mem => StateKind::Memory,
            State::Sled => StateKind::Sled,
        })
        .config(config);
    if holders.contains(&StoreId(options.store)) {
        let boundaries = KeySpace::new(options.groups).boundaries();
        builder = builder.bootstrap(Bootstrap { boundaries, stores: holders });
    }
    builder = match network {
        Some(network) => builder.local_network(network),
        None => over_quic(builder, options, &stores)?,
    };
    builder.start().await.map_err(|error| said(error.to_string()))
}

fn over_quic(mut builder: Builder, options: &Store, stores: &[StoreId]) -> Result<Builder, Problem> {
    let said = |what: String| Problem::Said { store: options.store, what };
    let own = usize::try_from(options.store).ok().and_then(|store| store.checked_sub(1));
    let listen = own.and_then(|own| options.addresses.get(own));
    let listen = *listen.ok_or_else(|| said("no address is mine".to_owned()))?;
    let (ca, certificate, key) = files(&options.dir, options.store);
    let tls = Tls::from_pem_files(ca, certificate, key).map_err(|error| said(error.to_string()))?;
    for (store, address) in stores.iter().zip(&options.addresses) {
        if *store != StoreId(options.store) {
            builder = builder.peer(*store, *address);
        }
    }
    Ok(builder.listen(listen).tls(tls))
}

/// Planning that empties stores and replaces what is lost, and moves nothing else.
fn emptying(replicas_at_once: Option<usize>) -> Placement {
    let mut placement = Placement::default();
    if let Some(at_once) = replicas_at_once {
        (placement.options.limits.snapshots_in, placement.options.limits.snapshots_out) = (at_once, at_once);
    }
    placement.options.enabled = Kinds::NONE.with(Kind::Repair).with(Kind::Drain);
    placement
}

/// Does what the parent asks for.
async fn follow(options: &Store, engines: &[Engine], mut commands: mpsc::Receiver<String>) -> Result<(), Problem> {
    let mut leaderless = 0;
    for engine in engines {
        leaderless = wait_for_leaders(engine, Duration::from_secs(options.leaders_within)).await.max(leaderless);
    }
    say(&json!({ "at": "led", "leaderless": leaderless }));
    let keys = KeySpace::new(options.groups);
    let tally = Arc::new(Tally::new());
    let mut loads = Vec::new();
    for engine in engines {
        let regions: Vec<RegionId> = engine.regions().iter().map(|region| region.id).collect();
        loads.push(Arc::new(Load {
            engine: engine.clone(),
            keys,
            places: Places::new(match options.at_leaders {
                true => led_places(engine, &regions).await,
                false => (0..regions.len() as u64).collect(),
            }),
            regions,
            consistency: options.operation.consistency(),
            value: value(options.payload),
            tally: Arc::clone(&tally),
        }));
    }
    let mut running = Vec::new();
    while let Some(line) = commands.recv().await {
        if let Some(job) = line.strip_prefix("drive ") {
            say(&live::drive(&engines[0], keys, job).await?);
            continue;
        }
        let time = line.split_whitespace().nth(1).and_then(|time| time.parse().ok()).map(Duration::from_millis);
        match (line.split_whitespace().next(), time) {
            (Some("fill"), None) => {
                for load in &loads {
                    let store = load.engine.store().0;
                    let filled = clients::fill(load, store - 1, STORES).await;
                    filled.map_err(|what| Problem::Said { store, what })?;
                }
                say(&json!({ "at": "filled" }));
            }
            (Some("load"), Some(time)) => {
                running.extend(loads.iter().map(|load| Running::start(load, options)));
                if options.at_leaders {
                    loads.iter().for_each(|load| drop(tokio::spawn(follow_leaders(Arc::clone(load)))));
                }
                tokio::time::sleep(time).await;
                say(&json!({ "at": "loaded" }));
            }
            (Some("measure"), Some(time)) => say(&measure(engines, &tally, time).await),
            _ => return Err(Problem::Said { store: options.store, what: format!("`{line}` is no command") }),
        }
    }
    drop(running);
    Ok(())
}

/// The load of one store. Dropped, it ends.
enum Running {
    /// Each client waits for its answer.
    Closed { _clients: JoinSet<()> },
    /// Nobody waits.
    Open { _pace: Pace },
}

impl Running {
    fn start(load: &Arc<Load>, options: &Store) -> Self {
        let first = load.engine.store().0 - 1;
        match options.rate {
            Some(rate) => {
                let beat = Beat { rate, first, stores: STORES };
                Self::Open { _pace: Pace::start(load, beat, options.seed.wrapping_add(first << 32)) }
            }
            None => {
                // Of clients 0, 1, 2, ... every third one, so that the stores' shares differ by one at most.
                let own = (0..options.clients * STORES).filter(|number| number % STORES == first);
                let share = if options.at_leaders {
                    let (led, all) = (load.places.len() as u64, load.regions.len() as u64);
                    (options.clients * led + all / 2) / all.max(1)
                } else {
                    (options.clients + STORES - 1 - first) / STORES
                };
                let own = own.take(usize::try_from(share).unwrap_or(usize::MAX));
                Self::Closed { _clients: clients::start(load, own, options.seed) }
            }
        }
    }
}

/// Has clients go to the regions that are led here from now on, until that does not change any more: leadership of many regions that
/// slept until they were written to spreads evenly over the stores only then.
async fn follow_leaders(load: Arc<Load>) {
    let mut unchanged = Duration::ZERO;
    // A look tells all regions, which must not become a part of what is measured.
    let pause = LOOK + LOOK_EACH * u32::try_from(load.regions.len()).unwrap_or(u32::MAX);
    while unchanged < STEADY {
        tokio::time::sleep(pause).await;
        let is_new = load.places.set(led_places(&load.engine, &load.regions).await);
        unchanged = if is_new { Duration::ZERO } else { unchanged + pause };
    }
}

/// The places of the regions that are led here.
async fn led_places(engine: &Engine, regions: &[RegionId]) -> Vec<u64> {
    let status = engine.status().await;
    let led: HashSet<RegionId> =
        status.regions.iter().filter(|region| region.is_leader).map(|region| region.descriptor.id).collect();
    (0..).zip(regions).filter(|(_, region)| led.contains(region)).map(|(place, _)| place).collect()
}

/// Waits until this store knows a leader of each of its regions and these do not change any more; says of how many regions
/// it knows none when that is so or the time is up.
async fn wait_for_leaders(engine: &Engine, within: Duration) -> usize {
    let begin = Instant::now();
    let mut last = Vec::new();
    let mut since = begin;
    loop {
        let regions = engine.status().await.regions;
        let leaders: Vec<(Option<StoreId>, Term)> = regions.iter().map(|region| (region.leader, region.term)).collect();
        let leaderless = leaders.iter().filter(|(leader, _)| leader.is_none()).count();
        if leaders != last {
            (last, since) = (leaders, Instant::now());
        }
        if (leaderless == 0 && since.elapsed() >= STEADY) || begin.elapsed() >= within {
            return leaderless;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn measure(engines: &[Engine], tally: &Tally, time: Duration) -> Value {
    let before = counters(engines).await;
    let (cpu, dirtied) = (usage::cpu_micros(), usage::dirtied_bytes());
    let begin = Instant::now();
    tally.open();
    tokio::time::sleep(time).await;
    let counted = tally.close();
    let seconds = begin.elapsed().as_secs_f64();
    let (cpu, dirtied) = (usage::cpu_micros() - cpu, usage::dirtied_bytes() - dirtied);
    // Before the look at every region, which takes memory for itself.
    let rss_bytes = usage::rss_bytes();
    let after = counters(engines).await;
    let mut regions = Vec::new();
    for engine in engines {
        regions.extend(engine.status().await.regions);
    }
    let latencies: Vec<(u64, u64)> =
        counted.latencies.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect();
    json!({
        "at": "measured",
        "seconds": seconds,
        "latencies": latencies,
        "errors": counted.errors,
        "first_error": counted.first_error,
        "busy": counted.busy,
        "cpu_us": cpu,
        "dirtied_bytes": dirtied,
        "rss_bytes": rss_bytes,
        "replicas": regions.len(),
        "asleep": regions.iter().filter(|region| region.asleep).count(),
        "leaderless": regions.iter().filter(|region| region.leader.is_none()).count(),
        "counters": difference(&after, &before),
    })
}

/// What the engines of this process have counted, together.
async fn counters(engines: &[Engine]) -> Value {
    let mut all = Vec::new();
    for engine in engines {
        all.push(named(&engine.status().await.counters));
    }
    let sum = |name: &str| all.iter().map(|counters| number(counters, name)).sum::<u64>();
    all[0].as_object().into_iter().flatten().map(|(name, _)| (name.clone(), Value::from(sum(name)))).collect()
}

fn difference(after: &Value, before: &Value) -> Value {
    let names = after.as_object().into_iter().flatten();
    names
        .map(|(name, count)| (name.clone(), Value::from(count.as_u64().unwrap_or_default() - number(before, name))))
        .collect()
}

fn named(counters: &StoreCounters) -> Value {
    json!({
        "log_syncs": counters.log_syncs,
        "log_entries": counters.log_entries,
        "log_bytes": counters.log_bytes,
        "packets_sent": counters.packets_sent,
        "frames_sent": counters.frames_sent,
        "messages_sent": counters.messages_sent,
        "bytes_sent": counters.bytes_sent,
        "beats_sent": counters.beats_sent,
        "elections_won": counters.elections_won,
        "forwarded": counters.forwarded,
        "turns": counters.turns,
    })
}
