//! Where a call goes: each kind of provider has its own form of address.

use crate::provider::Provider;
use catalog::{Endpoint, Kind};
use protocol::dialect::Dialect;
use reqwest::Url;

/// The address of one call.
pub(crate) fn address(provider: &Provider, endpoint: &Endpoint, streamed: bool) -> Option<Url> {
    let base = provider.base.as_str().trim_end_matches('/');
    let name = escaped(&endpoint.name);
    let path = match (provider.kind, endpoint.dialect) {
        (Kind::Azure, dialect) => azure(&name, dialect, provider.api_version.as_deref()),
        (Kind::Vertex, Dialect::Anthropic) => {
            let method = if streamed { "streamRawPredict" } else { "rawPredict" };
            format!("publishers/anthropic/models/{name}:{method}")
        }
        (Kind::Vertex, Dialect::Gemini) => format!("publishers/google/{}", gemini(&name, streamed)),
        (Kind::Vertex, _) => "endpoints/openapi/chat/completions".to_owned(),
        (_, Dialect::OpenaiChat) => "chat/completions".to_owned(),
        (_, Dialect::OpenaiResponses) => "responses".to_owned(),
        (_, Dialect::Anthropic) => "messages".to_owned(),
        (_, Dialect::Gemini) => gemini(&name, streamed),
        (_, Dialect::Bedrock) => format!("model/{name}/{}", if streamed { "converse-stream" } else { "converse" }),
        (_, Dialect::Cohere) => "chat".to_owned(),
    };
    Url::parse(&format!("{base}/{path}")).ok()
}

fn gemini(name: &str, streamed: bool) -> String {
    if streamed {
        format!("models/{name}:streamGenerateContent?alt=sse")
    } else {
        format!("models/{name}:generateContent")
    }
}

/// A deployment's own address where an API version is given; else the address that all deployments share
/// (learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle).
fn azure(name: &str, dialect: Dialect, api_version: Option<&str>) -> String {
    match (dialect, api_version) {
        (Dialect::OpenaiResponses, None) => "openai/v1/responses".to_owned(),
        (Dialect::OpenaiResponses, Some(version)) => format!("openai/responses?api-version={}", escaped(version)),
        (_, None) => "openai/v1/chat/completions".to_owned(),
        (_, Some(version)) => format!("openai/deployments/{name}/chat/completions?api-version={}", escaped(version)),
    }
}

/// One part of a path: a model's name may hold slashes and colons.
fn escaped(part: &str) -> String {
    let mut text = String::new();
    for byte in part.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[track_caller]
    fn check(kind: Kind, api_version: Option<&str>, dialect: Dialect, streamed: bool, path: &str) {
        let mut provider = Provider::new("p", kind, "https://h.example/base/", None).expect("a URL");
        provider.api_version = api_version.map(str::to_owned);
        let endpoint = Endpoint {
            id: "m@p".to_owned(),
            model: "m".to_owned(),
            provider: "p".to_owned(),
            tag: None,
            name: "a/m:1".to_owned(),
            dialect,
            quirks: protocol::dialect::Quirks::default(),
            price: catalog::Price::default(),
            billing: catalog::Billing::PerToken,
            context_tokens: 1,
            input_tokens_max: 1,
            output_tokens_max: 1,
            output_tokens_reserved_max: 1,
            abilities: Vec::new(),
            facts: catalog::Facts::default(),
            aggregator: false,
            deprecated: false,
            request_fee: false,
            provider_names: Arc::default(),
            credential: None,
            first_token_timeout_ms: None,
            idle_timeout_ms: None,
            total_timeout_ms: None,
        };
        let url = address(&provider, &endpoint, streamed).expect("a URL");
        assert_eq!(url.as_str(), format!("https://h.example/base/{path}"));
    }

    #[test]
    fn each_kind_has_its_form() {
        use Dialect::{Anthropic, Bedrock, Cohere, Gemini, OpenaiChat, OpenaiResponses};
        check(Kind::Openai, None, OpenaiChat, true, "chat/completions");
        check(Kind::Openai, None, OpenaiResponses, false, "responses");
        check(Kind::Anthropic, None, Anthropic, true, "messages");
        check(Kind::Gemini, None, Gemini, false, "models/a%2Fm%3A1:generateContent");
        check(Kind::Gemini, None, Gemini, true, "models/a%2Fm%3A1:streamGenerateContent?alt=sse");
        check(Kind::Vertex, None, Gemini, false, "publishers/google/models/a%2Fm%3A1:generateContent");
        check(Kind::Vertex, None, Anthropic, true, "publishers/anthropic/models/a%2Fm%3A1:streamRawPredict");
        check(Kind::Vertex, None, OpenaiChat, true, "endpoints/openapi/chat/completions");
        check(Kind::Bedrock, None, Bedrock, false, "model/a%2Fm%3A1/converse");
        check(Kind::Bedrock, None, Bedrock, true, "model/a%2Fm%3A1/converse-stream");
        check(Kind::Azure, None, OpenaiChat, true, "openai/v1/chat/completions");
        check(Kind::Azure, None, OpenaiResponses, true, "openai/v1/responses");
        let dated = "openai/deployments/a%2Fm%3A1/chat/completions?api-version=2024-10-21";
        check(Kind::Azure, Some("2024-10-21"), OpenaiChat, false, dated);
        check(Kind::Cohere, None, Cohere, true, "chat");
    }
}
