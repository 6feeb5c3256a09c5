//! What an operation was given and what it was told: the values that EDN and JSON have in common.
//!
//! No fractions: nothing here is measured, and equality has to be exact. EDN's lists, vectors and sets are all lists here.

use std::collections::BTreeMap;
use std::fmt;

/// How deep values may lie in one another when they are read. What is deeper is refused.
pub const DEPTH_MAX: usize = 100;

/// A value.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing: not asked yet, or never written.
    #[default]
    Nil,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
    /// A word that stands for itself, in EDN with a colon before it. See [`is_word`].
    Keyword(String),
    /// Values in an order.
    List(Vec<Value>),
    /// Values under keys, each a number, a keyword or a text.
    Map(BTreeMap<Value, Value>),
}

impl Value {
    /// A list of `parts`.
    pub fn list(parts: impl IntoIterator<Item = Value>) -> Self {
        Self::List(parts.into_iter().collect())
    }

    /// A keyed value: `[key value]`.
    #[must_use]
    pub fn keyed(key: Value, value: Value) -> Self {
        Self::List(vec![key, value])
    }

    /// A keyword. A word that cannot be one becomes a text.
    #[must_use]
    pub fn keyword(word: &str) -> Self {
        if is_word(word) { Self::Keyword(word.to_owned()) } else { Self::Text(word.to_owned()) }
    }

    /// A map from words.
    pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, Value)>) -> Self {
        Self::Map(entries.into_iter().map(|(word, value)| (Self::keyword(word), value)).collect())
    }

    /// The number, if it is one.
    #[must_use]
    pub const fn as_int(&self) -> Option<i64> {
        if let Self::Int(number) = self { Some(*number) } else { None }
    }

    /// The word or text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        if let Self::Text(text) | Self::Keyword(text) = self { Some(text) } else { None }
    }

    /// The parts, if it is a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Value]> {
        if let Self::List(parts) = self { Some(parts) } else { None }
    }

    /// Key and value, if it is a list of two.
    #[must_use]
    pub fn as_pair(&self) -> Option<(&Value, &Value)> {
        if let Self::List(parts) = self
            && let [key, value] = parts.as_slice()
        {
            Some((key, value))
        } else {
            None
        }
    }

    /// Whether it is neither a list nor a map.
    #[must_use]
    pub const fn is_scalar(&self) -> bool {
        !matches!(self, Self::List(_) | Self::Map(_))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

/// As in EDN.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = String::new();
        super::edn::write_value(self, &mut text);
        f.write_str(&text)
    }
}

/// Whether `word` can be a keyword: letters, digits and some signs, not a digit first, at most 200 bytes.
#[must_use]
pub fn is_word(word: &str) -> bool {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || ".*+!-_?$%&=<>/#".contains(letter);
    let starts = |letter: char| !letter.is_ascii_digit() && !"+-#/".contains(letter);
    word.len() <= 200 && word.chars().all(fits) && word.chars().next().is_some_and(starts)
}
