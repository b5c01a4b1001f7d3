/* Faults in the system calls by which a file is saved, for tests: LD_PRELOAD this and arm it.

   The n-th armed call fails as `mode` says: 'k' the process is killed before it, 'K' right after it; 'e' it returns
   -1 with errno `code`; 's' (write) half of the bytes are written, and the next write fails with `code`. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

static int armed, mode, code;
static long at, seen;

long fault_arm(int what, long n, int error) /* n = 0 counts only; returns the calls seen before */
{
    long before = seen;
    armed = 1, mode = what, at = n, code = error, seen = 0;
    return before;
}

void fault_disarm(void) { armed = 0; }

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int due(void) { return armed && ++seen == at; }

static int killed_before(void) {
    if (mode == 'k') kill(getpid(), SIGKILL);
    return mode == 'e' || mode == 's';
}

#define GUARDED(real)                                                                              \
    do {                                                                                           \
        int now = due();                                                                           \
        if (now && killed_before()) {                                                              \
            errno = code;                                                                          \
            return -1;                                                                             \
        }                                                                                          \
        __typeof__(real) r = real;                                                                 \
        if (now && mode == 'K') kill(getpid(), SIGKILL);                                           \
        return r;                                                                                  \
    } while (0)

ssize_t write(int fd, const void *p, size_t n) {
    if (armed && mode == 's' && seen + 1 == at && n > 1) { /* a short write, then the fault */
        at++, seen++;
        return REAL(write)(fd, p, n / 2);
    }
    GUARDED(REAL(write)(fd, p, n));
}

ssize_t writev(int fd, const struct iovec *v, int n) { GUARDED(REAL(writev)(fd, v, n)); }

int fsync(int fd) { GUARDED(REAL(fsync)(fd)); }

int rename(const char *a, const char *b) { GUARDED(REAL(rename)(a, b)); }

int link(const char *a, const char *b) { GUARDED(REAL(link)(a, b)); }

int unlink(const char *a) { GUARDED(REAL(unlink)(a)); }

int ftruncate(int fd, off_t n) { GUARDED(REAL(ftruncate)(fd, n)); }

static int opened(const char *name, const char *path, int flags, mode_t m) {
    int (*real)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, name);
    if (!(flags & (O_WRONLY | O_RDWR))) return real(path, flags, m);
    GUARDED(real(path, flags, m));
}

#define OPENS(name)                                                                                \
    int name(const char *path, int flags, ...) {                                                   \
        va_list args;                                                                              \
        va_start(args, flags);                                                                     \
        mode_t m = va_arg(args, mode_t);                                                           \
        va_end(args);                                                                              \
        return opened(#name, path, flags, m);                                                      \
    }

OPENS(open)
OPENS(open64)
