/*
 * How a problem is cut into work: kernel, tiles, items, threads, scratch. A pure function of the
 * problem, the CPU, the OpenBLAS build and the thread limits; cuts depend on the shape alone, so the
 * bits of the result do not depend on the number of threads.
 */
#ifndef FLASHC_PLAN_H
#define FLASHC_PLAN_H

#include "attention/problem.h"
#include "kernels/kernel.h"

/* Bound of plan.blocks_per_item. */
enum { FLASHC_MAX_BLOCKS_PER_ITEM = 8 };

/* Half of the smallest L2 that matters (1 MiB a core on Zen 4, 2 MiB on recent Xeons): qt and acc of an item
 * stay within it. */
enum { FLASHC_HALF_L2 = 512 * 1024 };

/* Each thread's scratch, as offsets in bytes into its slot. */
typedef struct flashc_scratch_layout {
    size_t qt, acc, scores, bias, bias_scratch, k_tile, v_tile, hidden, row_max, row_sum, correction;
    size_t size; /* of a slot */
} flashc_scratch_layout;

typedef struct flashc_plan {
    const flashc_kernel_row *kernel;
    flashc_block_shape block;
    int64_t blocks_per_item; /* row blocks that share each loaded key tile */
    int64_t rows;            /* per (batch, K/V head): seqlen_q * group */
    int64_t row_blocks;      /* per (batch, K/V head) */
    bool prefetch_keys;      /* hint the next key tile to the GEMMs */
    int64_t row_items;       /* items per (batch, K/V head) */
    int64_t num_items;
    int num_threads;
    flashc_scratch_layout scratch;
    size_t workspace_size;
    double flops;
} flashc_plan;

/* FLASHC_ERR_UNSUPPORTED or _ARGUMENT if the named kernel does not fit, _MEMORY if the workspace is beyond
 * any address space. refused (may be NULL) takes one line per better kernel that was passed over. */
flashc_status flashc_plan_init(flashc_plan *plan, const flashc_problem *problem, char *refused, size_t refused_size);

#endif
