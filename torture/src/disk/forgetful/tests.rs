//! The file system as programs see it. Where this machine mounts none, the tests say so and end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::Command;

use rustix::fs::{FallocateFlags, FlockOperation, IFlags, fallocate, flock, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;
use tempfile::TempDir;

use super::*;

struct Mounted {
    forgetful: Forgetful,
    dir: TempDir,
}

impl Mounted {
    fn path(&self, name: &str) -> PathBuf {
        self.forgetful.path().join(name)
    }

    fn file(&self, name: &str) -> File {
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(self.path(name)).unwrap()
    }

    fn sync_dir(&self, name: &str) {
        File::open(self.path(name)).unwrap().sync_all().unwrap();
    }

    fn forget(&self) -> Lost {
        self.forgetful.forget(None).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path(""))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }
}

#[allow(clippy::print_stdout, reason = "whoever runs the tests wants to know what was left out")]
fn mounted() -> Option<Mounted> {
    let dir = tempfile::tempdir().unwrap();
    match Forgetful::mount(&dir.path().join("at"), &dir.path().join("beneath")) {
        Ok(forgetful) => Some(Mounted { forgetful, dir }),
        Err(trouble) => {
            println!("SKIPPED: {trouble}");
            None
        }
    }
}

#[test]
fn what_was_synced_stays_and_the_rest_goes() {
    let Some(mounted) = mounted() else { return };
    let file = mounted.file("a");
    file.write_all_at(&[1; 10_000], 0).unwrap();
    file.sync_data().unwrap();
    mounted.sync_dir("");
    file.write_all_at(&[2; 3_000], 5_000).unwrap();
    file.write_all_at(&[3; 100], 20_000).unwrap();
    assert_eq!(fs::read(mounted.path("a")).unwrap().len(), 20_100);
    assert_eq!(mounted.forgetful.unsynced(), (3_100, 0));
    let lost = mounted.forget();
    assert_eq!((lost.files, lost.bytes, lost.changes), (1, 3_100, 0));
    assert_eq!(fs::read(mounted.path("a")).unwrap(), [1; 10_000]);
    // Who had it open has nothing any more.
    assert!(file.sync_all().is_err());
    assert_eq!(mounted.forgetful.asked(), Asked { writes: 3, syncs: 1, directory_syncs: 1, forgotten: 1 });
}

#[test]
fn names_are_durable_once_their_directory_is_synced() {
    let Some(mounted) = mounted() else { return };
    mounted.file("kept").write_all(b"kept").unwrap();
    mounted.file("kept").sync_all().unwrap();
    mounted.file("replaced").write_all(b"old").unwrap();
    mounted.file("replaced").sync_all().unwrap();
    mounted.sync_dir("");
    // Of these only the bytes are synced.
    let new = mounted.file("new");
    new.write_all_at(b"new", 0).unwrap();
    new.sync_all().unwrap();
    fs::rename(mounted.path("new"), mounted.path("replaced")).unwrap();
    fs::remove_file(mounted.path("kept")).unwrap();
    fs::create_dir(mounted.path("directory")).unwrap();
    mounted.file("directory/inner").sync_all().unwrap();
    mounted.sync_dir("directory");
    assert_eq!(mounted.names(), ["directory", "replaced"]);
    assert_eq!(fs::read(mounted.path("replaced")).unwrap(), b"new");
    let lost = mounted.forget();
    assert_eq!((lost.changes, lost.changes_kept), (4, 0));
    assert_eq!(mounted.names(), ["kept", "replaced"]);
    assert_eq!(fs::read(mounted.path("replaced")).unwrap(), b"old");
    assert_eq!(fs::read(mounted.path("kept")).unwrap(), b"kept");
    // And the same again, synced.
    fs::rename(mounted.path("kept"), mounted.path("replaced")).unwrap();
    fs::create_dir(mounted.path("directory")).unwrap();
    mounted.sync_dir("");
    mounted.file("directory/inner").sync_all().unwrap();
    assert_eq!(mounted.forget().changes, 1);
    assert_eq!(mounted.names(), ["directory", "replaced"]);
    assert_eq!(fs::read(mounted.path("replaced")).unwrap(), b"kept");
    assert!(!mounted.path("directory/inner").exists());
    assert_eq!(fs::read_dir(mounted.dir.path().join("beneath/removed")).unwrap().count(), 0);
}

#[test]
fn a_removed_directory_comes_back_with_what_it_held() {
    let Some(mounted) = mounted() else { return };
    fs::create_dir(mounted.path("d")).unwrap();
    mounted.file("d/x").write_all(b"x").unwrap();
    mounted.file("d/x").sync_all().unwrap();
    mounted.sync_dir("d");
    mounted.sync_dir("");
    fs::remove_dir(mounted.path("d")).unwrap_err();
    fs::remove_dir_all(mounted.path("d")).unwrap();
    assert!(!mounted.path("d").exists());
    mounted.forget();
    assert_eq!(fs::read(mounted.path("d/x")).unwrap(), b"x");
    // Gone for good, though what was done in it before was never synced.
    fs::remove_dir_all(mounted.path("d")).unwrap();
    mounted.sync_dir("");
    mounted.forget();
    assert_eq!(mounted.names(), [""; 0]);
}

#[test]
fn with_luck_a_part_stays_as_drawn() {
    let Some(mounted) = mounted() else { return };
    let file = mounted.file("a");
    file.write_all_at(&[1; 64 * 512], 0).unwrap();
    file.sync_all().unwrap();
    mounted.sync_dir("");
    file.write_all_at(&[2; 64 * 512], 0).unwrap();
    (0..40).for_each(|number| drop(mounted.file(&format!("new-{number:02}"))));
    let lost = mounted.forgetful.forget(Some(&mut Random::new(1))).unwrap();
    assert_eq!(lost.bytes + lost.bytes_kept, 64 * 512);
    assert!(lost.bytes > 0 && lost.bytes_kept > 0, "{lost:?}");
    let kept = fs::read(mounted.path("a")).unwrap().iter().filter(|byte| **byte == 2).count() as u64;
    assert_eq!(kept, lost.bytes_kept);
    assert_eq!(lost.changes + lost.changes_kept, 40);
    // The first of them, and "a".
    let names = mounted.names();
    assert_eq!(names.len() as u64, lost.changes_kept + 1);
    assert!(names[1..].iter().zip(0..).all(|(name, number)| *name == format!("new-{number:02}")), "{names:?}");
}

#[test]
fn writes_that_are_to_be_synchronous_stay() {
    let Some(mounted) = mounted() else { return };
    let file = mounted.file("flagged");
    let flags = ioctl_getflags(&file).unwrap();
    ioctl_setflags(&file, flags | IFlags::SYNC).unwrap();
    assert!(ioctl_getflags(&file).unwrap().contains(IFlags::SYNC));
    file.write_all_at(b"at once", 0).unwrap();
    let opened = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::DSYNC.bits().cast_signed())
        .open(mounted.path("opened"));
    opened.unwrap().write_all(b"also").unwrap();
    mounted.sync_dir("");
    assert_eq!(mounted.forget(), Lost::default());
    assert_eq!(fs::read(mounted.path("flagged")).unwrap(), b"at once");
    assert_eq!(fs::read(mounted.path("opened")).unwrap(), b"also");
}

#[test]
fn what_a_log_asks_of_a_file_system_works() {
    let Some(mounted) = mounted() else { return };
    let (one, other) = (mounted.file("LOCK"), mounted.file("LOCK"));
    flock(&one, FlockOperation::NonBlockingLockExclusive).unwrap();
    assert_eq!(flock(&other, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    drop(one);
    flock(&other, FlockOperation::NonBlockingLockExclusive).unwrap();
    let file = mounted.file("segment");
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    fallocate(&file, FallocateFlags::empty(), 0, 5_000).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 5_000);
    file.set_len(10).unwrap();
    assert_eq!(file.read_at(&mut [0; 100], 0).unwrap(), 10);
    assert_eq!(File::create_new(mounted.path("segment")).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    // Removed, and still there for who has it open.
    fs::remove_file(mounted.path("segment")).unwrap();
    file.write_all_at(b"still", 3).unwrap();
    let mut text = String::new();
    (&file).read_to_string(&mut text).unwrap();
    assert_eq!(text.trim_matches('\0'), "still\0\0".trim_matches('\0'));
    assert!(rustix::fs::statvfs(mounted.path("")).unwrap().f_bavail > 0);
    let many: Vec<String> = (0..500).map(|number| format!("name-{number:03}")).collect();
    many.iter().for_each(|name| drop(mounted.file(name)));
    assert_eq!(mounted.names().len(), many.len() + 1);
    let program = Command::new("cp").arg(mounted.path("LOCK")).arg(mounted.path("copy")).status().unwrap();
    assert!(program.success());
}

#[test]
#[allow(clippy::print_stdout, reason = "a figure for whoever runs the tests")]
fn syncs_are_fast_enough_for_a_log() {
    let Some(mounted) = mounted() else { return };
    let file = mounted.file("log");
    let begun = std::time::Instant::now();
    for number in 0..1_000 {
        file.write_all_at(&[1; 4_096], number * 4_096).unwrap();
        file.sync_data().unwrap();
    }
    let took = begun.elapsed();
    println!("1000 writes of 4 KiB, each synced: {took:?}");
    assert!(took.as_secs() < 10, "{took:?}");
}

#[test]
fn power_that_goes_in_the_middle_of_a_sync_leaves_nothing_of_it() {
    let Some(mounted) = mounted() else { return };
    let file = mounted.file("a");
    file.sync_all().unwrap();
    mounted.sync_dir("");
    file.write_all_at(b"unsynced", 0).unwrap();
    mounted.forgetful.slow_syncs(Duration::from_secs(60));
    std::thread::scope(|scope| {
        let sync = scope.spawn(|| file.sync_all());
        // Others go on meanwhile.
        assert_eq!(fs::read(mounted.path("a")).unwrap(), b"unsynced");
        mounted.forgetful.cut_power();
        assert_eq!(sync.join().unwrap().unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
    });
    assert!(file.write_all_at(b"late", 0).is_err());
    assert_eq!(mounted.forget().bytes, 8);
    assert_eq!(fs::read(mounted.path("a")).unwrap(), b"");
    mounted.forgetful.slow_syncs(Duration::ZERO);
    mounted.file("a").sync_all().unwrap();
}

#[test]
fn nothing_is_mounted_any_more_after_a_panic() {
    let Some(mounted) = mounted() else { return };
    let path = mounted.forgetful.path().to_owned();
    let is_mounted = || fs::read_to_string("/proc/self/mounts").unwrap().contains(path.to_str().unwrap());
    assert!(is_mounted());
    std::thread::spawn(move || {
        let _mounted = mounted;
        panic!("on purpose");
    })
    .join()
    .unwrap_err();
    assert!(!is_mounted());
}
