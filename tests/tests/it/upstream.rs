//! A provider that answers what it is told and remembers what it was asked: for dialects that the simulator does not speak.

use serde_json::Value;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What an upstream was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// Method and target.
    pub line: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// What it answers next.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) struct Upstream {
    pub address: std::net::SocketAddr,
    told: Arc<Mutex<Told>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let told = Told { status: 200, content_type: "application/json", body: b"{}".to_vec() };
        let upstream = Self {
            address: listener.local_addr().expect("an address"),
            told: Arc::new(Mutex::new(told)),
            asked: Arc::default(),
        };
        let serving = upstream.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let upstream = serving.clone();
                tokio::spawn(async move { upstream.serve(connection).await });
            }
        });
        upstream
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn will_answer(&self, status: u16, body: &Value) {
        self.tell(Told { status, content_type: "application/json", body: body.to_string().into_bytes() });
    }

    pub(crate) fn tell(&self, told: Told) {
        *self.told.lock().expect("unpoisoned") = told;
    }

    /// What it was asked since the last look.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().expect("unpoisoned"))
    }

    /// One request a connection.
    async fn serve(&self, mut connection: TcpStream) {
        let mut bytes = Vec::new();
        let Some(asked) = read_request(&mut connection, &mut bytes).await else { return };
        let is_token_call = asked.line.starts_with("POST /token");
        self.asked.lock().expect("unpoisoned").push(asked);
        let told = match is_token_call {
            true => Told {
                status: 200,
                content_type: "application/json",
                body: br#"{"access_token": "bought-token", "expires_in": 3600}"#.to_vec(),
            },
            false => self.told.lock().expect("unpoisoned").clone(),
        };
        let head = format!(
            "HTTP/1.1 {} X\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            told.status,
            told.content_type,
            told.body.len()
        );
        let answer = [head.into_bytes(), told.body].concat();
        // The gateway may have left.
        let _left = connection.write_all(&answer).await;
    }
}

async fn read_request(connection: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<Asked> {
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let mut lines = head.split("\r\n");
            let line = lines.next()?.to_owned();
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
                .collect();
            let mut asked = Asked { line, headers, body: Vec::new() };
            let length: usize = asked.header("content-length").parse().unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                asked.body = bytes[end + 4..end + 4 + length].to_vec();
                return Some(asked);
            }
        }
        if connection.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}
