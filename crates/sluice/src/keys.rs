//! `sluice keys`: virtual keys, made and revoked in the database; a running gateway notices within two seconds.

use crate::failure::Failure;
use crate::serve::read_config;
use catalog::NanoUsd;
use database::{Database, DatabaseConfig, budget_id};
use ledger::{DEFAULT_TENANT, Limits, Role, WantedKey, make_key, now_ms, reset_problem};
use std::path::PathBuf;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Makes a key and shows it this once.
    Create {
        /// A name to recognise the key by.
        name: String,
        /// Spending limit in dollars; none without it.
        #[arg(long, value_name = "USD")]
        limit: Option<f64>,
        /// When the limit begins anew: daily, weekly or monthly, UTC.
        #[arg(long, value_name = "WHEN", default_value = "", hide_default_value = true)]
        reset: String,
        /// Manages its tenant's keys and reads its books, and asks no model.
        #[arg(long)]
        manager: bool,
        /// The tenant that owns the key.
        #[arg(long, default_value = DEFAULT_TENANT)]
        tenant: String,
        /// Within the tenant, the highest is served first when an endpoint is at its limit.
        #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
        priority: i64,
        #[command(flatten)]
        place: Place,
    },
    /// Lists all keys with what they spent.
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Revokes a key.
    Revoke {
        /// Its name, or the beginning of its hash as `list` shows it.
        key: String,
        #[command(flatten)]
        place: Place,
    },
}

#[derive(clap::Args)]
pub(crate) struct Place {
    /// The gateway's configuration file, for its [database].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Place {
    pub(crate) async fn open(&self) -> Result<Database, Failure> {
        Ok(Database::open_with(&self.config()?).await?)
    }

    /// The [database] of the configuration.
    pub(crate) fn config(&self) -> Result<DatabaseConfig, Failure> {
        let config = read_config(self.config.as_deref())?.database().clone();
        match config.url.problem() {
            None => Ok(config),
            Some(problem) => Err(Failure::Usage(format!("database.url: {problem}"))),
        }
    }
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Create { name, limit, reset, manager, tenant, priority, place } => {
            if let Some(problem) = reset_problem(&reset) {
                return Err(Failure::Usage(format!("--reset: {problem}")));
            }
            let limits = Limits { hard: limit.map(dollars).transpose()?, reset, ..Limits::default() };
            let role = if manager { Role::Manager } else { Role::Member };
            create(&place, WantedKey { tenant, name, role, limits, priority, ..WantedKey::default() }).await
        }
        Command::List { place } => list(&place).await,
        Command::Revoke { key, place } => revoke(&place, &key).await,
    }
}

fn dollars(usd: f64) -> Result<NanoUsd, Failure> {
    let limit = NanoUsd::from_usd(usd).filter(|limit| *limit >= NanoUsd::ZERO);
    limit.ok_or_else(|| Failure::Usage(format!("--limit: {usd} is no amount; use dollars, 0 or more")))
}

async fn create(place: &Place, wanted: WantedKey) -> Result<(), Failure> {
    let made = make_key(&place.open().await?, wanted).await?;
    println!("{}", made.token);
    eprintln!("key `{}` of tenant `{}`; it is not shown again", made.key.row.name, made.key.row.tenant_id);
    Ok(())
}

async fn list(place: &Place) -> Result<(), Failure> {
    println!(
        "{:<14} {:<24} {:<14} {:>14} {:>14}  {:<8} state",
        "hash", "name", "tenant", "limit USD", "spent USD", "role"
    );
    let database = place.open().await?;
    for key in database.keys(None).await? {
        let budget = database.budget(&budget_id("key", &key.hash)).await?.unwrap_or_default();
        let limit = budget.limit_nano.map_or_else(|| "none".to_owned(), |nano| NanoUsd(nano).to_string());
        let is_over = key.expires_ms.is_some_and(|end| end <= now_ms());
        let state = if key.disabled {
            "revoked"
        } else if is_over {
            "expired"
        } else {
            "active"
        };
        let name: String = key.name.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        let (hash, spent) = (&key.hash[..12], NanoUsd(key.usage_nano));
        println!(
            "{hash:<14} {name:<24} {:<14} {limit:>14} {:>14}  {:<8} {state}",
            key.tenant_id,
            spent.to_string(),
            key.role
        );
    }
    Ok(())
}

async fn revoke(place: &Place, key: &str) -> Result<(), Failure> {
    match place.open().await?.disable_key(key).await? {
        0 => Err(Failure::Usage(format!("no active key `{key}`; `sluice keys list` shows all"))),
        1 => {
            println!("revoked `{key}`");
            Ok(())
        }
        many => Err(Failure::Usage(format!("`{key}` means {many} keys; use the hash that `sluice keys list` shows"))),
    }
}
