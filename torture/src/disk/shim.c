/*
 * What goes wrong between a program and its disk, by order: loaded in front of libc (LD_PRELOAD), it fails or delays the
 * program's calls that write and sync files below one directory.
 *
 * The orders lie in a file of fixed layout, named by MULTIRAFT_DISK_SHIM, that is mapped into memory: what is written there counts
 * from the next call on. What was done is counted in the same file, so it outlives the process, however that ends. The program
 * that writes and reads the file is shim.rs; both must agree on the layout:
 *
 *      0   8  magic "MRDISK01"
 *      8   8  on: 1 if the orders count
 *     16   8  sync_fails: syncs fail from this one on, counted from 1; 0: none
 *     24   8  sync_fails_once: 1 if only that one fails
 *     32   8  sync_delay_ms
 *     40   8  write_delay_ms
 *     48   8  full: 1 if writes and whatever else takes space find none
 *     56   8  0
 *     64  64  counters: syncs seen, syncs failed, syncs delayed, writes seen, writes delayed, writes refused, reservations
 *             refused, 0
 *    128 896  0
 *   1024 3072 the directory, a path without links that ends with a zero byte
 *
 * Numbers are of this machine's byte order. Seen is what went by below the directory while orders counted.
 *
 * Calls that do not go by way of libc, and writes to mapped memory, are not seen. Among those are Rust's `rustix`, so fallocate,
 * flock and statvfs of a store. Nothing of C++ or of other libraries is used, and no lock is ever held, so it can be loaded beside
 * others of its kind, libfaketime among them.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

struct orders {
    char magic[8];
    _Atomic uint64_t on, sync_fails, sync_fails_once, sync_delay_ms, write_delay_ms, full, reserved;
    _Atomic uint64_t syncs, syncs_failed, syncs_delayed, writes, writes_delayed, writes_refused, reservations_refused, spare;
    char unused[896];
    char directory[3072];
};
_Static_assert(sizeof(struct orders) == 4096, "the layout is that of shim.rs");

/* Null: nobody gave orders, and all calls go through. */
static struct orders *orders;

__attribute__((constructor)) static void look_for_orders(void) {
    const char *path = getenv("MULTIRAFT_DISK_SHIM");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (fd < 0)
        return;
    void *at = mmap(NULL, sizeof(struct orders), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at != MAP_FAILED && memcmp(at, "MRDISK01", 8) == 0)
        orders = at;
    close(fd);
}

/* The next function of this name, which is libc's or that of another library in between. */
#define REAL(name)                                                 \
    static __typeof__(name) *real;                                 \
    if (!real)                                                     \
        real = (__typeof__(name) *)dlsym(RTLD_NEXT, #name)

/* Whether orders count for this file. Leaves errno alone. */
static int counts(int fd) {
    if (!orders || !orders->on)
        return 0;
    int before = errno;
    char link[32], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    errno = before;
    if (length <= 0)
        return 0;
    path[length] = 0;
    size_t prefix = strnlen(orders->directory, sizeof orders->directory);
    return prefix > 0 && strncmp(path, orders->directory, prefix) == 0 && (path[prefix] == '/' || path[prefix] == 0);
}

/* By the kernel itself: another library in front of libc may have its own idea of time. */
static void wait_ms(uint64_t ms) {
    int before = errno;
    struct timespec left = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    while (syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &left, &left) != 0 && errno == EINTR) {
    }
    errno = before;
}

/* Whether this sync fails; errno says so. */
static int sync_fails(int fd) {
    if (!counts(fd))
        return 0;
    uint64_t number = ++orders->syncs;
    uint64_t delay = orders->sync_delay_ms, from = orders->sync_fails;
    if (delay) {
        orders->syncs_delayed++;
        wait_ms(delay);
    }
    if (!from || number < from || (orders->sync_fails_once && number != from))
        return 0;
    orders->syncs_failed++;
    errno = EIO;
    return 1;
}

/* Whether this write finds no space; errno says so. */
static int write_fails(int fd) {
    if (!counts(fd))
        return 0;
    orders->writes++;
    uint64_t delay = orders->write_delay_ms;
    if (delay) {
        orders->writes_delayed++;
        wait_ms(delay);
    }
    if (!orders->full)
        return 0;
    orders->writes_refused++;
    errno = ENOSPC;
    return 1;
}

/* Whether a file cannot grow to this length, or reserve so much, as write_fails. One that does not grow needs nothing. */
static int growth_fails(int fd, off_t length) {
    struct stat stat;
    if (!counts(fd) || !orders->full || (fstat(fd, &stat) == 0 && stat.st_size >= length))
        return 0;
    orders->reservations_refused++;
    errno = ENOSPC;
    return 1;
}

int fsync(int fd) {
    REAL(fsync);
    return sync_fails(fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return sync_fails(fd) ? -1 : real(fd);
}

int sync_file_range(int fd, off64_t at, off64_t bytes, unsigned int flags) {
    REAL(sync_file_range);
    return sync_fails(fd) ? -1 : real(fd, at, bytes, flags);
}

ssize_t write(int fd, const void *from, size_t bytes) {
    REAL(write);
    return write_fails(fd) ? -1 : real(fd, from, bytes);
}

ssize_t writev(int fd, const struct iovec *from, int count) {
    REAL(writev);
    return write_fails(fd) ? -1 : real(fd, from, count);
}

ssize_t pwrite(int fd, const void *from, size_t bytes, off_t at) {
    REAL(pwrite);
    return write_fails(fd) ? -1 : real(fd, from, bytes, at);
}

ssize_t pwrite64(int fd, const void *from, size_t bytes, off64_t at) {
    REAL(pwrite64);
    return write_fails(fd) ? -1 : real(fd, from, bytes, at);
}

ssize_t pwritev(int fd, const struct iovec *from, int count, off_t at) {
    REAL(pwritev);
    return write_fails(fd) ? -1 : real(fd, from, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *from, int count, off64_t at) {
    REAL(pwritev64);
    return write_fails(fd) ? -1 : real(fd, from, count, at);
}

int ftruncate(int fd, off_t length) {
    REAL(ftruncate);
    return growth_fails(fd, length) ? -1 : real(fd, length);
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    return growth_fails(fd, length) ? -1 : real(fd, length);
}

int fallocate(int fd, int mode, off_t at, off_t bytes) {
    REAL(fallocate);
    return growth_fails(fd, at + bytes) ? -1 : real(fd, mode, at, bytes);
}

int fallocate64(int fd, int mode, off64_t at, off64_t bytes) {
    REAL(fallocate64);
    return growth_fails(fd, at + bytes) ? -1 : real(fd, mode, at, bytes);
}

/* These two return the error instead of setting errno. */
int posix_fallocate(int fd, off_t at, off_t bytes) {
    REAL(posix_fallocate);
    return growth_fails(fd, at + bytes) ? ENOSPC : real(fd, at, bytes);
}

int posix_fallocate64(int fd, off64_t at, off64_t bytes) {
    REAL(posix_fallocate64);
    return growth_fails(fd, at + bytes) ? ENOSPC : real(fd, at, bytes);
}
