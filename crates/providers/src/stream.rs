//! A streamed answer: decoded chunks with their deadlines and limits.

use crate::client::LIMITS;
use crate::config::Provider;
use crate::error::{Failure, Kind};
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use protocol::dialect::openai_chat::{self, StreamItem};
use protocol::{Chunk, Collector, SseDecoder, SseError};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// A streamed answer whose first content has arrived; dropping it cancels the upstream.
pub struct ReplyStream {
    provider: Arc<Provider>,
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    decoder: SseDecoder,
    ready: VecDeque<Result<StreamItem, Failure>>,
    received_bytes: usize,
    reply_bytes_max: usize,
    collector: Collector,
    /// How many alternatives were asked for.
    choices: u64,
    deadline: Instant,
    ended: bool,
}

impl ReplyStream {
    /// Reads until something a client would see has arrived; up to then another endpoint can still answer.
    pub(crate) async fn open(
        provider: Arc<Provider>,
        response: reqwest::Response,
        choices: u64,
        (first_by, deadline): (Instant, Instant),
    ) -> Result<Self, Failure> {
        let mut stream = Self {
            provider,
            body: response.bytes_stream().boxed(),
            decoder: SseDecoder::new(LIMITS.event_bytes_max),
            ready: VecDeque::new(),
            received_bytes: 0,
            reply_bytes_max: LIMITS.reply_bytes_max,
            choices,
            collector: Collector::default(),
            deadline,
            ended: false,
        };
        let mut held = VecDeque::new();
        loop {
            let Some(item) = stream.next_item(first_by).await else {
                let failure = stream.fail(Kind::Cut, "the stream ended before any content");
                return Err(failure);
            };
            match item? {
                StreamItem::Chunk(chunk) => {
                    let has_content = chunk.has_content();
                    held.push_back(Ok(StreamItem::Chunk(chunk)));
                    if has_content {
                        break;
                    }
                }
                StreamItem::Done => return Err(stream.fail(Kind::Malformed, "the stream ended without content")),
                StreamItem::Error(message) => return Err(stream.fail(Kind::Broken, message)),
            }
        }
        held.append(&mut stream.ready);
        stream.ready = held;
        Ok(stream)
    }

    /// The next chunk; `None` after a clean end.
    ///
    /// # Errors
    /// When the stream breaks, stalls, outgrows a limit or ends without a terminal event.
    pub async fn next(&mut self) -> Option<Result<Chunk, Failure>> {
        if self.ended {
            return None;
        }
        let idle_by = (Instant::now() + self.provider.idle_timeout).min(self.deadline);
        let outcome = match self.next_item(idle_by).await {
            Some(Ok(StreamItem::Chunk(chunk))) => {
                self.collector.push(&chunk);
                return Some(Ok(*chunk));
            }
            Some(Ok(StreamItem::Done)) if self.collector.has_ended(self.choices) => None,
            Some(Ok(StreamItem::Done)) => Some(Err(self.fail(Kind::Cut, "the stream ended inside the answer"))),
            // Some compatible servers close after the last finish_reason without `[DONE]`.
            None if self.collector.has_ended(self.choices) => None,
            None => Some(Err(self.fail(Kind::Cut, "the stream ended without a terminal event"))),
            Some(Ok(StreamItem::Error(message))) => Some(Err(self.fail(Kind::Broken, message))),
            Some(Err(failure)) => Some(Err(failure)),
        };
        self.ended = true;
        outcome
    }

    /// `None` at the end of the body.
    async fn next_item(&mut self, by: Instant) -> Option<Result<StreamItem, Failure>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(item);
            }
            let bytes = match timeout_at(by, self.body.next()).await {
                Err(_) => return Some(Err(self.fail(Kind::Timeout, "no data within the deadline"))),
                Ok(None) => return None,
                Ok(Some(Err(_))) => return Some(Err(self.fail(Kind::Cut, "the connection broke inside the answer"))),
                Ok(Some(Ok(bytes))) => bytes,
            };
            self.received_bytes += bytes.len();
            if self.received_bytes > self.reply_bytes_max {
                return Some(Err(self.fail(Kind::TooLarge, format!("over {} bytes", self.reply_bytes_max))));
            }
            match self.decoder.feed(&bytes) {
                Ok(events) => {
                    let decoded = events.iter().map(|data| {
                        openai_chat::decode_event(data).map_err(|error| self.fail(Kind::Malformed, error.to_string()))
                    });
                    let decoded: Vec<_> = decoded.collect();
                    self.ready.extend(decoded);
                }
                Err(error @ SseError::EventTooLarge { .. }) => {
                    return Some(Err(self.fail(Kind::TooLarge, error.to_string())));
                }
                Err(error) => return Some(Err(self.fail(Kind::Malformed, error.to_string()))),
            }
        }
    }

    fn fail(&self, kind: Kind, message: impl Into<String>) -> Failure {
        Failure { kind, provider: self.provider.name.clone(), status: None, message: message.into(), retry_after: None }
    }
}
