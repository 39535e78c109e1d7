//! Which model a name means: canonical names, reviewed aliases, the providers' own names, and other spellings.

use std::collections::HashMap;

/// Names that are not canonical, with the model each means.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameIndex {
    exact: HashMap<String, Meant>,
    /// By [`spelled`]; only where all names so spelled mean one model.
    spelled: HashMap<String, Meant>,
}

/// What a name means, and how sure that is: of two claims the surer counts, of equal ones none.
#[derive(Debug, Clone, PartialEq)]
struct Meant {
    claim: Claim,
    /// `None` where claims of this kind contradict each other.
    model: Option<String>,
}

/// Where a name is from, the surest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    /// A provider calls one of its endpoints so.
    Native,
    /// The same with the provider before it, or a name in the model's own row.
    Known,
    /// A reviewer wrote it down.
    Written,
    /// The operator wrote it down.
    Operator,
    /// The model's canonical name.
    Canonical,
}

impl NameIndex {
    /// Notes that `name` means `model`.
    pub(crate) fn claim(&mut self, name: &str, model: &str, claim: Claim) {
        if name != model {
            note(&mut self.exact, name.to_owned(), model, claim);
        }
        note(&mut self.spelled, spelled(name), model, claim);
    }

    /// The model that a name means.
    pub(crate) fn model(&self, name: &str) -> Option<&str> {
        let meant = self.exact.get(name).or_else(|| self.spelled.get(&spelled(name)))?;
        meant.model.as_deref()
    }
}

fn note(names: &mut HashMap<String, Meant>, name: String, model: &str, claim: Claim) {
    let new = Meant { claim, model: Some(model.to_owned()) };
    match names.get_mut(&name) {
        None => drop(names.insert(name, new)),
        Some(known) if known.claim < claim => *known = new,
        Some(known) if known.claim == claim && known.model.as_deref() != Some(model) => known.model = None,
        Some(_) => {}
    }
}

/// A name without what people spell differently: case, and dots, underscores and dashes.
pub(crate) fn spelled(name: &str) -> String {
    name.chars().map(|c| if matches!(c, '.' | '_' | '@') { '-' } else { c.to_ascii_lowercase() }).collect()
}

/// The base model in the name of a fine-tuned one, as `ft:gpt-4o-mini-2024-07-18:acme::abc`.
pub(crate) fn fine_tuned_base(name: &str) -> Option<&str> {
    let rest = name.strip_prefix("openai/").unwrap_or(name).strip_prefix("ft:")?;
    rest.split(':').next().filter(|base| !base.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_surer_claim_counts_and_contradictions_mean_nothing() {
        let mut names = NameIndex::default();
        names.claim("fast", "a/one", Claim::Native);
        names.claim("fast", "b/two", Claim::Native);
        assert_eq!(names.model("fast"), None);
        names.claim("fast", "c/three", Claim::Written);
        assert_eq!(names.model("fast"), Some("c/three"));
        names.claim("fast", "d/four", Claim::Native);
        assert_eq!(names.model("fast"), Some("c/three"));
    }

    #[test]
    fn dots_dashes_and_case_are_spelling() {
        let mut names = NameIndex::default();
        names.claim("anthropic/claude-sonnet-4.5", "anthropic/claude-sonnet-4.5", Claim::Canonical);
        for name in ["anthropic/claude-sonnet-4-5", "Anthropic/Claude-Sonnet-4.5", "anthropic/claude_sonnet_4_5"] {
            assert_eq!(names.model(name), Some("anthropic/claude-sonnet-4.5"), "{name}");
        }
        assert_eq!(names.model("anthropic/claude-sonnet-45"), None);
        assert_eq!(fine_tuned_base("ft:gpt-4o-mini-2024-07-18:acme::x1"), Some("gpt-4o-mini-2024-07-18"));
        assert_eq!(fine_tuned_base("gpt-4o"), None);
    }
}
