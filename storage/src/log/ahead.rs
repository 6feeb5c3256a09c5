//! Frames on their way from the segments to the replay, checked before they are asked for, by several threads.
//!
//! Which frame begins where, and whether it is sound, depends on a segment's bytes alone. So threads may find that out for
//! one piece of the log each while the replay, which asks for one frame after the other, is still at an earlier piece. The
//! replay is answered with what a thread has found, or, where none has found a frame, by looking there again: the same comes out
//! as without threads, whatever is damaged. Threads read and never write.

use std::collections::VecDeque;
use std::thread::{Builder, Scope};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::format::SEGMENT_HEADER;
use super::segment::Segment;
use super::window::{CheckedFrame, STEP, Window};

/// How many bytes of a segment are one thread's next task.
pub(super) const PIECE: usize = 4 * STEP;
/// How many pieces lie ready for the replay, of each thread.
const READY: usize = 1;

/// The frames that begin at `from` or behind it and before `until`, of those that lie before `limit` as a whole.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    segment: &'a Segment,
    from: u32,
    until: u32,
    limit: usize,
}

impl<'a> Piece<'a> {
    /// All pieces of a segment, of which the frames end at `end` if all is well, and are looked for up to `limit`.
    pub(super) fn all(segment: &'a Segment, end: u32, limit: usize) -> impl Iterator<Item = Self> {
        let begins = (SEGMENT_HEADER as u32..end).step_by(PIECE);
        begins.map(move |from| Self { segment, from, until: from.saturating_add(PIECE as u32).min(end), limit })
    }

    pub(super) fn length(&self) -> u64 {
        u64::from(self.until - self.from)
    }

    fn is_before(&self, segment: &Segment, at: u32) -> bool {
        (self.segment.number, self.until) <= (segment.number, at)
    }

    fn holds(&self, segment: &Segment, at: u32) -> bool {
        self.segment.number == segment.number && (self.from..self.until).contains(&at)
    }

    /// Checks its frames; what no frame claims is passed over.
    fn check(&self, window: &mut Window) -> VecDeque<CheckedFrame> {
        let Self { segment, from, until, limit } = *self;
        let mut frames = VecDeque::new();
        let mut next = Some(from);
        while let Some(at) = next.filter(|at| *at < until) {
            next = match window.checked_frame(segment, at, limit) {
                Some(frame) => {
                    let end = frame.end();
                    frames.push_back(frame);
                    Some(end)
                }
                None => window.find_frame(segment, at + 1, until as usize, limit),
            };
        }
        frames
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Frames<'a> {
    pub(super) window: Window,
    /// What the threads are at, as far as the replay has not passed it.
    pieces: VecDeque<Piece<'a>>,
    /// Where the pieces' frames come from, in turn.
    threads: VecDeque<Receiver<VecDeque<CheckedFrame>>>,
    /// Frames of the first piece, if they have been fetched.
    fetched: Option<VecDeque<CheckedFrame>>,
}

impl<'a> Frames<'a> {
    /// Answers from one window, without threads.
    pub(super) fn new(window: Window) -> Self {
        Self { window, ..Self::default() }
    }

    /// Lets so many threads check these pieces, which are in the order in which they will be asked for.
    pub(super) fn check_ahead<'scope>(&mut self, scope: &'scope Scope<'scope, '_>, pieces: &[Piece<'a>], threads: usize)
    where
        'a: 'scope,
    {
        let mut begun = VecDeque::new();
        for number in 0..threads {
            let mine: Vec<Piece<'a>> = pieces.iter().skip(number).step_by(threads).copied().collect();
            let (found, frames) = bounded(READY);
            let thread = Builder::new().name(format!("log-open-{number}"));
            if let Err(error) = thread.spawn_scoped(scope, move || check_all(&mine, &found)) {
                tracing::warn!(%error, "the log is opened without further threads");
                return;
            }
            begun.push_back(frames);
        }
        (self.pieces, self.threads) = (pieces.iter().copied().collect(), begun);
    }

    /// The frame at `at`, if there is one and it lies before `limit` as a whole. Places must be asked for in their order.
    pub(super) fn next(&mut self, segment: &Segment, at: u32, limit: usize) -> Option<CheckedFrame> {
        while self.pieces.front().is_some_and(|piece| piece.is_before(segment, at)) {
            self.fetch();
            self.fetched = None;
            self.pieces.pop_front();
        }
        if self.pieces.front().is_some_and(|piece| piece.holds(segment, at) && piece.limit == limit) {
            let frames = self.fetch();
            while frames.front().is_some_and(|frame| frame.header.at.offset < at) {
                frames.pop_front();
            }
            if frames.front().is_some_and(|frame| frame.header.at.offset == at) {
                return frames.pop_front();
            }
        }
        self.window.checked_frame(segment, at, limit)
    }

    /// The frames of the first piece. Waits for them.
    fn fetch(&mut self) -> &mut VecDeque<CheckedFrame> {
        let threads = &mut self.threads;
        self.fetched.get_or_insert_with(|| {
            threads.rotate_left(1);
            // A thread that has ended early has found nothing.
            threads.back().and_then(|thread| thread.recv().ok()).unwrap_or_default()
        })
    }
}

/// What one thread does, until all is done or nobody asks any more.
fn check_all(pieces: &[Piece<'_>], found: &Sender<VecDeque<CheckedFrame>>) {
    let mut window = Window::default();
    for piece in pieces {
        if found.send(piece.check(&mut window)).is_err() {
            return;
        }
    }
}
