//! Reloading configuration and catalogue: when a file of theirs changes, and on SIGHUP.

use crate::catalog::Store;
use crate::failure::Failure;
use crate::serve::{environment, read_current};
use gateway::{ConfigFile, Gateway};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Where the configuration comes from.
pub(crate) struct Source {
    pub file: Option<PathBuf>,
    /// Where newer prices appear.
    pub store: Store,
    /// The simulator that `serve` started, where it did.
    pub simulator: Option<String>,
    /// The files as they were when they were read at the start.
    pub known: Files,
}

/// The files that the configuration was made of, each with when it was changed; first its own.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Files(Vec<(PathBuf, Option<SystemTime>)>);

impl Files {
    /// As they are now.
    pub(crate) fn of(named: Option<&Path>, config: &ConfigFile, store: &Store) -> Self {
        let own = named.unwrap_or(Path::new(crate::serve::DEFAULT_FILE)).to_owned();
        Self([own, store.list().to_owned()].into_iter().chain(config.rests_on()).map(changed).collect())
    }

    fn now(&self) -> Self {
        Self(self.0.iter().map(|(path, _)| changed(path.clone())).collect())
    }

    /// The configuration's own file was there and is not: an editor is about to put the new one in its place.
    fn is_being_replaced(&self, now: &Self) -> bool {
        let is_there = |files: &Self| files.0.first().is_some_and(|(_, changed)| changed.is_some());
        is_there(self) && !is_there(now)
    }

    /// These, with the times of those that were looked at before they were read.
    fn with_times_of(self, before: &Self) -> Self {
        let known = |path: &Path| before.0.iter().find(|(known, _)| known == path).map(|(_, changed)| *changed);
        Self(self.0.into_iter().map(|(path, now)| (path.clone(), known(&path).unwrap_or(now))).collect())
    }
}

fn changed(path: PathBuf) -> (PathBuf, Option<SystemTime>) {
    let changed = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok();
    (path, changed)
}

impl Source {
    /// Reads and checks the configuration, then swaps it in; one that has a mistake changes nothing.
    fn reload(&self, gateway: &Gateway) -> Result<(Vec<&'static str>, Files), Failure> {
        let file = read_current(self.file.as_deref())?;
        let simulator = self.simulator.as_deref().filter(|_| file.needs_simulator(environment));
        let files = Files::of(self.file.as_deref(), &file, &self.store);
        Ok((gateway.reload(file.check(environment, simulator)?), files))
    }

    /// Reloads whenever there is a reason to; never returns.
    pub(crate) async fn watch(mut self, gateway: &Gateway) {
        let mut hangups = Hangups::new();
        loop {
            let now = tokio::select! {
                () = hangups.next() => self.known.now(),
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let now = self.known.now();
                    if now == self.known || self.known.is_being_replaced(&now) {
                        continue;
                    }
                    now
                }
            };
            let reloaded = self.reload(gateway);
            self.known = match &reloaded {
                Ok((_, files)) => files.clone().with_times_of(&now),
                Err(_) => now,
            };
            match reloaded {
                Ok((left, _)) if left.is_empty() => eprintln!("reloaded configuration and catalogue"),
                Ok((left, _)) => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_new_or_changed_policy_file_is_a_reason_to_reload_and_a_vanished_configuration_is_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let (own, policies) = (folder.path().join("sluice.toml"), folder.path().join("policies"));
        let artefact = folder.path().join("own.json");
        let policy = policies.join("saver.toml");
        fs::create_dir(&policies).expect("a folder");
        fs::write(&own, format!("[router]\nartefact = {artefact:?}\n")).expect("written");
        fs::write(&policy, "quality_min = 0.9\n").expect("written");
        let read = || ConfigFile::read(&own).expect("a configuration");
        let store = Store::beside(read().database());
        let known = Files::of(Some(&own), &read(), &store);
        assert_eq!(known.now(), known, "nothing happened");
        let touch = |path: &Path, later_s: u64| {
            let time = SystemTime::now() + Duration::from_secs(later_s);
            fs::File::options()
                .append(true)
                .create(true)
                .open(path)
                .and_then(|file| file.set_modified(time))
                .expect("touched");
        };
        for changed in [&policy, &artefact] {
            let before = Files::of(Some(&own), &read(), &store);
            touch(changed, 10);
            assert_ne!(before.now(), before, "{changed:?}");
        }
        let before = Files::of(Some(&own), &read(), &store);
        fs::remove_file(&policy).expect("removed");
        assert_ne!(before.now(), before, "a policy is gone");
        let before = Files::of(Some(&own), &read(), &store);
        fs::remove_file(&own).expect("removed");
        assert!(before.is_being_replaced(&before.now()));
    }
}
