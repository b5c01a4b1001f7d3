/* pn_gemm_pack.h: A and B copied into the order in which the tile kernel reads them. */
#ifndef PN_GEMM_PACK_H
#define PN_GEMM_PACK_H

#include <string.h>

#include "pn_gemm_kernel.h"

/* ---- packing ---------------------------------------------------------------------------------- */

/* Lanes of 16 bytes: a square of them turns in registers on every machine, as many at once as V has. */
typedef T qmem __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));
#define QL ((int)(16 / sizeof(T)))

/* The same choice in every lane; elements of the second operand count from PN_VL. */
#if PN_KIND == PN_f32
#define LANE(o, a, b, c, d) (a) + (o), (b) + (o), (c) + (o), (d) + (o)
#if PN_VL == 4
#define LANES(...) LANE(0, __VA_ARGS__)
#elif PN_VL == 8
#define LANES(...) LANE(0, __VA_ARGS__), LANE(4, __VA_ARGS__)
#else
#define LANES(...)                                                                                 \
    LANE(0, __VA_ARGS__), LANE(4, __VA_ARGS__), LANE(8, __VA_ARGS__), LANE(12, __VA_ARGS__)
#endif
#else
#define LANE(o, a, b) (a) + (o), (b) + (o)
#if PN_VL == 2
#define LANES(...) LANE(0, __VA_ARGS__)
#elif PN_VL == 4
#define LANES(...) LANE(0, __VA_ARGS__), LANE(2, __VA_ARGS__)
#else
#define LANES(...)                                                                                 \
    LANE(0, __VA_ARGS__), LANE(2, __VA_ARGS__), LANE(4, __VA_ARGS__), LANE(6, __VA_ARGS__)
#endif
#endif

#define JOIN16(a, b)                                                                               \
    __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)
#define JOIN8(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3, 4, 5, 6, 7)
#define JOIN4(a, b) __builtin_shufflevector(a, b, 0, 1, 2, 3)

#define THIRDS ((PN_VL + 2) / 3)

/* Element 0 of column i; from: every third column, cs bytes apart. */
#define COLUMN(type, i) (*(const type *)(from[(i) / 3] + (i) % 3 * cs))

/* The square of QL by QL in each 16 bytes of x. */
PN_INLINE void turn_squares(V *r, const V *x) {
#if PN_KIND == PN_f32
    V ac = __builtin_shufflevector(x[0], x[1], LANES(0, PN_VL, 1, PN_VL + 1));
    V bd = __builtin_shufflevector(x[2], x[3], LANES(0, PN_VL, 1, PN_VL + 1));
    V eg = __builtin_shufflevector(x[0], x[1], LANES(2, PN_VL + 2, 3, PN_VL + 3));
    V fh = __builtin_shufflevector(x[2], x[3], LANES(2, PN_VL + 2, 3, PN_VL + 3));
    r[0] = __builtin_shufflevector(ac, bd, LANES(0, 1, PN_VL, PN_VL + 1));
    r[1] = __builtin_shufflevector(ac, bd, LANES(2, 3, PN_VL + 2, PN_VL + 3));
    r[2] = __builtin_shufflevector(eg, fh, LANES(0, 1, PN_VL, PN_VL + 1));
    r[3] = __builtin_shufflevector(eg, fh, LANES(2, 3, PN_VL + 2, PN_VL + 3));
#else
    r[0] = __builtin_shufflevector(x[0], x[1], LANES(0, PN_VL));
    r[1] = __builtin_shufflevector(x[0], x[1], LANES(1, PN_VL + 1));
#endif
}

/* r[i][j] = element i of column j, i < TL, j < PN_VL; then steps on to the next TL elements. Lane l of 16
 * bytes begins as QL elements of column l * QL + i; with 64 bytes twice as many are loaded at once, for
 * half of the loads: these and the shuffles are what it takes. */
#if PN_VBYTES == 64
#define TL (2 * QL)
typedef T half_mem __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));
#if PN_KIND == PN_f32
#define JOIN JOIN16
#define NEAR 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define FAR 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
#else
#define JOIN JOIN8
#define NEAR 0, 1, 4, 5, 8, 9, 12, 13
#define FAR 2, 3, 6, 7, 10, 11, 14, 15
#endif
PN_INLINE void turn(V *r, const char **from, int64_t cs) {
    V near[QL], far[QL];
    ALL(i, QL) {
        V x = JOIN(COLUMN(half_mem, i), COLUMN(half_mem, QL + i));
        V y = JOIN(COLUMN(half_mem, 2 * QL + i), COLUMN(half_mem, 3 * QL + i));
        near[i] = __builtin_shufflevector(x, y, NEAR);
        far[i] = __builtin_shufflevector(x, y, FAR);
    }
    ALL(i, THIRDS) from[i] += TL * sizeof(T);
    turn_squares(r, near);
    turn_squares(r + QL, far);
}
#else
#define TL QL
PN_INLINE void turn(V *r, const char **from, int64_t cs) {
    V x[QL];
    ALL(i, QL)
#if PN_VBYTES == 16
    x[i] = COLUMN(qmem, i);
#elif PN_KIND == PN_f32
    x[i] = JOIN8(COLUMN(qmem, i), COLUMN(qmem, QL + i));
#else
    x[i] = JOIN4(COLUMN(qmem, i), COLUMN(qmem, QL + i));
#endif
    ALL(i, THIRDS) from[i] += TL * sizeof(T);
    turn_squares(r, x);
}
#endif

#define LINE ((int)(PN_ALIGN / sizeof(T)))

static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* As wide as the kernel takes, such that the last panel is no less than a vector wide if n is not. */
PN_INLINE int64_t panel_width(int64_t left) {
    if (left <= NR) return left;
    return left < NR + PN_VL ? PN_VL : NR;
}

/* to[p * w + i] = b[p + i * cs], i < PN_VL, for p < k in whole steps of TL; returns where it ended. */
PN_INLINE int64_t turn_columns(T *to, int64_t w, const T *b, int64_t cs, int64_t k) {
    enum { PART = LINE / TL };
    const char *from[THIRDS];
    int64_t p = 0;
    ALL(i, THIRDS) from[i] = (const char *)(b + 3 * i * cs);
    for (; p + TL <= k; p += TL) {
        V r[TL];
        ALL(i, PN_VL / PART)
        __builtin_prefetch(b + (PN_VL + p / TL % PART * (PN_VL / PART) + i) * cs + p);
        turn(r, from, cs * (int64_t)sizeof(T));
        ALL(i, TL) pn_store(to + (p + i) * w, r[i]);
    }
    return p;
}

/* A panel of B, n columns of k rows: to[p * w + j] = b[p * rs + j * cs]. The w - n columns beyond n
 * repeat the last: they are never stored, and any number of B's own is safe and no slower than it. */
static void pack_panel(T *to, int64_t w, const T *b, int64_t rs, int64_t cs, int64_t n, int64_t k) {
    enum { FEW = 32 };
    if (cs == 1 && n >= PN_VL) {
        for (int64_t p = 0; p < k; p++, to += w, b += rs) {
            pn_store(to, pn_load(b));
            pn_store(to + n - PN_VL, pn_load(b + n - PN_VL));
        }
        return;
    }
    for (int64_t j = 0; j < w; j += PN_VL, b += PN_VL * cs) {
        int64_t p = 0, last = pn_min(PN_VL, n - j) - 1;
        if (rs == 1 && last == PN_VL - 1)
            p = turn_columns(to + j, w, b, cs, k);
        else if (rs == 1)
            for (T part[PN_VL * FEW]; p + FEW <= k; p += FEW) {
                ALL(i, PN_VL) memcpy(part + i * FEW, b + p + pn_min(i, last) * cs, FEW * sizeof(T));
                turn_columns(to + p * w + j, w, part, FEW, FEW);
            }
        for (; p < k; p++) ALL(i, PN_VL) to[p * w + j + i] = b[p * rs + pn_min(i, last) * cs];
    }
}

/* n columns of B as panels, that of column j at to + j * k. Contiguous rows are read through all of them:
 * a panel at a time would step from page to page, and at 4096 bytes from row to row lose its lines. */
static void pack_b(T *to, const T *b, int64_t rs, int64_t cs, int64_t n, int64_t k) {
    int64_t j = 0, nr;
    if (cs == 1 && n >= NR) {
        int64_t full = n / NR * NR;
        if (n - full > 0 && n - full < PN_VL) full -= NR;
        for (int64_t p = 0; p < k; p++)
            for (j = 0; j < full; j += NR) {
                const T *x = b + p * rs + j;
                __builtin_prefetch(x + AHEAD * rs);
                ALL(v, NV) pn_store(to + j * k + p * NR + v * PN_VL, pn_load(x + v * PN_VL));
            }
        j = full;
    }
    for (; j < n; j += nr) {
        nr = panel_width(n - j);
        pack_panel(to + j * k, round_up(nr, PN_VL), b + j * cs, rs, cs, nr, k);
    }
}

/* n parts, as equal as can be: the first `longer` have size + 1 rows, the others size. */
typedef struct parts {
    int64_t n, size, longer;
} parts;

static parts cut(int64_t rows, int64_t most) {
    int64_t n = rows <= most ? 1 : (rows + most - 1) / most;
    return n == 1 ? (parts){1, rows, 0} : (parts){n, rows / n, rows % n};
}

static int64_t tallest(parts ts) { return ts.size + (ts.longer > 0); }

/* A's rows as tiles ts, TILE_ROOM(k) apart: in blocks of 4 columns, one row of the tile after another, or,
 * where A's columns are the contiguous ones, by columns as far apart as the highest tile has rows. */
#define TILE_ROOM(k) (MR * round_up(k, BLOCK))
static inline void pack_a(T *to, const T *a, int64_t rs, int64_t cs, parts ts, int64_t k) {
    int64_t m = ts.n * ts.size + ts.longer, height = tallest(ts), room = TILE_ROOM(k), mr;
    if (rs == 1) {
        for (int64_t p = 0; p < k; p++)
            for (int64_t t = 0, i = 0; t < ts.n; t++, i += mr) {
                T *x = to + t * room + p * height;
                const T *y = a + p * cs + i;
                __builtin_prefetch(y + AHEAD * cs);
                mr = ts.size + (t < ts.longer);
                if (m - i >= MR)
                    memcpy(x, y, MR * sizeof(T));
                else
                    for (int64_t e = 0; e < mr; e++) x[e] = y[e];
            }
        return;
    }
    for (int64_t t = 0; t < ts.n; t++, to += room) {
        mr = ts.size + (t < ts.longer);
        for (int64_t i = 0; i < mr; i++, a += rs) {
            T *x = to + i * BLOCK;
            int64_t p = 0;
            for (; cs == 1 && p + LINE <= k; p += LINE) {
                __builtin_prefetch(a + AHEAD * rs + p);
                ALL(q, LINE / BLOCK) {
                    memcpy(x, a + p + q * BLOCK, BLOCK * sizeof(T));
                    x += mr * BLOCK;
                }
            }
            for (; p < k; p++, x += p % BLOCK ? 1 : mr * BLOCK - (BLOCK - 1)) *x = a[p * cs];
        }
    }
}

#endif
