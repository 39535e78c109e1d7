//! Bytes that no honest client sends, over raw TCP.

use crate::stack::{Stack, endpoints, question};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SERVER: &str = "[server]\nstop_delay_ms = 1\nheader_timeout_ms = 300\nbody_bytes_per_second_min = 100000\n\
                      [cache.semantic]\nenabled = false\n";

async fn stack() -> Stack {
    Stack::start(&(endpoints("acme/good", &["sim/small"]) + SERVER)).await
}

/// Sends bytes and reads until the gateway closes; panics when it does not within two seconds.
async fn exchange(stack: &Stack, bytes: &[u8]) -> String {
    let address = stack.gateway.as_ref().expect("a gateway runs").address;
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    // The gateway may answer and close before it has read everything.
    let _cut = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(2), stream.read_to_end(&mut answer)).await;
    assert!(
        read.is_ok(),
        "the connection stays open after {:?}",
        String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
    );
    String::from_utf8_lossy(&answer).into_owned()
}

fn head(key: &str, more: &str) -> String {
    format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n{more}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_framing_ends_with_an_error_and_a_closed_connection() {
    let stack = stack().await;
    let body = question("acme/good", "smuggled").to_string();
    let length = body.len();
    let many: String = (0..5_000).map(|at| format!("x-{at}: y\r\n")).collect();
    let rows = [
        ("1 MB of headers", head(&stack.key, &format!("x-big: {}\r\n", "y".repeat(1_000_000))), "431"),
        ("5,000 fields", head(&stack.key, &many), "431"),
        ("two lengths", head(&stack.key, "content-length: 5\r\ncontent-length: 6\r\n") + "hello", "400"),
        ("no length", head(&stack.key, "content-length: many\r\n"), "400"),
        ("a strange coding", head(&stack.key, "transfer-encoding: gzip\r\n") + "x", "400"),
        ("no HTTP", "hello\r\n\r\n".to_owned(), "400"),
        ("too much", head(&stack.key, "content-length: 99999999999\r\n"), "413"),
        (
            "packed",
            head(&stack.key, "content-encoding: gzip\r\ncontent-length: 3\r\nconnection: close\r\n") + "abc",
            "415",
        ),
        ("a slow body", head(&stack.key, &format!("content-length: {length}\r\nconnection: close\r\n")), "408"),
    ];
    for (name, bytes, status) in rows {
        let answer = exchange(&stack, bytes.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {answer}");
    }
    // Both framings at once: the coding counts (RFC 9112, section 6.3), and what follows is not read as a request.
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n");
    let smuggled = head(&stack.key, "transfer-encoding: chunked\r\ncontent-length: 4\r\n")
        + &chunked
        + "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let answer = exchange(&stack, smuggled.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert_eq!(stack.chat(&question("acme/good", "still well")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_say_nothing_are_closed_in_time() {
    let stack = stack().await;
    for bytes in [&b""[..], b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        let begun = Instant::now();
        exchange(&stack, bytes).await;
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn deep_json_is_refused_by_name() {
    let stack = stack().await;
    let body = format!("{{\"model\":\"acme/good\",\"messages\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let request = stack.client().post(stack.url("/v1/chat/completions")).bearer_auth(&stack.key).body(body);
    let answered = stack.send(request).await;
    assert_eq!(answered.status, 400);
    assert!(answered.text.contains("deeper than 64"), "{}", answered.text);
}
