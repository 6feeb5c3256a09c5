//! Checkers: is there an explanation for what clients were told?
//!
//! Each module judges one workload and says which model it holds histories against, where the method is from, and what it
//! costs. All share these rules: an operation that is `ok` took effect once, between its invocation and its answer; one that
//! is `fail` took none, ever; one that is `info`, or was never answered, may have taken effect at any time since its
//! invocation, or never. Order is the order of records.
//!
//! [`judge`] is the door: it takes a history and the name of a workload, and tells for each kind of anomaly that the workload's
//! checker knows whether there is one.

pub mod append;
pub mod bank;
pub mod bounded;
pub mod counter;
pub mod ids;
pub mod lock;
pub mod long_fork;
pub mod register;
pub mod scan;
pub mod sessions;
pub mod set;

mod input;
mod verdict;

use crate::history::{Header, History, Malformed};

pub use input::Unusable;
pub use verdict::{Counts, EXAMPLES_MAX, Finding, Judgement, Kind, Row, Verdict};

/// What a history is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workload {
    /// [`register`]
    Register,
    /// [`append`]
    ListAppend,
    /// [`set`]
    Set,
    /// [`counter`]
    Counter,
    /// [`bank`]
    Bank,
    /// [`ids`]
    UniqueIds,
    /// [`sessions`]
    Sessions,
    /// [`scan`]
    Scan,
    /// [`lock`]
    Lock,
    /// [`bounded`]
    BoundedStaleness,
    /// [`long_fork`]
    LongFork,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Register,
        Self::ListAppend,
        Self::Set,
        Self::Counter,
        Self::Bank,
        Self::UniqueIds,
        Self::Sessions,
        Self::Scan,
        Self::Lock,
        Self::BoundedStaleness,
        Self::LongFork,
    ];

    /// Its name in histories and on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::ListAppend => "list-append",
            Self::Set => "set",
            Self::Counter => "counter",
            Self::Bank => "bank",
            Self::UniqueIds => "unique-ids",
            Self::Sessions => "sessions",
            Self::Scan => "scan",
            Self::Lock => "lock",
            Self::BoundedStaleness => "bounded-staleness",
            Self::LongFork => "long-fork",
        }
    }

    /// The workload of that name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|workload| workload.name() == name)
    }

    /// The names of all, for people.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(Self::name).join(", ")
    }
}

/// Judges a history: as that workload, or as the one that its first record names. The first record also says what the workload
/// promises, if it is of the same name.
///
/// # Errors
/// The history cannot be judged: it is not well-formed, names no workload, or an operation is none of the workload's.
pub fn judge(history: &History, workload: Option<Workload>) -> Result<Verdict, Malformed> {
    let malformed = |problem: String| Malformed { place: "the history".to_owned(), problem };
    let header = history.header()?;
    let named = header.as_ref().map(|header| {
        let unknown = || malformed(format!("its workload `{}` is none of {}", header.name, Workload::names()));
        Workload::of(&header.name).ok_or_else(unknown)
    });
    let workload = match (workload, named) {
        (Some(asked), _) => asked,
        (None, Some(named)) => named?,
        (None, None) => {
            let names = Workload::names();
            return Err(malformed(format!("it does not begin by naming its workload; say which it is: {names}")));
        }
    };
    let header = header.filter(|header| header.name == workload.name()).unwrap_or_default();
    if matches!(workload, Workload::BoundedStaleness | Workload::Lock) {
        history.check_times()?;
    }
    let operations = history.operations()?;
    let judgement = judge_operations(workload, &operations, &header)
        .map_err(|unusable| history.malformed(unusable.record, unusable.problem))?;
    Ok(Verdict::new(workload, &operations, judgement))
}

fn judge_operations(
    workload: Workload,
    operations: &[crate::history::Operation],
    header: &Header,
) -> Result<Judgement, Unusable> {
    match workload {
        Workload::Register => register::check(operations),
        Workload::ListAppend => append::check(operations),
        Workload::Set => set::check(operations),
        Workload::Counter => counter::check(operations),
        Workload::Bank => bank::check(operations, &bank::Promise::of(header)?),
        Workload::UniqueIds => ids::check(operations),
        Workload::Sessions => sessions::check(operations),
        Workload::Scan => scan::check(operations),
        Workload::Lock => lock::check(operations, &lock::Promise::of(header)?),
        Workload::BoundedStaleness => bounded::check(operations, &bounded::Promise::of(header)?),
        Workload::LongFork => long_fork::check(operations, &long_fork::Promise::of(header)?),
    }
}
