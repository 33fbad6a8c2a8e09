/*
 * Rows of K and V as decode's products walk them: where their columns lie, and prefetches some rows ahead of those
 * being multiplied.
 *
 * What mattered (16,384 keys of 8 heads, f32, one Zen 5 core; without any 8 ms): bursts of 2 KiB between steps of four
 * keys, in order of address, from one instruction in one loop (3.4 ms for the loops alone; the same lines by two, eight
 * or 32 instructions in turn 4.1 to 5.0; by 8 KiB, or line by line between the loads, 3.9 to 4.6), 8 to 12 KiB ahead
 * into L1 (4 KiB 4.5 ms; a whole tile ahead, which only fits in L2, 4.9). Tiles of other sizes made no difference, huge
 * pages 8 %. In bf16 P V in steps of 8 keys reads 41 GB/s, of 4 keys 36; prefetching K and V in turn costs 14 % of
 * either alone.
 *
 * In pages of a cache this alone took 1.7 times as long (16 rows of 8 KiB, in random order): the hardware fetches along
 * a run of rows only after some lines of it, and not over its end, and each run waited for that and for its address to
 * be translated. So the first KiB of each run, and of each page of memory in it, is prefetched twice as far ahead: see
 * find_starts(), and prefetch_starts() below; then 1.25 times (a loop of reads alone: from 25 to 36 GB/s, of 44 in one
 * array). Distances from 4 to 64 KiB, two to four runs in turn, every second line, other instructions: none of these
 * alone came under 1.5, nor did huge pages. (Zen 4: a loop that only reads gets 16.5 to 18 GB/s from such runs, 23 to
 * 27 from one array: 1.4 to 1.5 times.)
 *
 * On Zen 4 rows are prefetched into L2. A prefetch into L1 holds one of 24 miss buffers there until memory has
 * answered (24 x 64 bytes in 115 ns are 13 GB/s: what one thread reached, in f32 and in bf16 alike); into L2 it does
 * not. But that one is lost where the address is not translated yet, so a line of each page of memory is prefetched
 * into L1 twice as far ahead, which waits. Two Zen 4 cores, f32 and bf16: 22 and 17 GB/s into L1, 30 and 20 into L2,
 * 41 and 30 with the pages; the same prefetches one by one between the loads 38 and 27; loads in place of prefetches
 * no better than L1.
 *
 * The hardware's own prefetchers read faster still there (one thread 31 GB/s; prefetches into L2 alone 20, for want of
 * misses in flight), but follow a loop through memory, not four rows in turn. So a line each of the rows about to be
 * multiplied is loaded first, see load_lines(): with the prefetches into L2, and only where memory is what takes the
 * time, see loads_lines(). One thread, 16,384 keys of 8 heads, f32 with four rows 5.9 to 5.3 ms; of 32 heads with one
 * row, f32 24.7 to 21.6, bf16 13.1 to 11.2; products of bf16 with four rows 2.85 to 2.65. Prefetches of every second
 * line beside it, which are the best for a loop of loads alone (30 GB/s), take up to twice as long here: the hardware
 * stops while the products take their time.
 *
 * Zen 3 (one thread, AVX2): f32 with four rows into L1 16.3 ms, into L2 14.8, with the loads 12.8; of 32 heads with one
 * row of bf16 25.8 and 23.3, with two of f16 of 16 heads 7.4 and 6.6.
 */
#ifndef FLASHC_DECODE_ROWS_H
#define FLASHC_DECODE_ROWS_H

#include "cpu.h"
#include "kernels/f32_copy.h"
#include "kernels/kernel.h"
#include "kernels/tile_gemm.h"

/* Columns of a row that a vector of products takes. */
enum { COLUMNS = VL * GEMM_PER_LANE };

/* Where a column lies, of Q8_0 the block that has it. Beside a variable address the compiler wants constant indices. */
V_INLINE const char *at_column(flashc_dtype dtype, const void *row, int64_t column)
{
    return (const char *)row + column / flashc_dtype_columns(dtype) * (int64_t)flashc_element_size(dtype);
}

/* An address that the compiler does not take apart: it would add the column to a row's address in a register for each
 * vector of a row, more than there are. */
V_INLINE const char *opaque(const char *address)
{
    __asm__("" : "+r"(address));
    return address;
}

/*
 * How far ahead to prefetch: bytes that stay in L1, and take longer to multiply than memory to answer. Into L2 also
 * longer than an address takes to be translated, for which touch_page() asks as far ahead again: Zen 4, AVX2, f32, two
 * threads 5.5 ms at 8 KiB, 4.1 at 16, 3.6 at 24, 4.3 at 32, 4.7 at 64.
 *
 * Touching where row pointers (twice as far ahead, which pages of a cache need) enter a page of memory instead of by
 * address: f32 in pages of 16 rows 10 % less time, all else 3 % more.
 */
enum { AHEAD_IN_L1 = 8192, AHEAD_IN_L2 = 24576 };

/* The same in rows. */
V_INLINE int64_t rows_ahead(int64_t row_bytes, bool into_l2)
{
    return flashc_min((into_l2 ? AHEAD_IN_L2 : AHEAD_IN_L1) / flashc_max(1, row_bytes), FLASHC_ROWS_AHEAD);
}

/* Into L1, or into L2: see prefetches_into_l2(). */
V_INLINE void prefetch_bytes(const char *first, int64_t n, bool into_l2)
{
    if (into_l2)
        for (int64_t byte = 0; byte < n; byte += FLASHC_CACHE_LINE)
            __builtin_prefetch(first + byte, 0, 2);
    else
        for (int64_t byte = 0; byte < n; byte += FLASHC_CACHE_LINE)
            __builtin_prefetch(first + byte, 0, 3);
}

/* Where a page of memory begins in these bytes, one AHEAD_IN_L2 on is translated: prefetches go there soon. */
V_INLINE void touch_page(const char *first, int64_t n)
{
    const uintptr_t address = (uintptr_t)first;
    if ((int64_t)(address % FLASHC_MEMORY_PAGE) < n)
        __builtin_prefetch((const char *)(address + AHEAD_IN_L2), 0, 3);
}

/* On AMD's CPUs before Zen 5 (measured on Zen 3 and 4). Four rows of q8_0 take longer to multiply than prefetches into
 * L1 wait for each other: 4.4 ms, into L2 4.8. */
V_INLINE bool prefetches_into_l2(flashc_dtype dtype, int64_t n_rows)
{
    const int family = flashc_cpu_amd_family();
    return family > 0 && family < FLASHC_AMD_ZEN_5 && (dtype != FLASHC_Q8_0 || n_rows < 4);
}

/* Whether load_lines() pays: not where products take longer than memory does. Then it costs time: f16 with four rows
 * 5 %, int8 and q8_0 1 to 4 % at any number of rows. In f32 it is 7 to 12 % less time with eight rows still. */
V_INLINE bool loads_lines(flashc_dtype dtype, int64_t n_rows, bool into_l2)
{
    const int64_t rows = dtype == FLASHC_F32 ? 8 : dtype == FLASHC_F16 || dtype == FLASHC_BF16 ? 2 : 0;
    return into_l2 && n_rows <= rows * GEMM_PER_LANE;
}

/* One load of each line, row by row, from one instruction. Rows that look like one run of memory need not be one (pages
 * of a cache), so none are taken as such: what is loaded, unlike what is prefetched, must be theirs. */
V_INLINE void load_lines(int64_t n, const void *const *row, int64_t row_bytes)
{
    for (int64_t i = 0; i < n; i++)
        for (int64_t byte = 0; byte < row_bytes; byte += FLASHC_CACHE_LINE)
            (void)*((const volatile char *)row[i] + byte);
}

/* Rows that are one run of memory, in one loop: its instruction is then seen to go through memory evenly. */
V_INLINE void prefetch_rows(int64_t n, const void *const *row, int64_t row_bytes, bool into_l2)
{
    const char *first = row[0], *last = row[n - 1];
    if (last - first == (n - 1) * row_bytes) {
        if (into_l2)
            touch_page(first, n * row_bytes);
        prefetch_bytes(first, n * row_bytes, into_l2);
    } else {
        for (int64_t i = 0; i < n; i++)
            prefetch_bytes(row[i], row_bytes, into_l2);
    }
}

/* Of a tile's starts from `next` on those due before a row; returns the first that is not. Not inlined, and called when
 * no sums are in registers: the loops around it are compiled as they were (in each step of them: 5 to 10 % more time
 * for all caches, pages or not). */
static __attribute__((noinline)) const flashc_start *prefetch_starts(const flashc_start *next, int64_t row,
                                                                    bool into_l2)
{
    for (; next->row < row; next++)
        prefetch_bytes(next->first, next->n, into_l2);
    return next;
}

/* Where in a row a strip of vectors begins: strips are of whole blocks, or divide one. */
V_INLINE int64_t column_in_block(int vecs, flashc_dtype dtype, int64_t column)
{
    return vecs * VL % flashc_dtype_columns(dtype) ? column % flashc_dtype_columns(dtype) : 0;
}

/* Keys of V whose rows are multiplied strip by strip: they stay in L1 meanwhile (16 KiB of f32 at head_dim 128), and
 * O, which each strip adds to, is loaded and stored once for them (Zen 4, 16 keys: 3 to 5 % slower). And as many at a
 * time, between prefetches. */
enum { PV_KEYS = 32, PV_STEP = 8 };

/* Rows that are to be prefetched meanwhile, some at each step. */
typedef struct row_prefetcher {
    const void *const *row;
    int64_t left, per_step, row_bytes;
    bool into_l2, loads; /* see prefetches_into_l2(), loads_lines() */
} row_prefetcher;

V_INLINE void prefetch_step_rows(row_prefetcher *p)
{
    const int64_t n = flashc_min(p->per_step, p->left);
    if (n > 0)
        prefetch_rows(n, p->row, p->row_bytes, p->into_l2);
    p->row += n;
    p->left -= n;
}

#endif
