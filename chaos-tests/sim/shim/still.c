/* Preloaded into a simulation: randomness is a stream that begins with DOCENT_SIM_SEED, and clocks stand still.
 *
 * What a run must not depend on is taken away here for good, std's hash keys, the thread-local generators of crates and tokio's choices
 * among them; what Docent itself reads goes through its own seams (Clock, Net, Disk). CLOCK_PROCESS_CPUTIME_ID stays true: it is how a run
 * says what it cost. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define FD_MAX 4096
/* 2026-01-01T00:00:00Z; the simulated wall clock begins there too. */
#define WALL_S 1767225600
#define MONOTONIC_S 100000

static uint64_t state;
static int is_seeded;
static char is_random_fd[FD_MAX];

/* Some hashers draw their seed from addresses: the process runs again with addresses that are always the same. */
__attribute__((constructor)) static void still_addresses(int argc, char **argv, char **envp) {
    (void)argc;
    int now = personality(0xffffffff);
    if (now == -1 || now & ADDR_NO_RANDOMIZE || !getenv("DOCENT_SIM_SEED")) return;
    if (personality(now | ADDR_NO_RANDOMIZE) == -1) return;
    execve("/proc/self/exe", argv, envp);
}

/* SplitMix64. */
static uint64_t next(void) {
    if (!is_seeded) {
        const char *seed = getenv("DOCENT_SIM_SEED");
        state = seed ? strtoull(seed, NULL, 10) : 0;
        is_seeded = 1;
    }
    uint64_t z = __atomic_add_fetch(&state, 0x9E3779B97F4A7C15ull, __ATOMIC_RELAXED);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
}

static void fill(void *to, size_t bytes) {
    unsigned char *at = to;
    while (bytes > 0) {
        uint64_t word = next();
        size_t step = bytes < sizeof word ? bytes : sizeof word;
        memcpy(at, &word, step);
        at += step;
        bytes -= step;
    }
}

ssize_t getrandom(void *to, size_t bytes, unsigned int flags) {
    (void)flags;
    fill(to, bytes);
    return (ssize_t)bytes;
}

int getentropy(void *to, size_t bytes) {
    fill(to, bytes);
    return 0;
}

static int noted(const char *path, int fd) {
    if (fd >= 0 && fd < FD_MAX && path && (!strcmp(path, "/dev/urandom") || !strcmp(path, "/dev/random")))
        is_random_fd[fd] = 1;
    return fd;
}

static int take_mode(int flags, va_list rest) {
    return flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0;
}

#define OPENS(name)                                                   \
    int name(const char *path, int flags, ...) {                      \
        static int (*real)(const char *, int, ...);                   \
        if (!real) real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        int mode = take_mode(flags, rest);                            \
        va_end(rest);                                                 \
        return noted(path, real(path, flags, mode));                  \
    }
#define OPENS_AT(name)                                                \
    int name(int dir, const char *path, int flags, ...) {             \
        static int (*real)(int, const char *, int, ...);              \
        if (!real) real = (int (*)(int, const char *, int, ...))dlsym(RTLD_NEXT, #name); \
        va_list rest;                                                 \
        va_start(rest, flags);                                        \
        int mode = take_mode(flags, rest);                            \
        va_end(rest);                                                 \
        return noted(path, real(dir, path, flags, mode));             \
    }

OPENS(open)
OPENS(open64)
OPENS_AT(openat)
OPENS_AT(openat64)

ssize_t read(int fd, void *to, size_t bytes) {
    static ssize_t (*real)(int, void *, size_t);
    if (fd >= 0 && fd < FD_MAX && is_random_fd[fd]) {
        fill(to, bytes);
        return (ssize_t)bytes;
    }
    if (!real) real = (ssize_t(*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    return real(fd, to, bytes);
}

int close(int fd) {
    static int (*real)(int);
    if (fd >= 0 && fd < FD_MAX) is_random_fd[fd] = 0;
    if (!real) real = (int (*)(int))dlsym(RTLD_NEXT, "close");
    return real(fd);
}

int clock_gettime(clockid_t clock, struct timespec *to) {
    static int (*real)(clockid_t, struct timespec *);
    switch (clock) {
    case CLOCK_REALTIME:
    case CLOCK_REALTIME_COARSE:
        *to = (struct timespec){WALL_S, 0};
        return 0;
    case CLOCK_MONOTONIC:
    case CLOCK_MONOTONIC_RAW:
    case CLOCK_MONOTONIC_COARSE:
    case CLOCK_BOOTTIME:
        *to = (struct timespec){MONOTONIC_S, 0};
        return 0;
    default:
        if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
        return real(clock, to);
    }
}

int gettimeofday(struct timeval *restrict to, void *restrict zone) {
    (void)zone;
    *to = (struct timeval){WALL_S, 0};
    return 0;
}

time_t time(time_t *to) {
    if (to) *to = WALL_S;
    return WALL_S;
}
