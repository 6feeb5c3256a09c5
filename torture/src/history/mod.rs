//! Recorded histories: what clients asked for, when, and what they were told.
//!
//! A history is a list of records in the order in which they happened, in the form that Jepsen gave them, so that Knossos,
//! Elle and Porcupine can judge it as well: `index`, `process`, `type` (invoke, ok, fail, info), `f`, `value`, `time` in
//! nanoseconds. Values that belong to one of many objects are `[key value]`. Files are EDN (`.edn`) or JSON lines (`.jsonl`);
//! both hold the same, and one can be turned into the other without a loss.
//!
//! The first record may name the workload and say what it promises:
//! `{:index 0, :process :torture, :type :info, :f :workload, :value {:name "bank", :total 100}, :time 0}`.
//!
//! Nothing that is read from a file makes it panic; what is wrong is told with its line.

mod edn;
mod json;
mod operation;
mod record;
mod recorder;
mod value;

use std::collections::BTreeMap;
use std::path::Path;

pub use operation::{Moment, Operation, Outcome};
pub use record::{Kind, Process, Record};
pub use recorder::{Recorder, Ticket};
pub use value::{DEPTH_MAX, Value, is_word};

/// How a history is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Jepsen's.
    Edn,
    /// A JSON object on each line.
    JsonLines,
}

impl Format {
    /// The format of a file, by the end of its name.
    ///
    /// # Errors
    /// It ends neither in `.edn` nor in `.jsonl`.
    pub fn of(path: &Path) -> Result<Self, Malformed> {
        match path.extension().and_then(|ending| ending.to_str()) {
            Some("edn") => Ok(Self::Edn),
            Some("jsonl") => Ok(Self::JsonLines),
            _ => Err(Malformed {
                place: path.display().to_string(),
                problem: "a history ends in .edn or .jsonl".to_owned(),
            }),
        }
    }
}

/// Why a history cannot be used. Whoever wrote it is to blame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct Malformed {
    /// The line, or the record if there are no lines.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

impl Malformed {
    fn at_line(line: usize, problem: String) -> Self {
        Self { place: format!("line {line}"), problem }
    }
}

/// A record and the line on which it began.
struct Numbered {
    line: usize,
    record: Record,
}

/// What the first record says of the workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The workload's name.
    pub name: String,
    /// What it promises, by keyword. `name` is among them.
    pub options: BTreeMap<Value, Value>,
}

/// The function of the record that names the workload.
pub const HEADER_FUNCTION: &str = "workload";

/// Records in order.
///
/// Invariant: indexes rise. Times need not, since clients of a harness may take them before records are put in order; see
/// [`History::check_times`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    records: Vec<Record>,
    /// The line of each record; empty if they come from no file.
    lines: Vec<usize>,
}

impl History {
    /// A history of these records.
    ///
    /// # Errors
    /// The first record whose index does not rise.
    pub fn new(records: Vec<Record>) -> Result<Self, Malformed> {
        Self::with_lines(records, Vec::new())
    }

    fn with_lines(records: Vec<Record>, lines: Vec<usize>) -> Result<Self, Malformed> {
        let history = Self { records, lines };
        for (place, after) in history.records.iter().enumerate().skip(1) {
            let before = &history.records[place - 1];
            if after.index <= before.index {
                return Err(history.malformed_at(place, format!("the index does not rise: before it {}", before.index)));
            }
        }
        Ok(history)
    }

    /// Reads a history.
    ///
    /// # Errors
    /// The first thing that is wrong, with its line.
    pub fn read(bytes: &[u8], format: Format) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            Malformed::at_line(line, format!("byte {} is not UTF-8", error.valid_up_to()))
        })?;
        let numbered = match format {
            Format::Edn => edn::read(text)?,
            Format::JsonLines => json::read(text)?,
        };
        let (lines, records) = numbered.into_iter().map(|one| (one.line, one.record)).unzip();
        Self::with_lines(records, lines)
    }

    /// Writes it, one record a line.
    #[must_use]
    pub fn write(&self, format: Format) -> String {
        let mut out = String::new();
        for record in &self.records {
            match format {
                Format::Edn => edn::write_record(record, &mut out),
                Format::JsonLines => json::write_record(record, &mut out),
            }
            out.push('\n');
        }
        out
    }

    /// All records.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What the first record says of the workload, if it does.
    ///
    /// # Errors
    /// It means to, and has no name for it.
    pub fn header(&self) -> Result<Option<Header>, Malformed> {
        let is_header = |record: &&Record| matches!(record.process, Process::Named(_)) && record.f == HEADER_FUNCTION;
        let Some(record) = self.records.first().filter(is_header) else {
            return Ok(None);
        };
        let options = match &record.value {
            Value::Map(options) => options.clone(),
            _ => BTreeMap::new(),
        };
        match options.get(&Value::keyword("name")).and_then(Value::as_text) {
            Some(name) => Ok(Some(Header { name: name.to_owned(), options })),
            None => Err(self.malformed(record.index, "a workload is a map with a `name`".to_owned())),
        }
    }

    /// Whether times never fall, for judges that rest on them.
    ///
    /// # Errors
    /// The first record with a time before that of the record before it.
    pub fn check_times(&self) -> Result<(), Malformed> {
        for (place, pair) in self.records.windows(2).enumerate() {
            if pair[1].time < pair[0].time {
                return Err(self.malformed_at(place + 1, format!("time goes back: before it {} ns", pair[0].time)));
            }
        }
        Ok(())
    }

    /// The operations of clients, in the order in which they began.
    ///
    /// # Errors
    /// A client asks while an operation of it is under way, goes on after one of unknown outcome, or is told something that it
    /// has not asked for.
    pub fn operations(&self) -> Result<Vec<Operation>, Malformed> {
        operation::pair(self)
    }

    /// A problem with the record of that index.
    #[must_use]
    pub fn malformed(&self, index: u64, problem: String) -> Malformed {
        // Indexes rise.
        let place = self.records.partition_point(|record| record.index < index);
        match self.records.get(place).filter(|record| record.index == index) {
            Some(_) => self.malformed_at(place, problem),
            None => Malformed { place: format!("record {index}"), problem },
        }
    }

    fn malformed_at(&self, place: usize, problem: String) -> Malformed {
        let index = self.records[place].index;
        let line = self.lines.get(place);
        let place = line.map_or_else(|| format!("record {index}"), |line| format!("line {line} (record {index})"));
        Malformed { place, problem }
    }
}
