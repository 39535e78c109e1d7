//! A streamed answer: decoded chunks with their deadlines and limits.

use crate::attempt::UnderWay;
use crate::body::Body;
use crate::breaker::Outcome;
use crate::client::LIMITS;
use crate::error::{Failure, Kind};
use crate::gate::Permit;
use protocol::dialect::openai_chat::{self, StreamItem};
use protocol::{Chunk, Collector, SseDecoder, SseError, Usage};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// A streamed answer whose first content has arrived; dropping it cancels the upstream.
pub struct ReplyStream {
    provider: String,
    body: Body,
    decoder: SseDecoder,
    ready: VecDeque<Result<StreamItem, Failure>>,
    collector: Collector,
    /// How many alternatives were asked for.
    choices: u64,
    idle: Duration,
    deadline: Instant,
    empty_events: usize,
    ended: bool,
    /// Held as long as the upstream is at work.
    call: Option<(Permit, UnderWay)>,
}

impl ReplyStream {
    /// Reads until something a client would see has arrived; up to then another endpoint can still answer.
    pub(crate) async fn open(
        provider: &str,
        body: Body,
        choices: u64,
        (first_by, deadline, idle): (Instant, Instant, Duration),
    ) -> Result<Self, Failure> {
        let mut stream = Self {
            provider: provider.to_owned(),
            body,
            decoder: SseDecoder::new(LIMITS.event_bytes_max),
            ready: VecDeque::new(),
            collector: Collector::default(),
            choices,
            idle,
            deadline,
            empty_events: 0,
            ended: false,
            call: None,
        };
        let mut held = VecDeque::new();
        let mut usage = None;
        loop {
            let Some(item) = stream.next_item(first_by).await else {
                return Err(stream.fail(Kind::Cut, "the stream ended before any content"));
            };
            match item? {
                StreamItem::Chunk(chunk) => {
                    if chunk.has_failed() {
                        return Err(stream.fail(Kind::Broken, "the answer ended with an error"));
                    }
                    usage = chunk.usage.as_ref().and_then(Usage::from_openai).or(usage);
                    let has_content = chunk.has_content();
                    held.push_back(Ok(StreamItem::Chunk(chunk)));
                    if has_content {
                        break;
                    }
                }
                StreamItem::Done => {
                    let failure = stream.fail(Kind::Empty, "the stream ended without content");
                    return Err(Failure { usage, ..failure });
                }
                StreamItem::Error(message) => return Err(stream.fail(Kind::Broken, message)),
            }
        }
        held.append(&mut stream.ready);
        stream.ready = held;
        Ok(stream)
    }

    /// Keeps the right to call, and the record of the call, until the end.
    pub(crate) fn of_call(self, permit: Permit, under_way: UnderWay) -> Self {
        Self { call: Some((permit, under_way)), ..self }
    }

    /// The next chunk; `None` after a clean end.
    ///
    /// # Errors
    /// When the stream breaks, stalls, outgrows a limit or ends without a terminal event.
    pub async fn next(&mut self) -> Option<Result<Chunk, Failure>> {
        if self.ended {
            return None;
        }
        let idle_by = (Instant::now() + self.idle).min(self.deadline);
        let outcome = match self.next_item(idle_by).await {
            Some(Ok(StreamItem::Chunk(chunk))) if chunk.has_failed() => {
                Some(Err(self.fail(Kind::Broken, "the answer ended with an error")))
            }
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
        if let (Some(Err(failure)), Some((permit, under_way))) = (&outcome, &self.call) {
            permit.record(Outcome::Bad);
            under_way.broke(failure.kind);
        }
        outcome
    }

    /// The answer so far, put together.
    pub fn into_collected(self) -> Collector {
        self.collector
    }

    /// `None` at the end of the body.
    async fn next_item(&mut self, by: Instant) -> Option<Result<StreamItem, Failure>> {
        // An upstream that sends without a pause must not keep the thread from other requests.
        tokio::task::consume_budget().await;
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Some(self.counted(item));
            }
            let bytes = match self.body.next(by).await? {
                Err(failure) => return Some(Err(failure)),
                Ok(bytes) => bytes,
            };
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

    /// An endless stream of events that say nothing would otherwise pass every limit of bytes.
    fn counted(&mut self, item: Result<StreamItem, Failure>) -> Result<StreamItem, Failure> {
        match &item {
            Ok(StreamItem::Chunk(chunk)) if !chunk.has_content() => self.empty_events += 1,
            _ => self.empty_events = 0,
        }
        if self.empty_events > LIMITS.empty_events_max {
            let message = format!("over {} events in a row say nothing", LIMITS.empty_events_max);
            return Err(self.fail(Kind::TooLarge, message));
        }
        item
    }

    fn fail(&self, kind: Kind, message: impl Into<String>) -> Failure {
        Failure::new(&self.provider, kind, message)
    }
}
