//! Training again beside the running gateway, once enough new scores have come: a niced child, whose artefact the gateway
//! reloads like any other.

use crate::content::{export, has_contents};
use crate::failure::Failure;
use crate::serve::read_config;
use database::{ContentFile, DatabaseConfig};
use gateway::Learning;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often scores are counted.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long a training may take.
const TRAINING_MAX: Duration = Duration::from_secs(3_600);

/// Trains whenever there is a reason to; never returns.
pub(crate) async fn watch(config: Option<PathBuf>) {
    // A training that failed is tried again only once as many scores have come anew.
    let mut tried_ms = 0;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match look(config.as_deref(), &mut tried_ms).await {
            Ok(None) => {}
            Ok(Some(out)) => eprintln!("trained on new scores: {}", out.display()),
            Err(failure) => eprintln!("the router was not trained: {failure}"),
        }
    }
}

/// Trains where enough scores are newer than the artefact; returns it then.
async fn look(config: Option<&Path>, tried_ms: &mut i64) -> Result<Option<PathBuf>, Failure> {
    let file = read_config(config)?;
    let Some(Learning { tenants, artefact, after_scores, embedder }) = file.learning() else { return Ok(None) };
    let database = file.database();
    if !has_contents(database) {
        return Ok(None);
    }
    let scores = ContentFile::beside(database, None).await?;
    let since_ms = changed_ms(&artefact).max(*tried_ms);
    if scores.scored_since(&tenants, since_ms).await? < after_scores {
        return Ok(None);
    }
    *tried_ms = ledger::now_ms();
    train(database, &tenants, &artefact, &embedder).await?;
    Ok(Some(artefact))
}

async fn train(database: &DatabaseConfig, tenants: &[String], artefact: &Path, embedder: &str) -> Result<(), Failure> {
    // Readable to its owner only, and gone with this function, however it ends.
    let log = tempfile::NamedTempFile::new()?;
    let mut file = std::io::BufWriter::new(log.reopen()?);
    for tenant in tenants {
        export(database, Some(tenant), &mut file).await?;
    }
    std::io::Write::flush(&mut file)?;
    drop(file);
    let binary = std::env::current_exe()?;
    let mut command = Command::new("nice");
    command.args(["-n", "19"]).arg(binary).args(["train", "router", "--embedder", embedder, "--log"]).arg(log.path());
    command.arg("--out").arg(artefact).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (mut child, begun) = (Training(command.spawn()?), Instant::now());
    let status = loop {
        if let Some(status) = child.0.try_wait()? {
            break status;
        }
        if begun.elapsed() > TRAINING_MAX {
            return Err(Failure::Request(format!("it took more than {TRAINING_MAX:?}")));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    if let Some(mut stderr) = child.0.stderr.take() {
        stderr.read_to_string(&mut said)?;
    }
    Err(Failure::Request(said.lines().last().unwrap_or("it ended without a word").to_owned()))
}

/// A child that does not outlive the gateway.
struct Training(Child);

impl Drop for Training {
    fn drop(&mut self) {
        if self.0.kill().is_ok() {
            let _status = self.0.wait(); // reaps it; how it ended does not matter
        }
    }
}

/// When a file was changed, in milliseconds since 1970; 0 where there is none.
fn changed_ms(path: &Path) -> i64 {
    let changed = std::fs::metadata(path).and_then(|metadata| metadata.modified()).unwrap_or(UNIX_EPOCH);
    let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since(changed).as_millis()).unwrap_or(i64::MAX)
}
