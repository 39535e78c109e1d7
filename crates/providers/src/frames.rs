//! How a stream's events are cut out of its bytes: server-sent events, or AWS's binary framing.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;
use bytes::{Buf, BytesMut};
use protocol::dialect::Dialect;
use protocol::{SseDecoder, SseError};

/// Turns bytes, cut anywhere, into the data of each event.
pub(crate) enum Frames {
    Sse(SseDecoder),
    Aws(Box<AwsFrames>),
}

/// Says why bytes are no stream of events.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FrameError {
    TooLarge(String),
    Malformed(String),
}

/// Messages of `application/vnd.amazon.eventstream`; each event becomes `{"<type>": payload}`.
pub(crate) struct AwsFrames {
    held: BytesMut,
    event_bytes_max: usize,
}

impl Frames {
    pub(crate) fn new(dialect: Dialect, event_bytes_max: usize) -> Self {
        match dialect {
            Dialect::Bedrock => Self::Aws(Box::new(AwsFrames { held: BytesMut::new(), event_bytes_max })),
            _ => Self::Sse(SseDecoder::new(event_bytes_max)),
        }
    }

    /// The data of every event that is now complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, FrameError> {
        match self {
            Self::Sse(decoder) => decoder.feed(bytes).map_err(|error| match error {
                SseError::EventTooLarge { .. } => FrameError::TooLarge(error.to_string()),
                SseError::NotUtf8 => FrameError::Malformed(error.to_string()),
            }),
            Self::Aws(frames) => frames.feed(bytes),
        }
    }
}

impl AwsFrames {
    fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, FrameError> {
        self.held.extend_from_slice(bytes);
        let mut events = Vec::new();
        loop {
            // A message begins with its own length: a large one is refused before it is held.
            let Some(mut prelude) = self.held.get(..4) else { return Ok(events) };
            let bytes = prelude.get_u32() as usize;
            if bytes > self.event_bytes_max {
                return Err(FrameError::TooLarge(format!("an event is larger than {} bytes", self.event_bytes_max)));
            }
            if self.held.len() < bytes.max(4) {
                return Ok(events);
            }
            let mut whole = self.held.split_to(bytes.max(4));
            let message = read_message_from(&mut whole);
            let message = message.map_err(|error| FrameError::Malformed(format!("an event is broken: {error}")))?;
            events.push(event(&message)?);
        }
    }
}

fn event(message: &Message) -> Result<String, FrameError> {
    let header = |name: &str| {
        let found = message.headers().iter().find(|header| header.name().as_str() == name)?;
        found.value().as_string().ok().map(|text| text.as_str().to_owned())
    };
    let kind = [":exception-type", ":event-type", ":error-code"].into_iter().find_map(header);
    let kind = kind.ok_or_else(|| FrameError::Malformed("an event has no type".to_owned()))?;
    let payload = std::str::from_utf8(message.payload())
        .map_err(|_| FrameError::Malformed("an event is not UTF-8".to_owned()))?;
    let payload = if payload.is_empty() { "{}" } else { payload };
    let kind = if header(":error-code").is_some() { format!("{kind}Exception") } else { kind };
    Ok(format!("{{{}:{payload}}}", serde_json::Value::String(kind)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue};

    fn framed(header: &'static str, kind: &'static str, payload: &'static str) -> Vec<u8> {
        let message =
            Message::new(payload.as_bytes().to_vec()).add_header(Header::new(header, HeaderValue::String(kind.into())));
        let mut bytes = Vec::new();
        write_message_to(&message, &mut bytes).expect("memory takes it");
        bytes
    }

    #[test]
    fn events_and_exceptions_are_found_however_the_bytes_are_cut() {
        let mut wire = framed(":event-type", "messageStart", r#"{"role":"assistant"}"#);
        wire.extend(framed(":exception-type", "throttlingException", r#"{"message":"slow"}"#));
        for piece in [1, 5, 1_000] {
            let mut frames = Frames::new(Dialect::Bedrock, 1 << 20);
            let events: Vec<String> = wire.chunks(piece).flat_map(|bytes| frames.feed(bytes).expect("valid")).collect();
            assert_eq!(
                events,
                [r#"{"messageStart":{"role":"assistant"}}"#, r#"{"throttlingException":{"message":"slow"}}"#]
            );
        }
    }

    #[test]
    fn a_large_or_broken_event_is_refused_before_it_is_held() {
        let mut frames = Frames::new(Dialect::Bedrock, 100);
        assert!(matches!(frames.feed(&[0, 16, 0, 0]), Err(FrameError::TooLarge(_))));
        let mut broken = framed(":event-type", "x", "{}");
        let last = broken.len() - 1;
        broken[last] ^= 1;
        assert!(matches!(Frames::new(Dialect::Bedrock, 1 << 20).feed(&broken), Err(FrameError::Malformed(_))));
    }
}
