//! How long each part of a call may take.

use crate::provider::Provider;
use catalog::Endpoint;
use protocol::SluiceOptions;
use std::time::Duration;

/// The deadlines of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadlines {
    pub connect: Duration,
    /// Until the first content of a stream.
    pub first_token: Duration,
    /// Between two events of a stream.
    pub idle: Duration,
    pub total: Duration,
}

impl Deadlines {
    /// The provider's, but where the endpoint has its own.
    pub(crate) fn of(provider: &Provider, endpoint: &Endpoint) -> Self {
        let own = |ms: Option<u64>, else_: Duration| ms.map_or(else_, Duration::from_millis);
        let general = provider.deadlines;
        Self {
            connect: general.connect,
            first_token: own(endpoint.first_token_timeout_ms, general.first_token),
            idle: own(endpoint.idle_timeout_ms, general.idle),
            total: own(endpoint.total_timeout_ms, general.total),
        }
    }

    /// The same, or less where the request asks for less.
    pub(crate) fn tightened(self, options: &SluiceOptions) -> Self {
        let least = |ms: Option<u64>, known: Duration| ms.map_or(known, |ms| known.min(Duration::from_millis(ms)));
        Self {
            first_token: least(options.first_token_timeout_ms, self.first_token),
            total: least(options.timeout_ms, self.total),
            ..self
        }
    }
}
