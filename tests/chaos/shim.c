/* Faults of a file system and of the clock, for one folder: an LD_PRELOAD library.

CHAOS_CONTROL   a file with the `struct control` below, mapped and shared: what to inject, and what was injected
CHAOS_PREFIX    absolute path without links; calls on anything outside of it are left alone
CHAOS_KILL_AT   number of a writing call, from 1, before which this process kills itself; not inherited by programs
                that it starts. 0 only counts. CHAOS_KILL_TORN=1: half of a write gets through first.

Reads through mmap and what libc itself opens internally (except for fopen) pass unnoticed. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* The order is that of tests/chaos/shim.py. */
enum { OPEN_READ, OPEN_WRITE, READ, WRITE, SYNC, RENAME, LINK, UNLINK, MKDIR, STAT, LIST, TRUNCATE, TOUCH, CLASSES };

struct control {
    uint64_t seed;
    int64_t clock_ns;           /* added to the time of day of Python processes */
    int64_t budget;             /* faults left; negative for no limit */
    uint64_t writes;            /* writing calls of a process with CHAOS_KILL_AT */
    uint64_t delayed, shuffled, hidden;
    uint64_t injected[CLASSES];
    uint32_t armed, delay_us, delay_ppm, shuffle;
    uint32_t stale_ms;          /* a listing lacks entries younger than this that other processes made */
    uint32_t ppm[CLASSES];      /* how often a call fails, of a million */
    int32_t error[CLASSES];
};

static struct control *control;
static char prefix[4096];
static size_t prefix_length;
static long kill_at = -1;
static pid_t killed_process;
static int torn, is_python;
static uint64_t draws, identity;

#define REAL(name) ({ static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); real; })
#define GET(field) __atomic_load_n(&control->field, __ATOMIC_RELAXED)
#define COUNT(field) __atomic_add_fetch(&control->field, 1, __ATOMIC_RELAXED)

__attribute__((constructor)) static void begin(void) {
    const char *file = getenv("CHAOS_CONTROL"), *folder = getenv("CHAOS_PREFIX"), *at = getenv("CHAOS_KILL_AT");
    if (!file || !folder || strlen(folder) >= sizeof prefix) return;
    strcpy(prefix, folder);
    prefix_length = strlen(prefix);
    is_python = !strncmp(program_invocation_short_name, "python", 6);
    torn = getenv("CHAOS_KILL_TORN") != NULL;
    /* The numbers of ranks differ and stay; ids of processes do not. */
    const char *rank = getenv("SLURM_PROCID") ?: getenv("SUBMITIT_LOCAL_GLOBALID");
    identity = rank ? strtoul(rank, NULL, 10) + 1 : 0;
    if (at && is_python) {
        kill_at = strtol(at, NULL, 10);
        killed_process = getpid();
        unsetenv("CHAOS_KILL_AT");
    }
    int fd = syscall(SYS_openat, AT_FDCWD, file, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (mapped != MAP_FAILED) control = mapped;
}

static uint64_t draw(void) { /* splitmix64 of the seed, the rank and a counter */
    uint64_t z = GET(seed) + 0x9e3779b97f4a7c15u * (__atomic_add_fetch(&draws, 1, __ATOMIC_RELAXED) + (identity << 40));
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int is_under(const char *path) {
    return !strncmp(path, prefix, prefix_length) && (path[prefix_length] == '/' || !path[prefix_length]);
}

static int of_fd(int fd, char *buffer, size_t size) {
    char link[40];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, AT_FDCWD, link, buffer, size - 1);
    if (length < 0) return 0;
    buffer[length] = 0;
    return 1;
}

/* The absolute path of a call's argument, in `buffer`; a NULL path means the descriptor itself. */
static const char *absolute(int at, const char *path, char *buffer, size_t size) {
    if (path && path[0] == '/') return path;
    char folder[3072];
    if (at == AT_FDCWD ? syscall(SYS_getcwd, folder, sizeof folder) < 0 : !of_fd(at, folder, sizeof folder)) return "";
    snprintf(buffer, size, "%s%s%s", folder, path && *path ? "/" : "", path ? path : "");
    return buffer;
}

/* Paths that this process made: a client of NFS sees its own files at once. Hashes, in a ring. */
static uint64_t made[4096];
static unsigned made_next;

static uint64_t hash(const char *text) {
    uint64_t h = 1469598103934665603u;
    while (*text) h = (h ^ (unsigned char)*text++) * 1099511628211u;
    return h;
}

static void note_made(int at, const char *path) {
    char buffer[4096];
    if (!control || !GET(armed)) return;
    const char *full = absolute(at, path, buffer, sizeof buffer);
    if (is_under(full)) made[__atomic_fetch_add(&made_next, 1, __ATOMIC_RELAXED) % 4096] = hash(full);
}

static int is_made(const char *full) {
    uint64_t h = hash(full);
    for (int i = 0; i < 4096; i++) if (made[i] == h) return 1;
    return 0;
}

static int writes(int class) { return class != OPEN_READ && class != READ && class != STAT && class != LIST; }

/* Before a call: the errno with which it has to fail, or 0. May delay it, or kill the process. */
static int fault(int class, int at, const char *path) {
    int may_kill = kill_at >= 0 && killed_process == getpid() && writes(class);
    if (!control || (!may_kill && !GET(armed))) return 0;
    char buffer[4096];
    int before = errno;
    int ours = is_under(absolute(at, path, buffer, sizeof buffer)), error = 0;
    if (ours && may_kill && (long)COUNT(writes) == kill_at && !(torn && class == WRITE)) kill(killed_process, SIGKILL);
    if (ours && GET(armed)) {
        if (GET(delay_ppm) && draw() % 1000000 < GET(delay_ppm)) {
            struct timespec pause = {GET(delay_us) / 1000000, GET(delay_us) % 1000000 * 1000};
            COUNT(delayed);
            nanosleep(&pause, NULL);
        }
        if (GET(ppm[class]) && draw() % 1000000 < GET(ppm[class])) {
            int64_t left = GET(budget);
            while (left > 0 && !__atomic_compare_exchange_n(&control->budget, &left, left - 1, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
            if (left != 0) {
                COUNT(injected[class]);
                error = GET(error[class]);
            }
        }
    }
    errno = before;
    return error;
}

#define FAIL(class, at, path, result) do { int e_ = fault(class, at, path); if (e_) { errno = e_; return result; } } while (0)

/* How many bytes of a write get through before it fails: half, where a disk fills up or the process dies inside. */
static size_t part(int error, size_t size) {
    return size > 1 && (error == ENOSPC || error == EDQUOT) && draw() % 2 ? size / 2 : 0;
}

static int dies_inside(void) {
    return torn && kill_at > 0 && killed_process == getpid() && control && (long)GET(writes) == kill_at;
}

static int class_of(int flags) { return flags & (O_CREAT | O_TRUNC | O_WRONLY | O_RDWR) ? OPEN_WRITE : OPEN_READ; }

#define MODE mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list v; va_start(v, flags); mode = va_arg(v, mode_t); va_end(v); }
#define OPEN(name) int name(const char *path, int flags, ...) { MODE FAIL(class_of(flags), AT_FDCWD, path, -1); \
    if (flags & O_CREAT) note_made(AT_FDCWD, path); return REAL(name)(path, flags, mode); }
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { MODE FAIL(class_of(flags), at, path, -1); \
    if (flags & O_CREAT) note_made(at, path); return REAL(name)(at, path, flags, mode); }
#define FOPEN(name) FILE *name(const char *path, const char *mode) { \
    FAIL(mode[0] == 'r' && !strchr(mode, '+') ? OPEN_READ : OPEN_WRITE, AT_FDCWD, path, NULL); return REAL(name)(path, mode); }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) FOPEN(fopen) FOPEN(fopen64)

ssize_t read(int fd, void *to, size_t size) { FAIL(READ, fd, NULL, -1); return REAL(read)(fd, to, size); }
#define PREAD(name) ssize_t name(int fd, void *to, size_t size, off_t o) { FAIL(READ, fd, NULL, -1); return REAL(name)(fd, to, size, o); }
PREAD(pread) PREAD(pread64)

ssize_t write(int fd, const void *from, size_t size) {
    int error = fault(WRITE, fd, NULL);
    if (dies_inside()) { REAL(write)(fd, from, size / 2); kill(killed_process, SIGKILL); }
    size_t some = error ? part(error, size) : 0;
    if (some) return REAL(write)(fd, from, some);
    if (error) { errno = error; return -1; }
    return REAL(write)(fd, from, size);
}
#define PWRITE(name) ssize_t name(int fd, const void *from, size_t size, off_t o) { FAIL(WRITE, fd, NULL, -1); return REAL(name)(fd, from, size, o); }
PWRITE(pwrite) PWRITE(pwrite64)
ssize_t writev(int fd, const struct iovec *from, int n) { FAIL(WRITE, fd, NULL, -1); return REAL(writev)(fd, from, n); }

int fsync(int fd) { FAIL(SYNC, fd, NULL, -1); return REAL(fsync)(fd); }
int fdatasync(int fd) { FAIL(SYNC, fd, NULL, -1); return REAL(fdatasync)(fd); }
int ftruncate(int fd, off_t size) { FAIL(TRUNCATE, fd, NULL, -1); return REAL(ftruncate)(fd, size); }
int ftruncate64(int fd, off64_t size) { FAIL(TRUNCATE, fd, NULL, -1); return REAL(ftruncate64)(fd, size); }
int futimens(int fd, const struct timespec t[2]) { FAIL(TOUCH, fd, NULL, -1); return REAL(futimens)(fd, t); }
int utimensat(int at, const char *path, const struct timespec t[2], int f) { FAIL(TOUCH, at, path, -1); return REAL(utimensat)(at, path, t, f); }
int mkdir(const char *path, mode_t m) { FAIL(MKDIR, AT_FDCWD, path, -1); note_made(AT_FDCWD, path); return REAL(mkdir)(path, m); }
int mkdirat(int at, const char *path, mode_t m) { FAIL(MKDIR, at, path, -1); note_made(at, path); return REAL(mkdirat)(at, path, m); }
int unlink(const char *path) { FAIL(UNLINK, AT_FDCWD, path, -1); return REAL(unlink)(path); }
int unlinkat(int at, const char *path, int flags) { FAIL(UNLINK, at, path, -1); return REAL(unlinkat)(at, path, flags); }
int rmdir(const char *path) { FAIL(UNLINK, AT_FDCWD, path, -1); return REAL(rmdir)(path); }
int rename(const char *from, const char *to) { FAIL(RENAME, AT_FDCWD, to, -1); note_made(AT_FDCWD, to); return REAL(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) { FAIL(RENAME, b, to, -1); note_made(b, to); return REAL(renameat)(a, from, b, to); }
int renameat2(int a, const char *from, int b, const char *to, unsigned f) { FAIL(RENAME, b, to, -1); note_made(b, to); return REAL(renameat2)(a, from, b, to, f); }
int link(const char *from, const char *to) { FAIL(LINK, AT_FDCWD, to, -1); note_made(AT_FDCWD, to); return REAL(link)(from, to); }
int linkat(int a, const char *from, int b, const char *to, int f) { FAIL(LINK, b, to, -1); note_made(b, to); return REAL(linkat)(a, from, b, to, f); }

#define STATS(name, type) int name(const char *path, struct type *s) { FAIL(STAT, AT_FDCWD, path, -1); return REAL(name)(path, s); }
#define FSTAT(name, type) int name(int fd, struct type *s) { FAIL(STAT, fd, NULL, -1); return REAL(name)(fd, s); }
#define STATAT(name, type) int name(int at, const char *path, struct type *s, int f) { FAIL(STAT, at, path, -1); return REAL(name)(at, path, s, f); }
STATS(stat, stat) STATS(lstat, stat) STATS(stat64, stat64) STATS(lstat64, stat64)
FSTAT(fstat, stat) FSTAT(fstat64, stat64) STATAT(fstatat, stat) STATAT(fstatat64, stat64)
int access(const char *path, int how) { FAIL(STAT, AT_FDCWD, path, -1); return REAL(access)(path, how); }
int statx(int at, const char *restrict path, int f, unsigned m, struct statx *restrict s) { FAIL(STAT, at, path, -1); return REAL(statx)(at, path, f, m, s); }

/* Listings: read at once, without what is young, and shuffled. */
struct listing { DIR *dir; struct dirent *entries; int count, next; };
static struct listing listings[64];
static pthread_mutex_t listing_lock = PTHREAD_MUTEX_INITIALIZER;

DIR *opendir(const char *path) { FAIL(LIST, AT_FDCWD, path, NULL); return REAL(opendir)(path); }
DIR *fdopendir(int fd) { FAIL(LIST, fd, NULL, NULL); return REAL(fdopendir)(fd); }

static int is_hidden(const char *folder, const char *name) {
    char full[4400];
    struct stat s;
    struct timespec now;
    snprintf(full, sizeof full, "%s/%s", folder, name);
    if (!GET(stale_ms) || name[0] == '.' || is_made(full) || syscall(SYS_newfstatat, AT_FDCWD, full, &s, AT_SYMLINK_NOFOLLOW)) return 0;
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &now);
    int64_t age_ms = (now.tv_sec - s.st_ctim.tv_sec) * 1000 + (now.tv_nsec - s.st_ctim.tv_nsec) / 1000000;
    return age_ms >= 0 && age_ms < GET(stale_ms) && COUNT(hidden);
}

static struct listing *listing_of(DIR *dir) {
    for (int i = 0; i < 64; i++) if (listings[i].dir == dir) return &listings[i];
    return NULL;
}

static void fill(struct listing *it, DIR *dir, const char *folder) {
    struct dirent *entry;
    for (it->dir = dir, it->count = it->next = 0, it->entries = NULL; (entry = REAL(readdir)(dir));) {
        if (is_hidden(folder, entry->d_name)) continue;
        if (it->count % 64 == 0) it->entries = realloc(it->entries, (it->count + 64) * sizeof *entry);
        memcpy(&it->entries[it->count++], entry, entry->d_reclen);
    }
    for (int i = it->count - 1; i > 0; i--) {
        int j = draw() % (i + 1);
        struct dirent other = it->entries[i];
        it->entries[i] = it->entries[j], it->entries[j] = other;
    }
    COUNT(shuffled);
}

struct dirent *readdir(DIR *dir) {
    char folder[4096];
    if (!control) return REAL(readdir)(dir);
    pthread_mutex_lock(&listing_lock);
    struct listing *it = listing_of(dir);
    if (!it && GET(armed) && GET(shuffle) && of_fd(dirfd(dir), folder, sizeof folder) && is_under(folder) && (it = listing_of(NULL)))
        fill(it, dir, folder);
    struct dirent *entry = !it ? REAL(readdir)(dir) : it->next < it->count ? &it->entries[it->next++] : NULL;
    pthread_mutex_unlock(&listing_lock);
    return entry;
}
struct dirent64 *readdir64(DIR *dir) { return (struct dirent64 *)readdir(dir); }
int closedir(DIR *dir) {
    pthread_mutex_lock(&listing_lock);
    struct listing *it = dir ? listing_of(dir) : NULL;
    if (it) { free(it->entries); it->dir = NULL; }
    pthread_mutex_unlock(&listing_lock);
    return REAL(closedir)(dir);
}

/* The time of day, of Python only: Slurm's own programs need that of their daemons. */
static int64_t jump(void) { return control && is_python && GET(armed) ? GET(clock_ns) : 0; }

int clock_gettime(clockid_t clock, struct timespec *t) {
    int result = REAL(clock_gettime)(clock, t);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) t->tv_sec += jump() / 1000000000;
    return result;
}
int gettimeofday(struct timeval *restrict t, void *restrict zone) {
    int result = REAL(gettimeofday)(t, zone);
    if (!result && t) t->tv_sec += jump() / 1000000000;
    return result;
}
time_t time(time_t *t) {
    time_t now = REAL(time)(NULL) + jump() / 1000000000;
    return t ? (*t = now) : now;
}
