//! `sluice eval`: measures the models of router and cache on data that they have not seen.

pub(crate) mod cache;
mod router;

use crate::failure::Failure;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Measures routers on recorded outcomes: on a pair of models, and over many by cost.
    Router(router::Arguments),
    /// Replays labelled streams through the cache's decision, or judges labelled pairs.
    Cache(cache::Arguments),
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Router(arguments) => router::run(&arguments).await,
        Command::Cache(arguments) => cache::run(&arguments).await,
    }
}
