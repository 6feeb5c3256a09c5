//! What the operating system says that this process uses. From `/proc`: on other systems than Linux all is zero.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The kernel's unit of processor time in `/proc`, 100 a second on every architecture that Linux runs on today.
const MICROS_PER_TICK: u64 = 10_000;
/// Pages are counted in `/proc/self/statm`; the status file speaks of kibibytes.
const KIB: u64 = 1024;

/// Processor time that all threads of this process have used, in microseconds: user and system.
pub(crate) fn cpu_micros() -> u64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in parentheses may hold anything; the 14th and 15th field are the 12th and 13th after it.
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after_name.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks * MICROS_PER_TICK
}

/// Bytes that were written to the disk below `path`, by whomever; `None` where that cannot be told.
pub(crate) fn disk_bytes_written(path: &Path) -> Option<u64> {
    let device = fs::metadata(path).ok()?.dev();
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    let stat = fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?;
    // The seventh number is of sectors of 512 bytes, whatever the disk's are.
    Some(stat.split_whitespace().nth(6)?.parse::<u64>().ok()? * 512)
}

/// Bytes of the page cache that this process has made dirty, and what it wrote past it, as `/proc` has it: where the kernel keeps files in large pieces, a
/// piece counts whole that a few bytes were written to.
pub(crate) fn dirtied_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes:")).unwrap_or_default();
    line.trim().parse().unwrap_or_default()
}

/// Memory of this process that is resident, in bytes.
pub(crate) fn rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() * KIB
}

/// How many programs wanted to run in the last minute, on average.
#[cfg(feature = "peers")]
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|average| average.parse().ok()).unwrap_or_default()
}

/// Whether files below `path` lie in memory only, where a flush costs nothing.
pub(crate) fn lies_in_memory(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    lies_in_memory_by(&mounts, path)
}

fn lies_in_memory_by(mounts: &str, path: &Path) -> bool {
    let mounted = mounts.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        Some((Path::new(fields.next()?), fields.next()?))
    });
    // Of two mounts on one place the later hides the earlier, which `max_by_key` does as well.
    let nearest =
        mounted.filter(|(place, _)| path.starts_with(place)).max_by_key(|(place, _)| place.components().count());
    nearest.is_some_and(|(_, kind)| matches!(kind, "tmpfs" | "ramfs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_decides_whether_files_lie_in_memory() {
        let mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n/dev/vdb /tmp/disk xfs rw 0 0\n";
        assert!(lies_in_memory_by(mounts, Path::new("/tmp/x")));
        assert!(!lies_in_memory_by(mounts, Path::new("/tmp/disk/x")));
        assert!(!lies_in_memory_by(mounts, Path::new("/tmpx")));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_busy_process_uses_processor_time_and_memory() {
        let before = cpu_micros();
        let mut sum = 0u64;
        while cpu_micros() - before < 30_000 {
            sum = sum.wrapping_add(std::hint::black_box(1));
        }
        assert!(sum > 0 && rss_bytes() > 1 << 16);
    }
}
