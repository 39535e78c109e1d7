//! `sluice simulate`: the simulator alone, for other programs to call.

use crate::failure::Failure;
use simulator::{Answers, SimulatedModel, Simulator};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::TcpListener;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Where to listen; a loopback address.
    #[arg(long, default_value = "127.0.0.1:9000")]
    listen: SocketAddr,
    /// JSONL with one known prompt a line.
    #[arg(long, value_name = "FILE")]
    answers: Option<PathBuf>,
    /// Time to the first token.
    #[arg(long, default_value_t = 50)]
    latency_ms: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if !arguments.listen.ip().is_loopback() {
        let problem = "is reachable from outside; the simulator answers anyone, so use a loopback address";
        return Err(Failure::Usage(format!("--listen: {} {problem}", arguments.listen)));
    }
    let answers = arguments.answers.as_deref().map(Answers::read).transpose()?.unwrap_or_default();
    let models = SimulatedModel::shipped(Duration::from_millis(arguments.latency_ms));
    let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
    let simulator = Simulator::start(TcpListener::bind(arguments.listen).await?, models, answers)?;
    println!("simulated provider on {}; models: {}", simulator.base_url(), names.join(", "));
    tokio::signal::ctrl_c().await?;
    Ok(())
}
