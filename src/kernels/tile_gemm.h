/* The register block of Q K^T and P V on one tile, and its walk over the tile, over the primitives that f32_tile.h
 * lists. What is multiplied is f32, or pairs of 16-bit numbers where a file has defined gemm_element as those. */
#ifndef FLASHC_TILE_GEMM_H
#define FLASHC_TILE_GEMM_H

#include "kernels/kernel.h"

#ifndef FLASHC_GEMM_PAIRS
typedef float gemm_element;
enum { GEMM_PER_LANE = 1 }; /* elements in 32 bits, which a lane holds and one multiply-add takes */
V_INLINE vec v_broadcast(const gemm_element *p) { return v_set1(*p); }
V_INLINE vec v_load_elements(const gemm_element *p) { return v_load(p); }
#ifndef FLASHC_OWN_DOT
V_INLINE vec v_dot(vec a, vec b, vec c) { return v_fma(a, b, c); }
#endif
#endif

/* What becomes of a sum. */
typedef enum {
    GEMM_SET,        /* c = sum */
    GEMM_ADD,        /* c += sum */
    GEMM_SCALE_ADD,  /* c = c * scale[lane] + sum */
    GEMM_SET_SCALED, /* c = sum * *scale */
    GEMM_ADD_SCALED, /* c += sum * *scale */
} gemm_mode;

/* Steps of a register block's depth between prefetches. A loop of a file's own is not interrupted for so few lines a
 * block: each time takes some 60 instructions besides. */
#ifdef FLASHC_OWN_GEMM_SUMS
enum { LINES_AT_ONCE = 4 };
#else
enum { LINES_AT_ONCE = 0, PREFETCH_STEPS = 32 };
#endif

/* The upcoming rows that are left, and how many of their lines to prefetch at once. Zen 4, one thread, 16 query rows
 * per K/V head on 16,384 keys of f32: 58 % of the FMA peak with a burst of 4 KiB before each register block, which is
 * more than L2 has miss buffers for, so that products wait for memory; 76 % with the same lines every PREFETCH_STEPS;
 * 85 % with touch_ahead. */
typedef struct prefetcher {
    flashc_upcoming left[FLASHC_UPCOMING];
    int64_t byte[FLASHC_UPCOMING]; /* of the first row left */
    int64_t touch_ahead[FLASHC_UPCOMING]; /* bytes of whole rows, a page of memory or more */
    int64_t lines_at_once[FLASHC_UPCOMING];
    int64_t steps; /* of depth from one time to the next; INT32_MAX: once a register block */
} prefetcher;

/* Into L2, not L1: tiles fill that. A prefetch into L2 may be lost where the address is not translated yet (Zen 4); so
 * of each page of memory a line is prefetched into L1 before, which waits. */
V_INLINE void prefetch_some(prefetcher *p)
{
    for (int list = 0; list < FLASHC_UPCOMING; list++) {
        flashc_upcoming *left = &p->left[list];
        if (left->n_rows <= 0)
            continue;
        int64_t byte = p->byte[list];
        for (int64_t i = p->lines_at_once[list]; i > 0 && left->n_rows > 0; i--) {
            __builtin_prefetch(left->row + byte, 0, 2);
            byte += FLASHC_CACHE_LINE;
            if (byte >= left->row_bytes) {
                byte = 0;
                left->row += left->row_stride;
                left->n_rows--;
                const uintptr_t ahead = (uintptr_t)(left->row + p->touch_ahead[list]);
                if ((ahead ^ (ahead - (uintptr_t)left->row_stride)) / FLASHC_MEMORY_PAGE)
                    __builtin_prefetch((const void *)ahead, 0, 3);
            }
        }
        p->byte[list] = byte;
    }
}

/* For the register blocks of n_rows x lanes sums of this depth. */
static prefetcher prefetch_over(const flashc_upcoming *upcoming, int64_t n_rows, int64_t lanes, int64_t depth)
{
    const int64_t blocks = n_rows / GEMM_ROWS * flashc_ceil_div(lanes, GEMM_VECS * VL);
    prefetcher p;
    int64_t lines[FLASHC_UPCOMING], all_lines = 0;
    for (int list = 0; list < FLASHC_UPCOMING; list++) {
        const flashc_upcoming *rows = &upcoming[list];
        p.left[list] = *rows;
        p.byte[list] = 0;
        p.touch_ahead[list] = flashc_round_up(FLASHC_MEMORY_PAGE, flashc_max(1, rows->row_stride));
        lines[list] = rows->n_rows * flashc_ceil_div(rows->row_bytes, FLASHC_CACHE_LINE);
        all_lines += lines[list];
    }
    p.steps = all_lines <= LINES_AT_ONCE * blocks ? INT32_MAX : PREFETCH_STEPS;
    for (int list = 0; list < FLASHC_UPCOMING; list++)
        p.lines_at_once[list] = flashc_ceil_div(lines[list], flashc_max(1, blocks * flashc_ceil_div(depth, p.steps)));
    return p;
}

/*
 * A product of tiles, and where it goes: c[r][lane] = (mode) the sum over k < depth of
 *
 *     a[r*a_row + k*a_depth] * b[k*ldb + lane*GEMM_PER_LANE]
 *
 * Q K^T walks K along its rows, P V walks V across them.
 */
typedef struct gemm_product {
    int64_t depth;
    const gemm_element *a;
    int64_t a_row, a_depth;
    const gemm_element *b;
    int64_t ldb;
    float *c;
    int64_t ldc;
    const float *scale; /* as the mode has it: one of each lane, or one of all */
} gemm_product;

/* The product's rows from r on. */
V_INLINE gemm_product from_row(gemm_product p, int64_t r)
{
    p.a += r * p.a_row;
    p.c += r * p.ldc;
    return p;
}

/* Its lanes from `lane` on. */
V_INLINE gemm_product from_lane(gemm_product p, gemm_mode mode, int64_t lane)
{
    p.b += lane * GEMM_PER_LANE;
    p.c += lane;
    if (mode == GEMM_SCALE_ADD)
        p.scale += lane;
    return p;
}

/*
 * The first `rows` rows and `vecs` vectors of lanes; these two and the mode are compile-time constants after inlining.
 * The sum starts at zero and meets c only at the end: the rescale is one FMA there, and rounding chains stay short.
 */
V_INLINE void gemm_registers(int rows, int vecs, gemm_mode mode, gemm_product p, prefetcher *upcoming)
{
    vec sum[GEMM_ROWS][GEMM_VECS];
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < vecs; j++)
            sum[r][j] = v_set1(0.0f);
#ifdef FLASHC_OWN_GEMM_SUMS
    int64_t k = 0;
    do { /* once if PREFETCH_STEPS has no end: as a loop 7 % more instructions with NEON */
        prefetch_some(upcoming);
        gemm_sums(sum, rows, vecs, flashc_min(upcoming->steps, p.depth - k), p.a + k * p.a_depth, p.a_row, p.a_depth,
                  p.b + k * p.ldb, p.ldb);
        k += upcoming->steps;
    } while (PREFETCH_STEPS < INT32_MAX && k < p.depth);
#else
    for (int64_t k = 0; k < p.depth; k++) {
        if (k % PREFETCH_STEPS == 0) /* as a loop over pieces of depth, 16 % slower with one vector (gcc 12) */
            prefetch_some(upcoming);
        vec bk[GEMM_VECS];
        for (int j = 0; j < vecs; j++)
            bk[j] = v_load_elements(p.b + k * p.ldb + j * VL * GEMM_PER_LANE);
        for (int r = 0; r < rows; r++) {
            vec ar = v_broadcast(p.a + r * p.a_row + k * p.a_depth);
            for (int j = 0; j < vecs; j++)
                sum[r][j] = v_dot(ar, bk[j], sum[r][j]);
        }
    }
#endif
    for (int j = 0; j < vecs; j++) {
        const bool each_lane = mode == GEMM_SCALE_ADD, all_alike = mode == GEMM_SET_SCALED || mode == GEMM_ADD_SCALED;
        const vec factor = each_lane ? v_load(p.scale + j * VL) : v_set1(all_alike ? *p.scale : 1.0f);
        for (int r = 0; r < rows; r++) {
            float *cr = p.c + r * p.ldc + j * VL;
            if (mode == GEMM_ADD)
                sum[r][j] = v_add(v_load(cr), sum[r][j]);
            else if (mode == GEMM_SCALE_ADD)
                sum[r][j] = v_fma(v_load(cr), factor, sum[r][j]);
            else if (mode == GEMM_SET_SCALED)
                sum[r][j] = v_mul(sum[r][j], factor);
            else if (mode == GEMM_ADD_SCALED)
                sum[r][j] = v_fma(sum[r][j], factor, v_load(cr));
            v_store(cr, sum[r][j]);
        }
    }
}

/* All rows of one panel of `vecs` vectors. */
V_INLINE void gemm_panel(int vecs, gemm_mode mode, int64_t n_rows, gemm_product p, prefetcher *upcoming)
{
    int64_t r = 0;
    for (; r + GEMM_ROWS <= n_rows; r += GEMM_ROWS)
        gemm_registers(GEMM_ROWS, vecs, mode, from_row(p, r), upcoming);
    for (; r + 2 <= n_rows; r += 2)
        gemm_registers(2, vecs, mode, from_row(p, r), upcoming);
    if (r < n_rows)
        gemm_registers(1, vecs, mode, from_row(p, r), upcoming);
}

/* All n_rows x lanes sums: panels of GEMM_VECS vectors, then the rest. Every element is its own chain over depth, so
 * its bits do not depend on the panel it falls into. */
V_INLINE void gemm(gemm_mode mode, int64_t n_rows, int64_t lanes, gemm_product p, prefetcher *upcoming)
{
    for (int64_t lane = 0, vecs; lane < lanes; lane += vecs * VL) {
        const int64_t left = (lanes - lane) / VL;
        /* Four are two and two, not three and one: one alone would wait for its broadcasts. */
        const bool in_halves = GEMM_VECS == 3 && left == 4;
        vecs = left >= GEMM_VECS && !in_halves ? GEMM_VECS : left >= 2 ? 2 : 1;
        const gemm_product panel = from_lane(p, mode, lane);
        if (vecs == GEMM_VECS)
            gemm_panel(GEMM_VECS, mode, n_rows, panel, upcoming);
        else if (vecs == 2)
            gemm_panel(2, mode, n_rows, panel, upcoming);
        else
            gemm_panel(1, mode, n_rows, panel, upcoming);
    }
}

#endif
