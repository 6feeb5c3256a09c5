//! An embedded database, replicated: each region's data lies in a redb file of its own.
//!
//! The engine's log and snapshots make what is applied durable, so a file need not survive its process: a machine always
//! starts empty and is filled by [`OwnState::restore`] and the log. Commits to redb therefore do not wait for the disk; only
//! one in a thousand does, because until then redb frees no page of the state that it synced last. A snapshot is a read
//! transaction, which redb keeps apart from later writes, so that it is captured at once and written out at leisure.
//!
//! A file that fails (no space, a bad disk) must not let this replica go on beside the others with another state: the
//! machine then answers every command and query with the failure and refuses to be snapshot, so that its log stays, until
//! it is restored.

use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use multiraft::{ApplyContext, Engine, OwnState, OwnStateFactory, RegionDescriptor, SnapshotWrite};
use redb::{Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use redb::{TableDefinition, WriteTransaction};

use crate::client::{Client, ClientError, elsewhere, malformed, open, plain};
use crate::wire::{Reader, Writer};

const PAIRS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("pairs");

/// How many commits to redb share one sync.
const COMMITS_PER_SYNC: u32 = 1000;
/// The longest key or value that a snapshot may hold: the engine's limit of a command.
const FIELD_BYTES_MAX: u64 = 8 << 20;

const SET: u8 = 1;
const REMOVE: u8 = 2;
const GET: u8 = 3;
const SCAN: u8 = 4;

const DONE: u8 = 2;
const ABSENT: u8 = 3;
const VALUE: u8 = 4;
const PAGE: u8 = 5;
const FAILED: u8 = 6;

/// Makes the machines of a store, with their files below one directory.
#[derive(Debug)]
pub struct RedbTables {
    dir: PathBuf,
}

impl RedbTables {
    /// Files in `dir`, which is nobody else's; those of an earlier run are removed.
    ///
    /// # Errors
    /// The directory cannot be read or changed.
    pub fn new(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "redb") {
                fs::remove_file(path)?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }
}

impl OwnStateFactory for RedbTables {
    fn create(&self, _: &RegionDescriptor) -> Box<dyn OwnState> {
        Box::new(Tables::new(&self.dir))
    }
}

/// The data of one region.
struct Tables {
    dir: PathBuf,
    /// What has failed stands in place of the file.
    file: Result<File, String>,
}

/// A redb file, removed when nobody needs it any more.
struct File {
    path: PathBuf,
    database: Arc<Database>,
    commits: u32,
}

impl Drop for File {
    fn drop(&mut self) {
        // A snapshot that is still being written has the file open and can go on.
        let _ = fs::remove_file(&self.path);
    }
}

impl File {
    fn create(dir: &Path) -> Result<Self, redb::Error> {
        static FILES: AtomicU64 = AtomicU64::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let path = dir.join(format!("{number}.redb"));
        let database = Arc::new(Database::create(&path)?);
        let mut file = Self { path, database, commits: COMMITS_PER_SYNC };
        // So that every reader finds the table.
        file.write(|transaction| transaction.open_table(PAIRS).map(drop).map_err(redb::Error::from))?;
        Ok(file)
    }

    fn write<T>(&mut self, change: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let mut transaction = self.database.begin_write()?;
        let is_synced = self.commits >= COMMITS_PER_SYNC;
        transaction.set_durability(if is_synced { Durability::Immediate } else { Durability::None })?;
        let answer = change(&transaction)?;
        transaction.commit()?;
        self.commits = if is_synced { 0 } else { self.commits + 1 };
        Ok(answer)
    }
}

impl Tables {
    fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), file: File::create(dir).map_err(|error| error.to_string()) }
    }

    /// Runs a change; a failure of the file is remembered and told from then on.
    fn change<T>(&mut self, change: impl FnOnce(&mut File) -> Result<T, redb::Error>) -> Result<T, String> {
        let file = self.file.as_mut().map_err(|reason| reason.clone())?;
        change(file).map_err(|error| {
            let reason = error.to_string();
            self.file = Err(reason.clone());
            reason
        })
    }
}

fn failed(reason: &str) -> Bytes {
    Writer::new(FAILED).bytes(reason.as_bytes()).finish()
}

impl OwnState for Tables {
    fn apply(&mut self, context: ApplyContext<'_>, command: &[u8]) -> Bytes {
        let mut fields = Reader::new(command);
        let Some((kind, key)) = fields.kind().zip(fields.bytes()) else { return malformed() };
        if !context.region.owns(key) {
            return elsewhere();
        }
        let answer = match (kind, fields.bytes()) {
            (SET, Some(value)) => self.change(|file| {
                file.write(|transaction| Ok(transaction.open_table(PAIRS)?.insert(key, value).map(|_| DONE)?))
            }),
            (REMOVE, None) => self.change(|file| {
                file.write(|transaction| {
                    let was = transaction.open_table(PAIRS)?.remove(key)?.is_some();
                    Ok(if was { DONE } else { ABSENT })
                })
            }),
            _ => return malformed(),
        };
        answer.map_or_else(|reason| failed(&reason), plain)
    }

    fn lookup(&self, region: &RegionDescriptor, query: &[u8]) -> Bytes {
        let mut fields = Reader::new(query);
        let Some((kind, key)) = fields.kind().zip(fields.bytes()) else { return malformed() };
        if !region.owns(key) {
            return elsewhere();
        }
        let file = match &self.file {
            Ok(file) => file,
            Err(reason) => return failed(reason),
        };
        let answer = match (kind, fields.number()) {
            (GET, None) => get(file, key),
            (SCAN, Some(limit)) => scan(file, key, limit, &region.range.end),
            _ => return malformed(),
        };
        answer.unwrap_or_else(|error| failed(&error.to_string()))
    }

    fn snapshot(&self) -> SnapshotWrite {
        let captured = self.file.as_ref().map_err(Clone::clone).and_then(|file| {
            let transaction = file.database.begin_read().map_err(|error| error.to_string())?;
            Ok((Arc::clone(&file.database), transaction))
        });
        Box::new(move |out| {
            // The database has to stay open as long as the transaction is read.
            let (_database, transaction) = captured.map_err(io::Error::other)?;
            write_pairs(&transaction, out)
        })
    }

    fn restore(&mut self, snapshot: &mut dyn Read) -> io::Result<()> {
        let mut file = File::create(&self.dir).map_err(io::Error::other)?;
        // Whatever was there, or had failed, is replaced as a whole; until that succeeds nothing is.
        let mut outcome = Ok(());
        file.write(|transaction| {
            outcome = read_pairs(transaction, snapshot);
            Ok(())
        })
        .map_err(io::Error::other)?;
        outcome?;
        self.file = Ok(file);
        Ok(())
    }

    fn split_off(&mut self, key: &[u8]) -> Box<dyn OwnState> {
        let dir = self.dir.clone();
        let upper = self.change(|file| {
            let mut upper = File::create(&dir)?;
            let from = file.database.begin_read()?.open_table(PAIRS)?;
            upper.write(|transaction| {
                let mut to = transaction.open_table(PAIRS)?;
                for pair in from.range(key..)? {
                    let (key, value) = pair?;
                    to.insert(key.value(), value.value())?;
                }
                Ok(())
            })?;
            file.write(|transaction| Ok(transaction.open_table(PAIRS)?.retain_in(key.., |_, _| false)?))?;
            Ok(upper)
        });
        // If that failed, neither half can be trusted.
        Box::new(Self { dir, file: upper })
    }

    fn absorb(&mut self, neighbour: Box<dyn OwnState>) {
        let neighbour = neighbour.as_any().downcast::<Self>().map_err(|_| "the neighbour is no table".to_owned());
        let other = neighbour.and_then(|other| {
            let file = other.file.as_ref().map_err(Clone::clone)?;
            let transaction = file.database.begin_read().map_err(|error| error.to_string())?;
            Ok((other, transaction))
        });
        let (_neighbour, transaction) = match other {
            Ok(other) => other,
            Err(reason) => {
                self.file = Err(reason);
                return;
            }
        };
        // A failure is remembered; there is nobody here to tell it to.
        let _ = self.change(|file| {
            let from = transaction.open_table(PAIRS)?;
            file.write(|transaction| {
                let mut to = transaction.open_table(PAIRS)?;
                for pair in from.iter()? {
                    let (key, value) = pair?;
                    to.insert(key.value(), value.value())?;
                }
                Ok(())
            })
        });
    }

    fn as_any(self: Box<Self>) -> Box<dyn std::any::Any> {
        self
    }
}

fn get(file: &File, key: &[u8]) -> Result<Bytes, redb::Error> {
    let table = file.database.begin_read()?.open_table(PAIRS)?;
    let value = table.get(key)?;
    Ok(value.map_or_else(|| plain(ABSENT), |value| Writer::new(VALUE).bytes(value.value()).finish()))
}

/// A page of pairs from `key`; ends with where the next region begins, empty if this is the last.
fn scan(file: &File, key: &[u8], limit: u64, end: &[u8]) -> Result<Bytes, redb::Error> {
    let table = file.database.begin_read()?.open_table(PAIRS)?;
    let mut pairs = Writer::default();
    let mut count = 0;
    for pair in table.range(key..)?.take(usize::try_from(limit).unwrap_or(usize::MAX)) {
        let (key, value) = pair?;
        pairs = pairs.bytes(key.value()).bytes(value.value());
        count += 1;
    }
    Ok(Writer::new(PAGE).bytes(end).number(count).bytes(&pairs.finish()).finish())
}

/// Format: how many pairs; then of each the key and the value, behind their lengths in eight bytes.
fn write_pairs(transaction: &ReadTransaction, out: &mut dyn Write) -> io::Result<()> {
    let table = transaction.open_table(PAIRS).map_err(io::Error::other)?;
    let count = table.len().map_err(io::Error::other)?;
    out.write_all(&count.to_be_bytes())?;
    for pair in table.iter().map_err(io::Error::other)? {
        let (key, value) = pair.map_err(io::Error::other)?;
        for field in [key.value(), value.value()] {
            out.write_all(&(field.len() as u64).to_be_bytes())?;
            out.write_all(field)?;
        }
    }
    Ok(())
}

fn read_pairs(transaction: &WriteTransaction, from: &mut dyn Read) -> io::Result<()> {
    let mut table = transaction.open_table(PAIRS).map_err(io::Error::other)?;
    for _ in 0..read_number(from)? {
        let (key, value) = (read_field(from)?, read_field(from)?);
        table.insert(key.as_slice(), value.as_slice()).map_err(io::Error::other)?;
    }
    Ok(())
}

fn read_number(from: &mut dyn Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

fn read_field(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let length = read_number(from)?;
    if length > FIELD_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a field is longer than any command may be"));
    }
    let mut field = Vec::new();
    from.take(length).read_to_end(&mut field)?;
    if field.len() as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(field)
}

/// Keys and values, as one user of the database sees them.
#[derive(Debug)]
pub struct TableClient {
    client: Client,
}

/// Pairs in key order.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

impl TableClient {
    /// On any store.
    #[must_use]
    pub fn new(engine: &Engine) -> Self {
        Self { client: Client::new(engine) }
    }

    /// Sets a key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set(&self, key: &[u8], value: &[u8]) -> Result<(), ClientError> {
        let answer = self.client.propose(key, Writer::new(SET).bytes(key).bytes(value).finish()).await?;
        checked(&answer).map(drop)
    }

    /// Removes a key; whether it was there.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn remove(&self, key: &[u8]) -> Result<bool, ClientError> {
        let answer = self.client.propose(key, Writer::new(REMOVE).bytes(key).finish()).await?;
        Ok(checked(&answer)?.0 == DONE)
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, ClientError> {
        let answer = self.client.read(key, Writer::new(GET).bytes(key).finish()).await?;
        match checked(&answer)? {
            (ABSENT, _) => Ok(None),
            (VALUE, mut fields) => fields.bytes().map(|value| Some(value.to_vec())).ok_or(ClientError::Version),
            _ => Err(ClientError::Version),
        }
    }

    /// The first pairs from a key on, across regions; each region's are of one instant.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn scan(&self, from: &[u8], limit: usize) -> Result<Pairs, ClientError> {
        let mut pairs = Pairs::new();
        let mut from = from.to_vec();
        loop {
            let query = Writer::new(SCAN).bytes(&from).number((limit - pairs.len()) as u64).finish();
            let answer = self.client.read(&from, query).await?;
            let (PAGE, mut fields) = checked(&answer)? else { return Err(ClientError::Version) };
            let mut next = || {
                let (end, count) = fields.bytes().zip(fields.number())?;
                let mut page = Reader::new(fields.bytes()?);
                for _ in 0..count {
                    pairs.push((page.bytes()?.to_vec(), page.bytes()?.to_vec()));
                }
                Some(end.to_vec())
            };
            from = next().ok_or(ClientError::Version)?;
            if from.is_empty() || pairs.len() >= limit {
                return Ok(pairs);
            }
        }
    }
}

fn checked(answer: &[u8]) -> Result<(u8, Reader<'_>), ClientError> {
    match open(answer)? {
        (FAILED, mut reason) => {
            let reason = reason.bytes().unwrap_or_default();
            Err(ClientError::Failed(String::from_utf8_lossy(reason).into_owned()))
        }
        answer => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(tables: &Tables) -> Pairs {
        let table = tables.file.as_ref().unwrap().database.begin_read().unwrap().open_table(PAIRS).unwrap();
        let pairs = table.iter().unwrap().map(Result::unwrap);
        pairs.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).collect()
    }

    fn filled(dir: &Path, keys: std::ops::Range<u32>) -> Tables {
        let mut tables = Tables::new(dir);
        let fill = |transaction: &WriteTransaction| {
            let mut table = transaction.open_table(PAIRS)?;
            for key in keys {
                table.insert(format!("{key:03}").as_bytes(), b"value".as_slice())?;
            }
            Ok(())
        };
        tables.file.as_mut().unwrap().write(fill).unwrap();
        tables
    }

    #[test]
    fn a_snapshot_shows_its_instant_and_restores_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut tables = filled(dir.path(), 0..50);
        let before = pairs(&tables);
        let write = tables.snapshot();
        tables.change(|file| file.write(|all| Ok(all.open_table(PAIRS)?.retain(|_, _| false)?))).unwrap();
        let mut snapshot = Vec::new();
        write(&mut snapshot).unwrap();
        assert_eq!(pairs(&tables), []);
        tables.restore(&mut snapshot.as_slice()).unwrap();
        assert_eq!(pairs(&tables), before);
        for cut in [0, 7, 8, 20, snapshot.len() - 1] {
            tables.restore(&mut &snapshot[..cut]).unwrap_err();
            assert_eq!(pairs(&tables), before, "cut at {cut}");
        }
    }

    #[test]
    fn two_halves_put_together_are_the_whole() {
        let dir = tempfile::tempdir().unwrap();
        let mut lower = filled(dir.path(), 0..50);
        let whole = pairs(&lower);
        let upper = lower.split_off(b"030");
        assert_eq!(pairs(&lower), whole[..30]);
        let upper = upper.as_any().downcast::<Tables>().unwrap();
        assert_eq!(pairs(&upper), whole[30..]);
        lower.absorb(upper);
        assert_eq!(pairs(&lower), whole);
        drop(lower);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "files are left behind");
    }

    #[test]
    fn a_failure_is_told_until_the_machine_is_restored() {
        let dir = tempfile::tempdir().unwrap();
        let mut tables = filled(dir.path(), 0..5);
        let mut snapshot = Vec::new();
        tables.snapshot()(&mut snapshot).unwrap();
        tables.change(|_| Err::<(), _>(redb::Error::Corrupted("torn".to_owned()))).unwrap_err();
        assert!(tables.change(|_| Ok(())).unwrap_err().contains("torn"));
        assert!(tables.snapshot()(&mut Vec::new()).unwrap_err().to_string().contains("torn"));
        tables.restore(&mut snapshot.as_slice()).unwrap();
        assert_eq!(pairs(&tables).len(), 5);
    }
}
