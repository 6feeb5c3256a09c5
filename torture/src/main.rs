//! The command line: run a cluster under faults, judge a recorded history, show that planted bugs are found.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line talks to its user")]

mod embedded;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use multiraft_torture::check::{Verdict, Workload, judge};
use multiraft_torture::cleanup;
use multiraft_torture::cluster::EMBEDDED;
use multiraft_torture::history::{Format, History};
use multiraft_torture::nemesis::Kind;
use multiraft_torture::run::{Ground, Plan};
use multiraft_torture::trouble::{Outcome, Trouble};

/// Torture clusters of multiraft, and judge what their clients were told.
#[derive(Parser)]
#[command(name = "multiraft-torture")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a cluster of processes under load and faults. Ends with 0 only if every check held and enough was answered.
    Run(Box<RunArguments>),
    /// Plant each bug in every store, one after the other, and see that it is found. Ends with 0 only if all are.
    SelfTest {
        /// The program, built with `--features torture`; by default it is built
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// Only these bugs
        #[arg(long, value_name = "NAME", value_delimiter = ',')]
        only: Vec<String>,
        /// How often a run is tried, each with another seed, until it finds the bug
        #[arg(long, value_name = "N", default_value_t = 3)]
        tries: u64,
        /// Draw from this number
        #[arg(long, value_name = "N", default_value_t = 1)]
        seed: u64,
        /// Where clients are, as for `run`; with `embed` this program has to be built with the feature, too
        #[arg(long, value_name = "WHERE", value_parser = ["resp", "embed"], default_value = "resp")]
        client: String,
    },
    /// Send three stores far more than they can take, then stop one and slow another's disk, and see that memory stays bounded, that
    /// callers are told BUSY and that others are not held up. Ends with 0 only if every check held.
    Overload(Box<OverloadArguments>),
    /// Be a store that embeds the engine. Runs start it.
    #[command(name = EMBEDDED, hide = true)]
    EmbeddedStore(Box<embedded::Flags>),
    /// Judge a recorded history. Ends with 0 if all checks hold and something was answered, 1 if not, 2 if it cannot be judged.
    Check {
        /// The history, as EDN (.edn) or JSON lines (.jsonl).
        file: PathBuf,
        /// Judge it as this workload, whatever its first record says.
        #[arg(long, value_parser = parse_workload)]
        workload: Option<Workload>,
        /// Print the verdict as JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(clap::Args)]
struct RunArguments {
    /// What clients do, beside each other, by names of workloads
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = parse_workload, default_value = "register")]
    workload: Vec<Workload>,
    /// What goes wrong, by names of faults or of groups of them; `none` for nothing
    #[arg(long, value_name = "NAME", value_delimiter = ',', default_value = "kill,partition")]
    nemesis: Vec<String>,
    /// How many stores
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(3..=9))]
    stores: u64,
    /// For how long
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Draw from this number; by default the time of day
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many regions the cluster begins with
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    regions: u64,
    /// Clients of each workload
    #[arg(long, value_name = "N", default_value_t = 10)]
    clients: u64,
    /// Operations a second of each workload; by default as many as clients can
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// The program, built with `--features torture`; by default it is built
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Where clients are: apart, at the stores' sockets, or in the stores' processes, which then embed the engine by its public API
    #[arg(long, value_name = "WHERE", value_parser = ["resp", "embed"], default_value = "resp")]
    client: String,
    /// What lies between stores: namespaces (needs root), or a proxy on loopback; by default what the faults need
    #[arg(long, value_name = "NET", value_parser = ["namespaces", "proxy"])]
    net: Option<String>,
    /// Where stores keep the pairs: sled or mem; by default drawn
    #[arg(long, value_name = "KIND", value_parser = ["sled", "mem"])]
    state: Option<String>,
    /// What reads rest on: linearizable or lease; by default drawn
    #[arg(long, value_name = "HOW", value_parser = ["linearizable", "lease"])]
    reads: Option<String>,
    /// Plant a bug in every store
    #[arg(long, value_name = "NAME")]
    plant: Option<String>,
    /// Write the history, as EDN (.edn) or JSON lines (.jsonl); with several workloads their names are added
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,
    /// Folder for report, histories and logs, empty or not there; by default one that stays only if something is wrong
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
struct OverloadArguments {
    /// For how long a store stands still and another's disk is slow
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Draw from this number
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How many regions; the crowd writes to every other one
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(2..=10_000))]
    regions: u64,
    /// How many clients the crowd has
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=9_000))]
    clients: u64,
    /// How long the crowd's values are, in bytes
    #[arg(long, value_name = "N", default_value_t = 16_384, value_parser = clap::value_parser!(u64).range(16..=4_194_304))]
    payload: u64,
    /// How many bytes of values each of the crowd keeps on its way, two values at least
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    window: u64,
    /// How many clients write a little to the other regions, and how often a second each
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    lone: u64,
    /// How often a second each of these writes
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rate: u64,
    /// By how many milliseconds each write and each sync of the slow disk is late
    #[arg(long, value_name = "N", default_value_t = 10)]
    disk_delay: u64,
    /// Where stores keep the pairs
    #[arg(long, value_name = "KIND", value_parser = ["sled", "mem"], default_value = "mem")]
    state: String,
    /// How many workers a store has
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=255))]
    workers: u64,
    /// How many milliseconds a lone client may be without an acknowledgement, beside what finding out about the stopped store takes; by
    /// default twice the p99 of the time before, and three of its intervals more
    #[arg(long, value_name = "N")]
    silence: Option<u64>,
    /// The program; by default it is built
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Print one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// What was asked for cannot be done with this input.
const UNUSABLE: u8 = 2;

fn main() -> ExitCode {
    let code = match Arguments::parse().task {
        Task::Check { file, workload, json } => check(&file, workload, json),
        Task::Run(arguments) => run(*arguments),
        Task::Overload(arguments) => overload(*arguments),
        Task::EmbeddedStore(flags) => embedded::run(*flags),
        Task::SelfTest { program, only, tries, seed, client } => self_test(program, &only, (tries, seed), &client),
    };
    // Whoever is interrupted sees it in how this ends, not in what became of the stores.
    cleanup::wait_if_ending();
    code
}

fn run(arguments: RunArguments) -> ExitCode {
    let json = arguments.json;
    let summary = plan(arguments).and_then(|plan| multiraft_torture::run::run(&plan));
    match summary {
        Ok(summary) => {
            println!("{}", summary.text);
            if json {
                println!("{}", summary.json);
            }
            if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(trouble) => unusable_run(&trouble),
    }
}

fn overload(arguments: OverloadArguments) -> ExitCode {
    let json = arguments.json;
    let a = &arguments;
    let mut command = format!(
        "cargo run --release -p multiraft-torture -- overload --seconds {} --seed {} --regions {} --clients {} --payload {} --window {} \
         --lone {} --rate {} --disk-delay {} --state {} --workers {}",
        a.seconds, a.seed, a.regions, a.clients, a.payload, a.window, a.lone, a.rate, a.disk_delay, a.state, a.workers
    );
    command.extend(a.silence.map(|silence| format!(" --silence {silence}")));
    let bytes = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let plan = multiraft_torture::overload::Plan {
        seconds: arguments.seconds,
        seed: arguments.seed,
        regions: arguments.regions,
        clients: arguments.clients,
        payload: bytes(arguments.payload),
        window: bytes(arguments.window),
        lone: arguments.lone,
        rate: arguments.rate,
        disk_delay: Duration::from_millis(arguments.disk_delay),
        state: arguments.state,
        workers: arguments.workers,
        silence: arguments.silence.map(Duration::from_millis),
        program: arguments.program,
        command,
    };
    match multiraft_torture::overload::run(&plan) {
        Ok(summary) => {
            print!("{}", summary.text);
            if json {
                println!("{}", summary.json);
            }
            if summary.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(trouble) => unusable_run(&trouble),
    }
}

fn self_test(program: Option<PathBuf>, only: &[String], (tries, seed): (u64, u64), client: &str) -> ExitCode {
    let found = embedding(client)
        .and_then(|embedding| multiraft_torture::run::self_test(program, embedding.as_deref(), only, tries, seed));
    match found {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(trouble) => unusable_run(&trouble),
    }
}

fn unusable_run(trouble: &Trouble) -> ExitCode {
    eprintln!("the run could not be made: {trouble}");
    ExitCode::from(UNUSABLE)
}

fn plan(arguments: RunArguments) -> Outcome<Plan> {
    let mut kinds = Vec::new();
    for name in arguments.nemesis.iter().filter(|name| *name != "none") {
        let named = if name == "all" { Some(Kind::ALL.to_vec()) } else { Kind::named(name) };
        kinds.extend(named.ok_or_else(|| Trouble::new(format!("`{name}` is none of none, all, {}", Kind::names())))?);
    }
    kinds.sort_unstable();
    kinds.dedup();
    if let Some(history) = &arguments.history {
        Format::of(history).map_err(|error| Trouble::new(error.to_string()))?;
    }
    let seed = arguments.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(now.as_millis()).unwrap_or(0)
    });
    let words = |words: Vec<&str>| words.join(",");
    let workloads = words(arguments.workload.iter().map(|workload| workload.name()).collect());
    let nemesis =
        if kinds.is_empty() { "none".to_owned() } else { words(kinds.iter().map(|kind| kind.name()).collect()) };
    let mut command = format!(
        "cargo run --release -p multiraft-torture -- run --workload {workloads} --nemesis {nemesis} --stores {} --seconds {} --seed {seed} \
         --regions {} --clients {}",
        arguments.stores, arguments.seconds, arguments.regions, arguments.clients
    );
    let mut flag = |name: &str, value: Option<String>| {
        command.extend(value.map(|value| format!(" --{name} {value}")));
    };
    flag("rate", arguments.rate.map(|rate| rate.to_string()));
    flag("client", (arguments.client != "resp").then(|| arguments.client.clone()));
    flag("net", arguments.net.clone());
    flag("state", arguments.state.clone());
    flag("reads", arguments.reads.clone());
    flag("plant", arguments.plant.clone());
    Ok(Plan {
        embedding: embedding(&arguments.client)?,
        workloads: arguments.workload,
        kinds,
        stores: arguments.stores,
        seconds: arguments.seconds,
        seed,
        regions: arguments.regions,
        clients: arguments.clients,
        rate: arguments.rate,
        program: arguments.program,
        ground: match arguments.net.as_deref() {
            Some("namespaces") => Ground::Namespaces,
            Some(_) => Ground::Proxy,
            None => Ground::Any,
        },
        state: arguments.state,
        reads: arguments.reads,
        plant: arguments.plant,
        history: arguments.history,
        out: arguments.out,
        command,
    })
}

/// The program that stores run where clients are in their processes: this one.
fn embedding(client: &str) -> Outcome<Option<PathBuf>> {
    let this = || std::env::current_exe().map_err(|error| Trouble::new(error.to_string()));
    (client == "embed").then(this).transpose()
}

fn check(file: &Path, workload: Option<Workload>, json: bool) -> ExitCode {
    let unusable = |problem: String| {
        if json {
            println!("{:#}", serde_json::json!({ "ok": false, "error": problem }));
        }
        eprintln!("{}: {problem}", file.display());
        ExitCode::from(UNUSABLE)
    };
    let verdict = match read_and_judge(file, workload) {
        Ok(verdict) => verdict,
        Err(problem) => return unusable(problem),
    };
    if verdict.judgement().holds() && verdict.answered() == 0 {
        return unusable("nothing was answered in it, so it shows nothing".to_owned());
    }
    if json {
        println!("{:#}", verdict.json());
    } else {
        print!("{}", verdict.table());
    }
    if verdict.judgement().holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn read_and_judge(file: &Path, workload: Option<Workload>) -> Result<Verdict, String> {
    let format = Format::of(file).map_err(|error| error.problem)?;
    let bytes = std::fs::read(file).map_err(|error| error.to_string())?;
    let history = History::read(&bytes, format).map_err(|error| error.to_string())?;
    judge(&history, workload).map_err(|error| error.to_string())
}

fn parse_workload(name: &str) -> Result<Workload, String> {
    Workload::of(name).ok_or_else(|| format!("one of {}", Workload::names()))
}
