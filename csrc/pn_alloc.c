/* pn_alloc.c: storage for arrays, cached so that a steady step asks the system for nothing and
 * touches no fresh page.
 *
 * Sizes are rounded up to classes: multiples of 64 bytes up to 1 KB, then 8 classes per power of
 * two, so that less than 1/9 of a class is waste. A freed block goes on its class's list, newest
 * first; the link lives in the block itself. The caller gives the size back with the pointer, so
 * blocks carry no header. What lies free is bounded (see bound()); beyond that, the classes that were
 * unused for longest give their blocks back, hence nothing grows with the number of shapes seen. Where a
 * class wants back what it has given, the bound was too low for a step whose memory is free at its end for
 * the most part: it rises by as much, as long as all that is held stays near the peak of live bytes.
 *
 * One lock guards all of it. It is held for a few instructions and never across a system call.
 */
#include "pn.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <malloc.h>
#include <sys/mman.h>
#endif

/* Under ASan nothing is cached and nothing rounded: every overrun and late use is seen. */
#if defined(__SANITIZE_ADDRESS__)
#define EXACT 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EXACT 1
#endif
#endif
#ifndef EXACT
#define EXACT 0
#endif

#define MAX_BYTES ((int64_t)1 << 62)
#define N_CLASS 432 /* class_of(MAX_BYTES) + 1 */
#define MAP_FROM ((int64_t)4 << 20)
#define HUGE_PAGE ((size_t)2 << 20)
#define MIN_BOUND ((int64_t)64 << 20)

typedef struct block {
    struct block *next;
    int64_t size; /* set only on the way back to the system */
} block;

static struct {
    atomic_int lock;
    block *free[N_CLASS];
    int64_t last_use[N_CLASS]; /* n_free when the class last gave or took a block */
    int64_t returned[N_CLASS]; /* blocks given back to the system and not asked for since */
    int64_t missed; /* bytes given back and asked for since */
    pn_alloc_info n;              /* n_hit is left to pn_alloc_stats */
} S;

/* ---- the lock: an uncontended pthread mutex costs twice as much ------------------------------- */

static __attribute__((noinline)) void lock_slow(void) {
    for (int spin = 0; atomic_exchange_explicit(&S.lock, 1, memory_order_acquire); spin++) {
        if (spin >= 64) {
            sched_yield();
            continue;
        }
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        __asm__ volatile("yield");
#endif
    }
}

static inline void lock(void) {
    if (atomic_exchange_explicit(&S.lock, 1, memory_order_acquire)) lock_slow();
}

static inline void unlock(void) { atomic_store_explicit(&S.lock, 0, memory_order_release); }

static void before_fork(void) { lock(); }
static void after_fork(void) { unlock(); }

/* Taken across fork, so that the child finds the lists whole and the lock free. */
__attribute__((constructor)) static void fork_safe(void) {
    pthread_atfork(before_fork, after_fork, after_fork);
}

/* ---- size classes ----------------------------------------------------------------------------- */

static inline int class_of(int64_t bytes) {
    uint64_t u = bytes > 0 ? (uint64_t)(bytes - 1) >> 6 : 0; /* 64-byte units, minus one */
    if (u < 8) return (int)u;
    int e = 60 - __builtin_clzll(u); /* u >> e is in 8..15 */
    return e * 8 + (int)(u >> e);
}

static inline int64_t class_bytes(int k) {
    if (k < 8) return (int64_t)(k + 1) << 6;
    return (int64_t)((k & 7) + 9) << (k / 8 + 5);
}

/* ---- the system ------------------------------------------------------------------------------- */

#ifdef __linux__
/* Aligned to a huge page, or the kernel could not use one for the first and the last of it. */
static void *map_huge(size_t size) {
    char *raw =
        mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (raw == MAP_FAILED) return NULL;
    size_t head = -(uintptr_t)raw & (HUGE_PAGE - 1);
    if (head) munmap(raw, head);
    munmap(raw + head + size, HUGE_PAGE - head);
#ifdef MADV_HUGEPAGE
    madvise(raw + head, size, MADV_HUGEPAGE);
#endif
    return raw + head;
}
#endif

static void *system_alloc(int64_t size) {
    void *p;
#ifdef __linux__
    if (!EXACT && size >= MAP_FROM) return map_huge((size_t)size);
#endif
    if ((uint64_t)size > SIZE_MAX / 2) return NULL;
    return posix_memalign(&p, PN_ALIGN, (size_t)size) ? NULL : p;
}

static void system_free(void *p, int64_t size) {
#ifdef __linux__
    if (!EXACT && size >= MAP_FROM) {
        munmap(p, (size_t)size);
        return;
    }
#endif
    (void)size;
    free(p);
}

static void system_free_list(block *b) {
    while (b) {
        block *next = b->next;
        system_free(b, b->size);
        b = next;
    }
}

/* ---- the cache; all of this under the lock ---------------------------------------------------- */

static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static int64_t bound(void) {
    int64_t peak = S.n.peak_live, usual = most(MIN_BOUND, peak / 2);
    int64_t whole = peak + peak / 8; /* the peak, rounded up to classes */
    return S.n.reserved > whole ? usual : most(usual, least(whole, usual + S.missed));
}

static int oldest_class(void) {
    int k = -1;
    for (int i = 0; i < N_CLASS; i++)
        if (S.free[i] && (k < 0 || S.last_use[i] < S.last_use[k])) k = i;
    return k;
}

/* Takes blocks off the lists until at most `keep` bytes are cached; the caller frees them. */
static block *evict(int64_t keep) {
    block *out = NULL;
    while (S.n.cached > keep) {
        int k = oldest_class();
        int64_t size = class_bytes(k);
        for (block *b; S.n.cached > keep && (b = S.free[k]); out = b) {
            S.free[k] = b->next;
            b->next = out;
            b->size = size;
            S.n.cached -= size;
            S.n.reserved -= size;
            S.returned[k]++;
        }
    }
    return out;
}

/* What exceeds the bound, and somewhat more, so that many small blocks share one search. */
static inline block *trim(void) {
    return __builtin_expect(S.n.cached > bound(), 0) ? evict(bound() - bound() / 64) : NULL;
}

static inline void count_alloc(int64_t bytes) {
    S.n.n_alloc++;
    S.n.live += bytes;
    if (S.n.live > S.n.peak_live) S.n.peak_live = S.n.live;
}

/* What was given back was not for the bound. */
static void forget_missed(void) {
    memset(S.returned, 0, sizeof S.returned);
    S.missed = 0;
}

/* ---- the door --------------------------------------------------------------------------------- */

static __attribute__((noinline)) void *alloc_from_system(int64_t bytes, int64_t size, int k) {
    void *p = system_alloc(size);
    if (!p) { /* what lies free in other classes may make the room */
        pn_empty_cache();
        p = system_alloc(size);
    }
    if (!p) return NULL;
    lock();
    S.n.n_system++;
    S.n.reserved += size;
    if (S.returned[k]) S.returned[k]--, S.missed = least(S.missed + size, S.n.peak_live);
    count_alloc(bytes);
    block *out = trim();
    unlock();
    system_free_list(out);
    return p;
}

void *pn_alloc(int64_t bytes) {
    if (bytes < 0 || bytes > MAX_BYTES) return NULL;
    if (EXACT) return alloc_from_system(bytes, bytes ? bytes : 1, 0);
    int k = class_of(bytes);
    lock();
    block *b = S.free[k];
    if (!b) {
        unlock();
        return alloc_from_system(bytes, class_bytes(k), k);
    }
    S.free[k] = b->next;
    S.last_use[k] = S.n.n_free;
    S.n.cached -= class_bytes(k);
    count_alloc(bytes);
    unlock();
    return b;
}

void pn_free(void *p, int64_t bytes) {
    if (!p) return;
    block *out = NULL, *b = p;
    int k = EXACT ? 0 : class_of(bytes);
    int64_t size = EXACT ? (bytes ? bytes : 1) : class_bytes(k);
    lock();
    S.n.live -= bytes;
    S.n.n_free++;
    int keep = !EXACT && size <= bound(); /* a block beyond the bound must not drive out the rest */
    if (keep) {
        b->next = S.free[k];
        S.free[k] = b;
        S.last_use[k] = S.n.n_free;
        S.n.cached += size;
        out = trim();
    } else {
        S.n.reserved -= size;
        S.returned[k]++;
    }
    unlock();
    if (!keep) system_free(p, size);
    if (out) system_free_list(out);
}

void pn_empty_cache(void) {
    lock();
    block *out = evict(0);
    forget_missed();
    unlock();
    system_free_list(out);
#ifdef __GLIBC__
    malloc_trim(0); /* small blocks go back to malloc, which would keep their pages */
#endif
}

void pn_alloc_stats(pn_alloc_info *out) {
    lock();
    *out = S.n;
    unlock();
    out->n_hit = out->n_alloc - out->n_system;
}

void pn_alloc_reset_peak(void) {
    lock();
    S.n.peak_live = S.n.live;
    forget_missed();
    block *out = evict(bound()); /* the bound follows the peak */
    unlock();
    system_free_list(out);
}
