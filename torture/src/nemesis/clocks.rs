//! Faults of clocks: their pace, and the time of day.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::ground::turns_of;
use crate::random::Random;
use crate::stop::look_again;
use crate::trouble::{Outcome, Trouble};

/// The bound that leases allow for is one per cent of each clock; this stays within it.
const PPM_MAX: u64 = 9_900;
/// How far the time of day jumps, in seconds: at most half a day back, so that certificates are valid already, or up to a year on; far
/// enough to be seen in the hour.
const BACK_S: (u64, u64) = (7_500, 43_000);
const FORTH_S: (u64, u64) = (7_500, 31_536_000);
/// How long a store may take to follow what its clock is told.
const FOLLOWED: Duration = Duration::from_secs(10);

/// Clocks that go wrong.
pub(super) enum Turned {
    /// By so many millionths, by store.
    Pace(Vec<(usize, i64)>),
    /// By so many seconds.
    Day(usize, i64),
}

/// Lets all clocks run at paces of their own.
pub(super) fn drift(cluster: &Cluster, random: &mut Random) -> Outcome<Turned> {
    if !cluster.clocks.can_drift() {
        return Err(Trouble::new("clocks do not drift: build the program with `--features torture`"));
    }
    let mut ppm = |at| {
        let ppm = if random.chance(500) { PPM_MAX } else { random.between(1, PPM_MAX) } as i64;
        (at, if random.chance(500) { ppm } else { -ppm })
    };
    let paces: Vec<(usize, i64)> = (0..cluster.stores.len()).map(&mut ppm).collect();
    for (at, ppm) in &paces {
        cluster.clocks.set_pace(*at as u64 + 1, *ppm)?;
    }
    Ok(Turned::Pace(paces))
}

/// Lets a store take the time of day for another.
pub(super) fn jump(cluster: &Cluster, at: usize, random: &mut Random) -> Outcome<Turned> {
    if !cluster.clocks.can_jump() {
        return Err(Trouble::new("the time of day does not jump: install libfaketime"));
    }
    let seconds = if random.chance(400) {
        -(random.between(BACK_S.0, BACK_S.1) as i64)
    } else {
        random.between(FORTH_S.0, FORTH_S.1) as i64
    };
    cluster.clocks.set_day(at as u64 + 1, seconds)?;
    Ok(Turned::Day(at, seconds))
}

impl Turned {
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Pace(paces) => {
                let paces: Vec<String> = paces.iter().map(|(at, ppm)| format!("{}: {ppm:+}", at + 1)).collect();
                format!("fast by millionths: {}", paces.join(", "))
            }
            Self::Day(at, seconds) => format!("store {} takes it to be {seconds:+} s", at + 1),
        }
    }

    pub(super) fn set_right(self, cluster: &Cluster) -> Outcome<String> {
        match self {
            Self::Pace(paces) => pace_right(cluster, &paces),
            Self::Day(at, _) => day_right(cluster, at),
        }
    }
}

/// Sets all clocks' paces right; those that followed have said so.
fn pace_right(cluster: &Cluster, paces: &[(usize, i64)]) -> Outcome<String> {
    let mut followed = 0;
    for (at, ppm) in paces {
        // One that was dead, or stood still, has nothing to say.
        let has_followed = turns_of(&cluster.log(*at)?).iter().any(|turn| turn.ppm == *ppm);
        followed += usize::from(has_followed);
        cluster.clocks.set_pace(*at as u64 + 1, 0)?;
    }
    if followed == 0 {
        return Err(Trouble::new("no store has followed what its clock was told"));
    }
    let off = paces.iter().filter_map(|(at, _)| cluster.log(*at).ok());
    let off = off.flat_map(|log| turns_of(&log)).map(|turn| turn.off_us.abs()).max().unwrap_or(0);
    Ok(format!("{followed} clocks have followed; they were off by up to {} ms so far", off / 1_000))
}

/// Sets a store's time of day right, once a line of its log bears a wrong hour.
fn day_right(cluster: &Cluster, at: usize) -> Outcome<String> {
    let begun = Instant::now();
    let hour = loop {
        if let Some(wrong) = wrong_hour(&cluster.log(at)?) {
            break wrong;
        }
        provoke(cluster.stores[at].place.admin);
        if !look_again(begun, FOLLOWED) {
            return Err(Trouble::new(format!("store {} has not shown another time of day", at + 1)));
        }
    };
    cluster.clocks.set_day(at as u64 + 1, 0)?;
    Ok(format!("store {} dated lines {hour}", at + 1))
}

/// Makes a store say something in its log: that somebody hung up in the middle of a request.
fn provoke(admin: SocketAddr) {
    // One that cannot be reached says nothing, and that is found out.
    if let Ok(mut socket) = TcpStream::connect_timeout(&admin, Duration::from_secs(1)) {
        let _ = socket.write_all(b"GET /status HTTP/1.1\r\nhost");
    }
}

/// The hour in which the last dated line of a log stands, if it is neither that of the first nor the one behind it; all clocks showed the
/// right time when the stores were started, and no run goes on over several hours.
fn wrong_hour(log: &str) -> Option<String> {
    let mut hours = log.lines().filter(|line| line.starts_with("20")).filter_map(|line| line.get(..13));
    let (first, last) = (hours.next()?, hours.next_back()?);
    (last != first).then(|| last.to_owned())
}
