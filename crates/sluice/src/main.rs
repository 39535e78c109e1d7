//! The command line.

mod catalog;
mod check;
mod content;
mod demo;
mod eval;
mod failure;
mod keys;
mod ledger;
mod policy;
mod reload;
mod retrain;
mod serve;
mod simulate;
mod train;

use clap::{Parser, Subcommand};
use std::io::IsTerminal as _;
use std::process::ExitCode;

/// After thousands of streams glibc's allocator keeps half as much again as after the first thousand, and this one does
/// not: `fire streams` in docs/benchmarks.md.
#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A self-hosted LLM gateway that spends less: semantic cache, router, providers, one OpenRouter-compatible API.
#[derive(Parser)]
#[command(name = "sluice", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Starts the gateway.
    Serve(serve::Arguments),
    /// Replays a workload through simulator and gateway and reports what cache and router save.
    Demo(demo::Arguments),
    /// Checks a configuration file and names every mistake with its line.
    Check(check::Arguments),
    /// Lists models and prices, and brings them up to date.
    #[command(subcommand)]
    Catalog(catalog::Command),
    /// Makes, lists and revokes virtual keys.
    #[command(subcommand)]
    Keys(keys::Command),
    /// Statements, exports, invoices; closes requests whose cost nobody confirmed.
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Exports what tenants agreed to have kept.
    #[command(subcommand)]
    Content(content::Command),
    /// Tries what policies decide.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Starts a provider that answers from a file or with marked synthetic text.
    Simulate(simulate::Arguments),
    /// Fits a model on recorded outcomes.
    #[command(subcommand)]
    Train(train::Command),
    /// Measures a model on held-out outcomes.
    #[command(subcommand)]
    Eval(eval::Command),
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SLUICE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a crypto provider was installed already");
    }
    let done = match Arguments::parse().command {
        Command::Serve(arguments) => serve::run(arguments).await,
        Command::Demo(arguments) => demo::run(arguments).await,
        Command::Check(arguments) => check::run(&arguments),
        Command::Catalog(command) => catalog::run(command).await,
        Command::Keys(command) => keys::run(command).await,
        Command::Ledger(command) => ledger::run(command).await,
        Command::Content(command) => content::run(command).await,
        Command::Policy(command) => policy::run(command),
        Command::Simulate(arguments) => simulate::run(arguments).await,
        Command::Train(command) => train::run(command).await,
        Command::Eval(command) => eval::run(command).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_closed_pipe() => ExitCode::SUCCESS, // as when `head` has seen enough
        Err(failure) => {
            eprintln!("error: {failure}");
            failure.exit_code()
        }
    }
}
