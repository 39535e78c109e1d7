//! Why a command failed, and its exit code: 1 failed, 2 wrong usage.

use cache::CacheModelError;
use catalog::{DocumentError, ListingError, MergeError};
use database::DatabaseError;
use embedding::EmbeddingError;
use gateway::StartError;
use gateway::config::ConfigError;
use ledger::{LedgerError, StatementError};
use router::PredictorError;
use simulator::AnswersError;
use std::process::ExitCode;
use thiserror::Error;
use trainer::DataError;
use trainer::cache::FitError;

#[derive(Debug, Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("{0}")]
    Database(#[from] DatabaseError),
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    #[error("{0}")]
    Answers(#[from] AnswersError),
    #[error("{0}")]
    Data(#[from] DataError),
    #[error("{0}")]
    Fit(#[from] FitError),
    #[error("{0}")]
    Embedding(#[from] EmbeddingError),
    #[error("{0}")]
    CacheModel(#[from] CacheModelError),
    #[error("{0}")]
    Predictor(#[from] PredictorError),
    #[error("{wrong} of {all} examples are decided otherwise")]
    Examples { wrong: usize, all: usize },
    #[error("{0}")]
    Request(String),
    #[error("{0}")]
    Disagreement(String),
    #[error("{0}")]
    Statement(#[from] StatementError),
    #[error("{0}")]
    Csv(csv::Error),
    #[error("{0}")]
    Catalogue(#[from] ListingError),
    #[error("{0}")]
    Document(#[from] DocumentError),
    #[error("not merged: {0}")]
    Merge(#[from] MergeError),
    #[error("{0}")]
    Upstream(#[from] Box<providers::Failure>),
    #[error("{0}")]
    Client(#[from] providers::ClientError),
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

impl From<csv::Error> for Failure {
    fn from(error: csv::Error) -> Self {
        match error.is_io_error() {
            true => Self::Io(error.into()),
            false => Self::Csv(error),
        }
    }
}

impl Failure {
    /// True where whoever reads our output has left.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Io(error) if error.kind() == std::io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Config(_) | Self::Usage(_) | Self::Answers(_) | Self::Data(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}
