//! `sluice content`: prompts, answers and scores of tenants who agreed to have them kept.

use crate::failure::Failure;
use crate::keys::Place;
use catalog::NanoUsd;
use database::{Content, ContentFile, DatabaseConfig, content_path};
use serde_json::value::RawValue;
use std::io::Write;
use std::path::PathBuf;
use trainer::router::LoggedAnswer;

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Writes one JSON object a line for each answer, oldest first, with its scores: what `sluice train router --log`
    /// reads. A running gateway is not disturbed.
    Export {
        /// Of this tenant only.
        #[arg(long, value_name = "TENANT")]
        tenant: Option<String>,
        /// Writes to a file instead of standard output.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        #[command(flatten)]
        place: Place,
    },
}

/// Answers read at once.
const PAGE: i64 = 500;

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let Command::Export { tenant, out, place } = command;
    let database = place.config()?;
    match out {
        None => export(&database, tenant.as_deref(), &mut std::io::stdout().lock()).await.map(|_| ()),
        Some(out) => {
            let mut file = std::io::BufWriter::new(std::fs::File::create(&out)?);
            let count = export(&database, tenant.as_deref(), &mut file).await?;
            file.flush()?;
            println!("{count} answers written to {}", out.display());
            Ok(())
        }
    }
}

/// True where contents were ever kept: looking for them makes no file.
pub(crate) fn has_contents(database: &DatabaseConfig) -> bool {
    database.url.is_postgres() || content_path(&database.local_path()).is_file()
}

/// Writes all answers; returns how many.
pub(crate) async fn export(
    database: &DatabaseConfig,
    tenant: Option<&str>,
    out: &mut dyn Write,
) -> Result<usize, Failure> {
    if !has_contents(database) {
        let path = content_path(&database.local_path());
        let problem = format!("{}: no such file; name tenants in [content] and serve some requests", path.display());
        return Err(Failure::Usage(problem));
    }
    let file = ContentFile::beside(database, None).await?;
    let (mut after, mut count) = (None, 0);
    loop {
        let page = file.page(tenant, after.as_ref(), PAGE).await?;
        let Some(last) = page.last() else { return Ok(count) };
        after = Some((last.created_ms, last.generation_id.clone()));
        for content in page {
            let scores = file.scores(&content.tenant_id, &content.generation_id).await?;
            let scores = scores.into_iter().map(|score| (score.rater, score.score)).collect();
            let line = serde_json::to_string(&logged(content, scores)?).map_err(std::io::Error::other)?;
            writeln!(out, "{line}")?;
            count += 1;
        }
    }
}

fn logged(content: Content, scores: std::collections::BTreeMap<String, f64>) -> Result<LoggedAnswer, Failure> {
    Ok(LoggedAnswer {
        id: content.generation_id,
        tenant: content.tenant_id,
        created_ms: content.created_ms,
        policy: content.policy,
        model: content.model,
        question: content.question,
        messages: RawValue::from_string(content.messages).map_err(std::io::Error::other)?,
        answer: content.answer,
        output_tokens: content.output_tokens.unsigned_abs(),
        cost_usd: NanoUsd(content.cost_nano).as_usd(),
        source: content.source_id,
        scores,
    })
}
