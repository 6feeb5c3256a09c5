//! One line of a history: somebody asked for something, or was told something.

use std::collections::BTreeMap;
use std::fmt;

use super::value::{Value, is_word};

/// Who asked. Clients have numbers; what else leaves notes in a history (faults, the harness) has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// A client, which has one operation under way at a time.
    Client(u64),
    /// Something that is not judged.
    Named(String),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(number) => write!(f, "{number}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

/// What a record tells of its operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// It begins.
    Invoke,
    /// It took effect, and this is the answer.
    Ok,
    /// It has not taken effect and never will.
    Fail,
    /// Nobody knows: it may take effect at any moment since it began, or never. Also any note that is not an operation.
    Info,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Invoke, Self::Ok, Self::Fail, Self::Info];

    /// Its name in a file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Invoke => "invoke",
            Self::Ok => "ok",
            Self::Fail => "fail",
            Self::Info => "info",
        }
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place: rises from record to record. Real-time order is this order.
    pub index: u64,
    /// Who.
    pub process: Process,
    /// What it tells.
    pub kind: Kind,
    /// The function asked for. A word, see [`is_word`].
    pub f: String,
    /// What it was given (invoke) or told (ok).
    pub value: Value,
    /// When, in nanoseconds since some beginning.
    pub time: u64,
    /// Other fields, such as `error`: kept, and never judged. The keys are keywords.
    pub extra: BTreeMap<Value, Value>,
}

impl Record {
    /// Makes a record from the fields of a file. Keywords are as in EDN.
    ///
    /// # Errors
    /// What is missing or has a value that it cannot have.
    pub(super) fn from_fields(mut fields: BTreeMap<Value, Value>) -> Result<Self, String> {
        let mut take = |name: &str| {
            fields.remove(&Value::Keyword(name.to_owned())).ok_or_else(|| format!("the field `{name}` is missing"))
        };
        let index = unsigned("index", &take("index")?)?;
        let process = match take("process")? {
            Value::Int(number) => Process::Client(
                u64::try_from(number).map_err(|_| format!("`process` is {number}: a number from zero or a keyword"))?,
            ),
            Value::Keyword(name) if is_word(&name) => Process::Named(name),
            other => return Err(format!("`process` is {other}: a number from zero or a keyword")),
        };
        let kind = take("type")?;
        let kind = Kind::ALL
            .into_iter()
            .find(|one| matches!(&kind, Value::Keyword(word) if word == one.name()))
            .ok_or_else(|| format!("`type` is {kind}: one of invoke, ok, fail, info"))?;
        let f = match take("f")? {
            Value::Keyword(word) if is_word(&word) => word,
            other => return Err(format!("`f` is {other}: a keyword")),
        };
        let value = take("value")?;
        let time = unsigned("time", &take("time")?)?;
        if matches!(process, Process::Named(_)) && kind != Kind::Info {
            return Err(format!("`type` is {}: a process with a name leaves only info", kind.name()));
        }
        if let Some(key) = fields.keys().find(|key| !matches!(key, Value::Keyword(_))) {
            return Err(format!("the field {key}: fields have keywords for names"));
        }
        Ok(Self { index, process, kind, f, value, time, extra: fields })
    }

    /// All fields in the order in which files have them, except for those in `extra`.
    pub(super) fn fields(&self) -> [(&'static str, Value); 6] {
        // Numbers beyond an i64 are nothing that a reader would take; nobody counts that far.
        let number = |number: u64| Value::Int(i64::try_from(number).unwrap_or(i64::MAX));
        let process = match &self.process {
            Process::Client(client) => number(*client),
            Process::Named(name) => Value::keyword(name),
        };
        [
            ("index", number(self.index)),
            ("process", process),
            ("type", Value::keyword(self.kind.name())),
            ("f", Value::keyword(&self.f)),
            ("value", self.value.clone()),
            ("time", number(self.time)),
        ]
    }
}

fn unsigned(name: &str, value: &Value) -> Result<u64, String> {
    let number = value.as_int().and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| format!("`{name}` is {value}: a whole number from zero"))
}
