//! The digest of a region's state at one index, for consistency checks.
//!
//! ```text
//! SHA-256 over:  "multiraft state 1" | index (u64, big endian) | length of the descriptor (u32, big endian) | descriptor
//!                then a snapshot's stream (`body`); for own state with the bytes of `OwnState::digest` in the machine's place
//! ```
//!
//! All of it is replicated, and none of it is local: two replicas that have applied the same entries have the same bytes,
//! whichever of splits, merges, snapshots and restarts each has gone through.

use std::io;

use multiraft_raft::{LogIndex, RegionId};
use ring::digest::{Context, SHA256};

use crate::apply::catalogue::Entries;
use crate::apply::{Applier, Form, SnapshotSource, stored_descriptor};
use crate::logic::RegionHandle;
use crate::region::check::{DigestAnswer, StateDigest};

const TITLE: &[u8] = b"multiraft state 1";

/// A state of which the digest is to be taken.
pub struct DigestTask {
    /// The group.
    pub handle: RegionHandle,
    /// The entry that the state includes, as its last one.
    pub index: LogIndex,
    content: Content,
}

enum Content {
    State(SnapshotSource),
    NotSupported,
    /// It could not be captured.
    Missing,
}

impl std::fmt::Debug for DigestTask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DigestTask").field("handle", &self.handle).field("index", &self.index).finish_non_exhaustive()
    }
}

impl DigestTask {
    pub(super) fn missing(handle: RegionHandle, index: LogIndex) -> Self {
        Self { handle, index, content: Content::Missing }
    }

    /// Reads the whole state; beside further applies, on another thread. `is_over` gives it up.
    #[must_use]
    pub fn run(self, is_over: &dyn Fn() -> bool) -> DigestAnswer {
        self.content.answer(is_over)
    }
}

impl Content {
    fn answer(self, is_over: &dyn Fn() -> bool) -> DigestAnswer {
        let source = match self {
            Self::State(source) => source,
            Self::NotSupported => return DigestAnswer::NotSupported,
            Self::Missing => return DigestAnswer::Missing,
        };
        let (region, index) = (source.descriptor.id, source.index);
        match digest(source, is_over) {
            Ok(digest) => DigestAnswer::Digest(digest),
            Err(error) => {
                tracing::warn!(%region, %index, %error, "no digest of the state could be taken");
                DigestAnswer::Missing
            }
        }
    }
}

fn digest(source: SnapshotSource, is_over: &dyn Fn() -> bool) -> io::Result<StateDigest> {
    let mut context = Context::new(&SHA256);
    context.update(TITLE);
    context.update(&source.index.get().to_be_bytes());
    let descriptor = stored_descriptor(&source.descriptor);
    context.update(&u32::try_from(descriptor.len()).unwrap_or(u32::MAX).to_be_bytes());
    context.update(&descriptor);
    source.stream(&mut |chunk| {
        if is_over() {
            return Err(io::Error::other("it is not wanted any more"));
        }
        context.update(&chunk);
        Ok(())
    })?;
    let found = context.finish();
    Ok(StateDigest(found.as_ref().try_into().map_err(io::Error::other)?))
}

impl Applier {
    /// The digest of a region's state of this instant, and the index that it is of; reads all of it. `None`: it is not here.
    #[must_use]
    pub fn digest(&self, region: RegionId) -> Option<(LogIndex, DigestAnswer)> {
        let index = self.regions.record(region)?.index;
        let content = self.digest_content(&self.catalogue.lock(), region, index).unwrap_or(Content::Missing);
        Some((index, content.answer(&|| false)))
    }

    /// The state of this instant, which is that of the entry `index`; for who holds the catalogue's lock.
    pub(super) fn digest_task(&self, entries: &Entries, handle: RegionHandle, index: LogIndex) -> DigestTask {
        let content = self.digest_content(entries, handle.region, index).unwrap_or_else(|error| {
            tracing::warn!(region = %handle.region, %index, %error, "a region's state could not be captured");
            Content::Missing
        });
        DigestTask { handle, index, content }
    }

    fn digest_content(
        &self,
        entries: &Entries,
        region: RegionId,
        index: LogIndex,
    ) -> Result<Content, multiraft_storage::StateError> {
        let is_here = self.regions.record(region).is_some_and(|here| here.index == index);
        if !is_here {
            return Ok(Content::Missing);
        }
        match &self.form {
            Form::Shared(_) => Ok(self.capture_among(entries, region)?.map_or(Content::Missing, Content::State)),
            Form::Own(own) => Ok(match own.capture_digest(region) {
                Some(Some(source)) => Content::State(source),
                Some(None) => Content::NotSupported,
                None => Content::Missing,
            }),
        }
    }
}
