//! Reloading configuration and catalogue: when a file of theirs changes, and on SIGHUP.

use crate::catalog::Store;
use crate::failure::Failure;
use crate::serve::{environment, read_current};
use gateway::Gateway;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the configuration comes from.
pub(crate) struct Source {
    pub file: Option<PathBuf>,
    /// Where newer prices appear.
    pub store: Store,
    /// The simulator that `serve` started, where it did.
    pub simulator: Option<String>,
    /// When the files had been changed as they were read at the start.
    pub known: Times,
}

/// When the configuration and the catalogue were changed.
pub(crate) type Times = [Option<SystemTime>; 2];

impl Source {
    /// Reads and checks the configuration, then swaps it in; one that has a mistake changes nothing.
    fn reload(&self, gateway: &Gateway) -> Result<Vec<&'static str>, Failure> {
        let file = read_current(self.file.as_deref())?;
        let simulator = self.simulator.as_deref().filter(|_| file.needs_simulator(environment));
        Ok(gateway.reload(file.check(environment, simulator)?))
    }

    /// When the files were changed.
    pub(crate) fn times(file: Option<&Path>, store: &Store) -> Times {
        let path = file.unwrap_or(Path::new(crate::serve::DEFAULT_FILE));
        let configuration = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok();
        [configuration, store.changed()]
    }

    /// Reloads whenever there is a reason to; never returns.
    pub(crate) async fn watch(self, gateway: &Gateway) {
        let mut hangups = Hangups::new();
        let mut known = self.known;
        loop {
            tokio::select! {
                () = hangups.next() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let changed = Self::times(self.file.as_deref(), &self.store);
                    if changed == known || changed == [None, None] {
                        continue;
                    }
                    known = changed;
                }
            }
            match self.reload(gateway) {
                Ok(left) if left.is_empty() => eprintln!("reloaded configuration and catalogue"),
                Ok(left) => {
                    eprintln!("reloaded the configuration; [{}] needs a restart and is as before", left.join("], ["))
                }
                Err(failure) => eprintln!("the configuration was not reloaded: {failure}"),
            }
        }
    }
}

/// SIGHUP, where the system has it.
struct Hangups {
    #[cfg(unix)]
    signals: Option<tokio::signal::unix::Signal>,
}

impl Hangups {
    fn new() -> Self {
        Self {
            #[cfg(unix)]
            signals: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).ok(),
        }
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signals) = &mut self.signals
            && signals.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}
