//! What is counted: all that happens inside [`in_the_count`], and nothing else.

use std::hint::black_box;

/// The name by which callgrind finds where to count. It is in the name of each instance of the function below, and of no other.
pub(super) const MARK: &str = "*in_the_count*";

/// Does something, and has it counted. Not to be nested.
#[inline(never)]
pub(super) fn in_the_count<T>(work: impl FnOnce() -> T) -> T {
    // Behind the work something is left to do, so that the function ends after it and not in it.
    black_box(black_box(work)())
}

/// Does something, and has it counted if `is_counted`.
pub(super) fn count_if<T>(is_counted: bool, work: impl FnOnce() -> T) -> T {
    if is_counted { in_the_count(work) } else { work() }
}
