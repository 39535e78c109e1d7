//! kill -9 of the gateway while it stores answers: what was stored is whole, and what was told a moment before is there.

use crate::kill::{kill_under_load, query};
use crate::rig::{Rig, Verdict, model, provider};
use benches::question;
use std::path::Path;
use std::time::{Duration, Instant};

const WORKERS: u64 = 8;
/// What a crash may cost: the file is written behind the answer, in batches.
const BEHIND: Duration = Duration::from_millis(500);
const FILE: &str = "data/sluice-cache.db";
/// Of the shipped embedder.
const VECTOR_BYTES: i64 = 384 * 4;

pub(crate) async fn run(binary: &Path, deaths: u64) -> Vec<Verdict> {
    let config =
        provider("first", "") + "[cache.exact]\nttl_s = 86400\n" + &model("fire/one", &[("first", "sim/small", 1.0)]);
    let mut rig = Rig::start(binary, 5, &config).await;
    let (mut told, mut lost, mut prompts) = (0, Vec::new(), 0);
    for death in 0..deaths {
        let life = Duration::from_millis(1_000 + (death * 7_919) % 900);
        let died = Instant::now() + life;
        let ended = kill_under_load(&mut rig, life, WORKERS, |client, url, key, worker| {
            work(client, url, key, format!("{death}-{worker}"))
        });
        let answered: Vec<(String, Instant)> = ended.await.into_iter().flatten().collect();
        rig.start_gateway().await;
        for (text, _) in answered.iter().filter(|(_, at)| died.duration_since(*at) > BEHIND) {
            told += 1;
            let again = rig.ask(&question("fire/one", text), Instant::now()).await;
            if again.cache != "exact" {
                lost.push(format!("{text}: {} {}", again.status, again.cache));
            }
        }
        prompts = query(rig.folder.path(), FILE, "SELECT COUNT(*) FROM prompts")[0][0].as_i64().unwrap_or(0);
    }
    lost.iter().take(5).for_each(|line| println!("  {line}"));
    let torn_sql = format!(
        "SELECT (SELECT COUNT(*) FROM prompts WHERE length(vector) <> {VECTOR_BYTES} OR length(scope) <> 32) \
         + (SELECT COUNT(*) FROM answers WHERE NOT json_valid(reply) OR length(fingerprint) <> 32) \
         + (SELECT COUNT(*) FROM prompts WHERE answer_id NOT IN (SELECT id FROM answers))"
    );
    let torn = query(rig.folder.path(), FILE, &torn_sql)[0][0].as_i64().unwrap_or(-1);
    let sound = query(rig.folder.path(), FILE, "PRAGMA integrity_check")[0][0] == "ok";
    println!("{deaths} deaths: {told} answers told over {BEHIND:?} before one, {prompts} prompts in the file");
    vec![
        Verdict::new(
            format!("kill -9 at {deaths} moments: answers told half a second before are in the cache afterwards"),
            format!("{} of {told} missing", lost.len()),
            lost.is_empty() && told > 0,
        ),
        Verdict::new(
            "the cache's file has no torn row, and no prompt without its answer",
            format!("{torn} of {prompts}; integrity {}", if sound { "ok" } else { "broken" }),
            torn == 0 && prompts > 0 && sound,
        ),
    ]
}

/// Asks new questions without a pause until the gateway is gone; returns those whose answers were whole, and when.
async fn work(client: reqwest::Client, url: String, key: String, name: String) -> Vec<(String, Instant)> {
    let mut told = Vec::new();
    for at in 0.. {
        let text = format!("what is known of subject {name}-{at} and how is it made");
        let body = question("fire/one", &text).to_string();
        let Ok(response) = client.post(&url).bearer_auth(&key).body(body).send().await else { break };
        if response.status() != 200 || !response.text().await.is_ok_and(|text| text.ends_with('}')) {
            break;
        }
        told.push((text, Instant::now()));
    }
    told
}
