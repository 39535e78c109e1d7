//! Incremental decoder of server-sent events (WHATWG HTML, section 9.2), bounded by event size.

use thiserror::Error;

/// Says why a byte stream is not an acceptable event stream.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SseError {
    #[error("an event is larger than {event_bytes_max} bytes")]
    EventTooLarge { event_bytes_max: usize },
    #[error("an event is not UTF-8")]
    NotUtf8,
}

/// Turns bytes, cut anywhere, into the `data` of each event; comments, ids and event names are dropped.
#[derive(Debug)]
pub struct SseDecoder {
    line: Vec<u8>,
    data: Option<String>,
    after_carriage_return: bool,
    event_bytes_max: usize,
}

impl SseDecoder {
    /// Makes a decoder that refuses events above `event_bytes_max` bytes.
    pub fn new(event_bytes_max: usize) -> Self {
        Self { line: Vec::new(), data: None, after_carriage_return: false, event_bytes_max }
    }

    /// Feeds `bytes`; returns the data of every event that is now complete.
    ///
    /// # Errors
    /// When an event exceeds the size limit or a data line is not UTF-8.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Vec<String>, SseError> {
        let mut events = Vec::new();
        for &byte in bytes {
            let follows_carriage_return = std::mem::replace(&mut self.after_carriage_return, byte == b'\r');
            match byte {
                b'\n' if follows_carriage_return => {}
                b'\n' | b'\r' => self.end_line(&mut events)?,
                _ => {
                    self.line.push(byte);
                    self.check_size()?;
                }
            }
        }
        Ok(events)
    }

    fn check_size(&self) -> Result<(), SseError> {
        let held = self.line.len() + self.data.as_ref().map_or(0, String::len);
        if held > self.event_bytes_max {
            return Err(SseError::EventTooLarge { event_bytes_max: self.event_bytes_max });
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<String>) -> Result<(), SseError> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            events.extend(self.data.take());
            return Ok(());
        }
        let Some(value) = line.strip_prefix(b"data") else { return Ok(()) };
        let value = match value {
            [] => value,
            [b':', b' ', rest @ ..] | [b':', rest @ ..] => rest,
            _ => return Ok(()),
        };
        let value = std::str::from_utf8(value).map_err(|_| SseError::NotUtf8)?;
        match &mut self.data {
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
            None => self.data = Some(value.to_owned()),
        }
        self.check_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(input: &str, expected: &[&str]) {
        let events = SseDecoder::new(1 << 20).feed(input.as_bytes()).expect("valid stream");
        assert_eq!(events, expected, "{input:?}");
    }

    #[test]
    fn frames_are_decoded_as_the_standard_says() {
        check("data: a\n\n", &["a"]);
        check("data:a\r\n\r\n", &["a"]);
        check(": keep-alive\n\ndata: a\ndata: b\n\n", &["a\nb"]);
        check("event: x\nid: 3\ndata: {\"k\":1}\n\ndata: [DONE]\n\n", &["{\"k\":1}", "[DONE]"]);
        check("data: unfinished\n", &[]);
        check("database: no\n\n", &[]);
    }

    #[test]
    fn an_event_over_the_limit_is_refused_before_it_is_held() {
        let mut decoder = SseDecoder::new(10);
        assert_eq!(decoder.feed(b"data: 0123456789"), Err(SseError::EventTooLarge { event_bytes_max: 10 }));
    }

    proptest! {
        #[test]
        fn decoding_is_independent_of_chunk_boundaries(
            texts in proptest::collection::vec("[^\r\n]{0,12}", 0..6),
            cuts in proptest::collection::vec(1usize..7, 1..60),
            crlf in any::<bool>(),
        ) {
            let end = if crlf { "\r\n" } else { "\n" };
            let wire: String = texts.iter().map(|text| format!("data: {text}{end}: c{end}{end}")).collect();
            let whole = SseDecoder::new(1 << 20).feed(wire.as_bytes()).expect("valid");
            let mut decoder = SseDecoder::new(1 << 20);
            let (mut pieces, mut rest, mut turn) = (Vec::new(), wire.as_bytes(), 0);
            while !rest.is_empty() {
                let take = cuts[turn % cuts.len()].min(rest.len());
                pieces.extend(decoder.feed(&rest[..take]).expect("valid"));
                rest = &rest[take..];
                turn += 1;
            }
            prop_assert_eq!(&whole, &pieces);
            prop_assert_eq!(whole, texts);
        }
    }
}
