//! Instructions that the hot paths take: counted by callgrind, so that they are the same on a busy machine as on a quiet one.
//!
//! ```text
//!   paths      which there are, and how each is run
//!   step       one Raft group, driven by hand
//!   stores     three stores of workers, logs and appliers in one thread: each path counts another part of the same writes
//!   count      what is counted
//!   callgrind  runs this program under it, once for each path
//!   baseline   what is compared with
//! ```
//!
//! The paths are reached through what the crates show to any driver, as the simulator drives them. Nothing draws an unseeded
//! number, time stands still while it is counted, and there is one thread.

mod baseline;
mod callgrind;
mod count;
mod options;
mod paths;
mod step;
mod stores;

use std::collections::BTreeMap;
use std::io::IsTerminal;

use serde_json::json;

use self::baseline::{Baseline, PERCENT_MAX, Verdict};
pub(crate) use self::options::{Micro, MicroPath};
use crate::cluster::Problem;
use crate::report::print_table;

const HEAD: [&str; 5] = ["path", "instructions", "baseline", "change %", "each"];

/// Runs the benchmark and prints what came out.
pub(crate) fn run(options: &Micro) -> Result<(), Problem> {
    if !callgrind::is_there() {
        if options.without_valgrind {
            println!("skipped: there is no valgrind here, and --without-valgrind allows that");
            return Ok(());
        }
        let what = "there is no valgrind to count with: install it, or allow to skip this with --without-valgrind";
        return Err(Problem::Micro(what.to_owned()));
    }
    if let Some(unknown) = options.only.iter().find(|name| paths::ALL.iter().all(|path| path.name != **name)) {
        return Err(Problem::Micro(format!("{unknown} is no path: without --only all are shown")));
    }
    let wanted = |path: &&paths::Path| options.only.is_empty() || options.only.iter().any(|name| name == path.name);
    let wanted: Vec<&paths::Path> = paths::ALL.iter().filter(wanted).collect();
    let known = Baseline::read(&options.baseline)?;
    let mut counts = BTreeMap::new();
    for path in &wanted {
        if std::io::stderr().is_terminal() {
            eprint!("\r\x1b[K{} of {}: {}", counts.len() + 1, wanted.len(), path.name);
        }
        counts.insert(path.name, callgrind::count(path.name, options)?);
    }
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
    let rows = wanted.iter().map(|path| {
        let (now, before) = (counts[path.name], known.of(path.name));
        let change = before.map(|before| baseline::change_percent(before, now));
        vec![
            path.name.to_owned(),
            format!("{now:.0}"),
            before.map_or_else(|| "-".to_owned(), |before| format!("{before:.0}")),
            change.map_or_else(|| "-".to_owned(), |change| format!("{change:+.1}")),
            path.each.to_owned(),
        ]
    });
    print_table(&HEAD, &rows.collect::<Vec<_>>());
    if options.json {
        let counted: BTreeMap<_, _> = counts.iter().map(|(name, count)| (*name, count.round())).collect();
        println!("{}", json!({ "bench": "micro", "seed": options.seed, "instructions": counted }));
    }
    if options.renew {
        known.renewed(&counts, options.quick).write(&options.baseline)?;
        println!("{} is renewed", options.baseline.display());
    }
    if options.check { judge(&known, &counts, options) } else { Ok(()) }
}

fn judge(known: &Baseline, counts: &BTreeMap<&'static str, f64>, options: &Micro) -> Result<(), Problem> {
    let renew = baseline::renewing();
    match known.judge(counts, options.quick) {
        Verdict::Fine => Ok(()),
        Verdict::Better(names) => {
            println!("{names} take {PERCENT_MAX} % less than before or better: keep that, with `{renew}`");
            Ok(())
        }
        Verdict::Worse(which) => Err(Problem::Micro(format!(
            "beyond {PERCENT_MAX} % more instructions than {} says: {which}. Find out why (callgrind_annotate shows where); \
             if it is the price of something, renew the baseline with `{renew}`, and say so in the commit{}",
            options.baseline.display(),
            known.made_elsewhere(),
        ))),
        Verdict::Unknown(what) => {
            Err(Problem::Micro(format!("{what}: build and run it likewise, or renew the baseline with `{renew}`")))
        }
    }
}

/// One path, in a process of its own under callgrind; prints how many operations were counted.
pub(crate) fn run_path(options: &MicroPath) -> Result<(), Problem> {
    let operations = paths::run(options)?;
    println!("{}", json!({ "operations": operations }));
    Ok(())
}
