//! Histories as JSON lines: one record a line.
//!
//! Where EDN has a keyword by the nature of the place (type, f, the name of a process, keys of maps, the function of a part of
//! a transaction), JSON has the plain word. Elsewhere a keyword is a string with a colon before it, and a text that itself
//! begins with a colon gets another one. A key of a map that looks like a number is one; one that is a text has a double quote before
//! it.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::record::Record;
use super::value::{Value, is_word};
use super::{Malformed, Numbered};

/// Reads all records of `text`, with the line of each. Empty lines are passed over.
///
/// # Errors
/// The first line that is no record, and why.
pub(super) fn read(text: &str) -> Result<Vec<Numbered>, Malformed> {
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(line, text)| {
            let record = read_record(text).map_err(|problem| Malformed::at_line(line, problem))?;
            Ok(Numbered { line, record })
        })
        .collect()
}

fn read_record(line: &str) -> Result<Record, String> {
    let Read(value) = serde_json::from_str(line).map_err(|error| {
        // It counts lines within this one.
        let told = error.to_string();
        let message = told.split(" at line ").next().unwrap_or(&told);
        format!("column {}: {message}", error.column())
    })?;
    let Value::Map(mut fields) = value else {
        return Err("a record is an object".to_owned());
    };
    for name in ["type", "f", "process"] {
        if let Some(field) = fields.get_mut(&Value::keyword(name))
            && let Value::Text(word) = field
        {
            *field = Value::keyword(word);
        }
    }
    let mut record = Record::from_fields(fields)?;
    if record.f == "txn" {
        each_function(&mut record.value, |function| {
            if let Value::Text(word) = function {
                *function = Value::keyword(word);
            }
        });
    }
    Ok(record)
}

/// Visits the function of each part of a transaction.
fn each_function(value: &mut Value, visit: impl Fn(&mut Value)) {
    let Value::List(parts) = value else { return };
    for part in parts {
        if let Value::List(words) = part
            && let Some(function) = words.first_mut()
        {
            visit(function);
        }
    }
}

/// Writes one record, without the end of the line.
pub(super) fn write_record(record: &Record, out: &mut String) {
    out.push('{');
    for (name, mut value) in record.fields() {
        if name != "index" {
            out.push(',');
        }
        let is_word_by_place = matches!(name, "type" | "f" | "process");
        if let Value::Keyword(word) = &value
            && is_word_by_place
        {
            value = Value::Text(word.clone());
        }
        if name == "value" && record.f == "txn" {
            each_function(&mut value, |function| {
                if let Value::Keyword(word) = function {
                    *function = Value::Text(std::mem::take(word));
                }
            });
        }
        write_text(name, out);
        out.push(':');
        write_value(&value, out);
    }
    for (name, value) in &record.extra {
        out.push(',');
        write_key(name, out);
        out.push(':');
        write_value(value, out);
    }
    out.push('}');
}

fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Nil => out.push_str("null"),
        Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Value::Int(number) => out.push_str(&number.to_string()),
        Value::Text(text) if text.starts_with(':') => write_text(&format!(":{text}"), out),
        Value::Text(text) => write_text(text, out),
        Value::Keyword(word) => write_text(&format!(":{word}"), out),
        Value::List(parts) => {
            out.push('[');
            for (place, part) in parts.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_value(part, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (place, (key, value)) in entries.iter().enumerate() {
                if place > 0 {
                    out.push(',');
                }
                write_key(key, out);
                out.push(':');
                write_value(value, out);
            }
            out.push('}');
        }
    }
}

fn write_key(key: &Value, out: &mut String) {
    match key {
        Value::Keyword(word) => write_text(word, out),
        Value::Text(text) => write_text(&format!("\"{text}"), out),
        other => write_text(&other.to_string(), out),
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}

/// A value as JSON has it.
struct Read(Value);

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ReadVisitor).map(Read)
    }
}

struct ReadVisitor;

impl<'de> Visitor<'de> for ReadVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("null, a boolean, a whole number, a string, a list or an object")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, yes: bool) -> Result<Value, E> {
        Ok(Value::Bool(yes))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Int(number))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Value, E> {
        i64::try_from(number).map(Value::Int).map_err(|_| E::custom("the number has more than 63 bits"))
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Value, E> {
        Err(E::custom("the number is not a whole one of at most 63 bits"))
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        match text.strip_prefix(':') {
            None => Ok(Value::Text(text.to_owned())),
            Some(rest) if rest.starts_with(':') => Ok(Value::Text(rest.to_owned())),
            Some(word) if is_word(word) => Ok(Value::Keyword(word.to_owned())),
            Some(_) => Err(E::custom(format!("{text:?} is no keyword; a text that begins with a colon has two"))),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Read(part)) = parts.next_element()? {
            list.push(part);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = BTreeMap::new();
        while let Some((key, Read(value))) = entries.next_entry::<String, Read>()? {
            let number = key.parse::<i64>().ok().filter(|number| number.to_string() == key);
            let key = match (number, key.strip_prefix('"')) {
                (Some(number), _) => Value::Int(number),
                (None, Some(text)) => Value::Text(text.to_owned()),
                (None, None) if is_word(&key) => Value::Keyword(key),
                (None, None) => {
                    return Err(A::Error::custom(format!("the key {key:?} is neither a number nor a word")));
                }
            };
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("the key {key} stands twice")));
            }
            map.insert(key, value);
        }
        Ok(Value::Map(map))
    }
}
