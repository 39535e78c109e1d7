//! `sluice serve`: the gateway, and with no credential at all the simulator behind it.

use crate::catalog::Store;
use crate::failure::Failure;
use crate::reload::{Files, Source};
use gateway::{App, ConfigFile, StartError, serve};
use simulator::{Answers, SimulatedModel, Simulator};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The configuration file; without it `sluice.toml` in the working directory, where there is one, else defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listens here instead of where the configuration says.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
}

/// The file that is read without `--config`.
pub(crate) const DEFAULT_FILE: &str = "sluice.toml";

pub(crate) fn read_config(named: Option<&Path>) -> Result<ConfigFile, Failure> {
    match named {
        Some(path) => Ok(ConfigFile::read(path)?),
        None if Path::new(DEFAULT_FILE).is_file() => Ok(ConfigFile::read(Path::new(DEFAULT_FILE))?),
        None => Ok(ConfigFile::default()),
    }
}

/// The configuration with the newest prices that were merged.
pub(crate) fn read_current(named: Option<&Path>) -> Result<ConfigFile, Failure> {
    let file = read_config(named)?;
    let listing = Store::beside(file.database()).listing_or_shipped()?;
    Ok(file.with_listing(listing))
}

pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let first = read_config(arguments.config.as_deref())?;
    let known = Files::of(arguments.config.as_deref(), &first, &Store::beside(first.database()));
    let file = read_current(arguments.config.as_deref())?;
    let simulator = if file.needs_simulator(environment) {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Some(Simulator::start(listener, SimulatedModel::shipped(Duration::from_millis(50)), Answers::default())?)
    } else {
        None
    };
    let store = Store::beside(file.database());
    let address = arguments.listen.unwrap_or_else(|| file.listen().to_owned());
    let simulated = simulator.as_ref().map(Simulator::base_url);
    let config = file.check(environment, simulated.as_deref())?;
    let admin_key = environment(&config.server.admin_key_env).filter(|key| !key.trim().is_empty());
    let listener =
        TcpListener::bind(&address).await.map_err(|source| StartError::Listen { address: address.clone(), source })?;
    let started = App::start(config, admin_key.as_deref()).await?;
    greet(&started, listener.local_addr()?);
    let gateway = serve(started, listener)?;
    let config_file = arguments.config.clone();
    let source = Source { file: arguments.config, store, simulator: simulated, known };
    tokio::select! {
        () = source.watch(&gateway) => {}
        () = crate::retrain::watch(config_file) => {}
        () = stop_signal() => {}
    }
    eprintln!("stopping: requests under way may finish");
    gateway.stop().await;
    Ok(())
}

fn greet(started: &gateway::Started, address: std::net::SocketAddr) {
    println!("sluice {} on http://{address}", env!("CARGO_PKG_VERSION"));
    for notice in &started.notices {
        println!("  * {notice}");
    }
    let Some(keys) = &started.keys else {
        println!("  * keys were shown at the first start; make another with `sluice keys create NAME`");
        return;
    };
    println!("\nShown this once:");
    if let Some(admin) = &keys.admin {
        println!("  operator's key  {admin}");
    }
    let Some(virtual_key) = &keys.virtual_key else { return };
    println!("  virtual key     {virtual_key}");
    println!("\nTry it:\n");
    println!("  curl http://{address}/v1/chat/completions \\");
    println!("    -H 'Authorization: Bearer {virtual_key}' \\");
    println!("    -H 'Content-Type: application/json' \\");
    println!("    -d '{{\"model\": \"auto\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'\n");
}

/// Waits for Ctrl-C or a terminate signal.
async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    if let Err(error) = tokio::signal::ctrl_c().await {
        tracing::error!(%error, "signals cannot be received");
    }
}
