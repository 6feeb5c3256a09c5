//! Throughput over sizes.
//!
//! Rounds go over all sizes before they begin again. Of each size the run with the median number of writes per second is
//! shown, whole: its latencies and costs belong together.

use std::time::Duration;

use crate::args::{Operation, State, Sweep};
use crate::cluster::Problem;
use crate::report::print_table;
use crate::throughput::{Figures, HEAD, Size};

/// One combination, and what its runs gave.
struct Point {
    size: Size,
    state: State,
    runs: Vec<Figures>,
}

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Sweep) -> Result<(), Problem> {
    let mut points = points(options);
    for round in 1..=options.rounds {
        for point in &mut points {
            let figures = Figures::measure(&point.size, &options.cluster, point.state)?;
            eprintln!("round {round}: {}", figures.row().join("  "));
            point.runs.push(figures);
        }
    }
    let medians: Vec<Figures> = points.into_iter().filter_map(|point| median(point.runs)).collect();
    print_table(&HEAD, &medians.iter().map(Figures::row).collect::<Vec<_>>());
    if options.cluster.json {
        for figures in &medians {
            println!("{}", figures.json());
        }
    }
    Ok(())
}

fn points(options: &Sweep) -> Vec<Point> {
    let mut points = Vec::new();
    for state in options.state.runs() {
        for payload in &options.payload {
            for clients in &options.clients {
                for groups in &options.groups {
                    let size = Size {
                        groups: *groups,
                        clients: *clients,
                        payload: *payload,
                        operation: Operation::Write,
                        rate: None,
                        together: false,
                        at_leaders: options.at_leaders,
                        channels: false,
                        warmup: Duration::from_secs(options.warmup),
                        window: Duration::from_secs(options.seconds),
                    };
                    points.push(Point { size, state: *state, runs: Vec::new() });
                }
            }
        }
    }
    points
}

/// The middle one by writes per second; of an even number the slower.
fn median(mut runs: Vec<Figures>) -> Option<Figures> {
    runs.sort_by(|a, b| a.writes_per_s.total_cmp(&b.writes_per_s));
    let middle = runs.len().checked_sub(1)? / 2;
    Some(runs.swap_remove(middle))
}
