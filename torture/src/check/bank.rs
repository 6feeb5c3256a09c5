//! Accounts between which money moves: every read of all of them sees the same total, and no account in debt unless that is
//! allowed. (Jepsen's `bank` workload.)
//!
//! `transfer {:from a, :to b, :amount n}` and `read nil`, which answers a map from accounts to balances; with a key for the bank,
//! `transfer [k {..}]` and `read [k nil]`, which answers `[k {..}]`. The history's first record may promise `:total`, of every
//! bank, and `:negative true`, which allows debts. Without a total all reads of a bank must agree on one.
//!
//! Cost: linear. Whether a read is of the right moment is not judged, only that it is of one moment.

use super::input::{
    Unusable, answered, asked, by_key, flag, of_key, option, repeated, split_answer, split_key, unknown,
};
use super::verdict::{Judgement, Kind};
use crate::history::{Header, Operation, Value};

const TOTAL: &str = "wrong-total";
const DEBT: &str = "negative-balance";
const ACCOUNTS: &str = "other-accounts";

/// What is looked for.
pub const KINDS: [Kind; 3] = [
    Kind { name: TOTAL, about: "the balances of a read do not add up to the total" },
    Kind { name: DEBT, about: "an account in debt, which is forbidden" },
    Kind { name: ACCOUNTS, about: "two reads do not have the same accounts" },
];

/// What the workload promises.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// What all balances of a bank add up to.
    pub total: Option<i64>,
    /// Whether an account may be in debt.
    pub negative: bool,
}

impl Promise {
    pub(super) fn of(header: &Header) -> Result<Self, Unusable> {
        let total = option(header, "total", "a whole number", Value::as_int)?;
        Ok(Self { total, negative: flag(header, "negative", false)? })
    }
}

/// Judges a history of banks.
///
/// # Errors
/// An operation is not of this workload.
pub fn check(operations: &[Operation], promise: &Promise) -> Result<Judgement, Unusable> {
    let mut judgement = Judgement::new(&KINDS);
    for (key, operations) in by_key(operations) {
        check_bank(&key, &operations, promise, &mut judgement)?;
    }
    Ok(judgement)
}

fn check_bank(
    key: &Value,
    operations: &[&Operation],
    promise: &Promise,
    judgement: &mut Judgement,
) -> Result<(), Unusable> {
    let mut total = promise.total.map(i128::from);
    let mut accounts: Option<Vec<&Value>> = None;
    for operation in operations {
        let (_, input) = split_key(operation);
        match operation.f.as_str() {
            "transfer" => {
                repeated(operation)?;
                check_transfer(operation, input)?;
            }
            "read" if *input != Value::Nil => return Err(asked(operation, "a read asks for nil")),
            "read" => {
                let Some(answer) = split_answer(operation)? else { continue };
                let balances = balances_of(operation, answer)?;
                let sum: i128 = balances.iter().map(|(_, balance)| i128::from(*balance)).sum();
                let found = |kind, what: String, judgement: &mut Judgement| {
                    judgement.found(kind, format!("{}{what}:\n    {operation}", of_key(key)), operation.records());
                };
                let here: Vec<&Value> = balances.iter().map(|(account, _)| *account).collect();
                let wanted = *total.get_or_insert(sum);
                if *accounts.get_or_insert_with(|| here.clone()) != here {
                    found(ACCOUNTS, "not the accounts of the first read".to_owned(), judgement);
                } else if sum != wanted {
                    found(TOTAL, format!("{sum} in all, not {wanted}"), judgement);
                }
                if let Some((account, balance)) = balances.iter().find(|(_, balance)| *balance < 0)
                    && !promise.negative
                {
                    found(DEBT, format!("account {account} has {balance}"), judgement);
                }
            }
            _ => return Err(unknown(operation, "transfer, read")),
        }
    }
    Ok(())
}

fn check_transfer(operation: &Operation, input: &Value) -> Result<(), Unusable> {
    let Value::Map(fields) = input else {
        return Err(asked(operation, "a transfer is a map of from, to and amount"));
    };
    let field = |name| fields.get(&Value::keyword(name));
    let is_whole =
        field("from").is_some() && field("to").is_some() && field("amount").and_then(Value::as_int).is_some();
    if is_whole { Ok(()) } else { Err(asked(operation, "a transfer has from, to and amount, a whole number")) }
}

fn balances_of<'a>(operation: &Operation, answer: &'a Value) -> Result<Vec<(&'a Value, i64)>, Unusable> {
    let refuse = || answered(operation, "a read answers a map from accounts to balances, which are whole numbers");
    let Value::Map(balances) = answer else { return Err(refuse()) };
    balances.iter().map(|(account, balance)| Ok((account, balance.as_int().ok_or_else(refuse)?))).collect()
}
