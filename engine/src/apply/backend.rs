//! Which state a store holds, and what can be done with it besides applying.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use multiraft_raft::{LogIndex, RegionDescriptor, RegionEpoch, RegionId, Term};
use multiraft_storage::{StateBatch, StateError, StateStore};

use crate::apply::own::OwnRegions;
use crate::apply::record::AppliedRecord;
use crate::apply::shared::{SharedBackend, lookup, put_region};
use crate::apply::source::{Content, SnapshotSource};
use crate::apply::{Applier, Chunks};
use crate::error::ReadError;
use crate::machine::{OwnStateFactory, StateMachine};

/// A region as the state knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedRegion {
    /// The region, as of `index`.
    pub descriptor: Arc<RegionDescriptor>,
    /// The last index applied.
    pub index: LogIndex,
    /// The term there.
    pub term: Term,
    /// The state was replaced by a received snapshot, and nothing was applied since.
    pub installed: bool,
}

/// The state of a store, in one of the two forms.
#[derive(Clone)]
pub struct Backend {
    pub(super) form: Form,
}

#[derive(Clone)]
pub(super) enum Form {
    /// On the shared state store.
    Shared(SharedBackend),
    /// A machine per region.
    Own(Arc<OwnRegions>),
}

impl Backend {
    /// A machine on a shared state store.
    #[must_use]
    pub fn shared(machine: Arc<dyn StateMachine>, store: Arc<dyn StateStore>) -> Self {
        Self { form: Form::Shared(SharedBackend { machine, store }) }
    }

    /// A machine of its own for each region.
    #[must_use]
    pub fn own(factory: Arc<dyn OwnStateFactory>) -> Self {
        Self { form: Form::Own(Arc::new(OwnRegions::new(factory))) }
    }

    /// Whether the state survives a restart by itself. If not, each region's durable base is a snapshot file, and
    /// [`Backend::restore`] puts it back at the start.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        match &self.form {
            Form::Shared(shared) => shared.store.is_durable(),
            Form::Own(_) => false,
        }
    }

    /// Makes all state that was written before the call durable. Does nothing where that is the snapshot files' part.
    ///
    /// # Errors
    /// [`StateError`]; the store must then not be used any more.
    pub fn flush(&self) -> Result<(), StateError> {
        match &self.form {
            Form::Shared(shared) => shared.store.flush(),
            Form::Own(_) => Ok(()),
        }
    }

    /// Writes new regions into a durable state and makes them durable.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn create_regions(&self, regions: &[Arc<RegionDescriptor>]) -> Result<(), StateError> {
        let Form::Shared(shared) = &self.form else {
            return Ok(());
        };
        let mut batch = StateBatch::new();
        for descriptor in regions {
            put_region(&mut batch, descriptor, AppliedRecord::default());
        }
        shared.store.write(batch)?;
        shared.store.flush()
    }

    /// The first snapshot of a new region: its empty state.
    #[must_use]
    pub fn first_snapshot(&self, descriptor: &Arc<RegionDescriptor>) -> SnapshotSource {
        match &self.form {
            Form::Shared(_) => SnapshotSource {
                descriptor: Arc::clone(descriptor),
                index: LogIndex::ZERO,
                term: Term::ZERO,
                content: Content::Shared(Vec::new()),
            },
            Form::Own(own) => own.first(descriptor),
        }
    }

    /// Puts a region back to what a snapshot file holds, at the start of a store.
    ///
    /// # Errors
    /// The file or the state cannot be read or written.
    pub fn restore(&self, region: &AppliedRegion, chunks: Chunks<'_>) -> io::Result<()> {
        let AppliedRegion { descriptor, index, term, installed } = region;
        match &self.form {
            Form::Shared(shared) => {
                let record = AppliedRecord { index: *index, term: *term, installed: *installed };
                shared.restore(descriptor, record, chunks)
            }
            Form::Own(own) => own.restore(descriptor, *index, *term, chunks),
        }
    }

    /// The regions that a durable state knows, in order of id.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn regions(&self) -> Result<Vec<AppliedRegion>, StateError> {
        match &self.form {
            Form::Shared(shared) => shared.regions(),
            Form::Own(_) => Ok(Vec::new()),
        }
    }

    /// What applies the entries of these regions; each region belongs to one applier.
    #[must_use]
    pub fn applier(&self, regions: impl IntoIterator<Item = AppliedRegion>) -> Applier {
        Applier::new(self.clone(), regions)
    }

    /// Answers a query from the applied state of this instant, if the region is what the caller thinks it is.
    ///
    /// # Errors
    /// The region is not here, has changed, or the state store failed.
    pub fn lookup(&self, region: RegionId, epoch: Option<RegionEpoch>, query: &[u8]) -> Result<Bytes, ReadError> {
        match &self.form {
            Form::Shared(shared) => lookup(shared, region, epoch, query),
            Form::Own(own) => own.lookup(region, epoch, query),
        }
    }
}
