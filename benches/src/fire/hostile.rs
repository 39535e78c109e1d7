//! Hostile bytes from both sides beside normal traffic: memory and the others' latency.

use crate::rig::{Asked, GATEWAY, NO_CACHE, Rig, Verdict, model, provider};
use benches::{paced, quantile_ms, question};
use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

const RATE: u64 = 50;
const ATTACKERS: usize = 500;
const GROWTH_KIB_MAX: u64 = 32 * 1_024;
const SLOWER_MAX: f64 = 2.0;
/// The time for headers, and a little for noticing.
const OPEN_MAX: Duration = Duration::from_secs(13);

pub(crate) async fn run(binary: &Path, seconds: u64) -> Vec<Verdict> {
    // The upstream's attacks come from an endpoint of their own: ten failures in a row would rightly open its breaker.
    let config = provider("first", "")
        + NO_CACHE
        + &model("fire/one", &[("first", "sim/small", 1.0)])
        + &model("fire/attacked", &[("first", "sim/large", 1.0)]);
    let rig = Rig::start(binary, 20, &config).await;
    let normal = async |seconds: u64| -> Vec<Asked> {
        paced(RATE, seconds, |at, due| rig.ask(&question("fire/one", &format!("normal {at}")), due)).await
    };
    normal(2).await;
    let alone: Vec<Duration> = normal(seconds.min(10)).await.iter().map(|asked| asked.total).collect();
    let alone = quantile_ms(&alone, 0.99);
    println!("{:<26} {:>10} {:>10} {:>8} {:>12}", "attack", "p99 ms", "× alone", "errors", "growth KiB");
    println!("{:<26} {alone:>10.1} {:>10} {:>8} {:>12}", "none", "1.00", 0, 0);
    let key = rig.key.clone();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
    let many: String = (0..5_000).map(|at| format!("x-{at}: y\r\n")).collect();
    let deep = format!("{{\"model\":\"fire/one\",\"messages\":{}", "[".repeat(1_000_000));
    let with_length = |body: &str| format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let both =
        format!("{head}content-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /health HTTP/1.1\r\n\r\n");
    let attacks: Vec<(&str, Attack)> = vec![
        ("connect only × 500", Attack::Slow(String::new())),
        ("slow headers × 500", Attack::Slow(head.clone())),
        ("slow bodies × 500", Attack::Slow(format!("{head}content-length: 100000\r\n\r\n{{"))),
        ("1 MB of headers", Attack::Raw(format!("{head}x-big: {}\r\n\r\n", "y".repeat(1_000_000)), "431")),
        ("5,000 header fields", Attack::Raw(format!("{head}{many}\r\n"), "431")),
        ("deep JSON", Attack::Raw(with_length(&deep), "400")),
        ("both framings", Attack::Raw(both, "400")),
        ("upstream 307", Attack::Upstream("redirect", "502")),
        ("upstream gzip bomb", Attack::Upstream("gzip-bomb", "502")),
        ("upstream endless event", Attack::Upstream("big-event", "502")),
        ("upstream 1,000,000 events", Attack::Upstream("many-events", "502")),
    ];
    let mut verdicts = Vec::new();
    for (name, attack) in attacks {
        let lasting = if matches!(attack, Attack::Slow(_)) { seconds } else { seconds.min(10) };
        let before = rig.running().resident_kib();
        rig.running().forget_peak();
        let (asked, ended) = tokio::join!(normal(lasting), attack.run(&rig, lasting));
        let growth = rig.running().peak_kib().saturating_sub(before);
        let times: Vec<Duration> = asked.iter().map(|asked| asked.total).collect();
        let (p99, errors) = (quantile_ms(&times, 0.99), asked.iter().filter(|asked| !asked.is_good()).count());
        let slower = p99 / alone;
        println!("{name:<26} {p99:>10.1} {slower:>10.2} {errors:>8} {growth:>12}");
        if let Some(bad) = asked.iter().find(|asked| !asked.is_good()) {
            println!("  first error: {} {}", bad.status, bad.text);
        }
        verdicts.push(Verdict::new(
            format!("{name}: ends as it must, ≤ 32 MiB, others' p99 ≤ 2 ×, no errors of others"),
            format!("{}, {growth} KiB, {slower:.2} ×, {errors} errors", ended.as_deref().unwrap_or("ends as it must")),
            ended.is_none() && growth <= GROWTH_KIB_MAX && slower <= SLOWER_MAX && errors == 0,
        ));
    }
    verdicts
}

enum Attack {
    /// Connections that send this and then, if anything, a byte a second.
    Slow(String),
    /// These bytes, and how the answer's status begins.
    Raw(String, &'static str),
    /// A simulated fault, whole and streamed, and the status it must come to.
    Upstream(&'static str, &'static str),
}

impl Attack {
    /// Runs for about this long; returns what was not as it must be.
    async fn run(&self, rig: &Rig, seconds: u64) -> Option<String> {
        match self {
            Self::Slow(opening) => {
                let mut open = JoinSet::new();
                for _ in 0..ATTACKERS {
                    open.spawn(slow(opening.clone(), seconds));
                }
                // Headers have 10 s; a body of a byte a second has little more. Who is closed comes again.
                let longest = open.join_all().await.into_iter().max().unwrap_or_default();
                (longest > OPEN_MAX).then(|| format!("a connection was open for {longest:?}"))
            }
            Self::Raw(bytes, status) => {
                let until = Instant::now() + Duration::from_secs(seconds);
                while Instant::now() < until {
                    let answer = raw(bytes).await;
                    if !answer.starts_with(&format!("HTTP/1.1 {status}")) {
                        return Some(format!("answered {:?}", answer.chars().take(40).collect::<String>()));
                    }
                    if answer.matches("HTTP/1.1 ").count() > 1 {
                        return Some("a second request was smuggled".to_owned());
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                None
            }
            Self::Upstream(fault, status) => {
                for at in 0..10 {
                    let mut body = question("fire/attacked", &format!("[[fault={fault}]] {at}"));
                    body["stream"] = json!(at % 2 == 0);
                    let asked = rig.ask(&body, Instant::now()).await;
                    // The breaker may have opened, or the fault was answered by an error.
                    if asked.status.to_string() != *status && asked.status != 503 {
                        return Some(format!("answered {}: {}", asked.status, asked.text));
                    }
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                None
            }
        }
    }
}

/// Connects again and again, sends the opening and a byte a second; returns the longest time it stayed connected.
async fn slow(opening: String, seconds: u64) -> Duration {
    let until = Instant::now() + Duration::from_secs(seconds);
    let mut longest = Duration::ZERO;
    while Instant::now() < until {
        let Ok(Ok(mut stream)) = tokio::time::timeout_at(until.into(), TcpStream::connect(GATEWAY)).await else {
            break;
        };
        let connected = Instant::now();
        let _refused = stream.write_all(opening.as_bytes()).await;
        while Instant::now() < until {
            let read = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut [0; 64])).await;
            let is_closed = matches!(read, Ok(Ok(0) | Err(_)));
            if is_closed || !opening.is_empty() && stream.write_all(b"x").await.is_err() {
                break;
            }
        }
        longest = longest.max(connected.elapsed());
    }
    longest
}

async fn raw(bytes: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(GATEWAY).await else { return "no connection".to_owned() };
    let _cut = stream.write_all(bytes.as_bytes()).await; // it may answer before it has read everything
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await;
    if answer.is_empty() && !matches!(read, Ok(Ok(_))) {
        return format!("no answer: {read:?}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}
