//! Where a request comes from: the address, and what the client says of itself.

use axum::http::{Extensions, HeaderMap, header};
use ipnet::IpNet;
use protocol::ChatRequest;
use std::net::{IpAddr, SocketAddr};

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

/// Of what a client says of itself, so much is kept.
const CHARS_MAX: usize = 128;

/// What is recorded of a request's origin.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    /// The application, as it calls itself, or the host that it names.
    pub app: String,
    pub referer: String,
    pub user_agent: String,
    /// The step of a workflow: `metadata.step`.
    pub step: String,
}

impl Origin {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let says = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map_or("", str::trim);
        let shortened = |text: &str| text.chars().take(CHARS_MAX).collect::<String>();
        let referer = [says("http-referer"), says("referer")].into_iter().find(|text| !text.is_empty());
        let referer = referer.unwrap_or_default();
        let title = [says("x-title"), says("x-openrouter-title")].into_iter().find(|text| !text.is_empty());
        let app = title.unwrap_or_else(|| host(referer));
        Self {
            app: shortened(app),
            referer: shortened(referer),
            user_agent: shortened(says(header::USER_AGENT.as_str())),
            step: String::new(),
        }
    }

    /// Adds what the request's own body says.
    pub(crate) fn read(&mut self, request: &ChatRequest) {
        let metadata = request.field_json("metadata");
        let metadata = metadata.and_then(|json| serde_json::from_str::<serde_json::Value>(&json).ok());
        let step = metadata.as_ref().and_then(|metadata| metadata["step"].as_str()).unwrap_or_default();
        self.step = step.chars().take(CHARS_MAX).collect();
    }
}

/// The host of a URL.
fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split(['/', '?', '#']).next().unwrap_or_default()
}

/// Where a request comes from, as far as that can be known.
pub(crate) fn address(extensions: &Extensions, headers: &HeaderMap, proxies: &[IpNet]) -> Option<IpAddr> {
    // A proxy may add a line of its own to what the client sent.
    let lines = headers.get_all("x-forwarded-for").iter().map(|line| line.to_str().unwrap_or("unreadable"));
    let forwarded: Vec<&str> = lines.filter(|line| !line.trim().is_empty()).collect();
    behind(extensions.get::<Peer>()?.0, &forwarded.join(","), proxies)
}

/// The client's address: the last one that a trusted proxy did not add; `None` where a proxy names something else. Others can
/// write what they like into the header.
fn behind(peer: IpAddr, forwarded: &str, proxies: &[IpNet]) -> Option<IpAddr> {
    let is_proxy = |address: &IpAddr| proxies.iter().any(|proxy| proxy.contains(&address.to_canonical()));
    let mut client = peer.to_canonical();
    for entry in forwarded.rsplit(',').filter(|_| !forwarded.is_empty()) {
        if !is_proxy(&client) {
            break;
        }
        let with_port = || entry.trim().parse::<SocketAddr>().map(|address| address.ip());
        client = entry.trim().parse::<IpAddr>().or_else(|_| with_port()).ok()?.to_canonical();
    }
    Some(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_say_who_the_client_is() {
        let proxies: Vec<IpNet> = ["10.0.0.0/8", "127.0.0.1/32"].map(|text| text.parse().expect("a range")).into();
        let check = |peer: &str, forwarded: &str, expected: &str| {
            let peer = peer.parse().expect("an address");
            let found = behind(peer, forwarded, &proxies).map_or_else(String::new, |address| address.to_string());
            assert_eq!(found, expected, "{forwarded}");
        };
        check("8.8.8.8", "1.2.3.4", "8.8.8.8");
        check("127.0.0.1", "", "127.0.0.1");
        check("127.0.0.1", "1.2.3.4", "1.2.3.4");
        check("127.0.0.1", "6.6.6.6, 1.2.3.4, 10.1.1.1", "1.2.3.4");
        check("127.0.0.1", "1.2.3.4, nonsense", "");
        check("127.0.0.1", "1.2.3.4:5678", "1.2.3.4");
        check("127.0.0.1", "10.6.6.6,1.2.3.4", "1.2.3.4");
        check("::ffff:127.0.0.1", "1.2.3.4", "1.2.3.4");
    }

    #[test]
    fn an_application_without_a_title_is_its_host() {
        assert_eq!(host("https://app.example.org/chat?x=1"), "app.example.org");
        assert_eq!(host("app.example.org"), "app.example.org");
        assert_eq!(host(""), "");
    }
}
