//! What can be set of support between stores, with defaults and bounds.

use std::time::Duration;

/// Support between stores: for how long, how often it is renewed, and how far clocks are trusted.
///
/// The stores of a cluster should agree, unless somebody has a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LivenessOptions {
    /// For how long a store supports another with each renewal, counted on its own clock: 50 ms to an hour. A store that hangs
    /// or is cut off loses its leaders after this and at most half as much again. Default: 1 s.
    pub support_duration: Duration,
    /// How often a store asks each other one for support: a fifth to a fiftieth of `support_duration`. Default: 200 ms.
    pub heartbeat_interval: Duration,
    /// How far the rate of this machine's clock may be off, in millionths: at most 200,000. Only leases and reads of bounded age
    /// rest on it. Default: 10,000, which is one per cent.
    pub drift_ppm: u32,
    /// Whether leaders serve [`Consistency::Lease`](crate::Consistency::Lease) on the strength of clocks alone, with no message. Right only where the clock runs as fast as
    /// `drift_ppm` says, also while the machine is suspended, and no hypervisor stops the whole machine. Default: off.
    pub leases: bool,
    /// Whether a store that is slow, because its log, a worker or an applier stands still again and again, hands its leaders
    /// over to stores that are not, and takes none until it is well. Default: on.
    pub sheds_leaders: bool,
}

impl Default for LivenessOptions {
    fn default() -> Self {
        Self {
            support_duration: Duration::from_secs(1),
            heartbeat_interval: Duration::from_millis(200),
            drift_ppm: 10_000,
            leases: false,
            sheds_leaders: true,
        }
    }
}

/// Settings that do not go together. The caller's to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LivenessOptionsError {
    /// Support that is too short to be renewed in time, or so long that a dead store is not replaced.
    #[error("support_duration must lie between 50 ms and an hour, and is {0:?}: use 1 s unless you have a reason")]
    SupportDuration(Duration),
    /// Renewals that are too rare for a lost one not to matter, or too many to be kept in mind.
    #[error(
        "heartbeat_interval must lie between {least:?} and {most:?}, a fiftieth and a fifth of support_duration, and is {found:?}"
    )]
    HeartbeatInterval {
        /// What was set.
        found: Duration,
        /// The shortest that is allowed.
        least: Duration,
        /// The longest that is allowed.
        most: Duration,
    },
    /// A clock that nothing can be measured with.
    #[error("drift_ppm must be at most 200000 (a fifth), and is {0}: leave leases off where the clock is that bad")]
    Drift(u32),
}

impl LivenessOptions {
    /// Whether these settings can be worked with.
    ///
    /// # Errors
    /// The first setting that is out of its bounds.
    pub fn validate(&self) -> Result<(), LivenessOptionsError> {
        let duration = self.support_duration;
        if duration < Duration::from_millis(50) || duration > Duration::from_secs(3600) {
            return Err(LivenessOptionsError::SupportDuration(duration));
        }
        let (least, most, found) = (duration / 50, duration / 5, self.heartbeat_interval);
        if found < least || found > most {
            return Err(LivenessOptionsError::HeartbeatInterval { found, least, most });
        }
        if self.drift_ppm > 200_000 {
            return Err(LivenessOptionsError::Drift(self.drift_ppm));
        }
        Ok(())
    }

    /// A heartbeat that names nothing younger than this does not show that its sender hears (L5).
    #[must_use]
    pub fn freshness(&self) -> Duration {
        self.support_duration / 2
    }

    /// A store of which some part has stood still for longer than this asks for no support (L6).
    #[must_use]
    pub fn progress_bound(&self) -> Duration {
        self.support_duration / 2
    }

    /// How long before its time a heartbeat may leave, where that saves somebody a wake-up (L2).
    pub(super) fn early(&self) -> Duration {
        self.heartbeat_interval / 2
    }

    /// The support duration in the unit of the wire.
    pub(crate) fn duration_ms(&self) -> u32 {
        u32::try_from(self.support_duration.as_millis()).unwrap_or(u32::MAX)
    }

    /// How long the asker may count on support that was given for `duration_ms`, from when it sent its heartbeat (L4):
    /// `d (1 - rho) / (1 + rho)`.
    pub(super) fn lease(&self, duration_ms: u32) -> Duration {
        let (whole, drift) = (1_000_000_u64, u64::from(self.drift_ppm));
        let nanos = u128::from(duration_ms) * 1_000_000 * u128::from(whole - drift) / u128::from(whole + drift);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_is_named_when_it_is_broken() {
        let good = LivenessOptions::default();
        assert_eq!(good.validate(), Ok(()));
        let short = LivenessOptions { support_duration: Duration::from_millis(49), ..good };
        assert_eq!(short.validate(), Err(LivenessOptionsError::SupportDuration(Duration::from_millis(49))));
        let rare = LivenessOptions { heartbeat_interval: Duration::from_millis(201), ..good };
        assert!(rare.validate().unwrap_err().to_string().contains("between 20ms and 200ms"), "{rare:?}");
        let often = LivenessOptions { heartbeat_interval: Duration::from_millis(19), ..good };
        assert!(often.validate().is_err());
        let wild = LivenessOptions { drift_ppm: 200_001, ..good };
        assert_eq!(wild.validate(), Err(LivenessOptionsError::Drift(200_001)));
    }

    #[test]
    fn a_lease_is_shorter_than_the_support_by_the_drift_of_both_clocks() {
        let options = LivenessOptions::default();
        assert_eq!(options.lease(1000), Duration::from_nanos(980_198_019));
        let exact = LivenessOptions { drift_ppm: 0, ..options };
        assert_eq!(exact.lease(1000), Duration::from_secs(1));
    }
}
