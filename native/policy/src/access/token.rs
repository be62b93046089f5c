//! What policies see of a token whose signature was verified.
use serde_json::{Map, Value};

/// Claims that are lists with spaces between by custom (RFC 8693 and others).
const SPACED: [&str; 2] = ["scope", "permission"];

#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// "issuer/subject"; empty without a subject.
    pub(crate) principal: String,
    pub(crate) claims: Map<String, Value>,
}

impl Token {
    /// `spaced`: further claims that are lists in one text.
    pub fn of(mut claims: Map<String, Value>, spaced: &[String]) -> Self {
        for (name, value) in &mut claims {
            if let Value::String(text) = value
                && (SPACED.contains(&name.as_str()) || spaced.contains(name))
            {
                *value = text.split(' ').filter(|word| !word.is_empty()).map(Value::from).collect();
            }
        }
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let (issuer, subject) = (text("iss"), text("sub"));
        let principal = if issuer.is_empty() || subject.is_empty() { String::new() } else { format!("{issuer}/{subject}") };
        Self { principal, claims }
    }

    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// From the outside in.
    pub fn claim<'a, T: AsRef<str>>(&'a self, path: &[T]) -> Option<&'a Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.claims.get(first.as_ref())?, |value, name| value.get(name.as_ref()))
    }
}

/// The texts of a claim: itself, or its elements.
pub(crate) fn texts(value: Option<&Value>) -> Vec<std::borrow::Cow<'_, str>> {
    match value {
        Some(Value::Array(elements)) => elements.iter().filter_map(text).collect(),
        Some(value) => text(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn text(value: &Value) -> Option<std::borrow::Cow<'_, str>> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string().into()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}
