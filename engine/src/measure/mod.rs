//! How large and how busy the regions of a store are: counted where commands and queries are carried out, found out by
//! reading ranges where counting cannot tell, and kept as figures that whoever plans is told.
//!
//! ```text
//!  appliers --keys written--+                                 +--region by region--> Survey (reads ranges, throttled)
//!                           +--> Tallies --once a round--> Gauges --figures--> report
//!  lookups  --keys read-----+
//! ```
//!
//! What is decided here is pure: time is an argument, chance comes from a seed. A region that nobody touches costs nothing
//! but its place in a map.

mod gauges;
mod survey;
mod touches;

pub use gauges::Figures;
pub(crate) use gauges::Gauges;
pub(crate) use survey::{STRETCHES, Size, Survey};
pub(crate) use touches::{Tallies, Tally, Touches};

#[cfg(test)]
mod truth_tests;
