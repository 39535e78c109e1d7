//! Configuration: the reference parses, and every mistake is shown at once with its line.

use gateway::ConfigFile;

fn environment(name: &str) -> Option<String> {
    (name == "LOCAL_KEY").then(|| "secret".to_owned())
}

#[test]
fn the_reference_and_the_minimal_file_are_good() {
    for (name, text) in [
        ("sluice.toml", include_str!("../../../config/sluice.toml")),
        ("minimal.toml", include_str!("../../../config/minimal.toml")),
    ] {
        let file = ConfigFile::parse(name, text.to_owned()).unwrap_or_else(|error| panic!("{error}"));
        let simulator = file.needs_simulator(environment).then_some("http://127.0.0.1:9/v1");
        file.check(environment, simulator).unwrap_or_else(|error| panic!("{error}"));
    }
}

/// As they lie there, with the ready policies beside them: no policy may name what only some can reach.
#[test]
fn the_ready_policies_hinder_no_configuration() {
    for name in ["sluice.toml", "minimal.toml"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../config").join(name);
        let file = ConfigFile::read(&path).unwrap_or_else(|error| panic!("{error}"));
        let simulator = file.needs_simulator(environment).then_some("http://127.0.0.1:9/v1");
        let config = file.check(environment, simulator).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.policies.len(), 9, "eight and `auto`");
        for tried in config.try_examples().iter().filter(|tried| !tried.is_out_of_reach) {
            assert!(tried.is_right(), "{name}: {tried:?}");
        }
    }
}

#[test]
fn all_mistakes_are_shown_at_once_with_line_and_caret() {
    let text = r#"[providers.openai]
kind = "openai"
base_url = "ftp://example.org"

[providers.local]
kind = "openai"
base_url = "http://127.0.0.1:9000/v1"
api_key_env = "NOT_SET"

[[models]]
id = "local/small"
[[models.endpoints]]
provider = "opanai"
name = "small"
input_usd_per_mtok = -0.10
output_usd_per_mtok = 0.40
context_tokens = 128_000
output_tokens_max = 16_384

[policies.auto]
candidates = ["local/smal"]
quality_min = 1.5
"#;
    let file = ConfigFile::parse("sluice.toml", text.to_owned()).expect("it parses");
    let error = file.check(environment, None).expect_err("it is wrong");
    insta::assert_snapshot!(error.to_string());
}

#[test]
fn syntax_and_unknown_options_are_shown_where_they_stand() {
    let misspelt = ConfigFile::parse("sluice.toml", "[cache.exact]\nttl = 5\n".to_owned()).expect_err("unknown");
    let broken = ConfigFile::parse("sluice.toml", "[server\n".to_owned()).expect_err("syntax");
    insta::assert_snapshot!(format!("{misspelt}\n{broken}"));
}

#[test]
fn a_secret_in_place_of_its_name_is_refused_and_not_repeated() {
    let text = "[credits]\nstripe_secret_env = \"whsec-realsecret\"\nexpire_days = 0\n[limits]\nfree_credits_usd = nan\n\
                [webhook]\nurl = \"https://example.org/\"\nsecret_env = \"another-realsecret\"\n";
    let file = ConfigFile::parse("sluice.toml", text.to_owned()).expect("it parses");
    let error = file.check(environment, None).expect_err("it is wrong").to_string();
    for field in ["credits.stripe_secret_env", "credits.expire_days", "webhook.secret_env", "limits.free_credits_usd"] {
        assert!(error.contains(field), "{field}: {error}");
    }
    let reasons: Vec<&str> = error.lines().filter(|line| line.contains("realsecret")).collect();
    assert!(reasons.iter().all(|line| line.contains("_env =")), "only the file's own line shows it: {reasons:?}");
}
