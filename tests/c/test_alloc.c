/* test_alloc.c: the caching allocator. `test_alloc time` prints what a pair of calls costs. */
#include "pn.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define EXACT 1
#else
#define EXACT 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SHADOWED 1 /* the sanitizer's own map does not fit under RLIMIT_AS */
#else
#define SHADOWED 0
#endif

#define MB ((int64_t)1 << 20)
#define CHECK(ok)                                                                                  \
    do {                                                                                           \
        if (!(ok)) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #ok);                               \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static pn_alloc_info stats(void) {
    pn_alloc_info s;
    pn_alloc_stats(&s);
    return s;
}

static int64_t bound(const pn_alloc_info *s) {
    return s->peak_live / 2 > 64 * MB ? s->peak_live / 2 : 64 * MB;
}

static uint64_t next_random(uint64_t *x) {
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return *x;
}

/* Sizes spread evenly over the powers of two below 2^bits. */
static int64_t random_size(uint64_t *x, int bits) {
    int64_t top = (int64_t)1 << (next_random(x) % (uint64_t)bits);
    return top + (int64_t)(next_random(x) % (uint64_t)top);
}

static void test_sizes(void) {
    CHECK(!pn_alloc(-1) && !pn_alloc(INT64_MIN));
    if (!SHADOWED) /* ASan ends the process unless told otherwise */
        for (int64_t n = INT64_MAX; n > (int64_t)1 << 50; n = n / 3 * 2) CHECK(!pn_alloc(n));
    void *zero = pn_alloc(0), *one = pn_alloc(1);
    CHECK(zero && one && zero != one);
    pn_free(zero, 0);
    pn_free(one, 1);
    pn_free(NULL, 100);
    CHECK(stats().live == 0);
}

static void test_waste_and_alignment(void) {
    int64_t before = stats().reserved - stats().cached;
    for (int64_t n = 1; n < 64 * MB; n += n / 37 + 1) {
        char *p = pn_alloc(n);
        CHECK(p && (uintptr_t)p % PN_ALIGN == 0);
        int64_t held = stats().reserved - stats().cached - before;
        CHECK(held >= n && (held - n < 64 || (held - n) * 8 <= held));
        if (EXACT) CHECK(held == n);
#ifdef __linux__
        if (n >= 4 * MB && !EXACT) CHECK((uintptr_t)p % (size_t)(2 * MB) == 0);
#endif
        p[0] = p[n - 1] = 1;
        pn_free(p, n);
    }
    for (int shift = 6; shift < 26; shift++) { /* powers of two fit exactly */
        void *p = pn_alloc((int64_t)1 << shift);
        CHECK(stats().reserved - stats().cached - before == (int64_t)1 << shift);
        pn_free(p, (int64_t)1 << shift);
    }
}

static void test_cache(void) {
    pn_empty_cache();
    CHECK(stats().cached == 0 && stats().live == 0 && stats().reserved == 0);
    void *p = pn_alloc(1000);
    pn_free(p, 1000);
    pn_alloc_info a = stats();
    void *q = pn_alloc(1001); /* same class */
    pn_alloc_info b = stats();
    if (!EXACT) CHECK(q == p && b.n_hit == a.n_hit + 1 && b.n_system == a.n_system);
    CHECK(b.live == 1001 && b.n_alloc == a.n_alloc + 1 && b.n_free == a.n_free);
    pn_free(q, 1001);

    p = pn_alloc(50 * MB);
    CHECK(stats().peak_live >= 50 * MB);
    pn_free(p, 50 * MB);
    pn_alloc_reset_peak();
    CHECK(stats().peak_live == 0);
}

/* A step that stays within the bound asks the system only once, whatever was cached before. */
static void test_stale_blocks_make_room(void) {
    enum { N = 700 };
    static void *p[N];
    for (int i = 0; i < N; i++) p[i] = pn_alloc(100000);
    for (int i = 0; i < N; i++) pn_free(p[i], 100000);
    int64_t before = 0;
    for (int step = 0; step < 20; step++) {
        void *a = pn_alloc(20 * MB), *b = pn_alloc(3 * MB), *c = pn_alloc(100000);
        pn_free(a, 20 * MB);
        pn_free(b, 3 * MB);
        pn_free(c, 100000);
        if (step == 2) before = stats().n_system;
    }
    if (!EXACT) CHECK(stats().n_system == before);
    CHECK(stats().cached <= bound(&(pn_alloc_info){0}));
}

/* A step that frees most of its memory at its end asks the system for none of it again and again, and what is
 * held stays near what is live at most. */
static void test_step_of_temporaries(void) {
    pn_empty_cache();
    pn_alloc_reset_peak();
    int64_t before = 0, size[] = {100 * MB, 70 * MB, 70 * MB, 9 * MB};
    for (int step = 0; step < 12; step++) {
        void *p[4];
        for (int i = 0; i < 4; i++) p[i] = pn_alloc(size[i]);
        for (int i = 0; i < 4; i++) pn_free(p[i], size[i]);
        CHECK(stats().reserved <= 249 * MB / 8 * 9);
        if (step == 5) before = stats().n_system;
    }
    CHECK(EXACT || stats().n_system == before);
    pn_alloc_reset_peak();
    CHECK(stats().cached <= 64 * MB);
}

/* A block that alone exceeds the bound leaves the rest of the cache as it was. */
static void test_giant(void) {
    pn_empty_cache();
    pn_alloc_reset_peak();
    pn_free(pn_alloc(10 * MB), 10 * MB);
    int64_t cached = stats().cached;
    void *p = pn_alloc(100 * MB);
    CHECK(p);
    pn_free(p, 100 * MB);
    CHECK(stats().cached == cached && stats().live == 0);
}

static void test_random_sizes_stay_bounded(void) {
    enum { N = 64, ROUNDS = EXACT ? 20000 : 100000 };
    static struct {
        char *p;
        int64_t n;
    } slot[N];
    uint64_t x = 88172645463325252u;
    pn_empty_cache();
    pn_alloc_reset_peak();
    for (int i = 0; i < ROUNDS; i++) {
        int k = (int)(next_random(&x) % N);
        if (slot[k].p) {
            CHECK(slot[k].p[0] == (char)k && slot[k].p[slot[k].n - 1] == (char)k);
            pn_free(slot[k].p, slot[k].n);
        }
        slot[k].n = random_size(&x, 23);
        slot[k].p = pn_alloc(slot[k].n);
        CHECK(slot[k].p);
        slot[k].p[0] = slot[k].p[slot[k].n - 1] = (char)k;
        pn_alloc_info s = stats();
        CHECK(s.cached >= 0 && (s.cached <= bound(&s) || s.reserved <= s.peak_live / 8 * 9));
        CHECK(s.reserved <= s.live + s.live / 7 + 64 * N + s.cached);
    }
    for (int k = 0; k < N; k++)
        if (slot[k].p) pn_free(slot[k].p, slot[k].n);
    pn_empty_cache();
    CHECK(stats().live == 0 && stats().reserved == 0);
}

/* Every thread frees what another one allocated: pointers travel through a shared table. */
enum { N_SHARED = 256, N_THREADS = 4, N_STEPS = 20000 };
static struct {
    pthread_mutex_t m;
    int64_t *p, n;
} shared[N_SHARED];

static void *worker(void *arg) {
    uint64_t x = 0x9e3779b97f4a7c15u * ((uint64_t)(intptr_t)arg + 1);
    for (int i = 0; i < N_STEPS; i++) {
        int64_t n = random_size(&x, 20) + 8, *p = pn_alloc(n);
        CHECK(p && (uintptr_t)p % PN_ALIGN == 0);
        p[0] = n; /* would be overwritten if two threads were given one block */
        int k = (int)(next_random(&x) % N_SHARED);
        pthread_mutex_lock(&shared[k].m);
        int64_t *old = shared[k].p, old_n = shared[k].n;
        shared[k].p = p, shared[k].n = n;
        pthread_mutex_unlock(&shared[k].m);
        if (old) {
            CHECK(old[0] == old_n);
            pn_free(old, old_n);
        }
        if (i % 5000 == 0) pn_empty_cache();
    }
    return NULL;
}

static void run_threads(void) {
    pthread_t t[N_THREADS];
    for (int i = 0; i < N_SHARED; i++) pthread_mutex_init(&shared[i].m, NULL);
    for (intptr_t i = 0; i < N_THREADS; i++) CHECK(!pthread_create(&t[i], NULL, worker, (void *)i));
    for (int i = 0; i < N_THREADS; i++) pthread_join(t[i], NULL);
    for (int i = 0; i < N_SHARED; i++) {
        pn_free(shared[i].p, shared[i].n);
        shared[i].p = NULL;
    }
}

static void test_threads(void) {
    run_threads();
    CHECK(stats().live == 0);
    pn_empty_cache();
    CHECK(stats().reserved == 0 && stats().cached == 0);
}

static void expect_exit_0(pid_t child) {
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static atomic_int stop;

static void *busy(void *arg) {
    while (!stop) pn_free(pn_alloc(4096), 4096);
    return arg;
}

/* The child of a fork never finds the lock taken, and its lists are whole. */
static void test_fork(void) {
    pthread_t t[2];
    stop = 0;
    for (int i = 0; i < 2; i++) CHECK(!pthread_create(&t[i], NULL, busy, NULL));
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(20);
            for (int k = 0; k < 100; k++) pn_free(pn_alloc(k * 1000), k * 1000);
            pn_empty_cache();
            _exit(stats().cached != 0);
        }
        expect_exit_0(child);
    }
    stop = 1;
    for (int i = 0; i < 2; i++) pthread_join(t[i], NULL);
    CHECK(stats().live == 0);
}

/* At memory's end the cache is given up first; then the answer is NULL, and the process lives on. */
static void memory_end(void) {
    struct rlimit lim;
    pn_empty_cache();
    void *a = pn_alloc(96 * MB), *b = pn_alloc(96 * MB), *c = pn_alloc(96 * MB);
    pn_free(a, 96 * MB); /* bound 144 MB: one of them stays cached */
    CHECK(stats().cached == 96 * MB);
    FILE *f = fopen("/proc/self/statm", "r");
    long pages = 0;
    CHECK(f && fscanf(f, "%ld", &pages) == 1 && !fclose(f));
    int64_t now = pages * sysconf(_SC_PAGESIZE);
    getrlimit(RLIMIT_AS, &lim);
    lim.rlim_cur = (rlim_t)(now + 60 * MB);
    CHECK(!setrlimit(RLIMIT_AS, &lim));
    void *d = pn_alloc(144 * MB); /* fits only in the place of the cached block */
    CHECK(d && stats().cached == 0);
    pn_alloc_info s = stats();
    CHECK(!pn_alloc(144 * MB) && stats().live == s.live && stats().reserved == s.reserved);
    int64_t n = 0, small = 3 * MB;
    void *list = NULL, *p;
    for (; (p = pn_alloc(small)); list = p, n++) *(void **)p = list;
    CHECK(n > 0 && n < 60);
    for (; list; list = p) p = *(void **)list, pn_free(list, small);
    CHECK((p = pn_alloc(small)) != NULL);
    pn_free(p, small), pn_free(b, 96 * MB), pn_free(c, 96 * MB), pn_free(d, 144 * MB);
    CHECK(stats().live == 0);
}

static void test_memory_end(void) {
#ifdef __linux__
    if (SHADOWED) {
        printf("test_alloc: the limit on memory is not tested under sanitizers\n");
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        memory_end();
        _exit(0);
    }
    expect_exit_0(child);
#else
    (void)memory_end;
#endif
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void print_times(void) {
    static const int64_t sizes[] = {64, 1000, 65536, 1 << 20, 8 << 20};
    enum { N = 100000 };
    for (int s = 0; s < 5; s++) {
        double best = 1;
        for (int round = 0; round < 20; round++) {
            double start = seconds();
            for (int i = 0; i < N; i++) {
                void *p = pn_alloc(sizes[s]);
                __asm__ volatile("" : : "r"(p) : "memory");
                pn_free(p, sizes[s]);
            }
            double t = (seconds() - start) / N;
            if (t < best) best = t;
        }
        printf("%8lld bytes: %.1f ns for a pair met from the cache\n", (long long)sizes[s],
               best * 1e9);
    }
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "time")) {
        print_times();
        return 0;
    }
    test_sizes();
    test_waste_and_alignment();
    test_cache();
    test_stale_blocks_make_room();
    test_step_of_temporaries();
    test_giant();
    test_random_sizes_stay_bounded();
    test_threads();
    test_fork();
    test_memory_end();
    printf("test_alloc: ok\n");
    return 0;
}
