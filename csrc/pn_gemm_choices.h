/* pn_gemm_choices.h: every size at which pn_gemm does one thing rather than another.
 *
 * None of them touches a value, but for KC, KD and SUMS, which are part of an element's definition and thus
 * the same everywhere. benchmarks/gemm_choices.py measures them: it builds pn_gemm.c with others and compares.
 * float32 and float64 share the counts of elements that are about work, and have their own where it is
 * about bytes. AVX2's were chosen on Zen 3 with 32 KB of L1, AVX-512's on Zen 5.
 */
#ifndef PN_GEMM_CHOICES_H
#define PN_GEMM_CHOICES_H

#include "pn_gemm.h"
#include "pn_simd.h"

/* A tile is MR rows by NV vectors: MR * NV sums, NV vectors of B and one of A fit the registers, of which
 * there are 32, 32, 16 and 16. 14 x 2 of AVX-512 needs 16 loads for 28 FMA; 8 x 3 would need 11 for 24, but
 * a panel of 48 columns would fill L1. 6 x 2 of AVX2 was faster than 4 x 3 for the same reason. */
#define NV 2
#define NR (NV * PN_VL)
#if PN_VBYTES == 64
#define MR 14
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14)
#elif defined __aarch64__
#define MR 8
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8)
#elif PN_VBYTES == 32
#define MR 6
#define HEIGHTS(X) X(1) X(2) X(3) X(4) X(5) X(6)
#else
#define MR 4
#define HEIGHTS(X) X(1) X(2) X(3) X(4)
#endif

/* Rows of B in a block of k, part of an element's value: a panel of KC x NR takes half of a 32 KB L1, or two
 * thirds of 48 KB with AVX-512. */
#define KC 256

/* Rows of A that are packed at once, KC columns of them for half of a 512 KB L2, and columns of C from
 * which on they are packed at all, where A is not read well in place: one way of L1 spans WAY_BYTES. */
#ifndef MC
#define MC 192
#endif
#ifndef PACK_A
#define PACK_A 256
#endif

#ifndef WAY_BYTES
#define WAY_BYTES 4096
#endif

/* Rows of a tile where those of C meet in one set of L1, whose 8 or 12 lines B and A want too. */
#ifndef MET
#define MET 8
#endif

/* Columns of a chunk that packs its part of B itself, and how much of B it packs at once. */
#ifndef NC
#define NC 512
#endif
#ifndef WIDE_BYTES
#define WIDE_BYTES (PN_VBYTES == 64 ? 32768 : 65536)
#endif
#define WIDE (WIDE_BYTES / (KC * (int)sizeof(T)) / NR * NR)

/* B is packed once for all chunks from so many rows of C on, so much of it at a time, in chunks of SLICE
 * columns. */
#ifndef SHARED_ROWS
#define SHARED_ROWS (MC / 2)
#endif
#define SHARED_BYTES (1 << 23)
#define SLICE (8 * NR)

/* B's panels are read in place up to so many rows of C, or where all of B stays in L1. */
#ifndef IN_PLACE
#define IN_PLACE (8 * MR)
#endif
#ifndef SMALL_B
#define SMALL_B (16384 / (int)sizeof(T))
#endif

/* Deep enough to make up for a C that is turned on its way to memory, and whether it makes up for an A by rows
 * that is turned too. */
#ifndef NARROW
#define NARROW 64
#endif
#ifndef TURN_ROWS
#define TURN_ROWS (PN_VL >= 8 && sizeof(T) == 4)
#endif

/* k is split from so many blocks on, for up to so many elements of C. */
#ifndef SPLIT_BLOCKS
#define SPLIT_BLOCKS 8
#endif
#ifndef SPLIT_MOST
#define SPLIT_MOST 16384
#endif
#define SPLIT_BYTES (1 << 22)

/* Multiplications worth a chunk of their own, some 20 us, and enough chunks to keep a machine busy. */
#ifndef CHUNK
#define CHUNK (1 << 20)
#endif
#ifndef CHUNKS
#define CHUNKS 8
#endif

/* Rows of what is packed that are fetched ahead. */
#ifndef AHEAD
#define AHEAD 8
#endif

/* One row of A: columns of sums at a time, rows of B read at once, vectors of sums in registers with them. */
#define STRIP 2048
#ifndef STREAMS
#define STREAMS 4
#endif
#ifndef RUN
#define RUN 8
#endif

/* Elements of B that are fetched ahead then: the machine's own fetching ends with each page of memory. */
#ifndef ROW_AHEAD
#define ROW_AHEAD (1024 / (int)sizeof(T))
#endif
#ifndef DOT_AHEAD
#define DOT_AHEAD (8192 / (int)sizeof(T))
#endif

/* A dot product has SUMS sums, the same on every machine, in blocks of KD: they are part of its value. */
#define SUMS ((int)(256 / sizeof(T)))
#define KD 2048

#endif
