//! What goes wrong with disks: full ones, slow and failing ones, those that forget what was not synced, and damage.
//!
//! Each fault tells what it has done, so that a run can refuse to count one that did nothing.

pub mod damage;
pub mod forgetful;
pub mod shim;
pub mod small;
