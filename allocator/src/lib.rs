//! The allocator of the programs that this project ships, `multiraft` and the benchmarks. The libraries set none: which one an
//! embedding program has is that program's choice.
//!
//! Thousands of regions take and give back small pieces all the time, and seldom the ones that are still in the caches; mimalloc is
//! good at that. And a store is busy at times and idle for long after: what it needed then is to go back to the system.

use std::ffi::{c_int, c_long};

/// Named by a program as its `#[global_allocator]`.
pub use mimalloc::MiMalloc as Allocator;

/// `mi_option_purge_delay` in `mimalloc.h`, the same in its versions 2 and 3: after how many milliseconds pages that are free are given
/// back to the system.
const PURGE_DELAY: c_int = 15;

/// Has pages given back to the system as soon as they are free. By default they wait for a second, and then for somebody who
/// allocates: in a store that has come to rest nobody does, and it keeps what it needed when it was busy. What the environment says of
/// it (`MIMALLOC_PURGE_DELAY`) no longer counts.
///
/// To be called first in `main`, in a program whose allocator is [`Allocator`].
pub fn give_back_at_once() {
    set(PURGE_DELAY, 0);
}

#[allow(unsafe_code, reason = "mimalloc has no other way to set an option for a whole program from within")]
fn set(option: c_int, value: c_long) {
    unsafe extern "C" {
        fn mi_option_set(option: c_int, value: c_long);
    }
    // SAFETY: the declaration is that of `mimalloc.h`, which the crate `mimalloc` builds and links. The function takes plain numbers, and
    // stores the one in a static table at the place of the other, which is within it; it may be called at any time, also before the
    // first allocation.
    unsafe { mi_option_set(option, value) }
}
