//! Turns a reply and a fault into an HTTP answer, whole or streamed.

use crate::fault::{Fault, Rule};
use crate::log::Watched;
use crate::wire::ResetOnClose;
use axum::Json;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream::{self, StreamExt};
use protocol::dialect::openai_chat::{DONE, encode_event};
use protocol::{Reply, replay};
use serde_json::json;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::OnceLock;
use std::time::Duration;

/// What was said must have left before the connection ends.
const FLUSH: Duration = Duration::from_millis(20);
const FOR_EVER: Duration = Duration::from_secs(86_400);
const TRICKLE_BYTES: usize = 7;
const MANY_EVENTS: usize = 1_000_000;
const BIG_BYTES: usize = 32 * 1024 * 1024;
const BOMB_BYTES: usize = 200 * 1024 * 1024;

/// One step of an answer's body.
enum Step {
    Send(Bytes),
    Wait(Duration),
    /// The connection ends here.
    Break,
    /// All of the answer has been sent.
    End,
}

/// A call that is about to be answered.
pub(crate) struct Answer {
    pub watched: Watched,
    pub rule: Option<Rule>,
    pub fault: Option<Fault>,
    pub streamed: bool,
    pub latency: Duration,
    pub reset: ResetOnClose,
    pub authorization: String,
}

pub(crate) fn error(status: StatusCode, message: &str) -> Response {
    let error = json!({"message": message, "type": "simulated", "code": status.as_u16()});
    (status, Json(json!({ "error": error }))).into_response()
}

impl Answer {
    /// Answers, or fails in the way of the fault.
    pub(crate) fn respond(mut self, reply: &Reply) -> Response {
        if let Some(response) = self.fault.and_then(|fault| self.refusal(fault)) {
            self.watched.fail();
            return response;
        }
        match self.fault {
            Some(Fault::BigEvent) => return self.blocks(b"data: {\"x\":\"".to_vec(), &[b'x'; 65_536], BIG_BYTES),
            Some(Fault::ManyEvents) => {
                let block = b"data: {\"choices\":[]}\n\n".repeat(1_000);
                let bytes = block.len() * (MANY_EVENTS / 1_000);
                return self.blocks(Vec::new(), &block, bytes);
            }
            Some(Fault::GzipBomb) => {
                let mut response = self.body(VecDeque::from([Step::Send(bomb()), Step::End]), reply);
                response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                return response;
            }
            Some(Fault::Gzip) => {
                let steps = if self.streamed { self.stream_steps(reply) } else { self.whole_steps(reply) };
                let mut response = self.body(VecDeque::from([Step::Send(packed(&joined(&steps))), Step::End]), reply);
                response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                return response;
            }
            _ => {}
        }
        let steps = if self.streamed { self.stream_steps(reply) } else { self.whole_steps(reply) };
        let promised = (self.fault == Some(Fault::CutBody)).then(|| reply_bytes(reply).len());
        let padded = self.fault == Some(Fault::BigHeaders);
        let mut response = self.body(steps, reply);
        if let Some(bytes) = promised {
            response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
        }
        if padded {
            for at in 0..32 {
                let name = HeaderName::try_from(format!("x-padding-{at}")).expect("a header name");
                let value = HeaderValue::try_from("p".repeat(4_096)).expect("a header value");
                response.headers_mut().insert(name, value);
            }
        }
        response
    }

    fn error_body(&self) -> Bytes {
        let message = format!("the simulator was told to fail; it was sent `{}`", self.authorization);
        Bytes::from(json!({"error": {"message": message, "code": 502}}).to_string())
    }

    /// The faults that are an answer without a reply.
    fn refusal(&self, fault: Fault) -> Option<Response> {
        let with = |status: u16, retry_after: Option<u64>| {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let mut response =
                error(status, &format!("the simulator was told to fail; it was sent `{}`", self.authorization));
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        };
        let hint = self.rule.and_then(|rule| rule.delay_ms).map_or(7, |ms| ms.div_ceil(1_000));
        Some(match fault {
            Fault::RateLimited => with(429, Some(hint)),
            Fault::RateLimitedBare => with(429, None),
            Fault::Limited => with(429, Some(1)),
            Fault::Refused => with(400, None),
            Fault::Credential => with(401, None),
            Fault::Withdrawn => with(404, None),
            Fault::Broken => with(500, None),
            Fault::Unavailable => with(503, Some(1)),
            Fault::Overloaded => with(529, None),
            Fault::Html => {
                let page = "<html><body>upstream at 10.1.2.3 is away</body></html>";
                (StatusCode::BAD_GATEWAY, [(header::CONTENT_TYPE, "text/html")], page).into_response()
            }
            Fault::Redirect => {
                (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "http://127.0.0.1:9/elsewhere")]).into_response()
            }
            Fault::Empty => StatusCode::OK.into_response(),
            _ => return None,
        })
    }

    fn whole_steps(&self, reply: &Reply) -> VecDeque<Step> {
        let all = reply_bytes(reply);
        let (first, second) = (all.slice(..all.len() / 2), all.slice(all.len() / 2..));
        let pause = self.rule.and_then(|rule| rule.delay_ms).map_or(FOR_EVER, Duration::from_millis);
        VecDeque::from(match self.fault {
            Some(Fault::CutBefore) => vec![Step::Break],
            Some(Fault::CutAfter | Fault::CutBody | Fault::Reset) => {
                vec![Step::Send(first), Step::Wait(FLUSH), Step::Break]
            }
            Some(Fault::Stall) => vec![Step::Send(first), Step::Wait(pause), Step::Send(second), Step::End],
            Some(Fault::NoTerminal) => vec![Step::Send(first), Step::End],
            Some(Fault::BadJson) => vec![Step::Send(Bytes::from_static(b"{\"choices\": [broken")), Step::End],
            Some(Fault::ErrorEvent) => vec![Step::Send(self.error_body()), Step::End],
            Some(Fault::Trickle) => return trickle(&all),
            Some(Fault::Comments | Fault::Crlf) => {
                vec![Step::Send(Bytes::from_static(b"\r\n\r\n \n")), Step::Send(all), Step::End]
            }
            _ => vec![Step::Send(all), Step::End],
        })
    }

    fn stream_steps(&self, reply: &Reply) -> VecDeque<Step> {
        let chunks = replay(reply);
        let pause = self.rule.and_then(|rule| rule.delay_ms).map_or(FOR_EVER, Duration::from_millis);
        let line_end =
            |event: String| if self.fault == Some(Fault::Crlf) { event.replace('\n', "\r\n") } else { event };
        let mut steps = VecDeque::new();
        for (at, chunk) in chunks.iter().enumerate() {
            // 0 opens the message, 1 is the first text; a reply has at least those two and its end.
            match self.fault {
                Some(Fault::CutBefore) if at == 1 => return and(steps, [Step::Wait(FLUSH), Step::Break]),
                Some(Fault::CutAfter | Fault::CutBody | Fault::Reset) if at == 2 => {
                    return and(steps, [Step::Wait(FLUSH), Step::Break]);
                }
                Some(Fault::Stall) if at == 2 => steps.push_back(Step::Wait(pause)),
                Some(Fault::NoTerminal) if at + 1 == chunks.len() => return and(steps, [Step::End]),
                Some(Fault::BadJson) if at == 2 => {
                    steps.push_back(Step::Send(Bytes::from_static(b"data: {\"choices\": [broken\n\n")));
                }
                Some(Fault::ErrorEvent) if at == 2 => {
                    steps.push_back(Step::Send(Bytes::from([b"data: ", &self.error_body()[..], b"\n\n"].concat())));
                    return and(steps, [Step::End]);
                }
                Some(Fault::Comments) => steps.push_back(Step::Send(Bytes::from_static(b": still here\n\n"))),
                _ => {}
            }
            let event = encode_event(chunk).map(line_end).unwrap_or_default();
            steps.push_back(Step::Send(Bytes::from(event)));
            if !self.latency.is_zero() {
                steps.push_back(Step::Wait(self.latency / 10));
            }
        }
        let usage = json!({"id": reply.id, "object": "chat.completion.chunk", "created": reply.created,
            "model": reply.model, "choices": [], "usage": reply.usage, "provider": "simulated"});
        let usage = encode_event(&usage).map(line_end).unwrap_or_default();
        steps.push_back(Step::Send(Bytes::from(usage)));
        steps.push_back(Step::Send(Bytes::from(line_end(DONE.to_owned()))));
        if self.fault == Some(Fault::Trickle) {
            let all: Vec<u8> =
                steps.iter().flat_map(|step| if let Step::Send(b) = step { b.to_vec() } else { vec![] }).collect();
            return trickle(&Bytes::from(all));
        }
        and(steps, [Step::End])
    }

    /// Sends `block` again and again, up to `bytes`, and never ends it well.
    fn blocks(self, opening: Vec<u8>, block: &[u8], bytes: usize) -> Response {
        let block = Bytes::copy_from_slice(block);
        let count = bytes / block.len();
        let kind = if self.streamed { "text/event-stream" } else { "application/json" };
        let mut watched = self.watched;
        let opening = stream::iter([Ok::<_, std::io::Error>(Bytes::from(opening))]);
        let rest = stream::iter(0..count).map(move |at| {
            if at + 1 == count {
                watched.fail();
            }
            Ok(block.clone())
        });
        ([(header::CONTENT_TYPE, kind)], Body::from_stream(opening.chain(rest))).into_response()
    }

    fn body(self, steps: VecDeque<Step>, reply: &Reply) -> Response {
        let kind = if self.streamed { "text/event-stream" } else { "application/json" };
        let count = |name: &str| reply.usage.as_ref().and_then(|usage| usage[name].as_u64()).unwrap_or(0);
        let tokens = (count("prompt_tokens"), count("completion_tokens"));
        // A body in one piece states its length, as providers do.
        if let (Some(Step::Send(all)), Some(Step::End), 2) = (steps.front(), steps.get(1), steps.len()) {
            let (all, mut watched) = (all.clone(), self.watched);
            watched.end(tokens.0, tokens.1);
            return ([(header::CONTENT_TYPE, kind)], all).into_response();
        }
        let state = (self.watched, self.reset, steps, self.fault == Some(Fault::Reset));
        let body = stream::unfold(state, move |(mut watched, reset, mut steps, resets)| async move {
            loop {
                match steps.pop_front()? {
                    Step::Wait(time) => tokio::time::sleep(time).await,
                    Step::Send(bytes) => {
                        if matches!(steps.front(), Some(Step::End)) {
                            watched.end(tokens.0, tokens.1);
                        }
                        return Some((Ok(bytes), (watched, reset, steps, resets)));
                    }
                    Step::Break => {
                        watched.fail();
                        if resets {
                            reset.set();
                        }
                        return Some((Err(std::io::Error::other("told to break")), (watched, reset, steps, resets)));
                    }
                    Step::End => return None,
                }
            }
        });
        ([(header::CONTENT_TYPE, kind)], Body::from_stream(body)).into_response()
    }
}

/// All that would be sent, in one piece.
fn joined(steps: &VecDeque<Step>) -> Bytes {
    let pieces = steps.iter().filter_map(|step| if let Step::Send(bytes) = step { Some(&bytes[..]) } else { None });
    Bytes::from(pieces.collect::<Vec<_>>().concat())
}

fn packed(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    Bytes::from(encoder.finish().expect("memory takes it"))
}

fn and<const N: usize>(mut steps: VecDeque<Step>, last: [Step; N]) -> VecDeque<Step> {
    steps.extend(last);
    steps
}

fn trickle(all: &Bytes) -> VecDeque<Step> {
    let mut steps = VecDeque::new();
    for at in (0..all.len()).step_by(TRICKLE_BYTES) {
        steps.push_back(Step::Send(all.slice(at..all.len().min(at + TRICKLE_BYTES))));
        if at % (TRICKLE_BYTES * 16) == 0 {
            steps.push_back(Step::Wait(Duration::from_millis(1)));
        }
    }
    and(steps, [Step::End])
}

fn reply_bytes(reply: &Reply) -> Bytes {
    Bytes::from(serde_json::to_vec(reply).unwrap_or_default())
}

/// White space, since every JSON reader accepts any amount of it. Takes a second the first time.
pub(crate) fn bomb() -> Bytes {
    static BOMB: OnceLock<Bytes> = OnceLock::new();
    let make = || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        let block = [b' '; 65_536];
        for _ in 0..BOMB_BYTES / block.len() {
            encoder.write_all(&block).expect("memory takes it");
        }
        Bytes::from(encoder.finish().expect("memory takes it"))
    };
    BOMB.get_or_init(make).clone()
}
