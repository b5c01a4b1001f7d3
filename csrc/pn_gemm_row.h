/* pn_gemm_row.h */
#ifndef PN_GEMM_ROW_H
#define PN_GEMM_ROW_H

#include "pn_gemm_pack.h"

PN_INLINE Q fma_q(Q a, Q b, Q c) {
#if defined __aarch64__ || PN_HBYTES == 16
    return pn_fma_h(a, b, c);
#elif PN_KIND == PN_f32
    return _mm_fmadd_ps(a, b, c);
#else
    return _mm_fmadd_pd(a, b, c);
#endif
}

/* One row of A by n columns of B that are contiguous (x W' with a W by rows), turned on the fly, as
 * nothing is read twice. A cache line of each column at a time: columns 4096 bytes apart share a set. */
static __attribute__((noinline)) void row_sums(T *to, const T *a, int64_t acs, const T *b,
                                               int64_t cs, int64_t n, int64_t k) {
    enum { GROUPS = NR / QL, LINE = PN_ALIGN / sizeof(T) };
    const T *from[GROUPS][QL];
    Q sum[GROUPS], r[2][QL] = {{{0}}};
    ALL(g, GROUPS) ALL(i, QL) from[g][i] = b + pn_min(g * QL + i, n - 1) * cs;
    ALL(g, GROUPS) sum[g] = (Q){0};
    for (int64_t p0 = 0; p0 < k; p0 += LINE) {
        int64_t end = pn_min(p0 + LINE, k);
        for (int g = 0; g < GROUPS; g += 2) { /* two sums at once, lest each wait for itself */
            Q s = sum[g], t = sum[g + 1];
            int64_t p = p0;
            for (; p + QL <= end; p += QL) {
                turn(r[0], from[g], p);
                turn(r[1], from[g + 1], p);
                ALL(i, QL) {
                    Q x = a[(p + i) * acs] - (Q){0};
                    s = fma_q(x, r[0][i], s);
                    t = fma_q(x, r[1][i], t);
                }
            }
            for (; p < end; p++) {
                ALL(i, QL) r[0][0][i] = from[g][i][p], r[1][0][i] = from[g + 1][i][p];
                s = fma_q(a[p * acs] - (Q){0}, r[0][0], s);
                t = fma_q(a[p * acs] - (Q){0}, r[1][0], t);
            }
            sum[g] = s;
            sum[g + 1] = t;
        }
    }
    ALL(g, GROUPS) * (qmem *)(to + g * QL) = sum[g];
}

#endif
