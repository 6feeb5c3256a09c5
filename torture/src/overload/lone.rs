//! A few clients that want little: each writes small values to a region of its own, at instants that are fixed beforehand, and does
//! not wait. A write's time counts from when it was due, so that one that was held up by those before it counts in full.

use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::{sleep, sleep_until, timeout};

use super::pipe::{self, Said, Waiting, Written};

/// How long a value is, in bytes.
const VALUE_BYTES: usize = 100;
/// How long answers are waited for that are under way at the end.
const LAST_WITHIN: Duration = Duration::from_secs(8);
/// How long one waits before it connects again.
const PAUSE: Duration = Duration::from_millis(100);

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Lone {
    /// Its number.
    pub(super) number: u64,
    /// Whom it asks.
    pub(super) address: SocketAddr,
    /// What its keys begin with.
    pub(super) base: String,
    /// From one write to the next.
    pub(super) interval: Duration,
}

/// A write, by times since the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Write {
    /// When it was to be made.
    pub(super) due: Duration,
    /// When it was answered, and how; `None`: the connection ended before.
    pub(super) answered: Option<(Duration, Said)>,
}

impl Write {
    /// How long an acknowledged one took.
    pub(super) fn latency(&self) -> Option<Duration> {
        match self.answered {
            Some((at, Said::Done)) => Some(at.saturating_sub(self.due)),
            _ => None,
        }
    }

    /// When it was acknowledged.
    pub(super) fn acknowledged(&self) -> Option<Duration> {
        self.answered.filter(|(_, said)| *said == Said::Done).map(|(at, _)| at)
    }
}

/// What became of one client's writes.
#[derive(Debug, Default)]
pub(super) struct Diary {
    /// In the order in which they were answered.
    pub(super) writes: Vec<Write>,
    /// All its keys: more than one only if connections broke.
    pub(super) keys: Vec<Written>,
}

/// What becomes of one connection's writes.
struct Page {
    written: Mutex<Written>,
    waiting: Waiting<(u64, Duration)>,
    writes: Mutex<Vec<Write>>,
}

impl Lone {
    /// Writes until it is told to stop, and then waits for what is under way.
    ///
    /// # Errors
    /// A store has answered something that it may never say.
    pub(super) async fn run(self, begun: Instant, over: watch::Receiver<bool>) -> io::Result<Diary> {
        let (mut diary, mut next) = (Diary::default(), 0);
        for connection in 0.. {
            let written = Mutex::new(Written::new(&self.base, connection));
            let page = Page { written, waiting: Waiting::default(), writes: Mutex::default() };
            let ended = self.write(begun, &mut next, &page, over.clone()).await;
            let Page { written, waiting, writes } = page;
            diary.writes.extend(writes.into_inner().unwrap_or_else(PoisonError::into_inner));
            while let Some((_, due)) = waiting.pop() {
                diary.writes.push(Write { due, answered: None });
            }
            diary.keys.push(written.into_inner().unwrap_or_else(PoisonError::into_inner));
            match ended {
                Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(error),
                Err(_) if !*over.borrow() => sleep(PAUSE).await,
                _ => break,
            }
        }
        Ok(diary)
    }

    /// Writes over one connection; returns at the end, if it holds so long.
    async fn write(
        &self,
        begun: Instant,
        next: &mut u32,
        page: &Page,
        mut over: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let Page { written, waiting, writes } = page;
        let (mut output, mut replies) = pipe::open(self.address).await?;
        let key = written.lock().unwrap_or_else(PoisonError::into_inner).key.clone();
        let filling = [b'x'; VALUE_BYTES];
        let sending = async {
            loop {
                let due = self.interval * *next;
                tokio::select! {
                    biased;
                    _ = over.wait_for(|over| *over) => return Ok::<(), io::Error>(()),
                    () = sleep_until((begun + due).into()) => {}
                }
                *next += 1;
                // Instants are fixed; numbers rise with them, and are never zero.
                let number = u64::from(*next);
                written.lock().unwrap_or_else(PoisonError::into_inner).tried = number;
                waiting.push((number, due));
                pipe::set(&mut output, &key, number, &filling).await?;
            }
        };
        let hearing = async {
            loop {
                let said = replies.next().await?;
                let (number, due) = waiting.pop().ok_or_else(|| {
                    io::Error::new(io::ErrorKind::InvalidData, "a reply to a command that was not sent")
                })?;
                let answered = Some((begun.elapsed(), said));
                writes.lock().unwrap_or_else(PoisonError::into_inner).push(Write { due, answered });
                if said == Said::Done {
                    written.lock().unwrap_or_else(PoisonError::into_inner).acknowledged = number;
                }
            }
        };
        let rest = async {
            while !waiting.is_empty() {
                sleep(PAUSE / 10).await;
            }
        };
        let both = async {
            sending.await?;
            let _ = timeout(LAST_WITHIN, rest).await;
            Ok(())
        };
        tokio::select! {
            ended = both => ended,
            ended = hearing => ended,
        }
    }
}

/// A time without an acknowledgement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// How long it lasted.
    pub(super) length: Duration,
    /// When it began.
    pub(super) from: Duration,
    /// Whose it was, by place among the clients.
    pub(super) client: usize,
}

/// The longest silence in `[from, to]` of any one of clients that all write throughout.
pub(super) fn longest_silence(diaries: &[Diary], from: Duration, to: Duration) -> Silence {
    let of_one = |(client, diary): (usize, &Diary)| {
        let inside = diary.writes.iter().filter_map(Write::acknowledged).filter(|at| (from..=to).contains(at));
        let mut moments: Vec<Duration> = inside.chain([from, to]).collect();
        moments.sort_unstable();
        let silences = moments.windows(2).map(move |pair| Silence {
            length: pair[1].saturating_sub(pair[0]),
            from: pair[0],
            client,
        });
        silences.max_by_key(|silence| silence.length)
    };
    diaries.iter().enumerate().filter_map(of_one).max_by_key(|silence| silence.length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn diary(times: &[(u64, Said)]) -> Diary {
        let write = |(at, said): &(u64, Said)| Write { due: ms(0), answered: Some((ms(*at), *said)) };
        Diary { writes: times.iter().map(write).collect(), keys: Vec::new() }
    }

    #[test]
    fn silence_is_broken_only_by_acknowledgements_and_is_looked_for_in_each_client() {
        let steady = diary(&[(10, Said::Done), (20, Said::Done), (30, Said::Done), (40, Said::Done)]);
        assert_eq!(longest_silence(&[steady], ms(10), ms(40)).length, ms(10));
        let held_up = diary(&[(10, Said::Done), (20, Said::Busy), (35, Said::Done)]);
        assert_eq!(longest_silence(&[held_up], ms(10), ms(40)), Silence { length: ms(25), from: ms(10), client: 0 });
        // What is open at the end counts as far as it was seen, and a beginning in silence likewise.
        let (one, none) = (diary(&[(12, Said::Done)]), diary(&[]));
        assert_eq!(longest_silence(&[one], ms(10), ms(40)), Silence { length: ms(28), from: ms(12), client: 0 });
        let steady = diary(&[(20, Said::Done), (30, Said::Done)]);
        assert_eq!(
            longest_silence(&[steady, none], ms(10), ms(40)),
            Silence { length: ms(30), from: ms(10), client: 1 }
        );
    }
}
