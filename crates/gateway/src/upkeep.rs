//! What is done beside requests: taking out of the cache what was erased elsewhere, letting credits end, deleting old records.

use crate::app::App;
use ledger::{DAY_MS, ERASURES_TOLD_MS, now_ms};
use std::collections::HashMap;
use std::time::Duration;

/// How often other gateways' erasures are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Every so many looks, what has ended is swept.
const SWEEP_EVERY: u32 = 30;

/// Tends to the stores; never returns.
pub(crate) async fn tend(app: App) {
    let mut since_ms = now_ms() - ERASURES_TOLD_MS; // what was erased while this gateway was away
    for look in 0_u32.. {
        match erase(&app, since_ms).await {
            Ok(next) => since_ms = next,
            Err(error) => tracing::warn!(%error, "erasures of other gateways could not be read; will retry"),
        }
        if look % SWEEP_EVERY == 0 {
            sweep(&app).await;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Takes out of this gateway's cache what was erased since a time, and what was kept of requests that were under way then;
/// returns the next such time.
async fn erase(app: &App, since_ms: i64) -> Result<i64, database::DatabaseError> {
    let (erased, next) = app.ledger.erased_since(since_ms).await?;
    let mut by_tenant: HashMap<String, Vec<String>> = HashMap::new();
    for (tenant, id) in erased {
        by_tenant.entry(tenant).or_default().push(id);
    }
    for (tenant, ids) in by_tenant {
        app.cache.erase(&tenant, &ids).await?;
        if let Some(contents) = &app.contents {
            contents.erase(&tenant, &ids).await?;
        }
    }
    Ok(next)
}

async fn sweep(app: &App) {
    match app.ledger.expire_credits(now_ms()).await {
        Ok(expired) if expired > catalog::NanoUsd::ZERO => tracing::info!(%expired, "credits have ended"),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "credits that have ended could not be booked; will retry"),
    }
    let days = app.config.database.generation_days;
    let before_ms = (days > 0).then(|| now_ms() - i64::from(days) * DAY_MS);
    if let Err(error) = app.ledger.sweep(before_ms).await {
        tracing::warn!(%error, "old records could not be deleted; will retry");
    }
}
