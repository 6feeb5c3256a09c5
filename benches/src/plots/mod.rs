//! Pictures of what runs have given.
//!
//! ```text
//!   chart      lines over two axes, as SVG
//!   pictures   which lines of JSON make which picture
//! ```
//!
//! A folder holds the lines that the runs have printed (`runs.jsonl`), and beside them the pictures that are drawn of them.

mod chart;
mod pictures;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::Args as Group;
use serde_json::Value;

use crate::cluster::Problem;

/// What `plots` draws.
#[derive(Clone, Debug, Group)]
pub(crate) struct Plots {
    /// The folder with the runs, and for the pictures.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/benchmarks"))]
    pub(crate) folder: PathBuf,
    /// Measure anew first: replaces the runs that are there. Takes about twenty minutes.
    #[arg(long)]
    pub(crate) run: bool,
    /// Short runs, of few sizes; about five minutes.
    #[arg(long)]
    pub(crate) quick: bool,
    /// What everything random derives from.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Where to make the stores' directories (default: the system's place for temporary files). To mean anything, it must
    /// lie on a real disk.
    #[arg(long)]
    pub(crate) dir: Option<PathBuf>,
}

const RUNS: &str = "runs.jsonl";

/// Which runs there are, by their words; each prints one line of JSON or more.
const WHOLE: &[&str] = &[
    "limits",
    "sweep --groups 1,48,1000,10000 --clients 256 --payload 16 --seconds 5 --rounds 3",
    "sweep --groups 48,1000 --clients 1,64,1024 --payload 16 --seconds 5 --rounds 3",
    "sweep --groups 48,1000 --clients 256 --payload 256,1024,4096,16384 --seconds 5 --rounds 3",
    "throughput --groups 1000 --state mem --seconds 8 --rate 1000",
    "throughput --groups 1000 --state mem --seconds 8 --rate 5000",
    "throughput --groups 1000 --state mem --seconds 8 --rate 10000",
    "throughput --groups 1000 --state mem --seconds 8 --rate 20000",
    "throughput --groups 1000 --state mem --seconds 8 --rate 30000",
    "throughput --groups 1000 --state mem --seconds 8 --one-process",
    "reads --clients 16",
    "reads --clients 64",
    "reads --clients 256",
    "recovery --size 16,64,256",
];
/// The same in short.
const QUICK: &[&str] = &[
    "limits --millis 300",
    "sweep --groups 1,48,1000 --clients 256 --payload 16 --seconds 3 --warmup 1 --rounds 1",
    "sweep --groups 48 --clients 1,64,1024 --payload 16 --seconds 3 --warmup 1 --rounds 1",
    "sweep --groups 48 --clients 256 --payload 1024,16384 --seconds 3 --warmup 1 --rounds 1",
    "throughput --groups 48 --state mem --seconds 3 --warmup 1 --rate 1000",
    "throughput --groups 48 --state mem --seconds 3 --warmup 1 --rate 5000",
    "throughput --groups 48 --state mem --seconds 3 --warmup 1 --rate 10000",
    "reads --groups 48 --clients 64 --seconds 2 --warmup 1",
    "reads --groups 48 --clients 256 --seconds 2 --warmup 1",
    "recovery --size 4,16",
];

/// Draws, and says what.
pub(crate) fn run(options: &Plots) -> Result<(), Problem> {
    let file = options.folder.join(RUNS);
    if options.run {
        let runs = if options.quick { QUICK } else { WHOLE };
        let mut lines = Vec::new();
        for (number, words) in (1..).zip(runs) {
            eprintln!("{number} of {}: {words}", runs.len());
            lines.extend(measure(words, options)?);
        }
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::create_dir_all(&options.folder)
            .and_then(|()| std::fs::write(&file, text))
            .map_err(|source| Problem::Io { what: "the runs cannot be written: see --folder", source })?;
    }
    let text = std::fs::read_to_string(&file)
        .map_err(|source| Problem::Io { what: "there are no runs to draw (measure them with --run)", source })?;
    let parsed: Result<Vec<Value>, _> = text.lines().map(serde_json::from_str).collect();
    let lines = parsed.map_err(|error| Problem::Wrong(format!("{}: {error}", file.display())))?;
    for (name, chart) in pictures::of(&lines) {
        let Some(svg) = chart.svg() else {
            eprintln!("{name}: no run is of this");
            continue;
        };
        let picture = options.folder.join(format!("{name}.svg"));
        std::fs::write(&picture, svg)
            .map_err(|source| Problem::Io { what: "a picture cannot be written: see --folder", source })?;
        println!("{}", picture.display());
    }
    Ok(())
}

/// Runs this program with these words; gives its lines of JSON.
fn measure(words: &str, options: &Plots) -> Result<Vec<String>, Problem> {
    let io = |what| move |source| Problem::Io { what, source };
    let program = std::env::current_exe().map_err(io("this program cannot be found again"))?;
    let mut command = Command::new(program);
    command.args(words.split_whitespace()).args(["--json", "--seed", &options.seed.to_string()]);
    if let Some(dir) = &options.dir {
        command.arg("--dir").arg(dir);
    }
    let mut process = command.stdout(Stdio::piped()).spawn().map_err(io("a run cannot be started"))?;
    let output = process.stdout.take().expect("the output was asked for");
    let lines: Vec<String> = BufReader::new(output).lines().map_while(Result::ok).collect();
    let status = process.wait().map_err(io("a run cannot be waited for"))?;
    if !status.success() {
        return Err(Problem::Failed { what: format!("`{words}`"), why: status.to_string() });
    }
    Ok(lines.into_iter().filter(|line| line.starts_with('{')).collect())
}
