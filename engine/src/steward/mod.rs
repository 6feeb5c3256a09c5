//! The steward of a store: tells the root region's leader what this store leads and holds, and, where the root region is led,
//! plans ([`crate::placement`]) and has operations carried out.
//!
//! ```text
//!  workers --pages of what is led--> Reporter --changes only--> root region's leader --> Inbox
//!  appliers, lookups --tallies--> Gauges --figures-^                                        |
//!                                                                                          |
//!  root region's record of the stores ------------------------------------------------> Facts --view--> Planner
//!                                                                                          ^               |
//!                                                                                          |          operations
//!                                                              outcomes, new descriptors --+---- Engine <--+
//! ```
//!
//! What is decided is decided in [`Planning`], which is pure, and in the planner; the task around it only moves data. Nothing
//! is kept across a change of the root region's leader or term: the next one hears everything anew, and waits until it has.

mod carry;
mod facts;
mod inbox;
mod loads;
mod options;
mod planning;
mod report;
mod reporter;
mod surveys;
mod task;

pub(crate) use inbox::Inbox;
pub(crate) use loads::decode_loads;
pub use options::{Placement, PlacementState, Seat};
pub(crate) use task::start;
