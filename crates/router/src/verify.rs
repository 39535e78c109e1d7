//! Whether an answer can be checked without another model, and the check: a JSON schema, calls of the request's own tools, or
//! two samples that come to the same end. Refused, empty and cut answers pass none.

use crate::schema::{CHECKED_BYTES_MAX, Schema};
use protocol::{ChatRequest, Reply};
use serde::Deserialize;
use serde_json::Value;

/// What a policy has tried on a cheaper model first, and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cascade {
    /// Answers whose form can be checked: JSON by a schema, calls of tools.
    Form,
    /// These, and questions for a number or a choice, which are asked twice: both must come to the same end.
    Agreement,
}

/// How the answer to a request is checked.
#[derive(Debug, Clone, PartialEq)]
pub enum Check {
    /// It is a JSON object.
    Object,
    /// It is JSON that fits the schema.
    Schema(Schema),
    /// It calls tools of these names with arguments that fit their schemas.
    Calls(Vec<(String, Schema)>),
    /// Two samples end with the same choice.
    Choice,
    /// Two samples end with the same number.
    Number,
}

impl Check {
    /// How the answer to a request can be checked, as far as a policy wants it; `None` where it cannot.
    pub fn of(request: &ChatRequest, cascade: Cascade) -> Option<Self> {
        if request.n != 1 {
            return None;
        }
        if !request.tools.is_empty() {
            return Self::of_tools(request);
        }
        let format = request.response_format.as_ref().map(|format| (&format["type"], &format["json_schema"]["schema"]));
        match format {
            Some((kind, schema)) if kind == "json_schema" && schema.is_object() => {
                return Schema::of(schema).map(Self::Schema);
            }
            Some((kind, _)) if kind == "json_object" => return Some(Self::Object),
            Some((kind, _)) if kind != "text" => return None,
            _ => {}
        }
        // Without chance in them two samples agree whatever they say.
        let is_narrow = ["top_p", "top_k"].iter().any(|name| request.field_json(name).is_some());
        if cascade == Cascade::Form || request.temperature == Some(0.0) || request.has_seed || is_narrow {
            return None;
        }
        let asked = request.last_user_text()?;
        match () {
            () if offers_choices(&asked) => Some(Self::Choice),
            () if asks_for_a_number(&asked) => Some(Self::Number),
            () => None,
        }
    }

    fn of_tools(request: &ChatRequest) -> Option<Self> {
        let choice: Option<Value> =
            request.field_json("tool_choice").and_then(|choice| serde_json::from_str(&choice).ok());
        // Whether a tool should have been called where it need not be is nothing that a form tells.
        let choice = choice.filter(|choice| choice == "required" || choice.is_object())?;
        let named = choice["function"]["name"].as_str().or(choice["name"].as_str());
        let is_wanted =
            |tool: &&Value| choice == "required" || named.is_some() && tool["function"]["name"].as_str() == named;
        let wanted: Vec<&Value> = request.tools.iter().filter(is_wanted).collect();
        if wanted.is_empty() || wanted.len() > TOOLS_MAX {
            return None;
        }
        let tool = |tool: &Value| {
            let (name, parameters) = (tool["function"]["name"].as_str()?, &tool["function"]["parameters"]);
            let schema = if parameters.is_object() { parameters.clone() } else { Value::Bool(true) };
            Schema::of(&schema).map(|schema| (name.to_owned(), schema))
        };
        wanted.into_iter().map(tool).collect::<Option<Vec<_>>>().map(Self::Calls)
    }

    /// What a trace calls it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Object => "object",
            Self::Schema(_) => "schema",
            Self::Calls(_) => "calls",
            Self::Choice => "choice",
            Self::Number => "number",
        }
    }

    /// How many samples it takes.
    pub fn samples(&self) -> usize {
        if matches!(self, Self::Choice | Self::Number) { 2 } else { 1 }
    }

    /// What is wrong with an answer's form; of a check by samples, whether it comes to an end at all.
    ///
    /// # Errors
    /// With why it does not pass.
    pub fn passes(&self, reply: &Reply) -> Result<(), String> {
        let [choice] = reply.choices.as_slice() else { return Err("not one answer".to_owned()) };
        let (message, finish) = (&choice.message, choice.finish_reason.as_deref());
        let text = message.content.as_deref().unwrap_or_default().trim();
        if matches!(finish, Some("length" | "content_filter")) {
            return Err("cut".to_owned());
        }
        if let Self::Calls(tools) = self {
            return called_well(tools, &message.tool_calls);
        }
        if text.is_empty() {
            return Err("empty".to_owned());
        }
        if message.refusal.is_some() || refuses(text) {
            return Err("refused".to_owned());
        }
        if text.len() > CHECKED_BYTES_MAX {
            return Err("too long to be checked".to_owned());
        }
        let is_object = || serde_json::from_str::<Value>(text).is_ok_and(|value| value.is_object());
        match self {
            Self::Object => is_object().then_some(()).ok_or_else(|| "no JSON object".to_owned()),
            Self::Schema(schema) => schema.fits(text),
            Self::Calls(_) => Ok(()),
            Self::Choice | Self::Number => self.end_of(text).map(|_| ()).ok_or_else(|| "comes to no end".to_owned()),
        }
    }

    /// What a sample comes to: the letter chosen, or the last number. `None` for other checks, and where there is none.
    pub fn end_of(&self, text: &str) -> Option<String> {
        match self {
            Self::Choice => chosen(text),
            Self::Number => last_number(text),
            _ => None,
        }
    }
}

/// Tools of which one must be called; among more nothing is checked.
const TOOLS_MAX: usize = 32;

fn called_well(tools: &[(String, Schema)], calls: &[Value]) -> Result<(), String> {
    if calls.is_empty() {
        return Err("no tool is called".to_owned());
    }
    for call in calls {
        let (name, arguments) = (call["function"]["name"].as_str(), call["function"]["arguments"].as_str());
        let known = tools.iter().find(|(tool, _)| Some(tool.as_str()) == name);
        let (name, schema) = known.ok_or_else(|| format!("calls `{}`, which is no tool", name.unwrap_or_default()))?;
        let arguments = arguments.unwrap_or_default();
        let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
        schema.fits(arguments).map_err(|problem| format!("the arguments of {name}: {problem}"))?;
    }
    Ok(())
}

/// How refusals begin, lower-case, with straight apostrophes.
const REFUSALS: &[&str] = &[
    "i'm sorry, but i can",
    "i am sorry, but i can",
    "i'm sorry, i can",
    "sorry, but i can",
    "sorry, i can",
    "i apologize, but i can",
    "i cannot help",
    "i can't help",
    "i cannot assist",
    "i can't assist",
    "i can't provide",
    "i cannot provide",
    "i cannot fulfill",
    "i can't fulfill",
    "i cannot answer",
    "i can't answer",
    "i am unable to",
    "i'm unable to",
    "i'm not able to",
    "i am not able to",
    "i won't be able to",
    "i must decline",
    "i have to decline",
    "i'd rather not",
    "unfortunately, i can",
    "unfortunately, i am unable",
    "unfortunately, i'm unable",
    "as an ai",
    "as a language model",
    "as a large language model",
    "es tut mir leid, aber ich kann",
    "tut mir leid, aber ich kann",
    "tut mir leid, ich kann",
    "leider kann ich",
    "das kann ich leider nicht",
    "je suis désolé, mais je ne",
    "désolé, mais je ne",
    "je ne peux pas",
    "lo siento, pero no puedo",
    "lo siento, no puedo",
    "no puedo ayudar",
    "mi dispiace, ma non posso",
    "desculpe, mas não posso",
    "sinto muito, mas não posso",
    "抱歉,我无法",
    "很抱歉",
    "申し訳ありませんが",
    "извините, но я не могу",
    "к сожалению, я не могу",
];
/// Where a refusal begins.
const HEAD_CHARS: usize = 160;

fn refuses(text: &str) -> bool {
    let head: String =
        text.chars().take(HEAD_CHARS).collect::<String>().to_lowercase().replace('’', "'").replace('，', ",");
    let head = head.trim_start_matches(|c: char| !c.is_alphanumeric());
    REFUSALS.iter().any(|refusal| head.starts_with(refusal))
}

/// Three lines at least that begin with letters in their order.
fn offers_choices(asked: &str) -> bool {
    let mut next = b'A';
    for line in asked.lines() {
        let line = line.trim_start().trim_start_matches('(');
        let mut chars = line.bytes();
        let is_next = chars.next().is_some_and(|letter| letter.to_ascii_uppercase() == next)
            && chars.next().is_some_and(|mark| matches!(mark, b'.' | b')' | b':'));
        next += u8::from(is_next);
    }
    next >= b'D'
}

/// True where the last sentence asks for a number, and the prompt for nothing to be written.
fn asks_for_a_number(asked: &str) -> bool {
    const ASKING: [&str; 14] = [
        "how many",
        "how much",
        "how old",
        "how long",
        "how far",
        "how tall",
        "what is the total",
        "what is the sum",
        "what is the average",
        "what is the value of",
        "what is the remainder",
        "what is the product",
        "find the number of",
        "what percentage",
    ];
    const WRITING: [&str; 9] =
        ["```", "def ", "function", "code", "program", "script", "write", "explain", "tell me why"];
    let asked = asked.trim().to_lowercase();
    let body = asked.trim_end_matches(['?', '.', '!', ' ']);
    let last = body.rsplit(['\n', '?', '!']).next().and_then(|line| line.rsplit(". ").next()).unwrap_or_default();
    let digits = asked.bytes().filter(u8::is_ascii_digit).count();
    let asks = ASKING.iter().any(|words| last.contains(words));
    digits >= 2 && asks && !WRITING.iter().any(|words| asked.contains(words))
}

/// The letter after the last "answer", in brackets or in bold, or the one that a text consists of.
fn chosen(text: &str) -> Option<String> {
    let is_choice = |letter: char| letter.is_ascii_uppercase() && letter <= 'J';
    let alone = text.trim_matches(|c: char| !c.is_alphanumeric());
    if alone.len() == 1 {
        return alone
            .chars()
            .next()
            .filter(|letter| is_choice(letter.to_ascii_uppercase()))
            .map(|l| l.to_ascii_uppercase().to_string());
    }
    let lower = text.to_lowercase();
    let from = if lower.len() == text.len() { lower.rfind("answer").map_or(0, |at| at + "answer".len()) } else { 0 };
    let letters = |part: &str| -> Vec<char> {
        let chars: Vec<char> = part.chars().collect();
        let alone = |at: usize| {
            let before = at.checked_sub(1).map_or(' ', |at| chars[at]);
            let after = chars.get(at + 1).copied().unwrap_or(' ');
            is_choice(chars[at]) && !before.is_alphanumeric() && !after.is_alphanumeric() && after != '\''
        };
        (0..chars.len()).filter(|at| alone(*at)).map(|at| chars[at]).collect()
    };
    let after = letters(text.get(from..)?);
    // Behind the word the first counts, without it the last.
    let found = if from > 0 { after.first() } else { after.last() };
    found.or(letters(text).last()).map(char::to_string)
}

/// The number that a text ends with, without separators, unit or trailing zeros: behind `####`, in `\boxed{}`, or else the last
/// one before a remark in brackets.
fn last_number(text: &str) -> Option<String> {
    if let Some((_, end)) = text.rsplit_once("####") {
        return number_before_end(end);
    }
    if let Some((_, boxed)) = text.rsplit_once("\\boxed{") {
        return number_before_end(boxed.split('}').next()?);
    }
    let trimmed = text.trim_end_matches(|c: char| !c.is_alphanumeric() && c != ')');
    let remark = trimmed.ends_with(')').then(|| trimmed.rfind('(')).flatten();
    let before = remark.and_then(|begin| number_before_end(&trimmed[..begin]));
    before.or_else(|| number_before_end(trimmed))
}

fn number_before_end(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let end = bytes.iter().rposition(u8::is_ascii_digit)? + 1;
    let is_part = |at: usize| match bytes[at] {
        b'0'..=b'9' => true,
        // Points and commas belong to it between two digits.
        b'.' | b',' | b'/' => at > 0 && bytes[at - 1].is_ascii_digit() && bytes[at + 1].is_ascii_digit(),
        _ => false,
    };
    let begin = (0..end).rev().take_while(|at| is_part(*at)).last()?;
    let sign = begin.checked_sub(1).filter(|at| bytes[*at] == b'-').map_or("", |_| "-");
    let found = text[begin..end].replace(',', "");
    let found = match found.split_once('.') {
        Some((whole, part)) if part.bytes().all(|digit| digit == b'0') => whole.to_owned(),
        Some((whole, part)) => format!("{whole}.{}", part.trim_end_matches('0')),
        None => found,
    };
    Some(format!("{sign}{found}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use serde_json::json;

    #[test]
    fn a_sample_ends_with_its_last_number_or_the_letter_it_names() {
        for (text, number) in [
            ("She pays 3 * 4 = $12.00 in total.", Some("12")),
            ("So it is 1,234.50 dollars.", Some("1234.5")),
            ("#### -7", Some("-7")),
            ("half, that is 1/2", Some("1/2")),
            ("In 2024 there were 5.", Some("5")),
            ("It is 7. (90 % sure)", Some("7")),
            ("There are seven (7).", Some("7")),
            ("\\boxed{15}, as in problem 3", Some("15")),
            ("no idea", None),
        ] {
            assert_eq!(Check::Number.end_of(text).as_deref(), number, "{text}");
        }
        for (text, letter) in [
            ("B", Some("B")),
            ("(c)", Some("C")),
            ("**D**", Some("D")),
            ("The answer is (B) because A is wrong.", Some("B")),
            ("A is wrong, and so is C. Answer: D", Some("D")),
            ("Between A and B, I choose B.", Some("B")),
            ("I'd say it can't be told", None),
        ] {
            assert_eq!(Check::Choice.end_of(text).as_deref(), letter, "{text}");
        }
    }

    #[test]
    fn a_request_is_checked_as_its_form_allows() {
        let check = |body: Value, cascade: Cascade| {
            Check::of(&ChatRequest::parse(&Bytes::from(body.to_string())).expect("valid"), cascade)
        };
        let asked = |text: &str| json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        let with = |name: &str, value: Value| {
            let mut body = asked("Who?");
            body[name] = value;
            body
        };
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let format = |schema: &Value| json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        assert_eq!(
            check(with("response_format", format(&schema)), Cascade::Form),
            Schema::of(&schema).map(Check::Schema)
        );
        assert_eq!(check(with("response_format", json!({"type": "json_object"})), Cascade::Form), Some(Check::Object));
        // What is no schema, or looks elsewhere, is not checked.
        for bad in [
            json!({"type": 7}),
            json!({"$ref": "file:///etc/passwd"}),
            json!({"$ref": "https://example.org/x"}),
            json!({"$ref": "#"}),
        ] {
            assert_eq!(check(with("response_format", format(&bad)), Cascade::Form), None, "{bad}");
        }
        let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
        let mut calling = with("tools", tools);
        assert_eq!(check(calling.clone(), Cascade::Form), None, "no tool need be called");
        calling["tool_choice"] = json!("required");
        assert!(matches!(check(calling.clone(), Cascade::Form), Some(Check::Calls(tools)) if tools.len() == 1));
        calling["tool_choice"] = json!({"type": "function", "function": {"name": "other"}});
        assert_eq!(check(calling, Cascade::Form), None, "a tool that is not offered");
        let (many, options) = ("I had 3 apples and ate 2. How many are left?", "Which?\nA. this\nB. that\nC. none");
        assert_eq!(check(asked(many), Cascade::Agreement), Some(Check::Number));
        assert_eq!(check(asked(options), Cascade::Agreement), Some(Check::Choice));
        assert_eq!(check(asked(many), Cascade::Form), None);
        assert_eq!(check(asked("Who wrote Hamlet?"), Cascade::Agreement), None);
        for text in
            ["Write a function to compute the first 10 primes below 30.", "How many? I have 12 and 13. Tell me why."]
        {
            assert_eq!(check(asked(text), Cascade::Agreement), None, "{text}");
        }
        for (name, value) in [("temperature", json!(0)), ("seed", json!(7)), ("n", json!(2)), ("top_p", json!(0.1))] {
            let mut body = asked(many);
            body[name] = value;
            assert_eq!(check(body, Cascade::Agreement), None, "{name}");
        }
    }
}
