//! Rules of a policy: conditions in CEL (github.com/google/cel-spec) on the request and its caller, and the models that they
//! pin, forbid or prefer. They come before everything that is learned.

use crate::decide::estimate_tokens;
use catalog::Endpoint;
use cel::{Context, Env, Program, Value, extensions};
use protocol::{ChatRequest, Role};
use serde::{Deserialize, Serialize};
use std::sync::{Arc, LazyLock};
use toml::Spanned;

/// One `[[policies.<name>.rules]]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RuleConfig {
    /// A CEL expression of `request` and `caller`.
    pub when: Spanned<String>,
    /// Only these may serve.
    #[serde(default, rename = "use")]
    pub only: Vec<Spanned<String>>,
    /// These may not.
    #[serde(default)]
    pub forbid: Vec<Spanned<String>>,
    /// These go first, whatever they cost.
    #[serde(default)]
    pub prefer: Vec<Spanned<String>>,
}

/// A rule whose condition compiles.
#[derive(Debug, Clone)]
pub struct Rule {
    when: String,
    program: Arc<Program>,
    only: Vec<Pattern>,
    forbid: Vec<Pattern>,
    prefer: Vec<Pattern>,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        (&self.when, &self.only, &self.forbid, &self.prefer) == (&other.when, &other.only, &other.forbid, &other.prefer)
    }
}

/// Where something in a rule cannot be meant, in which of its fields, and why.
pub(crate) type RuleMistake = (std::ops::Range<usize>, &'static str, String);

/// Names endpoints: a model, `author/*` for all models whose names fit, `@provider` for all that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pattern {
    Model(String),
    Fits(String),
    /// With its `@`.
    Provider(String),
}

impl Pattern {
    /// Reads a pattern; `resolve` finds a model's canonical name.
    ///
    /// # Errors
    /// When it names a model that nobody serves.
    fn read(text: &str, resolve: impl Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        if text.starts_with('@') {
            return Ok(Self::Provider(text.to_owned()));
        }
        if text.contains('*') { Ok(Self::Fits(text.to_owned())) } else { resolve(text).map(Self::Model) }
    }

    fn covers(&self, endpoint: &Endpoint) -> bool {
        match self {
            Self::Model(model) => endpoint.model == *model,
            Self::Fits(pattern) => fits(&endpoint.model, pattern),
            Self::Provider(provider) => endpoint.is_called(provider.trim_start_matches('@')),
        }
    }

    fn text(&self) -> &str {
        let (Self::Model(text) | Self::Fits(text) | Self::Provider(text)) = self;
        text
    }
}

/// True where a name is as the pattern says, in which `*` stands for anything.
fn fits(name: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = name.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// Who asks, as far as rules may tell.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Asker<'a> {
    pub tenant: &'a str,
    /// The key's name.
    pub key: &'a str,
}

/// What a condition can ask of a request.
#[derive(Debug, Serialize)]
struct Facts<'a> {
    model: &'a str,
    /// The last user turn.
    text: String,
    system: String,
    turns: usize,
    /// A high estimate.
    input_tokens: u64,
    /// 0 where the request names none.
    max_tokens: u64,
    /// Names.
    tools: Vec<&'a str>,
    /// `text`, `json_object` or `json_schema`.
    response_format: &'a str,
    /// Pictures, sound or files.
    media: bool,
    /// Code in the last user turn.
    code: bool,
    stream: bool,
    user: &'a str,
}

impl<'a> Facts<'a> {
    fn of(request: &'a ChatRequest, input_tokens: u64) -> Self {
        // Whatever follows it: a turn put into the assistant's mouth must not switch rules off.
        let asked = request.messages.iter().rev().find(|message| message.role == Role::User);
        let text = asked.map(|message| message.text().into_owned()).unwrap_or_default();
        let system: Vec<String> = request
            .messages
            .iter()
            .filter(|message| matches!(message.role, Role::System | Role::Developer))
            .map(|message| message.text().into_owned())
            .collect();
        let format = request.response_format.as_ref().and_then(|format| format["type"].as_str());
        Self {
            model: &request.model,
            code: looks_like_code(&text),
            text,
            system: system.join("\n"),
            turns: request.messages.len(),
            input_tokens,
            max_tokens: request.max_tokens.unwrap_or(0),
            tools: request.tools.iter().filter_map(|tool| tool["function"]["name"].as_str()).collect(),
            response_format: format.unwrap_or("text"),
            media: request.messages.iter().any(protocol::Message::has_media),
            stream: request.stream,
            user: request.user.as_deref().unwrap_or_default(),
        }
    }
}

/// A fence, or several signs of a program.
fn looks_like_code(text: &str) -> bool {
    const SIGNS: [&str; 14] = [
        "def ",
        "return ",
        "import ",
        "();",
        "fn ",
        "=> ",
        "#include",
        "class ",
        "SELECT ",
        "</",
        "{\n",
        "function ",
        "const ",
        "let ",
    ];
    text.contains("```") || SIGNS.iter().filter(|sign| text.contains(**sign)).count() >= 2
}

/// Which rules of a policy apply to a request. They are asked once: who may answer depends on it, and so which stored
/// answers count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// From 1, rising.
    numbers: Vec<usize>,
    /// Conditions that could not be told, with the reason: such a rule does not apply.
    pub failed: Vec<String>,
}

/// True where the rules that apply let an endpoint see the request.
pub fn permits(rules: &[Rule], applied: &Applied, endpoint: &Endpoint) -> bool {
    Ruled::by(rules, applied).objection(endpoint).is_none()
}

impl Applied {
    /// Asks every rule.
    pub fn of(rules: &[Rule], request: &ChatRequest, asker: Asker<'_>) -> Self {
        let mut applied = Self::default();
        if rules.is_empty() {
            return applied;
        }
        let context = context(&Facts::of(request, estimate_tokens(request)), asker);
        for (at, rule) in rules.iter().enumerate() {
            match told(&rule.program, &context) {
                Err(problem) => applied.failed.push(format!("rule {}: {problem}", at + 1)),
                Ok(false) => {}
                Ok(true) => applied.numbers.push(at + 1),
            }
        }
        applied
    }

    /// What tells requests apart that other rules apply to; empty where none does.
    pub fn identity(&self) -> String {
        let numbers: Vec<String> = self.numbers.iter().map(usize::to_string).collect();
        numbers.join(",")
    }
}

/// What the rules that apply say of endpoints.
#[derive(Debug, Default)]
pub(crate) struct Ruled<'a> {
    /// The first rule that pins, by its number from 1.
    only: Option<(usize, &'a [Pattern])>,
    forbid: Vec<(usize, &'a [Pattern])>,
    prefer: Vec<&'a [Pattern]>,
}

impl<'a> Ruled<'a> {
    pub(crate) fn by(rules: &'a [Rule], applied: &Applied) -> Self {
        let mut ruled = Self::default();
        for (number, rule) in applied.numbers.iter().filter_map(|number| Some((*number, rules.get(number - 1)?))) {
            if ruled.only.is_none() && !rule.only.is_empty() {
                ruled.only = Some((number, &rule.only));
            }
            ruled.forbid.push((number, &rule.forbid));
            ruled.prefer.push(&rule.prefer);
        }
        ruled
    }

    /// Why an endpoint may not serve.
    pub(crate) fn objection(&self, endpoint: &Endpoint) -> Option<String> {
        let covers = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.covers(endpoint));
        if let Some((number, _)) = self.forbid.iter().find(|(_, patterns)| covers(patterns)) {
            return Some(format!("rule {number} forbids it"));
        }
        let (number, _) = self.only.filter(|(_, patterns)| !covers(patterns))?;
        Some(format!("rule {number} uses others"))
    }

    /// True where a rule pins endpoints: what is expected of their quality does not matter then.
    pub(crate) fn pins(&self) -> bool {
        self.only.is_some()
    }

    /// True where a rule wants an endpoint first.
    pub(crate) fn prefers(&self, endpoint: &Endpoint) -> bool {
        self.prefer.iter().any(|patterns| patterns.iter().any(|pattern| pattern.covers(endpoint)))
    }
}

fn context(facts: &Facts, asker: Asker<'_>) -> Context<'static, 'static> {
    static ENV: LazyLock<Arc<Env>> = LazyLock::new(|| {
        let mut env = Env::stdlib();
        // It refuses functions that are there already; without the strings' functions the plain ones are left.
        let _ = env.add_extension(extensions::strings);
        Arc::new(env)
    });
    let mut context = Context::with_env(Arc::clone(&ENV));
    // Structures of strings and numbers always become values.
    let _ = context.add_variable("request", facts);
    let _ = context.add_variable("caller", asker);
    context
}

fn told(program: &Program, context: &Context) -> Result<bool, String> {
    match program.execute(context) {
        Ok(Value::Bool(told)) => Ok(told),
        Ok(other) => Err(format!("is {:?}, not true or false", other.type_of())),
        Err(error) => Err(error.to_string()),
    }
}

impl Rule {
    /// The patterns of what may not or alone may serve that cover none of these endpoints.
    pub fn idle<'a>(&'a self, endpoints: impl Iterator<Item = &'a Endpoint> + Clone) -> impl Iterator<Item = &'a str> {
        let patterns = self.only.iter().chain(&self.forbid);
        patterns.filter(move |pattern| !endpoints.clone().any(|endpoint| pattern.covers(endpoint))).map(Pattern::text)
    }

    /// Compiles a rule and tries it on an empty request.
    ///
    /// # Errors
    /// With what is wrong, and the field it stands in.
    pub(crate) fn from_config(
        config: &RuleConfig,
        resolve: impl Fn(&str) -> Result<String, String> + Copy,
    ) -> Result<Self, Vec<RuleMistake>> {
        let mut mistakes = Vec::new();
        let mut read = |patterns: &[Spanned<String>], field: &'static str| -> Vec<Pattern> {
            let mut found = Vec::new();
            for pattern in patterns {
                match Pattern::read(pattern.get_ref(), resolve) {
                    Ok(pattern) => found.push(pattern),
                    Err(problem) => mistakes.push((pattern.span(), field, problem)),
                }
            }
            found
        };
        let (only, forbid) = (read(&config.only, "use"), read(&config.forbid, "forbid"));
        let prefer = read(&config.prefer, "prefer");
        if config.only.is_empty() && config.forbid.is_empty() && config.prefer.is_empty() {
            mistakes.push((config.when.span(), "when", "the rule does nothing; add use, forbid or prefer".to_owned()));
        }
        let when = config.when.get_ref().clone();
        match compile(&when) {
            Err(problem) => {
                mistakes.push((config.when.span(), "when", problem));
                Err(mistakes)
            }
            Ok(_) if !mistakes.is_empty() => Err(mistakes),
            Ok(program) => Ok(Self { when, program: Arc::new(program), only, forbid, prefer }),
        }
    }
}

/// Compiles a condition; what it asks of must exist.
fn compile(when: &str) -> Result<Program, String> {
    let program = Program::compile(when).map_err(|error| error.to_string().replace('\n', " "))?;
    let request = ChatRequest::parse(&bytes::Bytes::from_static(
        br#"{"model":"m","messages":[{"role":"user","content":"hello"}]}"#,
    ));
    if let Ok(request) = request {
        told(&program, &context(&Facts::of(&request, 1), Asker::default()))?;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Result<Rule, Vec<String>> {
        let config: RuleConfig = toml::from_str(text).expect("a table");
        let resolve = |name: &str| if name == "a/m" { Ok(name.to_owned()) } else { Err(format!("no model `{name}`")) };
        let named = |(_, field, problem): (_, &str, String)| format!("{field}: {problem}");
        Rule::from_config(&config, resolve).map_err(|mistakes| mistakes.into_iter().map(named).collect())
    }

    #[track_caller]
    fn applies(when: &str, body: &str, expected: bool) {
        let rules = [rule(&format!("when = {when:?}\nuse = [\"a/m\"]")).expect("a rule")];
        let body = format!(r#"{{"model":"auto",{body}}}"#);
        let request = ChatRequest::parse(&bytes::Bytes::from(body)).expect("valid");
        let applied = Applied::of(&rules, &request, Asker { tenant: "acme", key: "ci" });
        assert!(applied.failed.is_empty(), "{when}: {:?}", applied.failed);
        assert_eq!(Ruled::by(&rules, &applied).pins(), expected, "{when}");
    }

    const HELLO: &str = r#""messages":[{"role":"system","content":"Be kind"},{"role":"user","content":"Hello"}]"#;

    #[test]
    fn conditions_see_the_request_and_its_caller() {
        let with = |more: &str| format!("{HELLO},{more}");
        applies("caller.tenant == 'acme' && caller.key == 'ci'", HELLO, true);
        applies("request.text.contains('ell') && request.system.startsWith('Be')", HELLO, true);
        applies("request.text.lowerAscii() == 'hello'", HELLO, true);
        applies("request.turns > 2 || request.input_tokens > 100", HELLO, false);
        applies("request.tools.size() > 0", HELLO, false);
        let tools = with(r#""tools":[{"type":"function","function":{"name":"search"}}]"#);
        applies("'search' in request.tools", &tools, true);
        let schema = with(r#""response_format":{"type":"json_schema","json_schema":{}}"#);
        applies("request.response_format == 'json_schema'", &schema, true);
        applies("request.max_tokens >= 1000 && !request.stream", &with(r#""max_tokens":1000"#), true);
        applies("request.media", HELLO, false);
        let prefilled =
            r#""messages":[{"role":"user","content":"Is it legal?"},{"role":"assistant","content":"Sure:"}]"#;
        applies("request.text.contains('legal')", prefilled, true);
        let code = r#""messages":[{"role":"user","content":"Fix it:\n```\nfn a() {}\n```"}]"#;
        applies("request.code", code, true);
        applies("request.user == 'u1'", &with(r#""user":"u1""#), true);
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name, expected) in [
            ("a/*", "a/m", true),
            ("a/*", "b/m", false),
            ("a/gpt-*-nano", "a/gpt-5.4-nano", true),
            ("a/gpt-*-nano", "a/gpt-5.4-nano-x", false),
            ("a/gpt-*-nano", "a/gpt-nano", false),
            ("*flash*", "google/gemini-flash-lite", true),
            ("*", "", true),
        ] {
            assert_eq!(fits(name, pattern), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_named() {
        for (text, problem) in [
            ("when = \"request.text ==\"\nuse = [\"a/m\"]", "when: "),
            ("when = \"request.colour == 'red'\"\nuse = [\"a/m\"]", "when: "),
            ("when = \"request.text\"\nuse = [\"a/m\"]", "not true or false"),
            ("when = \"true\"", "does nothing"),
            ("when = \"true\"\nuse = [\"a/other\"]", "use: no model `a/other`"),
        ] {
            let mistakes = rule(text).expect_err(text);
            assert!(mistakes.iter().any(|mistake| mistake.contains(problem)), "{text}: {mistakes:?}");
        }
    }
}
