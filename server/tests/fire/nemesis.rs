//! The nemesis: kills stores, stops them in order, lets them stand still, never more than a minority at a time, and brings
//! them back.

use std::time::Duration;

use multiraft_sim::random::Random;

use crate::clients::Trial;
use crate::harness::Cluster;

/// What was done to stores.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blows {
    pub(crate) kills: usize,
    pub(crate) pauses: usize,
    pub(crate) stops: usize,
}

/// Strikes until so much time of the trial is over; then all stores run.
pub(crate) fn strike_until(end: Duration, trial: &Trial, cluster: &mut Cluster, mut random: Random) -> Blows {
    let mut blows = Blows::default();
    let stores = cluster.stores.len() as u64;
    loop {
        let left = end.saturating_sub(trial.begun.elapsed());
        if left.is_zero() {
            return blows;
        }
        trial.stop.within(left.min(Duration::from_millis(random.between(1_000, 4_000))));
        let first = random.below(stores) as usize;
        let second = (first + 1 + random.below(stores - 1) as usize) % stores as usize;
        let length = Duration::from_millis(random.between(200, 4_000));
        let say = |what: &str| println!("{:7.3} {what}", trial.begun.elapsed().as_secs_f64());
        // At least every other blow kills.
        let others = blows.pauses + blows.stops;
        match if blows.kills <= others { random.below(7) } else { random.below(10) } {
            0..5 => {
                say(&format!("kill {}", first + 1));
                cluster.kill(first);
                trial.stop.within(length);
                restart(cluster, first);
                blows.kills += 1;
            }
            5..7 => {
                say(&format!("kill {} and {}", first + 1, second + 1));
                cluster.kill(first);
                cluster.kill(second);
                trial.stop.within(length);
                restart(cluster, first);
                restart(cluster, second);
                blows.kills += 2;
            }
            7..9 => {
                say(&format!("pause {}", first + 1));
                cluster.signal(first, "-STOP");
                trial.stop.within(length * 2);
                cluster.signal(first, "-CONT");
                blows.pauses += 1;
            }
            _ => {
                say(&format!("stop {}", first + 1));
                cluster.signal(first, "-TERM");
                assert_eq!(cluster.wait_end(first), Some(0), "store {} was asked to stop", first + 1);
                restart(cluster, first);
                blows.stops += 1;
            }
        }
        say("all run");
        for at in 0..cluster.stores.len() {
            assert_eq!(cluster.has_ended(at), None, "store {} has ended by itself", at + 1);
        }
    }
}

fn restart(cluster: &mut Cluster, at: usize) {
    cluster.spawn(at);
    cluster.wait_ready(at);
}
