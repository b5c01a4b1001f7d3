/* test_par.c: the thread team. `test_par` checks it, `test_par time` also prints what it costs.
 * `test_par limited` and `test_par starved` are run by it in an environment short of threads. */
#include "pn.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#endif

static atomic_int failures;
#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            printf("FAILED %s:%d: %s\n", __FILE__, __LINE__, #cond);                               \
            failures++;                                                                            \
        }                                                                                          \
    } while (0)

static double seconds(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static pn_par_info par_stats(void) {
    pn_par_info s;
    pn_par_stats(&s);
    return s;
}

/* ---- a sum that misses no chunk and runs none twice ------------------------------------------ */

enum { MANY = 5000, STORM = 16 };

static atomic_int stormy; /* the number of threads changes at any time, up to STORM */

typedef struct sum {
    int64_t n;
    int nested, max_workers;
    atomic_int busy[64]; /* workers that run now: none twice */
    atomic_int seen[MANY];
} sum;

static void add_nested(pn_call *c, void *arg, int64_t i, int worker) {
    (void)c, (void)i, (void)worker;
    atomic_fetch_add((atomic_int *)arg, 1);
}

static void add_chunk(pn_call *c, void *arg, int64_t i, int worker) {
    sum *s = arg;
    CHECK(worker >= 0 && worker < s->max_workers);
    CHECK(atomic_fetch_add(&s->busy[worker], 1) == 0);
    if (s->nested) {
        atomic_int inner = 0;
        pn_for(c, s->nested, add_nested, &inner);
        CHECK(inner == s->nested);
    }
    atomic_fetch_add(&s->seen[i], 1);
    atomic_fetch_sub(&s->busy[worker], 1);
}

static int sum_is_right(int64_t n, int nested) {
    pn_call c = {0};
    sum *s = calloc(1, sizeof *s);
    s->max_workers = stormy ? STORM : pn_max_workers();
    s->nested = nested;
    pn_for(&c, n, add_chunk, s);
    int right = 1;
    for (int64_t i = 0; i < MANY; i++) right &= s->seen[i] == (i < n);
    free(s);
    return right;
}

static void test_sums(void) {
    static const int threads[] = {1, 2, 4, 8, 3};
    static const int64_t n[] = {-1, 0, 1, 2, 3, 5, 8, 9, 63, 64, 65, 1000, MANY};
    for (int t = 0; t < 5; t++)
        for (int div = 1; div <= 64; div *= 64) {
            CHECK(pn_set_num_threads(threads[t]) == 0);
            CHECK(pn_get_num_threads() == threads[t] && pn_max_workers() == threads[t]);
            pn_set_chunk_div(div);
            pn_par_stats_reset();
            for (int r = 0; r < 5; r++)
                for (size_t i = 0; i < sizeof n / sizeof *n; i++) CHECK(sum_is_right(n[i], 0));
            pn_par_info s = par_stats();
            CHECK(s.regions == 50 && s.serial == 0 && s.parallel <= s.regions);
            CHECK(s.threads == threads[t] && s.team == threads[t] - 1);
            CHECK(s.granted <= s.regions * s.team && s.granted >= s.parallel);
            if (threads[t] == 1) CHECK(s.parallel == 0 && s.chunks_by_workers == 0);
            if (threads[t] > 1 && div > 1) CHECK(s.parallel == s.regions && s.serial == 0);
        }
    pn_set_chunk_div(1);
    puts("ok sums");
}

static void test_settings(void) {
    pn_set_num_threads(2);
    CHECK(sum_is_right(100, 0) && par_stats().team == 1);
    CHECK(pn_set_num_threads(0) == -1 && pn_set_num_threads(-3) == -1);
    CHECK(pn_set_num_threads(1 << 30) == -1 && pn_get_num_threads() == 2);
    for (int i = 0; i < 60; i++) {
        pn_set_num_threads(1 + i % 5);
        CHECK(par_stats().team == 0 && sum_is_right(50, 0) && par_stats().team == i % 5);
        if (i % 7 == 0) pn_team_stop();
    }
    pn_set_chunk_div(64);
    CHECK(pn_get_chunk_div() == 64 && pn_grain(640) == 10 && pn_grain(63) == 1 && pn_grain(0) == 1);
    pn_set_chunk_div(1);
    CHECK(pn_grain(640) == 640);
    pn_hot(0); /* one too many does no harm */
    puts("ok settings");
}

static void set_threads_inside(pn_call *c, void *arg, int64_t i, int worker) {
    (void)c, (void)arg, (void)worker;
    pn_set_num_threads(2 + (int)(i % 2));
    pn_team_stop();
}

static void test_nested(void) {
    pn_set_num_threads(4);
    for (int r = 0; r < 20; r++) CHECK(sum_is_right(100, 30));
    pn_call c = {0};
    for (int r = 0; r < 20; r++) pn_for(&c, 10, set_threads_inside, NULL);
    CHECK(sum_is_right(100, 0));
    puts("ok nested");
}

static void *many_sums(void *arg) {
    for (int r = 0; r < 300; r++) CHECK(sum_is_right(2 + (r * 7) % 200, r % 3));
    return arg;
}

static void test_callers(void) {
    for (int threads = 2; threads <= 16; threads *= 2) {
        pthread_t id[8];
        pn_set_num_threads(threads);
        pn_par_stats_reset();
        for (int i = 0; i < 8; i++) pthread_create(&id[i], NULL, many_sums, NULL);
        for (int i = 0; i < 8; i++) pthread_join(id[i], NULL);
        pn_par_info s = par_stats();
        CHECK(s.regions >= 8 * 300 && s.parallel + s.serial <= s.regions);
        CHECK(s.granted >= s.parallel && s.granted <= (s.regions - s.serial) * (threads - 1));
        CHECK(s.chunks_by_workers >= s.parallel);
    }
    puts("ok callers");
}

/* Callers, and threads that stop the team and change its size under them. */
static void *storm(void *arg) {
    for (int i = 0; stormy; i++) {
        if (arg) pn_hot(i & 1);
        pn_set_num_threads(STORM - i % 3);
        pn_team_stop();
        nanosleep(&(struct timespec){0, 200000}, NULL);
    }
    return arg;
}

static void test_storm(void) {
    pthread_t id[4], stop[2];
    pn_set_num_threads(STORM);
    stormy = 1;
    for (int i = 0; i < 2; i++) pthread_create(&stop[i], NULL, storm, i ? &stormy : NULL);
    for (int i = 0; i < 4; i++) pthread_create(&id[i], NULL, many_sums, NULL);
    for (int i = 0; i < 4; i++) pthread_join(id[i], NULL);
    stormy = 0;
    for (int i = 0; i < 2; i++) pthread_join(stop[i], NULL);
    pn_hot(0);
    puts("ok storm");
}

/* ---- fork ------------------------------------------------------------------------------------ */

#ifndef SANITIZED
/* In the child: 0 where its own team ran. */
static int child(void) {
    alarm(20);
    pn_par_stats_reset();
    int right = par_stats().team == 0 && sum_is_right(200, 0) && sum_is_right(7, 2);
    pn_par_info s = par_stats();
    right = right && s.team == pn_get_num_threads() - 1 && s.parallel > 0;
    pn_team_stop();
    return !(right && par_stats().team == 0 && sum_is_right(90, 0));
}

static int fork_once(void) {
    int status = -1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) _exit(child());
    CHECK(pid > 0 && waitpid(pid, &status, 0) == pid);
    return status;
}

static void *sums_until(void *over) {
    while (!*(atomic_int *)over) CHECK(sum_is_right(300, 0));
    return NULL;
}

static void *starts_until(void *over) {
    while (!*(atomic_int *)over) {
        pn_team_stop();
        CHECK(sum_is_right(20, 0));
    }
    return NULL;
}

static void test_fork(void) {
    void *(*const beside[])(void *) = {NULL, sums_until, starts_until};
    pn_set_num_threads(3);
    pn_set_chunk_div(64); /* so that the children's members come in for certain */
    for (int b = 0; b < 3; b++) {
        pthread_t id;
        atomic_int over = 0;
        CHECK(sum_is_right(100, 0));
        if (beside[b]) pthread_create(&id, NULL, beside[b], &over);
        for (int i = 0; i < 100; i++) CHECK(fork_once() == 0);
        over = 1;
        if (beside[b]) pthread_join(id, NULL);
        CHECK(sum_is_right(100, 0) && par_stats().team == 2); /* the parent's team goes on */
    }
    pn_set_chunk_div(1);
    puts("ok fork");
}

static void fork_inside(pn_call *c, void *arg, int64_t i, int worker) {
    (void)c, (void)i;
    int status = -1, *statuses = arg;
    if (worker != 0) return;
    pid_t pid = fork();
    if (pid == 0) {
        alarm(20);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    *statuses |= status;
}

static void test_fork_inside(void) {
    pn_call c = {0};
    int statuses = 0;
    pn_for(&c, 10, fork_inside, &statuses);
    CHECK(statuses == 0 && sum_is_right(100, 0));
    puts("ok fork inside a body");
}

/* ---- few threads to be had ------------------------------------------------------------------- */

/* Runs this program again as `mode`. */
static int rerun(char *program, char *mode) {
    int status = -1;
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        setenv("OMP_THREAD_LIMIT", "2", 1); /* settings of OpenMP: none of the team's business */
        setenv("OMP_PROC_BIND", "true", 1);
        setenv("OMP_DYNAMIC", "true", 1);
        execl(program, program, mode, (char *)NULL);
        _exit(127);
    }
    waitpid(pid, &status, 0);
    return status;
}

static int limited(int starve) {
    alarm(60);
    if (starve) { /* room for some stacks of 8 MB, and not for all */
        struct rlimit r = {96 << 20, 96 << 20};
        setrlimit(RLIMIT_AS, &r);
    }
    pn_set_num_threads(32);
    pn_set_chunk_div(64);
    CHECK(sum_is_right(100, 0) && sum_is_right(1000, 3));
    printf("ok %s, %d workers of 31\n", starve ? "starved" : "limited", (int)par_stats().team);
    CHECK(starve ? par_stats().team < 31 : par_stats().team == 31);
    pn_team_stop();
    CHECK(sum_is_right(100, 0));
    return failures != 0;
}
#endif

/* ---- errors, floating-point state, signals --------------------------------------------------- */

static void fail_chunk(pn_call *c, void *arg, int64_t i, int worker) {
    (void)arg, (void)worker;
    if (i >= 17) pn_fail(c, PN_E_INDEX, (int)(i % 3), i / 2 * 2, (double)i);
}

static void test_fail(void) {
    pn_set_num_threads(4);
    pn_set_chunk_div(64);
    for (int r = 0; r < 50; r++) {
        pn_call c = {0};
        pn_for(&c, 400, fail_chunk, NULL);
        CHECK(c.err.code == PN_E_INDEX && c.err.index == 16 && c.err.arg == 2 && c.err.value == 17);
        CHECK(c.lock == 0);
        memset(&c.err, 0, sizeof c.err);
        pn_fail(&c, PN_E_VALUE, 1, 5, 1.5); /* equal index: the lower arg, then the first */
        pn_fail(&c, PN_E_INDEX, 1, 5, 2.5);
        pn_fail(&c, PN_E_INDEX, 2, 5, 3.5);
        CHECK(c.err.code == PN_E_VALUE && c.err.arg == 1 && c.err.value == 1.5);
        pn_fail(&c, PN_E_INDEX, 0, 5, 4.5);
        CHECK(c.err.code == PN_E_INDEX && c.err.arg == 0);
    }
    pn_set_chunk_div(1);
    puts("ok errors");
}

#if defined(__SSE2__) || defined(__aarch64__)
static volatile float tiny = 1e-38f, tenth = 0.1f;

static void flush_chunk(pn_call *c, void *arg, int64_t i, int worker) {
    (void)c, (void)worker;
    ((float *)arg)[i] = tiny * tenth;
}

static void test_flush(void) {
    pn_call c = {0};
    pn_set_chunk_div(64);
    for (int threads = 1; threads <= 4; threads++) {
        float y[50];
        pn_set_num_threads(threads);
        for (int64_t n = 1; n <= 50; n += 7) {
            memset(y, 1, sizeof y);
            pn_for(&c, n, flush_chunk, y);
            for (int64_t i = 0; i < n; i++) CHECK(y[i] == 0);
            CHECK(tiny * tenth > 0);
        }
    }
    pn_set_chunk_div(1);
#ifdef __SSE2__
    static const unsigned modes[] = {0x1f80, 0x9fc0, 0x7f80, 0x1fbf};
    for (int i = 0; i < 4; i++) {
        float y[50];
        _mm_setcsr(modes[i]);
        pn_for(&c, 50, flush_chunk, y);
        CHECK(_mm_getcsr() == modes[i]);
    }
    _mm_setcsr(0x1f80);
#endif
    puts("ok floating-point state");
}
#endif

static pthread_t main_thread;
static atomic_int handled;
static void on_signal(int s) {
    (void)s;
    if (pthread_equal(pthread_self(), main_thread)) handled++;
}

static void test_signals(void) {
    main_thread = pthread_self();
    signal(SIGUSR1, on_signal);
    pn_set_num_threads(4);
    for (int i = 0; i < 100; i++) {
        CHECK(sum_is_right(20, 0));
        kill(getpid(), SIGUSR1);
        CHECK(handled == i + 1);
    }
    puts("ok signals");
}

/* ---- what it costs --------------------------------------------------------------------------- */

static void spin_chunk(pn_call *c, void *arg, int64_t i, int worker) {
    (void)c, (void)i, (void)worker;
    volatile int64_t k = *(int64_t *)arg;
    while (k > 0) k--;
}

/* The median of `reps` times of pn_for over n chunks of `work` turns, in seconds, after a pause. */
static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_time(int64_t n, int64_t work, int reps, int calls, long pause_ns) {
    pn_call c = {0};
    double *t = malloc((size_t)reps * sizeof *t), m;
    for (int r = 0; r < reps; r++) {
        if (pause_ns) nanosleep(&(struct timespec){0, pause_ns}, NULL);
        double start = seconds(CLOCK_MONOTONIC);
        for (int k = 0; k < calls; k++) pn_for(&c, n, spin_chunk, &work);
        t[r] = (seconds(CLOCK_MONOTONIC) - start) / calls;
    }
    qsort(t, (size_t)reps, sizeof *t, by_value);
    m = t[reps / 2];
    free(t);
    return m;
}

static double idle_cpu(void) {
    double cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), wall = seconds(CLOCK_MONOTONIC);
    while (seconds(CLOCK_MONOTONIC) - wall < 1) nanosleep(&(struct timespec){0, 500000000}, NULL);
    return (seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu) / (seconds(CLOCK_MONOTONIC) - wall);
}

static void print_times(void) {
    static const int64_t work[] = {2000, 20000, 200000, 2000000};
    for (int threads = 2; threads <= 4; threads += 2) {
        pn_set_num_threads(threads);
        median_time(2, 0, 1, 1000, 0);
        pn_par_stats_reset();
        double hot = median_time(2, 0, 501, 1000, 0);
        pn_par_info s = par_stats();
        printf("%d threads: back to back %.2f us (%.2f of the regions had a worker)", threads,
               1e6 * hot, (double)s.granted / (double)s.regions);
        printf(", parked %.1f us\n", 1e6 * median_time(2, 0, 201, 1, 1000000));
        printf("  idle CPU after use %.3f %%", 100 * idle_cpu());
        pn_hot(1);
        median_time(2, 0, 1, 1000, 0);
        printf(", with pn_hot left on %.3f %%\n", 100 * idle_cpu());
        pn_hot(0);
    }
    pn_set_num_threads(2);
    for (int i = 0; i < 4; i++) {
        double alone = median_time(1, work[i], 51, 4, 0), both = median_time(2, work[i], 51, 4, 0);
        double parked = median_time(2, work[i], 51, 1, 1000000);
        printf("2 chunks of %7.1f us: %.2f x, from parked %.2f x\n", 1e6 * alone, 2 * alone / both,
               2 * alone / parked);
    }
}

int main(int argc, char **argv) {
    char *mode = argc > 1 ? argv[1] : "";
#ifndef SANITIZED
    if (!strcmp(mode, "limited") || !strcmp(mode, "starved"))
        return limited(!strcmp(mode, "starved"));
#endif
    alarm(300); /* a hang is a failure */
    printf("backend %s\n", pn_par_backend());
    CHECK(pn_get_num_threads() == 1 && par_stats().team == 0);
    test_sums();
    test_settings();
    test_nested();
    test_callers();
    test_storm();
    test_fail();
#if defined(__SSE2__) || defined(__aarch64__)
    test_flush();
#endif
    test_signals();
#ifndef SANITIZED
    test_fork();
    test_fork_inside();
    CHECK(rerun(argv[0], "limited") == 0);
    CHECK(rerun(argv[0], "starved") == 0);
#endif
    if (!strcmp(mode, "time")) print_times();
    puts(failures ? "FAILED" : "all ok");
    return failures != 0; /* with the team alive: exit must not hang */
}
