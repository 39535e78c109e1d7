//! The body of an upstream answer: unpacked, and bounded before and after unpacking.

use crate::client::LIMITS;
use crate::error::{Failure, Kind};
use bytes::Bytes;
use flate2::write::GzDecoder;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use reqwest::header::CONTENT_ENCODING;
use std::io::Write;
use tokio::time::{Instant, timeout_at};

/// Unpacked bytes that no ratio is asked of.
const UNPACKED_FREE: usize = 1024 * 1024;
/// Beyond them, unpacked bytes for each received one.
const RATIO_MAX: usize = 100;
/// Packed bytes unpacked at a time: at gzip's best ratio of about 1,030 they become half a megabyte.
const STEP: usize = 512;

/// Reads a body piece by piece.
pub(crate) struct Body {
    provider: String,
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
    unpack: Option<GzDecoder<Vec<u8>>>,
    received: usize,
    produced: usize,
}

impl Body {
    /// Takes an answer's body; we ask for none that is packed, but read gzip where it comes.
    pub(crate) fn open(provider: &str, response: reqwest::Response) -> Result<Self, Failure> {
        let encoding = response.headers().get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").to_owned());
        let unpack = match encoding.as_deref() {
            None | Some("identity") => None,
            Some("gzip" | "x-gzip") => Some(GzDecoder::new(Vec::new())),
            Some(other) => {
                let message = format!("the answer is packed as `{}`, which was not asked for", shortened(other));
                return Err(Failure::new(provider, Kind::Malformed, message));
            }
        };
        let chunks = response.bytes_stream().boxed();
        Ok(Self { provider: provider.to_owned(), chunks, unpack, received: 0, produced: 0 })
    }

    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self, by: Instant) -> Option<Result<Bytes, Failure>> {
        let chunk = match timeout_at(by, self.chunks.next()).await {
            Err(_) => return Some(Err(self.fail(Kind::Timeout, "no data within the deadline"))),
            Ok(None) => return None,
            Ok(Some(Err(_))) => return Some(Err(self.fail(Kind::Cut, "the connection broke inside the answer"))),
            Ok(Some(Ok(chunk))) => chunk,
        };
        self.received += chunk.len();
        Some(self.unpacked(chunk))
    }

    fn unpacked(&mut self, chunk: Bytes) -> Result<Bytes, Failure> {
        let Some(unpack) = &mut self.unpack else {
            self.produced += chunk.len();
            return self.check_size().map(|()| chunk);
        };
        let mut out = Vec::new();
        for step in chunk.chunks(STEP) {
            // Without a flush the decoder keeps up to 32 KiB to itself.
            if unpack.write_all(step).and_then(|()| unpack.flush()).is_err() {
                return Err(self.fail(Kind::Malformed, "the answer's gzip is broken"));
            }
            out.append(unpack.get_mut());
            let produced = self.produced + out.len();
            if produced > LIMITS.reply_bytes_max || produced > UNPACKED_FREE.max(RATIO_MAX * self.received) {
                return Err(self.fail(Kind::TooLarge, "the answer unpacks to far more than was sent"));
            }
        }
        self.produced += out.len();
        Ok(Bytes::from(out))
    }

    fn check_size(&self) -> Result<(), Failure> {
        if self.produced > LIMITS.reply_bytes_max {
            return Err(self.fail(Kind::TooLarge, &format!("the answer is over {} bytes", LIMITS.reply_bytes_max)));
        }
        Ok(())
    }

    /// Reads to the end, up to `bytes_max`. The pieces are joined once their size is known: growing would hold an answer
    /// three times.
    pub(crate) async fn read_all(mut self, bytes_max: usize, by: Instant) -> Result<Bytes, Failure> {
        let (mut pieces, mut bytes) = (Vec::new(), 0);
        while let Some(piece) = self.next(by).await {
            let piece = piece?;
            bytes += piece.len();
            if bytes > bytes_max {
                return Err(self.fail(Kind::TooLarge, &format!("the answer is over {bytes_max} bytes")));
            }
            pieces.push(piece);
        }
        match pieces.len() {
            0 => Ok(Bytes::new()),
            1 => Ok(pieces.remove(0)),
            _ => Ok(Bytes::from(pieces.concat())),
        }
    }

    fn fail(&self, kind: Kind, message: &str) -> Failure {
        Failure::new(&self.provider, kind, message)
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}
