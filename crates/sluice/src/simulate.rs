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
    /// Writes one JSON line here for each call as it ended.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if !arguments.listen.ip().is_loopback() {
        let problem = "is reachable from outside; the simulator answers anyone, so use a loopback address";
        return Err(Failure::Usage(format!("--listen: {} {problem}", arguments.listen)));
    }
    let answers = arguments.answers.as_deref().map(Answers::read).transpose()?.unwrap_or_default();
    let models = SimulatedModel::shipped(Duration::from_millis(arguments.latency_ms));
    let log = arguments.log.map(|path| std::fs::OpenOptions::new().create(true).append(true).open(path)).transpose()?;
    let simulator = Simulator::with_log(TcpListener::bind(arguments.listen).await?, models, answers, log)?;
    println!("simulated provider on {}; models sim/small, sim/large, sim/fault-NAME;", simulator.base_url());
    println!("GET /control/faults lists the names, POST /control/rule sets one, GET /control/counters counts");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
