/* pn_gemm_pack.h: A and B copied into the order in which the tile kernel reads them. */
#ifndef PN_GEMM_PACK_H
#define PN_GEMM_PACK_H

#include <string.h>

#include "pn_gemm_kernel.h"

/* ---- packing ---------------------------------------------------------------------------------- */

/* 16 bytes: small enough that a square of them turns in registers on every machine. */
typedef T Q __attribute__((vector_size(16)));
typedef T qmem __attribute__((vector_size(16), aligned(sizeof(T)), may_alias));
#define QL ((int)(16 / sizeof(T)))

/* r[i][j] = from_j[p + i], i and j < QL */
PN_INLINE void turn(Q *r, const T *const *from, int64_t p) {
    Q s[QL];
    ALL(j, QL) r[j] = *(const qmem *)(from[j] + p);
#if PN_KIND == PN_f32
    s[0] = __builtin_shufflevector(r[0], r[1], 0, 4, 1, 5);
    s[1] = __builtin_shufflevector(r[2], r[3], 0, 4, 1, 5);
    s[2] = __builtin_shufflevector(r[0], r[1], 2, 6, 3, 7);
    s[3] = __builtin_shufflevector(r[2], r[3], 2, 6, 3, 7);
    r[0] = __builtin_shufflevector(s[0], s[1], 0, 1, 4, 5);
    r[1] = __builtin_shufflevector(s[0], s[1], 2, 3, 6, 7);
    r[2] = __builtin_shufflevector(s[2], s[3], 0, 1, 4, 5);
    r[3] = __builtin_shufflevector(s[2], s[3], 2, 3, 6, 7);
#else
    s[0] = __builtin_shufflevector(r[0], r[1], 0, 2);
    s[1] = __builtin_shufflevector(r[0], r[1], 1, 3);
    r[0] = s[0];
    r[1] = s[1];
#endif
}

#ifndef AHEAD
#define AHEAD 4
#endif
static int64_t round_up(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* As wide as the kernel takes, such that the last panel is no less than a vector wide if n is not. */
PN_INLINE int64_t panel_width(int64_t left) {
    if (left <= NR) return left;
    return left < NR + PN_VL ? PN_VL : NR;
}

/* A panel of B, n columns of k rows: to[p * w + j] = b[p * rs + j * cs]. The w - n columns beyond n
 * repeat the last: they are never stored, and any number of B's own is safe and no slower than it. */
static void pack_panel(T *to, int64_t w, const T *b, int64_t rs, int64_t cs, int64_t n, int64_t k) {
    if (cs == 1 && n >= PN_VL) {
        for (int64_t p = 0; p < k; p++, to += w, b += rs) {
            pn_store(to, pn_load(b));
            pn_store(to + n - PN_VL, pn_load(b + n - PN_VL));
        }
        return;
    }
    for (int64_t j = 0; j < w; j += QL) {
        const T *from[QL];
        for (int i = 0; i < QL; i++) from[i] = b + (j + i < n ? j + i : n - 1) * cs;
        int64_t p = 0;
        if (rs == 1)
            for (; p + QL <= k; p += QL) {
                Q r[QL];
                __builtin_prefetch(from[p / QL % QL] + QL * cs + p);
                turn(r, from, p);
                ALL(i, QL) * (qmem *)(to + (p + i) * w + j) = r[i];
            }
        for (; p < k; p++) ALL(i, QL) to[p * w + j + i] = from[i][p * rs];
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

/* A's m rows as tiles, TILE_ROOM(k) apart: in blocks of 4 columns, one row of the tile after another, or,
 * where A's columns are the contiguous ones, by columns, MR apart. */
#define TILE_ROOM(k) (MR * round_up(k, BLOCK))
static void pack_a(T *to, const T *a, int64_t rs, int64_t cs, int64_t m, int64_t k) {
    parts ts = cut(m, MR);
    int64_t room = TILE_ROOM(k), mr;
    if (rs == 1) {
        for (int64_t p = 0; p < k; p++)
            for (int64_t t = 0, i = 0; t < ts.n; t++, i += mr) {
                T *x = to + t * room + p * MR;
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
            if (cs == 1)
                for (; p + BLOCK <= k; p += BLOCK, x += mr * BLOCK) {
                    __builtin_prefetch(a + rs + p);
                    memcpy(x, a + p, BLOCK * sizeof(T));
                }
            for (; p < k; p++, x += p % BLOCK ? 1 : mr * BLOCK - (BLOCK - 1)) *x = a[p * cs];
        }
    }
}

#endif
