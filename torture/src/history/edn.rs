//! Histories as Jepsen writes them: maps with keywords in EDN (<https://github.com/edn-format/edn>), one after the other or in
//! one vector.
//!
//! Read is what histories need: nil, booleans, whole numbers, strings, keywords, lists, vectors, sets, maps, comments and
//! discarded forms, and Jepsen's tag before a record. Fractions, symbols, characters and other tags are refused by name.

use std::collections::BTreeMap;

use super::record::Record;
use super::value::{DEPTH_MAX, Value, is_word};
use super::{Malformed, Numbered};

/// What newer versions of Jepsen print before each record.
const RECORD_TAG: &str = "jepsen.history.Op";

/// Reads all records of `text`, with the line on which each begins.
///
/// # Errors
/// The first thing that is not a record, its line, and why.
pub(super) fn read(text: &str) -> Result<Vec<Numbered>, Malformed> {
    let mut reader = Reader { text, at: 0, line: 1 };
    reader.read_records().map_err(|problem| Malformed::at_line(reader.line, problem))
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn read_records(&mut self) -> Result<Vec<Numbered>, String> {
        let mut records = Vec::new();
        self.skip_blank(0)?;
        let closing = match self.peek() {
            Some('[') => Some(']'),
            Some('(') => Some(')'),
            _ => None,
        };
        if closing.is_some() {
            self.advance();
        }
        loop {
            self.skip_blank(0)?;
            match (self.peek(), closing) {
                (None, None) => return Ok(records),
                (None, Some(bracket)) => return Err(format!("the file ends before the `{bracket}` of its list")),
                (Some(letter), Some(bracket)) if letter == bracket => break,
                _ => {
                    let line = self.line;
                    let record = self.read_record()?;
                    // A problem of a record as a whole is told of its first line.
                    let end = std::mem::replace(&mut self.line, line);
                    records.push(Numbered { line, record: Record::from_fields(record)? });
                    self.line = end;
                }
            }
        }
        self.advance();
        self.skip_blank(0)?;
        match self.peek() {
            None => Ok(records),
            Some(letter) => Err(format!("`{letter}` behind the end of the list")),
        }
    }

    fn read_record(&mut self) -> Result<BTreeMap<Value, Value>, String> {
        if self.rest().starts_with('#') && self.rest()[1..].starts_with(RECORD_TAG) {
            self.at += 1 + RECORD_TAG.len();
            self.skip_blank(0)?;
        }
        match self.read_value(0)? {
            Value::Map(fields) => Ok(fields),
            other => Err(format!("{} is no record: a record is a map", shortened(&other))),
        }
    }

    fn read_value(&mut self, depth: usize) -> Result<Value, String> {
        if depth > DEPTH_MAX {
            return Err(format!("values lie more than {DEPTH_MAX} deep in one another"));
        }
        self.skip_blank(depth)?;
        match self.peek() {
            None => Err("the file ends inside a record".to_owned()),
            Some('{') => self.read_map(depth),
            Some('[') => self.read_list(']', depth),
            Some('(') => self.read_list(')', depth),
            Some('"') => self.read_text(),
            Some(':') => {
                self.advance();
                let word = self.read_token();
                if is_word(word) {
                    Ok(Value::Keyword(word.to_owned()))
                } else {
                    Err(format!("`:{word}` is no keyword"))
                }
            }
            Some('#') if self.rest()[1..].starts_with('{') => {
                self.advance();
                self.read_list('}', depth)
            }
            Some('#') => {
                self.advance();
                let tag = self.read_token();
                Err(format!("the tag `#{tag}` is not known here"))
            }
            Some('\\') => Err("characters are not known here; use a string".to_owned()),
            Some(letter @ (']' | ')' | '}')) => Err(format!("`{letter}` closes nothing")),
            Some(_) => self.read_atom(),
        }
    }

    fn read_atom(&mut self) -> Result<Value, String> {
        let token = self.read_token();
        match token {
            "" => Err(format!("`{}` begins no value", self.peek().unwrap_or(' '))),
            "nil" => Ok(Value::Nil),
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            _ if token.starts_with(|letter: char| letter.is_ascii_digit() || "+-".contains(letter)) => token
                .parse::<i64>()
                .map(Value::Int)
                .map_err(|_| format!("`{token}` is not a whole number of at most 63 bits")),
            _ => Err(format!("the symbol `{token}` is not known here")),
        }
    }

    fn read_list(&mut self, closing: char, depth: usize) -> Result<Value, String> {
        let opened = self.line;
        self.advance();
        let mut parts = Vec::new();
        loop {
            self.skip_blank(depth)?;
            match self.peek() {
                None => return Err(format!("the file ends before the `{closing}` of the list of line {opened}")),
                Some(letter) if letter == closing => {
                    self.advance();
                    return Ok(Value::List(parts));
                }
                Some(_) => parts.push(self.read_value(depth + 1)?),
            }
        }
    }

    fn read_map(&mut self, depth: usize) -> Result<Value, String> {
        let opened = self.line;
        self.advance();
        let mut entries = BTreeMap::new();
        loop {
            self.skip_blank(depth)?;
            match self.peek() {
                None => return Err(format!("the file ends before the `}}` of the map of line {opened}")),
                Some('}') => {
                    self.advance();
                    return Ok(Value::Map(entries));
                }
                Some(_) => {}
            }
            let key = self.read_value(depth + 1)?;
            if !matches!(key, Value::Int(_) | Value::Keyword(_) | Value::Text(_)) {
                return Err(format!("the key {} is none of number, keyword and string", shortened(&key)));
            }
            self.skip_blank(depth)?;
            if self.peek() == Some('}') {
                return Err(format!("the key {key} has no value"));
            }
            let value = self.read_value(depth + 1)?;
            if entries.contains_key(&key) {
                return Err(format!("the key {key} stands twice"));
            }
            entries.insert(key, value);
        }
    }

    fn read_text(&mut self) -> Result<Value, String> {
        let opened = self.line;
        self.advance();
        let mut text = String::new();
        loop {
            let Some(letter) = self.peek() else {
                return Err(format!("the file ends inside the string of line {opened}"));
            };
            self.advance();
            match letter {
                '"' => return Ok(Value::Text(text)),
                '\\' => text.push(self.read_escape()?),
                other => text.push(other),
            }
        }
    }

    fn read_escape(&mut self) -> Result<char, String> {
        let letter = self.peek().ok_or("the file ends inside a string")?;
        self.advance();
        match letter {
            'n' => Ok('\n'),
            't' => Ok('\t'),
            'r' => Ok('\r'),
            'b' => Ok('\u{8}'),
            'f' => Ok('\u{c}'),
            '\\' | '"' | '/' => Ok(letter),
            'u' => {
                let digits =
                    self.rest().get(..4).filter(|digits| digits.chars().all(|digit| digit.is_ascii_hexdigit()));
                let code = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                let letter = code.and_then(char::from_u32).ok_or("`\\u` wants four digits of a letter")?;
                self.at += 4;
                Ok(letter)
            }
            other => Err(format!("`\\{other}` is no escape of a string")),
        }
    }

    /// The letters up to the next that ends a word, a number or a keyword.
    fn read_token(&mut self) -> &str {
        let rest = &self.text[self.at..];
        let ends = |letter: char| letter.is_whitespace() || ",;\"()[]{}\\:".contains(letter);
        let length = rest.find(ends).unwrap_or(rest.len());
        self.at += length;
        &rest[..length]
    }

    /// Passes over blanks, commas, comments and discarded forms.
    fn skip_blank(&mut self, depth: usize) -> Result<(), String> {
        loop {
            match self.peek() {
                Some(letter) if letter.is_whitespace() || letter == ',' => self.advance(),
                Some(';') => {
                    while self.peek().is_some_and(|letter| letter != '\n') {
                        self.advance();
                    }
                }
                Some('#') if self.rest()[1..].starts_with('_') => {
                    self.at += 2;
                    self.read_value(depth + 1)?;
                }
                _ => return Ok(()),
            }
        }
    }

    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn advance(&mut self) {
        if let Some(letter) = self.peek() {
            self.at += letter.len_utf8();
            self.line += usize::from(letter == '\n');
        }
    }
}

fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(40) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

/// Writes one record, without the end of the line.
pub(super) fn write_record(record: &Record, out: &mut String) {
    out.push('{');
    for (name, value) in record.fields() {
        if name != "index" {
            out.push_str(", ");
        }
        out.push(':');
        out.push_str(name);
        out.push(' ');
        write_value(&value, out);
    }
    for (name, value) in &record.extra {
        out.push_str(", ");
        write_value(name, out);
        out.push(' ');
        write_value(value, out);
    }
    out.push('}');
}

pub(super) fn write_value(value: &Value, out: &mut String) {
    match value {
        Value::Nil => out.push_str("nil"),
        Value::Bool(yes) => out.push_str(if *yes { "true" } else { "false" }),
        Value::Int(number) => out.push_str(&number.to_string()),
        Value::Text(text) => write_text(text, out),
        Value::Keyword(word) => {
            out.push(':');
            out.push_str(word);
        }
        Value::List(parts) => {
            out.push('[');
            for (place, part) in parts.iter().enumerate() {
                if place > 0 {
                    out.push(' ');
                }
                write_value(part, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            out.push('{');
            for (place, (key, value)) in entries.iter().enumerate() {
                if place > 0 {
                    out.push_str(", ");
                }
                write_value(key, out);
                out.push(' ');
                write_value(value, out);
            }
            out.push('}');
        }
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            other if other.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(other))),
            other => out.push(other),
        }
    }
    out.push('"');
}
