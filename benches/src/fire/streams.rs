//! A thousand streams at once, half of whose clients leave; and a client that reads a byte a second.

use crate::rig::{GATEWAY, NO_CACHE, Rig, Verdict, model, provider};
use benches::question;
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const STREAMS: u64 = 1_000;
const ROUNDS: u64 = 3;

pub(crate) async fn run(binary: &Path, seconds: u64) -> Vec<Verdict> {
    let config = provider("first", "") + NO_CACHE + &model("fire/one", &[("first", "sim/small", 1.0)]);
    let rig = Rig::start(binary, 20, &config).await;
    let mut memory = Vec::new();
    for round in 0..ROUNDS {
        let (finished, left) = one_round(&rig, round).await;
        settle(&rig).await;
        memory.push(rig.running().resident_kib());
        println!("round {}: {finished} finished, {left} left, {} KiB", round + 1, memory[round as usize]);
    }
    let counters = rig.counters().await;
    let total = STREAMS * ROUNDS;
    let settled = rig.metric("sluice_requests_total").await;
    let growth = memory[2] as f64 / memory[0] as f64;
    let cancelled = counters["cancelled"].as_u64().unwrap_or(0);
    let mut verdicts = vec![
        Verdict::new("memory after the third round ≤ 1.1 × after the first", format!("{growth:.3} ×"), growth <= 1.1),
        Verdict::new(
            "every upstream of a client that left is cancelled, every request settled once",
            format!("{cancelled} of {} cancelled, {} open, {settled} settled of {total}", total / 2, counters["open"]),
            cancelled == total / 2 && counters["open"] == 0 && settled as u64 == total,
        ),
    ];
    verdicts.push(slow_reader(&rig, seconds).await);
    verdicts
}

/// Every stream pauses in the middle; half of the clients leave in the pause.
async fn one_round(rig: &Rig, round: u64) -> (usize, usize) {
    let mut open = JoinSet::new();
    for at in 0..STREAMS {
        let text =
            format!("[[fault=stall delay_ms=4000]] round {round} stream {at}, a question with a long enough answer");
        let mut body = question("fire/one", &text);
        body["stream"] = json!(true);
        let request = rig.client.post(rig.url("/v1/chat/completions")).bearer_auth(&rig.key).body(body.to_string());
        open.spawn(async move {
            let mut response = request.send().await.expect("an answer");
            assert_eq!(response.status(), 200);
            let first = response.chunk().await.expect("data").expect("the first words");
            if at % 2 == 0 {
                tokio::time::sleep(Duration::from_millis(500)).await;
                return false;
            }
            let mut text = first.to_vec();
            while let Some(chunk) = response.chunk().await.expect("data") {
                text.extend_from_slice(&chunk);
            }
            assert!(text.ends_with(b"data: [DONE]\n\n"), "{}", String::from_utf8_lossy(&text));
            true
        });
    }
    let ended = open.join_all().await;
    let finished = ended.iter().filter(|finished| **finished).count();
    (finished, ended.len() - finished)
}

/// Waits until nothing is under way.
async fn settle(rig: &Rig) {
    let until = Instant::now() + Duration::from_secs(10);
    while rig.metric("sluice_requests_under_way").await > 0.0 && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Idle connections are closed after 10 s, and the allocator gives memory back about as slowly.
    tokio::time::sleep(Duration::from_secs(15)).await;
}

/// Reads an answer of megabytes a byte a second.
async fn slow_reader(rig: &Rig, seconds: u64) -> Verdict {
    let mut body = question("fire/one", "[[fault=huge]] as much as there is");
    body["stream"] = json!(true);
    let body = body.to_string();
    let before = rig.running().resident_kib();
    rig.running().forget_peak();
    let mut stream = TcpStream::connect(GATEWAY).await.expect("a connection");
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: {}\r\n\r\n{body}",
        rig.key,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    for _ in 0..seconds {
        stream.read_exact(&mut [0]).await.expect("a byte");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let growth = rig.running().peak_kib().saturating_sub(before);
    println!("a byte a second for {seconds} s of a 4 MB stream: {growth} KiB");
    Verdict::new(
        format!("a client that reads a byte a second for {seconds} s costs bounded memory (≤ 4 MiB)"),
        format!("{growth} KiB"),
        growth <= 4_096,
    )
}
