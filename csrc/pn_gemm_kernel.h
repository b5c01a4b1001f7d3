/* pn_gemm_kernel.h: the tile of C that the registers hold.
 *
 *     C[mr x nr] = A[mr x k] B[k x nr] (+ C) (+ bias) (+ res), then max(x, 0) if asked for
 *
 * For every k the vectors of B are loaded, each of A's mr elements is broadcast and multiplied by them: 8
 * loads for the 12 FMA of 6 x 2. Four k at a time, so that addresses move by constants but for B's: 21
 * instructions for 12 FMA, not 24. That shows where something else runs on the same core.
 */
#ifndef PN_GEMM_KERNEL_H
#define PN_GEMM_KERNEL_H

#include "pn_gemm_choices.h"

/* A tile's place in C and what becomes of its sums there; columns are contiguous in all of them. */
typedef struct target {
    T *c;
    int64_t rs;
    const T *add[2]; /* bias and res, or NULL */
    int64_t add_rs[2];
    int64_t v1; /* the column of the second vector: PN_VL, or less where the tile is ragged */
    int64_t nr; /* columns: of a single vector MASKED kernels touch no more */
    int accumulate, relu;
} target;

/* How A is read: its rows are contiguous, its columns are (or it is one row), or it is packed in blocks of
 * 4 columns, one row after another. */
enum { ROWS, COLS, BLOCKS };
#define BLOCK 4

typedef void (*kernel_fn)(int64_t k, int form, const T *a, int64_t ars, int64_t acs, const T *b,
                          int64_t brs, const target *t);

#define ALL(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < n; i++)
#define TILE ALL(i, mr) ALL(v, nv)

#if PN_PIECES > 1 /* vectors that the machine has not: only tests run this, and it is much code */
#define EACH_STEP(q, n) for (int q = 0; q < n; q++)
#else
#define EACH_STEP(q, n) ALL(q, n)
#endif

/* The compiler shall not compute x ahead of the loop: it would need more registers than there are. */
#define OPAQUE(x) __asm__ volatile("" : "+r"(x))

/* Where a part of a vector moves as fast as a whole one, a narrow tile needs no padded copies. */
#define MASKED (PN_HBYTES == 64)

PN_INLINE V load(const int nv, unsigned mask, const T *p) {
#if MASKED
    if (nv == 1) return PN_MM(maskz_loadu)(mask, p);
#endif
    (void)nv, (void)mask;
    return pn_load(p);
}

PN_INLINE void store(const int nv, unsigned mask, T *p, V x) {
#if MASKED
    if (nv == 1) {
        PN_MM(mask_storeu)(p, mask, x);
        return;
    }
#endif
    (void)nv, (void)mask;
    pn_store(p, x);
}

/* The next `steps` columns of A by as many rows of B. A's rows are addressed in groups of three from one
 * pointer each, as x86 can add a register once or twice to an address. ars and brs count bytes. */
PN_INLINE void steps(const int steps, const int mr, const int nv, const int form, V sum[MR][NV],
                     const char **row, int64_t ars, int64_t acs, const char **b, int64_t brs,
                     int64_t v1, unsigned mask) {
    EACH_STEP(q, steps) {
        V y[NV];
        ALL(v, nv) y[v] = load(nv, mask, (const T *)(*b + v * v1));
        *b += brs;
        OPAQUE(*b);
        OPAQUE(ars);
        ALL(i, mr) {
            const T *at =
                (const T *)(row[form == ROWS ? i / 3 : 0] + (form == ROWS ? i % 3 * ars : 0));
            V x = pn_set1(at[form == ROWS ? q : form == COLS ? i : i * BLOCK + q]);
            ALL(v, nv) pn_fma_to(&sum[i][v], x, y[v]);
        }
        if (form == COLS) row[0] += acs;
        if (form == COLS) OPAQUE(row[0]);
    }
    if (form == ROWS) ALL(g, (mr + 2) / 3) row[g] += steps * (int)sizeof(T);
    if (form == BLOCKS) row[0] += (steps < BLOCK ? steps : BLOCK * mr) * (int)sizeof(T);
}

#define LOOP(form)                                                                                 \
    do {                                                                                           \
        for (; k >= BLOCK; k -= BLOCK)                                                             \
            steps(BLOCK, mr, nv, form, sum, row, ars, acs, &b, brs, v1, mask);                     \
        for (; k > 0; k--) steps(1, mr, nv, form, sum, row, ars, acs, &b, brs, v1, mask);          \
    } while (0)

/* mr and nv are constants at each call, so that the sums live in registers. The two vectors of a ragged
 * tile overlap: the columns in both come out the same in both. */
PN_INLINE void kernel(const int mr, const int nv, int64_t k, int form, const T *a, int64_t ars,
                      int64_t acs, const T *b_, int64_t brs, const target *t) {
    const int64_t v1 = t->v1 * (int64_t)sizeof(T);
    const char *b = (const char *)b_, *row[(MR + 2) / 3];
    const unsigned mask = t->nr < PN_VL ? (1u << t->nr) - 1 : (1u << PN_VL) - 1;
    V sum[MR][NV];
    TILE sum[i][v] = (V){0};
    ars *= sizeof(T), acs *= sizeof(T), brs *= sizeof(T);
    ALL(g, (mr + 2) / 3) row[g] = (const char *)a + (form == ROWS ? 3 * g * ars : 0);
    if (form == BLOCKS)
        LOOP(BLOCKS);
    else if (form == COLS)
        LOOP(COLS);
    else
        LOOP(ROWS);
    if (t->accumulate) TILE sum[i][v] = load(nv, mask, t->c + i * t->rs + v * t->v1) + sum[i][v];
    if (t->add[0]) TILE sum[i][v] += load(nv, mask, t->add[0] + i * t->add_rs[0] + v * t->v1);
    if (t->add[1]) TILE sum[i][v] += load(nv, mask, t->add[1] + i * t->add_rs[1] + v * t->v1);
    if (t->relu) TILE sum[i][v] = pn_select(sum[i][v] <= (V){0}, (V){0}, sum[i][v]);
    TILE store(nv, mask, t->c + i * t->rs + v * t->v1, sum[i][v]);
}

#define KERNEL(mr, nv)                                                                             \
    static void kernel_##mr##_##nv(int64_t k, int form, const T *a, int64_t ars, int64_t acs,      \
                                   const T *b, int64_t brs, const target *t) {                     \
        kernel(mr, nv, k, form, a, ars, acs, b, brs, t);                                           \
    }
#define KERNELS(mr) KERNEL(mr, 1) KERNEL(mr, 2)
HEIGHTS(KERNELS)
#define ROW(mr) {kernel_##mr##_1, kernel_##mr##_2},
static const kernel_fn kernels[MR][NV] = {HEIGHTS(ROW)};

#endif
