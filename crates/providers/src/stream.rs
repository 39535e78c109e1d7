//! A streamed answer: decoded chunks with their deadlines and limits.

use crate::attempt::UnderWay;
use crate::body::Body;
use crate::breaker::Outcome;
use crate::client::LIMITS;
use crate::credential::Credential;
use crate::error::{Failure, Kind};
use crate::frames::{FrameError, Frames};
use crate::gate::Permit;
use crate::statistics::{Seen, Statistics};
use protocol::dialect::{Dialect, StreamDecoder, StreamItem};
use protocol::{Chunk, ChunkChoice, Collector, Reply, Usage};
use serde::de::IgnoredAny;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A streamed answer whose first content has arrived; dropping it cancels the upstream.
pub struct ReplyStream {
    provider: String,
    body: Body,
    frames: Frames,
    decoder: StreamDecoder,
    ready: VecDeque<Result<StreamItem, Failure>>,
    collector: Collector,
    /// How many alternatives were asked for.
    choices: u64,
    times: Times,
    empty_events: usize,
    ended: bool,
    /// Held as long as the upstream is at work.
    call: Option<UnderCall>,
    /// When the first content had come.
    begun: Instant,
}

/// What a stream holds while its upstream is at work.
pub(crate) struct UnderCall {
    pub permit: Permit,
    pub under_way: UnderWay,
    pub credential: Credential,
    pub witness: Witness,
}

/// Who writes down how an endpoint has done.
pub(crate) struct Witness {
    pub statistics: Arc<Statistics>,
    pub endpoint: String,
}

impl Witness {
    pub(crate) fn saw(&self, seen: Seen) {
        self.statistics.note(&self.endpoint, seen, std::time::Instant::now());
    }

    /// An answer has come to its end; `time` is how long its output took.
    pub(crate) fn answered(&self, reply: &Reply, time: Duration) {
        self.saw(Seen::Good);
        let tokens = reply.usage.as_ref().and_then(Usage::from_openai).map(Usage::completion_tokens);
        if let Some(tokens) = tokens.filter(|tokens| *tokens > 0) {
            self.saw(Seen::Output { tokens, time });
        }
        let calls = reply.choices.iter().flat_map(|choice| &choice.message.tool_calls);
        let arguments = calls.map(|call| call.pointer("/function/arguments").and_then(serde_json::Value::as_str));
        let is_good = |text: Option<&str>| text.is_some_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        let (good, bad): (Vec<bool>, Vec<bool>) = arguments.map(is_good).partition(|good| *good);
        if good.len() + bad.len() > 0 {
            self.saw(Seen::Calls { good: good.len() as u64, bad: bad.len() as u64 });
        }
    }
}

/// What a stream is read from.
pub(crate) struct Source {
    pub body: Body,
    pub dialect: Dialect,
}

/// When a stream is too late.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub first_by: Instant,
    pub deadline: Instant,
    /// Between two events.
    pub idle: Duration,
    /// What passing `deadline` means: the endpoint's fault, or the request's wish.
    pub late: Kind,
}

/// Indices of tool calls beyond it are no answer to anything.
const TOOL_CALLS_MAX: u64 = 1_024;

impl ReplyStream {
    /// Reads until something a client would see has arrived; up to then another endpoint can still answer.
    pub(crate) async fn open(provider: &str, source: Source, choices: u64, times: Times) -> Result<Self, Failure> {
        let Source { body, dialect } = source;
        let mut stream = Self {
            provider: provider.to_owned(),
            body,
            frames: Frames::new(dialect, LIMITS.event_bytes_max),
            decoder: StreamDecoder::new(dialect),
            ready: VecDeque::new(),
            collector: Collector::default(),
            choices,
            times,
            empty_events: 0,
            ended: false,
            call: None,
            begun: Instant::now(),
        };
        let mut held = VecDeque::new();
        let mut usage = None;
        loop {
            let Some(item) = stream.next_item(times.first_by).await else {
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
                    return Err(Failure { usage: usage.map(Box::new), ..failure });
                }
                StreamItem::Error(message) => return Err(stream.fail(Kind::Broken, message)),
            }
        }
        held.append(&mut stream.ready);
        stream.ready = held;
        Ok(stream)
    }

    /// Keeps the right to call, and the record of the call, until the end.
    pub(crate) fn of_call(mut self, call: UnderCall) -> Self {
        self.call = Some(call);
        self.begun = Instant::now();
        self
    }

    /// The next chunk; `None` after a clean end.
    ///
    /// # Errors
    /// When the stream breaks, stalls, outgrows a limit or ends without a terminal event.
    pub async fn next(&mut self) -> Option<Result<Chunk, Failure>> {
        if self.ended {
            return None;
        }
        let idle_by = Instant::now() + self.times.idle;
        let outcome = match self.next_item(idle_by.min(self.times.deadline)).await {
            Some(Err(failure)) if failure.kind == Kind::Timeout && self.times.deadline < idle_by => {
                Some(Err(Failure { kind: self.times.late, ..failure }))
            }
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
        let Some(UnderCall { permit, under_way, credential, witness }) = self.call.take() else { return outcome };
        match outcome {
            Some(Err(failure)) => {
                if let Some(outcome) = failure.outcome() {
                    permit.record(outcome);
                    witness.saw(Seen::Bad);
                }
                under_way.broke(failure.kind);
                Some(Err(credential.redacted(failure)))
            }
            other => {
                permit.record(Outcome::Ended);
                if let Some(reply) = self.collector.so_far() {
                    witness.answered(reply, self.begun.elapsed());
                }
                other
            }
        }
    }

    /// The answer so far, put together.
    pub fn collected(&mut self) -> Collector {
        std::mem::take(&mut self.collector)
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
            match self.frames.feed(&bytes) {
                Ok(events) => events.iter().for_each(|data| self.decode(data)),
                Err(FrameError::TooLarge(message)) => return Some(Err(self.fail(Kind::TooLarge, message))),
                Err(FrameError::Malformed(message)) => return Some(Err(self.fail(Kind::Malformed, message))),
            }
        }
    }

    fn decode(&mut self, data: &str) {
        match self.decoder.decode(data) {
            // An event that says nothing to a client still counts as one: a stream of them must not be endless.
            Ok(items) if items.is_empty() => self.empty_events += 1,
            Ok(items) => self.ready.extend(items.into_iter().map(Ok)),
            Err(error) => {
                let failure = self.fail(Kind::Malformed, error.to_string());
                self.ready.push_back(Err(failure));
            }
        }
        if self.empty_events > LIMITS.empty_events_max {
            let message = format!("over {} events in a row say nothing", LIMITS.empty_events_max);
            let failure = self.fail(Kind::TooLarge, message);
            self.ready.push_back(Err(failure));
        }
    }

    /// An endless stream of events that say nothing would otherwise pass every limit of bytes, and so would choices and
    /// tool calls that nobody asked for.
    fn counted(&mut self, item: Result<StreamItem, Failure>) -> Result<StreamItem, Failure> {
        if let Ok(StreamItem::Chunk(chunk)) = &item {
            let calls = |choice: &ChunkChoice| {
                let indices = choice.delta.tool_calls.iter().flatten().filter_map(|call| call["index"].as_u64());
                indices.max().is_some_and(|index| index >= TOOL_CALLS_MAX)
            };
            if chunk.choices.iter().any(|choice| u64::from(choice.index) >= self.choices || calls(choice)) {
                return Err(self.fail(Kind::Malformed, "an event is of a choice or tool call that cannot be"));
            }
        }
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

impl Drop for ReplyStream {
    /// A reader who leaves says nothing bad about the endpoint.
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            call.permit.record(Outcome::Ended);
        }
    }
}
