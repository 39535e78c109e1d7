//! `sluice catalog` as it is run.

use catalog::{Change, Listing};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::process::Command;

#[test]
fn the_commands_merge_show_and_keep_what_changed() {
    let binary = env!("CARGO_BIN_EXE_sluice");
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| {
        let done = Command::new(binary).args(arguments).current_dir(folder.path()).output().expect("it runs");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
        (done.status.code(), text(done.stdout), text(done.stderr))
    };
    let totals = |key: &str| {
        let (_, text, _) = run(&["catalog", "list", "--totals", "--json"]);
        serde_json::from_str::<Value>(&text).expect("JSON")[key].as_u64().expect("a count")
    };
    assert!(totals("models") >= 400 && totals("providers") >= 60 && totals("models_at_two_direct_providers") >= 130);
    assert!(run(&["catalog", "diff"]).1.contains("no changes"));
    // Cohere's own price of one model, halved; one model less, one more.
    let shipped = Listing::shipped().expect("reads");
    let of_cohere: Vec<_> = shipped.endpoints.iter().filter(|row| row.provider == "cohere").collect();
    let mut models = serde_json::Map::new();
    for (at, row) in of_cohere.iter().enumerate().skip(1) {
        let price = if at == 1 { 0.5 } else { 1.0 };
        let model = json!({"name": row.name, "cost": {"input": row.rates.input * price, "output": row.rates.output * price},
            "limit": {"context": row.context, "output": row.output_max}, "modalities": {"input": ["text"], "output": ["text"]}});
        models.insert(row.name.clone(), model);
    }
    let mut new = models.values().next().expect("a model").clone();
    new["name"] = json!("command-z");
    models.insert("command-z".to_owned(), new);
    let file = folder.path().join("api.json");
    std::fs::write(&file, json!({"cohere": {"models": models}}).to_string()).expect("a file");
    let events = |arguments: &[&str]| -> Vec<catalog::Event> {
        let (code, text, error) = run(arguments);
        assert_eq!(code, Some(0), "{error}");
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    };
    let foreseen = events(&["catalog", "diff", "--from", "api.json", "--json"]);
    let kinds: BTreeSet<String> = foreseen
        .iter()
        .map(|event| format!("{:?}", event.change))
        .map(|text| text.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert!(["New", "Repriced", "Gone"].iter().all(|kind| kinds.contains(*kind)), "{foreseen:?}");
    assert!(!folder.path().join("data/catalog.json").exists(), "diff changes nothing");
    assert_eq!(events(&["catalog", "refresh", "--from", "api.json", "--json"]), foreseen);
    assert_eq!(events(&["catalog", "diff", "--json"]), foreseen, "the changes of the past, with their day");
    assert!(events(&["catalog", "diff", "--json", "--since", "2999-01-01"]).is_empty());
    assert!(
        foreseen
            .iter()
            .any(|event| event.endpoint == "cohere/command-z@cohere" && matches!(event.change, Change::New { .. }))
    );
    assert!(run(&["catalog", "list", "--model", "command-z"]).1.contains("cohere/command-z@cohere"));
    for (text, said) in [
        ("{", "no JSON"),
        ("{\"data\": []}", "lists no model"),
        ("{\"cohere\": {\"models\": {\"x\": {}}}}", "not believed"),
    ] {
        std::fs::write(&file, text).expect("a file");
        let (code, _, error) = run(&["catalog", "import", "--from", "api.json"]);
        assert!(code == Some(1) && error.contains(said), "{text}: {code:?} {error}");
    }
    assert!(
        run(&["catalog", "list", "--model", "command-z"]).1.contains("cohere/command-z@cohere"),
        "nothing was lost"
    );
    assert_eq!(run(&["catalog", "refresh", "--every", "soon"]).0, Some(2));
}
