//! `sluice train`: fits the models of router and cache.

pub(crate) mod cache;
mod router;

use crate::failure::Failure;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Fits ability × difficulty and the answer length on the training rows of outcome files.
    Router(router::Arguments),
    /// Fits the cache's pair model and the prior of its decision on labelled streams and pairs.
    Cache(cache::Arguments),
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Router(arguments) => router::run(&arguments).await,
        Command::Cache(arguments) => cache::run(&arguments).await,
    }
}
