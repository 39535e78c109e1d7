//! The gateway under fire: the built binary against the built simulator, each scenario with the bounds it must keep.

mod balancer;
mod burst;
mod fallback;
mod flaky;
mod fleet;
mod hedge;
mod hostile;
mod kill;
mod kill_cache;
mod large;
mod meaning;
mod overload;
mod pair;
mod restart;
mod rig;
mod streams;

use clap::{Parser, ValueEnum};
use rig::Verdict;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs scenarios and says of each bound whether it was kept; exits with 1 when one was not.
#[derive(Parser)]
struct Arguments {
    /// The scenarios to run; all of them without any.
    scenarios: Vec<Scenario>,
    /// The folder with the built binary; by default that of this one.
    #[arg(long)]
    bin: Option<PathBuf>,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Seconds that the endpoint of `fallback` stays dead.
    #[arg(long, default_value_t = 600)]
    dead_seconds: u64,
    /// The folder of labelled streams for `meaning`, which is left out without it.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Requests of `meaning` at each rate.
    #[arg(long, default_value_t = 20_000)]
    requests: usize,
    /// Deaths of `kill`, of each gateway of `fleet`, and up to eight of `kill-cache`.
    #[arg(long, default_value_t = 32)]
    deaths: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Scenario {
    Fallback,
    Flaky,
    Hedge,
    Kill,
    KillCache,
    Streams,
    Burst,
    Overload,
    Restart,
    /// Two gateways on one PostgreSQL.
    Fleet,
    Hostile,
    Large,
    Meaning,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("a crypto provider was installed already");
    }
    let binary = benches::binary(arguments.bin.as_deref());
    let wanted = |scenario| arguments.scenarios.is_empty() || arguments.scenarios.contains(&scenario);
    let seconds = arguments.seconds;
    let mut verdicts: Vec<Verdict> = Vec::new();
    for scenario in Scenario::value_variants().iter().filter(|scenario| wanted(**scenario)) {
        println!("\n## {}", scenario.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default());
        verdicts.extend(match scenario {
            Scenario::Fallback => fallback::run(&binary, seconds, arguments.dead_seconds).await,
            Scenario::Flaky => flaky::run(&binary, seconds).await,
            Scenario::Hedge => hedge::run(&binary, seconds).await,
            Scenario::Kill => kill::run(&binary, arguments.deaths).await,
            Scenario::KillCache => kill_cache::run(&binary, arguments.deaths.min(8)).await,
            Scenario::Streams => streams::run(&binary, seconds).await,
            Scenario::Burst => burst::run(&binary, seconds).await,
            Scenario::Overload => overload::run(&binary).await,
            Scenario::Restart => restart::run(&binary).await,
            Scenario::Fleet => fleet::run(&binary, arguments.deaths, seconds).await,
            Scenario::Hostile => hostile::run(&binary, seconds).await,
            Scenario::Large => large::run(&binary).await,
            Scenario::Meaning => match &arguments.data {
                Some(data) => meaning::run(&binary, data, arguments.requests).await,
                None => vec![Verdict::left_out("labelled traffic: name the folder of streams with --data")],
            },
        });
    }
    println!("\n| bound | measured | kept |\n|---|---|---|");
    verdicts.iter().for_each(|verdict| println!("{verdict}"));
    if verdicts.iter().all(|verdict| verdict.is_kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
