//! The `multiraft` program: runs a store, looks at a cluster and changes it, makes certificates, shows a cluster
//! at work.
//!
//! It embeds the engine as any other program would, through its public interface.

mod certs;
mod cli;
mod ctl;
mod demo;
mod error;
mod files;
mod hex;
mod http;
mod machine;
mod resp;
mod serve;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use cli::{CertsArgs, Cli, Command};
use error::Failure;

#[global_allocator]
static ALLOCATOR: multiraft_allocator::Allocator = multiraft_allocator::Allocator;

fn main() -> ExitCode {
    multiraft_allocator::give_back_at_once();
    let command = Cli::parse().command;
    start_logging(if matches!(command, Command::Serve(_)) { "info" } else { "warn" });
    files::raise_limit();
    let outcome = match command {
        Command::Serve(args) => serve::run(*args).map(|()| ExitCode::SUCCESS),
        Command::Certs(args) => make_certs(&args).map(|()| ExitCode::SUCCESS),
        Command::Ctl(args) => ctl::run(&args),
        Command::Demo(args) => demo::run(args),
    };
    outcome.unwrap_or_else(|failure| {
        // Nothing is left to do if stderr is closed.
        let _ = writeln!(io::stderr(), "multiraft: {failure}");
        ExitCode::FAILURE
    })
}

/// Logs go to stderr; `RUST_LOG` says how much: a level, or `target=level` for parts, with commas between.
fn start_logging(level: &str) {
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let parsed = wanted.as_deref().unwrap_or(level).parse::<Targets>();
    let filter = parsed.as_ref().cloned().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::WARN));
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_ansi(false);
    // Fails only if somebody was first, who then logs.
    let _ = tracing_subscriber::registry().with(lines.with_filter(filter)).try_init();
    if let Err(error) = parsed {
        tracing::warn!(%error, "RUST_LOG is not understood; warnings are shown. Say, for example, info,multiraft=debug");
    }
}

fn make_certs(args: &CertsArgs) -> Result<(), Failure> {
    let files = certs::CertFiles::new(&args.out);
    files.create(args.stores)?;
    let said = writeln!(
        io::stdout(),
        "{}: an authority and certificates for {} stores; keep {} to yourself",
        args.out.display(),
        args.stores,
        files.ca_key().display()
    );
    said.map_err(|error| Failure::during("stdout cannot be written to", error))
}
