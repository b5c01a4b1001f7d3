/* pn_par.c: the one thread team, and pn_for.
 *
 * The team belongs to the process, not to a thread: plain threads, started by the first region, that
 * wait for work in our own way. So no team is built for every Python thread, none spins beside the
 * user's BLAS, a forked child simply starts a new one, and where the system allows fewer threads
 * there are fewer. libgomp can do none of this.
 *
 * Team:     none --first region--> alive --pn_team_stop, another number of threads--> none
 *           A forked child starts from none; its parent's team goes on.
 * Owner:    whoever swaps `owned` from 0 to 1 has the team, and alone opens and closes its gate,
 *           starts and stops it. Nobody waits for it: a second caller computes its chunks itself.
 * Gate:     one word, epoch | WAITED | STOP | OPEN | members inside.
 *
 *           closed, empty --open--> open, k inside --close--> closed, k inside --> closed, empty
 *
 *           A member enters by swapping k for k + 1 in a gate that it saw open, so that it cannot
 *           enter a closed one; it leaves by subtracting 1. Owner: write the region, open the gate,
 *           take chunks until none is left, close the gate, wait for those inside. A member that is
 *           still asleep by then is not waited for. The epoch, new at every opening, tells a member
 *           which region it has been in already; entering is right for any open gate, thus an epoch
 *           that comes round again can cost a member one region, and never more.
 * Member:   spins a few microseconds (longer under pn_hot), then sleeps on the gate's word. It
 *           raises `asleep` before its last look at the gate, the owner opens the gate before it
 *           reads `asleep` (all sequentially consistent): one of them sees the other.
 * Budget:   `callers` counts threads that compute in pn_for. The member at place p works while
 *           p + callers <= threads, so that many callers do not crowd the machine.
 *
 * Chunks:   lie in as many parts as threads may come. A thread claims those of its own part one by
 *           one, then what others have left of theirs, so that a late member costs nothing. From
 *           region to region it finds much of what it reads in its own caches, since it wrote it. */
#include "pn.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#if defined(__linux__) && !defined(PN_NO_FUTEX)
#define HAVE_FUTEX 1
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef __SSE2__
#include <xmmintrin.h>
#endif

enum {
    SPIN_NS = 4000,         /* a member without work keeps its core no longer than this */
    JOIN_NS = 30000,        /* the owner waits awake for the last member: a wake costs 20-40 us */
    HOT_NS = 2000000,       /* a member under pn_hot: a forgotten pn_hot(1) costs 2 ms a region */
    GATHER_NS = 50000000,   /* with PYNN_CHUNK_DIV: wait so long for the members to come */
    STOP_NS = 200000000,    /* pn_team_stop: wait so long for the owner, for exit must not hang */
    MIN_STACK = 1 << 20,
    STACK = 2 << 20,        /* where the system's default is below MIN_STACK */
    PARTS = 8,              /* at most: counters of a cache line; more threads share them */
    MAX_THREADS = 4095      /* as many as INSIDE can count */
};

#define INSIDE 0x00000fffu
#define OPEN 0x00001000u
#define STOP 0x00002000u
#define WAITED 0x00004000u /* the owner sleeps on `left`: the last member out wakes it */
#define EPOCH 0xffff8000u
#define EPOCH_STEP 0x00008000u

typedef struct region {
    pn_call *c;
    pn_body body;
    void *arg;
    int64_t n;
    int parts;
} region;

static int64_t part_begin(const region *r, int64_t part) {
    int64_t longer = r->n % r->parts; /* so many first ones have a chunk more */
    return r->n / r->parts * part + (part < longer ? part : longer);
}

/* Written by the owner alone while the gate is closed and empty, unless said otherwise. */
static struct {
    _Alignas(PN_ALIGN) _Atomic uint32_t gate;
    region r;
    atomic_int hold;       /* members inside hold their first chunk: see gather */
    _Alignas(PN_ALIGN) _Atomic int64_t next[PARTS]; /* to claim, of each part; all inside add */
    _Atomic int64_t tally; /* members that were inside << 40 | chunks they ran */
    _Alignas(PN_ALIGN) _Atomic uint32_t left; /* counts wake-ups of the owner */
    atomic_int asleep;     /* members asleep, or about to be */
    _Alignas(PN_ALIGN) atomic_int owned;
    pthread_t *id;         /* of n members */
    uint32_t born;         /* epoch when the team started: its members have been in no region */
    atomic_int asked, n;   /* members asked for (0: no team), and alive */
} team;

static atomic_int n_threads = 1;
static _Atomic int64_t chunk_div = 1;
static _Alignas(PN_ALIGN) atomic_int callers;
static atomic_int hot;
static struct {
    _Alignas(PN_ALIGN) _Atomic int64_t regions, parallel, granted, serial, chunks;
} stats;

/* The worker that this thread is while it runs chunks, else -1. */
static _Thread_local int self = -1;

#define RELAXED memory_order_relaxed
#define COUNT(field, k) atomic_fetch_add_explicit(&stats.field, k, RELAXED)

/* ---- waiting --------------------------------------------------------------------------------- */

static int64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb" ::: "memory"); /* `yield` does nothing on most cores */
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

/* park sleeps while *word == value, and may return early: callers look again. */
#ifdef HAVE_FUTEX
static void park(_Atomic uint32_t *word, uint32_t value) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void unpark(_Atomic uint32_t *word, int n) {
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void park_reset(void) {}
#else
static pthread_mutex_t park_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t park_cond = PTHREAD_COND_INITIALIZER;

static void park(_Atomic uint32_t *word, uint32_t value) {
    pthread_mutex_lock(&park_lock);
    if (atomic_load(word) == value) pthread_cond_wait(&park_cond, &park_lock);
    pthread_mutex_unlock(&park_lock);
}

static void unpark(_Atomic uint32_t *word, int n) {
    (void)word, (void)n; /* all share one condition */
    pthread_mutex_lock(&park_lock);
    pthread_cond_broadcast(&park_cond);
    pthread_mutex_unlock(&park_lock);
}

static void park_reset(void) {
    pthread_mutex_init(&park_lock, NULL);
    pthread_cond_init(&park_cond, NULL);
}
#endif

/* ---- floating-point state -------------------------------------------------------------------- */

/* Bodies run in one state on every thread: subnormals flushed, round to nearest, nothing trapped,
 * else a value would depend on the thread that computed it. Reading the register is cheap, writing
 * it is not. */
#if defined(__SSE2__)
typedef unsigned fp_state;
#define FP_FLAGS 0x003fu                        /* what has happened, not how to compute */
#define FP_KERNEL (0x1f80u | 0x8000u | 0x0040u) /* exceptions masked, FTZ, DAZ */

static inline fp_state fp_enter(void) {
    fp_state old = _mm_getcsr();
    if ((old & ~FP_FLAGS) != FP_KERNEL) _mm_setcsr(FP_KERNEL | (old & FP_FLAGS));
    return old;
}

static inline void fp_leave(fp_state old) {
    if (_mm_getcsr() != old) _mm_setcsr(old);
}
#elif defined(__aarch64__)
typedef uint64_t fp_state;
#define FP_KERNEL ((uint64_t)1 << 24) /* FZ */

static inline fp_state fp_enter(void) {
    fp_state old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    if (old != FP_KERNEL) __asm__ volatile("msr fpcr, %0" ::"r"(FP_KERNEL) : "memory");
    return old;
}

static inline void fp_leave(fp_state old) {
    if (old != FP_KERNEL) __asm__ volatile("msr fpcr, %0" ::"r"(old) : "memory");
}
#else
typedef int fp_state;
static inline fp_state fp_enter(void) { return 0; }
static inline void fp_leave(fp_state old) { (void)old; }
#endif

/* ---- members --------------------------------------------------------------------------------- */

static int over_budget(int place) {
    return place + atomic_load_explicit(&callers, RELAXED) >
           atomic_load_explicit(&n_threads, RELAXED);
}

/* Takes chunks until none is left. The owner, at place 0, stays to the end. */
static int64_t take_chunks(int worker, int place) {
    const region r = team.r;
    int64_t done = 0, i;
    if (r.c->n_worker && worker >= r.c->n_worker) return 0; /* the team has grown since */
    for (int k = 0; k < r.parts; k++) {
        int part = (worker + k) % r.parts;
        int64_t end = part_begin(&r, part + 1);
        while ((i = atomic_fetch_add_explicit(&team.next[part], 1, RELAXED)) < end) {
            while (atomic_load_explicit(&team.hold, RELAXED)) sched_yield();
            r.body(r.c, r.arg, i, worker);
            done++;
            if (place && over_budget(place)) return done;
        }
    }
    return done;
}

static int is_news(uint32_t g, uint32_t seen) {
    return (g & STOP) || ((g & OPEN) && (g & EPOCH) != seen);
}

/* Waits until the team shall stop or a region is open that this member has not been in. */
static uint32_t await_news(uint32_t seen) {
    int64_t since = now();
    for (;;) {
        uint32_t g;
        for (int i = 0; i < 16; i++) {
            g = atomic_load_explicit(&team.gate, memory_order_acquire);
            if (is_news(g, seen)) return g;
            relax();
        }
        int64_t limit = atomic_load_explicit(&hot, RELAXED) > 0 ? HOT_NS : SPIN_NS;
        if (now() - since < limit) continue;
        atomic_fetch_add(&team.asleep, 1);
        g = atomic_load(&team.gate);
        if (!is_news(g, seen)) park(&team.gate, g);
        atomic_fetch_sub(&team.asleep, 1);
        since = now();
    }
}

static void leave(int64_t done) {
    atomic_fetch_add_explicit(&team.tally, ((int64_t)1 << 40) + done, RELAXED);
    uint32_t g = atomic_fetch_sub_explicit(&team.gate, 1, memory_order_acq_rel);
    if ((g & WAITED) && (g & INSIDE) == 1) {
        atomic_fetch_add(&team.left, 1);
        unpark(&team.left, 1);
    }
}

static void member(int id) {
    uint32_t seen = team.born, g;
    self = id;
    while (!((g = await_news(seen)) & STOP)) {
        int place = (int)(g & INSIDE) + 1;
        if (over_budget(place)) {
            seen = g & EPOCH;
            continue;
        }
        if (!atomic_compare_exchange_strong(&team.gate, &g, g + 1)) continue; /* others moved */
        seen = g & EPOCH;
        fp_enter();
        leave(take_chunks(id, place));
    }
    self = -1;
}

/* ---- the team's life ------------------------------------------------------------------------- */

const char *pn_par_backend(void) { return "pthreads"; }

static void *run_member(void *id) {
    member((int)(intptr_t)id);
    return NULL;
}

/* Starts up to n members, with stacks fit for kernels, and returns how many the system allowed. */
static int start_members(int n, pthread_t *id) {
    pthread_attr_t attr;
    size_t stack = 0;
    int k = 0;
    if (pthread_attr_init(&attr)) return 0;
    if (pthread_attr_getstacksize(&attr, &stack) || stack < MIN_STACK)
        pthread_attr_setstacksize(&attr, STACK);
    while (k < n && pthread_create(&id[k], &attr, run_member, (void *)(intptr_t)(k + 1)) == 0) k++;
    pthread_attr_destroy(&attr);
    return k;
}

/* The calls below that change the team are the owner's. */
static int own(void) {
    int no = 0;
    return atomic_compare_exchange_strong(&team.owned, &no, 1);
}

static void disown(void) { atomic_store_explicit(&team.owned, 0, memory_order_release); }

static uint32_t next_epoch(void) {
    return (atomic_load_explicit(&team.gate, RELAXED) & EPOCH) + EPOCH_STEP;
}

static void team_end(void) {
    int n = atomic_load(&team.n);
    if (n) {
        atomic_store(&team.gate, next_epoch() | STOP);
        unpark(&team.gate, INT_MAX);
        for (int i = 0; i < n; i++) pthread_join(team.id[i], NULL);
        atomic_store(&team.gate, next_epoch());
    }
    free(team.id);
    team.id = NULL;
    atomic_store(&team.n, 0);
    atomic_store(&team.asked, 0);
}

/* Signals are for the program's own threads; those that report a fault of the thread itself must
 * come through, or faulthandler would see nothing. */
static void worker_signals(sigset_t *set) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    sigfillset(set);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) sigdelset(set, faults[i]);
}

/* Starts a team of up to `asked` members. Fewer, or none, is not tried again before the number of
 * threads changes or pn_team_stop is called. */
static void team_start(int asked) {
    sigset_t block, old;
    worker_signals(&block);
    team.born = atomic_load(&team.gate) & EPOCH;
    atomic_store(&team.asked, asked);
    team.id = malloc((size_t)asked * sizeof *team.id);
    if (!team.id) return;
    pthread_sigmask(SIG_SETMASK, &block, &old); /* threads inherit it */
    atomic_store(&team.n, start_members(asked, team.id));
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

static int team_ready(void) {
    int asked = atomic_load_explicit(&n_threads, RELAXED) - 1;
    if (atomic_load_explicit(&team.asked, RELAXED) != asked) {
        team_end();
        if (asked) team_start(asked);
    }
    return atomic_load_explicit(&team.n, RELAXED);
}

/* Only the forking thread lives on in a child, and another may have been anywhere in here. */
static void fork_child(void) {
    park_reset();
    atomic_store(&team.gate, 0);
    atomic_store(&team.asleep, 0);
    atomic_store(&team.hold, 0);
    team.id = NULL; /* its memory is lost: another thread may have been inside malloc */
    atomic_store(&team.n, 0);
    atomic_store(&team.asked, 0);
    atomic_store(&team.owned, 0);
    atomic_store(&callers, self >= 0);
    atomic_store(&hot, 0);
}

__attribute__((constructor)) static void on_load(void) { pthread_atfork(NULL, NULL, fork_child); }

/* ---- regions --------------------------------------------------------------------------------- */

/* With PYNN_CHUNK_DIV, in tests, chunks are so small that the owner would run them all before a
 * member wakes, and the tests would prove nothing. So the members that come in claim a chunk each
 * and hold it, until all have one or none is left; only then does the owner take its first. */
static void gather(void) {
    int members = atomic_load(&team.n);
    int64_t since = now();
    while (now() - since < GATHER_NS) {
        int64_t claimed = 0;
        for (int k = 0; k < team.r.parts; k++) {
            int64_t begin = part_begin(&team.r, k), end = part_begin(&team.r, k + 1);
            int64_t next = atomic_load_explicit(&team.next[k], RELAXED);
            claimed += (next < end ? next : end) - begin;
        }
        if (claimed >= members || claimed >= team.r.n || over_budget((int)claimed + 1)) break;
        sched_yield();
    }
    atomic_store_explicit(&team.hold, 0, RELAXED);
}

static void open_gate(pn_call *c, int64_t n, pn_body body, void *arg) {
    int members = atomic_load_explicit(&team.n, RELAXED);
    int test = atomic_load_explicit(&chunk_div, RELAXED) > 1;
    int wanted = test || n > members ? members : (int)n - 1;
    team.r = (region){c, body, arg, n, wanted < PARTS ? wanted + 1 : PARTS};
    for (int k = 0; k < team.r.parts; k++)
        atomic_store_explicit(&team.next[k], part_begin(&team.r, k), RELAXED);
    atomic_store_explicit(&team.tally, 0, RELAXED);
    atomic_store_explicit(&team.hold, test, RELAXED);
    atomic_store(&team.gate, next_epoch() | OPEN);
    int asleep = atomic_load(&team.asleep);
    int missing = wanted - (members - asleep);
    if (asleep && missing > 0) unpark(&team.gate, missing);
    if (test) gather();
}

/* Ends the region for those who have not come, and waits for those who have. */
static void close_gate(void) {
    uint32_t g = atomic_fetch_and_explicit(&team.gate, ~OPEN, memory_order_acq_rel);
    if (!(g & INSIDE)) return;
    int64_t since = now();
    do {
        for (int i = 0; i < 16; i++) {
            if (!(atomic_load_explicit(&team.gate, memory_order_acquire) & INSIDE)) return;
            relax();
        }
    } while (now() - since < JOIN_NS);
    for (;;) {
        uint32_t left = atomic_load(&team.left);
        if (!(atomic_fetch_or(&team.gate, WAITED) & INSIDE)) return;
        park(&team.left, left);
    }
}

static void run_here(pn_call *c, int64_t n, pn_body body, void *arg) {
    int before = self, worker = before < 0 ? 0 : before; /* nested: our own slice of scratch */
    self = worker;
    for (int64_t i = 0; i < n; i++) body(c, arg, i, worker);
    self = before;
}

static void run_team(pn_call *c, int64_t n, pn_body body, void *arg) {
    open_gate(c, n, body, arg);
    self = 0;
    take_chunks(0, 0);
    self = -1;
    close_gate();
    int64_t tally = atomic_load_explicit(&team.tally, RELAXED);
    int64_t granted = tally >> 40, chunks = tally & (((int64_t)1 << 40) - 1);
    if (!granted) return;
    COUNT(granted, granted);
    COUNT(chunks, chunks);
    COUNT(parallel, chunks > 0);
}

void pn_for(pn_call *c, int64_t n_chunks, pn_body body, void *arg) {
    if (n_chunks <= 0) return;
    fp_state fp = fp_enter();
    int threads = atomic_load_explicit(&n_threads, RELAXED);
    if (n_chunks > 1) COUNT(regions, 1);
    if (n_chunks == 1 || threads == 1 || self >= 0) {
        run_here(c, n_chunks, body, arg);
    } else {
        int busy = atomic_fetch_add_explicit(&callers, 1, RELAXED) + 1 >= threads;
        if (!busy && own()) {
            (team_ready() ? run_team : run_here)(c, n_chunks, body, arg);
            disown();
        } else {
            COUNT(serial, 1);
            run_here(c, n_chunks, body, arg);
        }
        atomic_fetch_sub_explicit(&callers, 1, RELAXED);
    }
    fp_leave(fp);
}

/* ---- errors ---------------------------------------------------------------------------------- */

void pn_fail(pn_call *c, int code, int arg, int64_t index, double value) {
    while (__atomic_exchange_n(&c->lock, 1, __ATOMIC_ACQUIRE)) sched_yield();
    pn_error *e = &c->err;
    if (e->code == PN_OK || index < e->index || (index == e->index && arg < e->arg))
        *e = (pn_error){code, arg, index, value};
    __atomic_store_n(&c->lock, 0, __ATOMIC_RELEASE);
}

/* ---- settings -------------------------------------------------------------------------------- */

void pn_team_stop(void) {
    if (self >= 0) return; /* inside a body, where the team cannot end */
    for (int64_t since = now(); !own();) {
        if (now() - since > STOP_NS) return;
        nanosleep(&(struct timespec){0, 50000}, NULL);
    }
    team_end();
    disown();
}

int pn_set_num_threads(int n) {
    if (n < 1 || n > MAX_THREADS) return -1;
    if (atomic_exchange(&n_threads, n) != n) pn_team_stop();
    return 0;
}

int pn_get_num_threads(void) { return atomic_load_explicit(&n_threads, RELAXED); }
int pn_max_workers(void) { return pn_get_num_threads(); }

void pn_set_chunk_div(int64_t div) { atomic_store(&chunk_div, div < 1 ? 1 : div); }
int64_t pn_get_chunk_div(void) { return atomic_load_explicit(&chunk_div, RELAXED); }

int64_t pn_grain(int64_t n) {
    int64_t g = n / pn_get_chunk_div();
    return g < 1 ? 1 : g;
}

void pn_hot(int on) {
    int k = atomic_load(&hot);
    while (!atomic_compare_exchange_weak(&hot, &k, on ? k + 1 : k > 0 ? k - 1 : 0)) {
    }
}

/* ---- counters -------------------------------------------------------------------------------- */

void pn_par_stats(pn_par_info *out) {
    *out = (pn_par_info){
        .regions = atomic_load_explicit(&stats.regions, RELAXED),
        .parallel = atomic_load_explicit(&stats.parallel, RELAXED),
        .granted = atomic_load_explicit(&stats.granted, RELAXED),
        .serial = atomic_load_explicit(&stats.serial, RELAXED),
        .chunks_by_workers = atomic_load_explicit(&stats.chunks, RELAXED),
        .team = atomic_load_explicit(&team.n, RELAXED),
        .threads = pn_get_num_threads(),
    };
}

void pn_par_stats_reset(void) {
    atomic_store_explicit(&stats.regions, 0, RELAXED);
    atomic_store_explicit(&stats.parallel, 0, RELAXED);
    atomic_store_explicit(&stats.granted, 0, RELAXED);
    atomic_store_explicit(&stats.serial, 0, RELAXED);
    atomic_store_explicit(&stats.chunks, 0, RELAXED);
}
