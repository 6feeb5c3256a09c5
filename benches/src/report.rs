//! Figures from what the stores have measured: a table for people, lines of JSON for programs.

use hdrhistogram::Histogram;
use serde_json::Value;

use crate::clients;
use crate::cluster::number;

/// The measurements of all stores of one run.
pub(crate) struct Measured {
    stores: Vec<Value>,
}

impl Measured {
    pub(crate) fn new(stores: Vec<Value>) -> Self {
        Self { stores }
    }

    /// The sum of a figure over all stores.
    pub(crate) fn sum(&self, name: &str) -> u64 {
        self.stores.iter().map(|store| number(store, name)).sum()
    }

    /// The sum of something that the engines count.
    pub(crate) fn counted(&self, name: &str) -> u64 {
        self.stores.iter().map(|store| number(&store["counters"], name)).sum()
    }

    /// The sum of what the stores do in a second.
    pub(crate) fn per_second(&self, count: impl Fn(&Value) -> u64) -> f64 {
        self.stores.iter().map(|store| ratio(count(store) as f64, seconds(store))).sum()
    }

    /// The worst store's figure.
    pub(crate) fn worst(&self, figure: impl Fn(&Value) -> f64) -> f64 {
        self.stores.iter().map(figure).fold(0.0, f64::max)
    }

    /// The times of all answered proposals.
    pub(crate) fn latencies(&self) -> Histogram<u64> {
        let mut all = clients::latencies();
        for step in self.stores.iter().flat_map(steps) {
            all.saturating_record_n(step.0, step.1);
        }
        all
    }

    /// The first error that any client met.
    pub(crate) fn first_error(&self) -> Option<&str> {
        self.stores.iter().find_map(|store| store["first_error"].as_str())
    }
}

/// How long a store's window was.
pub(crate) fn seconds(store: &Value) -> f64 {
    store["seconds"].as_f64().unwrap_or_default()
}

/// How many proposals a store's clients had answered.
pub(crate) fn answered(store: &Value) -> u64 {
    steps(store).map(|(_, count)| count).sum()
}

fn steps(store: &Value) -> impl Iterator<Item = (u64, u64)> {
    let list = store["latencies"].as_array().into_iter().flatten();
    list.filter_map(|step| Some((step[0].as_u64()?, step[1].as_u64()?)))
}

/// A quotient; zero of nothing.
pub(crate) fn ratio(of: f64, by: f64) -> f64 {
    if by > 0.0 { of / by } else { 0.0 }
}

/// To one digit after the point: more would feign precision.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// Prints a table whose columns are as wide as what stands in them.
pub(crate) fn print_table(head: &[&str], rows: &[Vec<String>]) {
    println!("{}", table(head, rows));
}

fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let head: Vec<String> = head.iter().map(ToString::to_string).collect();
    let width = |column: usize| {
        std::iter::once(&head).chain(rows).map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        cells.join("  ")
    };
    std::iter::once(&head).chain(rows).map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn figures_of_all_stores_are_put_together() {
        let store = |count: u64, syncs: u64| json!({ "seconds": 2.0, "latencies": [[100, count], [900, 1]], "counters": { "log_syncs": syncs }, "errors": 1 });
        let measured = Measured::new(vec![store(9, 3), store(19, 4)]);
        assert_eq!(measured.latencies().len(), 30);
        assert_eq!(measured.latencies().value_at_quantile(0.5), 100);
        assert_eq!((measured.counted("log_syncs"), measured.sum("errors"), measured.sum("absent")), (7, 2, 0));
        assert_eq!(measured.per_second(answered), 15.0);
        assert_eq!(measured.worst(|store| answered(store) as f64), 20.0);
    }

    #[test]
    fn columns_are_as_wide_as_what_stands_in_them() {
        let rows = [vec!["mem".to_owned(), "12345".to_owned()]];
        assert_eq!(table(&["state", "n"], &rows), "state      n\n  mem  12345");
    }
}
