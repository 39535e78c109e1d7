//! `sluice ledger` on a file that has a month of a tenant in it.

use database::{CreditRow, Database, Generation, Settled, TenantLimits, TenantRow, Transfer};
use std::path::Path;
use std::process::{Command, Output};

/// 2026-11-03, noon.
const NOON_MS: i64 = 1_793_707_200_000;
const DAY_MS: i64 = 86_400_000;

async fn month(folder: &Path) -> std::path::PathBuf {
    let path = folder.join("sluice.db");
    let database = Database::open(&path).await.expect("a file");
    let tenant = TenantRow { id: "acme".into(), terms: "{}".into(), weight: 1, ..TenantRow::default() };
    let budget = database::BudgetRow { id: "tenant:acme".into(), tenant_id: "acme".into(), ..Default::default() };
    assert!(database.insert_tenant(&tenant, &TenantLimits { budget, ..Default::default() }).await.expect("a tenant"));
    let key = ledger::WantedKey { tenant: "acme".into(), name: "k".into(), ..Default::default() };
    let hash = ledger::make_key(&database, key).await.expect("a key").key.row.hash;
    let credit = |id: &str, nano: i64, created_ms: i64| CreditRow {
        id: id.into(),
        tenant_id: "acme".into(),
        kind: "purchase".into(),
        nano,
        created_ms,
        ..Default::default()
    };
    for (id, nano, created_ms) in [("before", 700, NOON_MS - 30 * DAY_MS), ("during", 1_000, NOON_MS)] {
        let transfer = Transfer {
            reference: id.into(),
            kind: "purchase".into(),
            tenant_id: "acme".into(),
            debit: "cash".into(),
            credit: "tenant:acme".into(),
            nano,
            created_ms,
        };
        database.add_credit(&credit(id, nano, created_ms), &[transfer]).await.expect("booked");
    }
    database.register_replica("r").await.expect("a gateway");
    let served = |id: &str, at: i64, sold_as: &str, charged: i64, state: &str| Settled {
        generation: Generation {
            id: id.into(),
            tenant_id: "acme".into(),
            key_hash: hash.clone(),
            created_ms: at,
            state: state.into(),
            model: "openai/gpt-4o-mini".into(),
            provider: "openai".into(),
            sold_as: sold_as.into(),
            cache: "miss".into(),
            input_tokens: 10,
            upstream_nano: charged / 2,
            charged_nano: charged,
            saved_nano: 5,
            failure: "a, \"quoted\" one".into(),
            attempts: "[]".into(),
            reasons: "{}".into(),
            ..Generation::default()
        },
        drawn: Vec::new(),
    };
    let rows = [
        served("gen-1", NOON_MS, "", 200, "served"),
        served("gen-2", NOON_MS, "acme/fast", 60, "served"),
        served("gen-3", NOON_MS + DAY_MS, "", 0, "failed"),
        served("gen-4", NOON_MS + 40 * DAY_MS, "", 9, "served"),
    ];
    database.commit("r", &[], &rows).await.expect("settled");
    path
}

fn sluice(folder: &Path, arguments: &[&str]) -> Output {
    let config = folder.join("sluice.toml");
    std::fs::write(&config, format!("[database]\nurl = \"sqlite://{}\"\n", folder.join("sluice.db").display()))
        .expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.arg("ledger").args(arguments).arg("--config").arg(config).output().expect("it runs")
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test]
async fn a_statement_says_what_a_month_brought_and_its_lines_sum_to_the_balance() {
    let folder = tempfile::tempdir().expect("a folder");
    month(folder.path()).await;
    let statement = ["statement", "--tenant", "acme", "--month", "2026-11"];
    let csv = said(&sluice(folder.path(), &[statement.as_slice(), &["--csv"]].concat()));
    let mut rows = csv::Reader::from_reader(csv.as_bytes());
    let usd: f64 = rows.records().map(|row| row.expect("a row")[10].parse::<f64>().expect("dollars")).sum();
    let json = said(&sluice(folder.path(), &[statement.as_slice(), &["--json"]].concat()));
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert!((usd - json["closing_usd"].as_f64().expect("dollars")).abs() < 1e-12, "{csv}");
    assert_eq!((json["opening_usd"].as_f64(), json["closing_usd"].as_f64()), (Some(7e-7), Some(1.44e-6)));
    assert_eq!((json["charged_usd"].as_f64(), json["saved_usd"].as_f64()), (Some(2.6e-7), Some(1.5e-8)));
    assert_eq!((json["requests"].as_i64(), json["failed"].as_i64()), (Some(3), Some(1)));
    assert!((json["availability"].as_f64().expect("a share") - 2.0 / 3.0).abs() < 1e-12);
    let models: Vec<&str> =
        json["days"].as_array().expect("days").iter().map(|row| row["model"].as_str().expect("a name")).collect();
    assert_eq!(models, ["acme/fast", "openai/gpt-4o-mini", "openai/gpt-4o-mini"], "by its own names");
    let text = said(&sluice(folder.path(), &statement));
    assert!(text.contains("66.667 % of 3 requests were answered") && text.contains("closing balance"), "{text}");
    let unknown = sluice(folder.path(), &["statement", "--tenant", "nobody", "--month", "2026-11"]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("no tenant `nobody`"));
    let wrong = sluice(folder.path(), &["statement", "--month", "11"]);
    assert!(wrong.status.code() == Some(2) && String::from_utf8_lossy(&wrong.stderr).contains("as 2026-11"));
}

#[tokio::test]
async fn records_are_exported_whole_and_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    month(folder.path()).await;
    let lines = said(&sluice(folder.path(), &["export"]));
    let records: Vec<Generation> = lines.lines().map(|line| serde_json::from_str(line).expect("a record")).collect();
    let ids: Vec<&str> = records.iter().map(|record| record.id.as_str()).collect();
    assert_eq!(ids, ["gen-1", "gen-2", "gen-3", "gen-4"]);
    let november = said(&sluice(folder.path(), &["export", "--csv", "--from", "2026-11-03", "--to", "2026-11-03"]));
    let rows: Vec<Generation> =
        csv::Reader::from_reader(november.as_bytes()).deserialize().map(|row| row.expect("a row")).collect();
    assert_eq!(rows, records[..2], "CSV says what JSON says");
    assert_eq!(said(&sluice(folder.path(), &["export", "--tenant", "nobody"])), "");
}

#[tokio::test]
async fn an_invoice_is_held_against_what_was_booked() {
    let folder = tempfile::tempdir().expect("a folder");
    month(folder.path()).await;
    let invoice = folder.path().join("invoice.csv");
    let compare = |text: &str, tolerance: &str| {
        std::fs::write(&invoice, text).expect("written");
        let file = invoice.to_str().expect("a path");
        let more = ["--invoice", file, "--provider", "openai", "--tolerance", tolerance];
        sluice(folder.path(), &[["reconcile"].as_slice(), &more].concat())
    };
    let agrees = said(&compare("day, model, usd\n2026-11-03, gpt-4o-mini, 0.00000013\n", "0"));
    assert!(agrees.contains("agrees"), "{agrees}");
    let differs = compare("day,model,usd\n2026-11-03,gpt-4o-mini,0.00000013\n2026-11-04,gpt-5,0.5\n", "0.01");
    let (shown, told) = (String::from_utf8_lossy(&differs.stdout), String::from_utf8_lossy(&differs.stderr));
    assert_eq!(differs.status.code(), Some(1), "{shown}");
    assert!(shown.contains("gpt-5") && !shown.contains("gpt-4o-mini"), "only what differs: {shown}");
    assert!(told.contains("differs from the books by 0.5"), "{told}");
    for (more, part) in [
        (["--invoice", "x.csv", "--provider", "openai", "--tolerance", "nan"].as_slice(), "dollars"),
        (&["--provider", "openai"], "--invoice"), // which would close everything
        (&["--tolerance", "1"], "--invoice"),
    ] {
        let wrong = sluice(folder.path(), &[["reconcile"].as_slice(), more].concat());
        let told = String::from_utf8_lossy(&wrong.stderr).into_owned();
        assert!(wrong.status.code() == Some(2) && told.contains(part), "{told}");
    }
    let wrong = compare("day,model\n2026-11-03,x\n", "0");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("usd"), "{}", String::from_utf8_lossy(&wrong.stderr));
}
