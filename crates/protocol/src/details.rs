//! OpenRouter's `reasoning_details` in a stream: pieces with one index are one item.

use serde_json::Value;

/// The fields that grow; all others are replaced.
const GROWING: [&str; 3] = ["text", "summary", "data"];

/// Thoughts of one answer at the most; what comes after so many is no thought.
const ITEMS_MAX: usize = 4_096;

/// Appends the pieces of one event to the items so far.
pub(crate) fn append(items: &mut Vec<Value>, pieces: &[Value]) {
    for piece in pieces {
        let known = || items.iter().rposition(|item| is_more_of(item, piece));
        let known = if piece["index"].is_u64() { known() } else { None };
        if known.is_none() && items.len() >= ITEMS_MAX {
            continue;
        }
        match known.map(|at| &mut items[at]) {
            Some(Value::Object(item)) => {
                for (name, value) in piece.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                    match (item.get_mut(name), value) {
                        (Some(Value::String(known)), Value::String(more)) if GROWING.contains(&name.as_str()) => {
                            known.push_str(more);
                        }
                        _ => drop(item.insert(name.clone(), value.clone())),
                    }
                }
            }
            _ => items.push(piece.clone()),
        }
    }
}

/// True where a piece belongs to an item begun before; one without an index stands for itself.
pub(crate) fn is_more_of(item: &Value, piece: &Value) -> bool {
    item["index"] == piece["index"] && item["type"] == piece["type"]
}

/// What is left of an item when `told` of it, put together, is known; `None` when nothing is.
pub(crate) fn rest(item: &Value, told: Option<&Value>) -> Option<Value> {
    let (Some(told), Value::Object(fields)) = (told, item) else { return Some(item.clone()) };
    let mut rest = serde_json::Map::new();
    let mut is_news = false;
    for (name, value) in fields {
        match (value, &told[name.as_str()]) {
            (Value::String(all), Value::String(known)) if GROWING.contains(&name.as_str()) => {
                let more = all.get(known.len()..).unwrap_or("");
                is_news |= !more.is_empty();
                rest.insert(name.clone(), Value::String(more.to_owned()));
            }
            (value, known) => {
                is_news |= value != known;
                rest.insert(name.clone(), value.clone());
            }
        }
    }
    is_news.then_some(Value::Object(rest))
}
