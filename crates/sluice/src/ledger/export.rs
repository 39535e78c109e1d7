//! `sluice ledger export`: the records of requests as JSON lines or CSV.

use crate::failure::Failure;
use database::Database;
use std::io::Write;

/// Which records.
pub(super) struct Records {
    pub database: Database,
    pub tenant: Option<String>,
    /// From one to before another, in milliseconds since 1970.
    pub times: (i64, i64),
}

/// Records read at once.
const PAGE: i64 = 1_000;

impl Records {
    /// Writes them all, oldest first.
    pub(super) async fn write(&self, as_csv: bool, out: Box<dyn Write>) -> Result<(), Failure> {
        let mut out = if as_csv { Form::Csv(Box::new(csv::Writer::from_writer(out))) } else { Form::Json(out) };
        let mut after = None;
        loop {
            let page = self.database.generations(self.tenant.as_deref(), self.times, after.as_ref(), PAGE).await?;
            let Some(last) = page.last() else { return out.finish() };
            after = Some((last.created_ms, last.id.clone()));
            for record in &page {
                match &mut out {
                    Form::Csv(rows) => rows.serialize(record)?,
                    Form::Json(out) => {
                        serde_json::to_writer(&mut *out, record).map_err(std::io::Error::from)?;
                        writeln!(out)?;
                    }
                }
            }
        }
    }
}

enum Form {
    Csv(Box<csv::Writer<Box<dyn Write>>>),
    Json(Box<dyn Write>),
}

impl Form {
    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Csv(mut rows) => rows.flush()?,
            Self::Json(mut out) => out.flush()?,
        }
        Ok(())
    }
}
