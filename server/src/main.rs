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

use cli::{CertsArgs, Cli, Command};
use error::Failure;

/// Thousands of regions take and give back small pieces all the time, and seldom the ones that are still in the caches.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
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

/// Logs go to stderr; `RUST_LOG` says how much.
fn start_logging(level: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| level.into());
    // Fails only if somebody was first, who then logs.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false).try_init();
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
