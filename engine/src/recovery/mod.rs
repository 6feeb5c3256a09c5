//! Recovery of lost quorum: for when so many stores are gone for good that regions can decide nothing any more.
//!
//! ```text
//!  stopped stores --survey--> StoreSurvey --+
//!  stopped stores --survey--> StoreSurvey --+--make_plan--> Plan --apply, on each store--> recovered regions
//!            the stores named dead ---------+                          |
//!                                                                      +--> the dead are refused for ever
//! ```
//!
//! What is kept and what may be lost, and why each step is as it is, says `docs/recovery.md`. [`make_plan`] is a pure function;
//! what touches files is in [`Recovery`].

mod audit;
#[cfg(test)]
mod broken_files;
mod carry_out;
mod codec;
mod fence;
#[cfg(test)]
mod gone_before;
mod known;
mod offline;
mod plan;
mod planner;
#[cfg(test)]
mod power;
mod space;
mod survey;
#[cfg(test)]
mod tests;

pub use audit::RecoveryRecord;
pub use carry_out::{AppliedPlan, ApplyOptions, unfinished};
pub use codec::FileError;
pub use fence::Fence;
pub use offline::{Recovery, RecoveryError, StoppedStore, fence_of};
pub use plan::{Keep, Loss, Plan, PlanId, RegionPlan, Source, Verdict};
pub use planner::{PlanError, PlanOptions, make_plan};
pub use survey::{BuriedReplica, DamagedReplica, Foreseen, FrozenFor, ReplicaSurvey, StoreSurvey};
