//! A client's JSON schema, bounded before it is compiled: what it unfolds to, and what a check of it costs.

use serde_json::Value;
use std::fmt;
use std::sync::Arc;

/// Longer answers are not checked, nor is what would take more steps: places of a schema, its references followed, times bytes
/// of an answer. About half a second at the worst.
pub(crate) const CHECKED_BYTES_MAX: usize = 64 * 1024;
const STEPS_MAX: usize = 20_000_000;
/// Larger schemas are not checked, their references followed; those that refer to themselves have no end.
const SCHEMA_PLACES_MAX: usize = 2_000;
const SCHEMA_DEPTH_MAX: usize = 64;
/// Patterns of a schema, and the bytes of one: what they are compiled to can be large.
const PATTERNS_MAX: usize = 8;
const PATTERN_BYTES_MAX: usize = 64;

/// A schema ready to be asked.
#[derive(Clone)]
pub struct Schema {
    source: Value,
    places: usize,
    compiled: Arc<(boon::Schemas, boon::SchemaIndex)>,
}

impl Schema {
    /// Compiles a schema; `None` where it is none, has too many places, or needs another one from elsewhere.
    pub fn of(source: &Value) -> Option<Self> {
        let places = places(source)?;
        let (mut schemas, mut compiler) = (boon::Schemas::new(), boon::Compiler::new());
        compiler.use_loader(Box::new(NoAddresses));
        compiler.add_resource(PLACE, source.clone()).ok()?;
        let index = compiler.compile(PLACE, &mut schemas).ok()?;
        Some(Self { source: source.clone(), places, compiled: Arc::new((schemas, index)) })
    }

    /// Checks a text.
    ///
    /// # Errors
    /// Where it is no JSON, does not fit, or would take too long.
    pub fn fits(&self, text: &str) -> Result<(), String> {
        if text.len() > CHECKED_BYTES_MAX || self.places * text.len() > STEPS_MAX {
            return Err("too long to be checked".to_owned());
        }
        let instance: Value = serde_json::from_str(text).map_err(|error| format!("no JSON: {error}"))?;
        let (schemas, index) = &*self.compiled;
        let problem = |error: boon::ValidationError| {
            let place = error.causes.first().map(|cause| cause.instance_location.to_string()).unwrap_or_default();
            format!("does not fit the schema at `{place}`")
        };
        schemas.validate(&instance, *index).map_err(problem)
    }
}

impl PartialEq for Schema {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source
    }
}

impl fmt::Debug for Schema {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "Schema({})", self.source)
    }
}

/// Refuses every address: a schema must stand on its own.
struct NoAddresses;

impl boon::UrlLoader for NoAddresses {
    fn load(&self, url: &str) -> Result<Value, Box<dyn std::error::Error>> {
        Err(format!("{url} is not looked up").into())
    }
}

const PLACE: &str = "sluice:schema";

/// How many places a schema has, its references followed; `None` where it has too many, or a reference leads elsewhere.
fn places(schema: &Value) -> Option<usize> {
    let mut left = Left { places: SCHEMA_PLACES_MAX, patterns: PATTERNS_MAX };
    left.walk(schema, schema, 0)?;
    Some(SCHEMA_PLACES_MAX - left.places)
}

/// What a schema may still have.
struct Left {
    places: usize,
    patterns: usize,
}

impl Left {
    fn walk(&mut self, root: &Value, at: &Value, depth: usize) -> Option<()> {
        self.places = self.places.checked_sub(1).filter(|_| depth <= SCHEMA_DEPTH_MAX)?;
        match at {
            Value::Array(items) => items.iter().try_for_each(|item| self.walk(root, item, depth + 1)),
            Value::Object(fields) => {
                fields.iter().try_for_each(|(name, value)| self.field(root, name, value, depth + 1))
            }
            _ => Some(()),
        }
    }

    fn field(&mut self, root: &Value, name: &str, value: &Value, depth: usize) -> Option<()> {
        match (name, value) {
            // Names of other places, by which references could lead there.
            ("$dynamicRef" | "$recursiveRef" | "$id" | "$anchor" | "$dynamicAnchor", Value::String(_)) => None,
            ("$ref", Value::String(place)) => self.walk(root, root.pointer(place.strip_prefix('#')?)?, depth),
            ("pattern", Value::String(pattern)) => self.pattern(pattern),
            ("patternProperties", Value::Object(by_pattern)) => {
                by_pattern.keys().try_for_each(|pattern| self.pattern(pattern))?;
                self.walk(root, value, depth)
            }
            _ => self.walk(root, value, depth),
        }
    }

    fn pattern(&mut self, pattern: &str) -> Option<()> {
        self.patterns = self.patterns.checked_sub(1).filter(|_| pattern.len() <= PATTERN_BYTES_MAX)?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn schemas_that_unfold_without_end_are_not_checked_and_take_no_time() {
        let doubling: serde_json::Map<String, Value> = (0..40)
            .map(|at| {
                let next = json!({"$ref": format!("#/$defs/a{}", at + 1)});
                (format!("a{at}"), json!({"allOf": [next, next]}))
            })
            .chain([("a40".to_owned(), json!({"type": "string"}))])
            .collect();
        let chain: serde_json::Map<String, Value> = (0..5_000)
            .map(|at| (format!("a{at}"), json!({"$ref": format!("#/$defs/a{}", at + 1)})))
            .chain([("a5000".to_owned(), json!(true))])
            .collect();
        let begun = std::time::Instant::now();
        for defs in [doubling, chain] {
            assert_eq!(places(&json!({"$ref": "#/$defs/a0", "$defs": defs})), None);
        }
        let patterns: serde_json::Map<String, Value> =
            (0..9).map(|at| (at.to_string(), json!({"pattern": "x"}))).collect();
        assert_eq!(places(&json!({ "properties": patterns })), None);
        assert_eq!(places(&json!({"pattern": "x".repeat(65)})), None);
        let small = json!({"type": "object", "properties": {"a": {"$ref": "#/properties/b"}, "b": {}}});
        assert_eq!(places(&small), Some(6));
        assert!(begun.elapsed() < std::time::Duration::from_secs(1));
    }
}
