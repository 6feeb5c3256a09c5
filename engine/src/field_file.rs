//! Small text files of a data directory: a title, a format, named fields and a checksum, replaced as a whole.
//!
//! ```text
//! TITLE\n
//! format = 1\n
//! NAME = VALUE\n              (any number, in a fixed order)
//! crc32c = 89abcdef\n         (of everything before this line)
//! ```

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::Path;

use multiraft_storage::{Disk, RealDisk};

const CHECKSUM: &str = "crc32c = ";

/// A kind of such files.
#[derive(Debug)]
pub(crate) struct FieldFile {
    /// Its name in the data directory.
    pub(crate) name: &'static str,
    /// Its first line.
    pub(crate) title: &'static str,
    /// The newest format that this program knows.
    pub(crate) format: u32,
    /// What has that format, in errors.
    pub(crate) subject: &'static str,
    /// What to do when it is damaged.
    pub(crate) cure: &'static str,
}

/// The fields of one file, in order.
#[derive(Debug)]
pub(crate) struct Fields<'a>(std::str::Lines<'a>);

impl<'a> Fields<'a> {
    /// The next field, which has to have this name.
    pub(crate) fn next(&mut self, name: &str) -> Option<&'a str> {
        let (found, value) = self.0.next()?.split_once(" = ")?;
        (found == name).then_some(value)
    }
}

impl FieldFile {
    /// The text of the file in a directory; `None` if there is none.
    pub(crate) fn text(&self, dir: &Path) -> io::Result<Option<String>> {
        match fs::read_to_string(dir.join(self.name)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same, on a disk.
    pub(crate) fn text_on(&self, disk: &dyn Disk) -> io::Result<Option<String>> {
        let file = match disk.open(self.name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
        file.read_at(&mut text, 0)?;
        // What is no text is no such file: the parser says so.
        Ok(Some(String::from_utf8_lossy(&text).into_owned()))
    }

    /// What `read` makes of the fields; the error says what is wrong and what to do.
    pub(crate) fn parse<T>(&self, text: &str, read: impl FnOnce(&mut Fields<'_>) -> Option<T>) -> Result<T, String> {
        let damaged = || format!("the file is damaged: {}", self.cure);
        let mut fields = Fields(text.lines());
        if fields.0.next() != Some(self.title) {
            return Err(damaged());
        }
        // Before the checksum: a newer format may have another one.
        let format: u32 = fields.next("format").and_then(|format| format.parse().ok()).ok_or_else(damaged)?;
        if format > self.format {
            return Err(format!(
                "{} has format {format}, this program knows up to {}: run a newer version",
                self.subject, self.format
            ));
        }
        let (body, checksum) = text.rsplit_once(CHECKSUM).ok_or_else(damaged)?;
        let is_sound = u32::from_str_radix(checksum.trim_end(), 16).ok() == Some(crc32c::crc32c(body.as_bytes()));
        if is_sound { read(&mut fields).ok_or_else(damaged) } else { Err(damaged()) }
    }

    /// Replaces the file in a directory, durably.
    pub(crate) fn write(&self, dir: &Path, fields: &[(&str, &dyn Display)]) -> io::Result<()> {
        self.write_on(&RealDisk::guarded(dir)?, fields)
    }

    /// Replaces the file, durably: written beside, synced, renamed, directory synced.
    pub(crate) fn write_on(&self, disk: &dyn Disk, fields: &[(&str, &dyn Display)]) -> io::Result<()> {
        let mut text = format!("{}\nformat = {}\n", self.title, self.format);
        for (name, value) in fields {
            text.push_str(&format!("{name} = {value}\n"));
        }
        text.push_str(&format!("{CHECKSUM}{:08x}\n", crc32c::crc32c(text.as_bytes())));
        let temporary = format!("{}.new", self.name);
        match disk.remove(&temporary) {
            // What a crash left of an earlier attempt.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let file = disk.create(&temporary)?;
        file.write_at(text.as_bytes(), 0)?;
        file.sync_data()?;
        disk.rename(&temporary, self.name)?;
        disk.sync_dir()
    }
}
