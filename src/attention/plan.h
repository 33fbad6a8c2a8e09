/*
 * How a problem is cut into work: kernel, tiles, items, threads, scratch. A pure function of the
 * problem, the CPU, the OpenBLAS build and the thread limits; cuts depend on the shape alone, so the
 * bits of the result do not depend on the number of threads.
 *
 * Keys: where a sequence has few row blocks, its keys are cut into pieces at multiples of a fixed number of keys.
 * Each piece gives a partial state, and the states meet in a fixed binary tree over the piece index (see
 * flashc_softmax_tree_carries()). Pieces and tree depend on the shape of that sequence alone: neither on the batch
 * nor on threads. A run is an aligned span of pieces, one node of that tree, and the unit of work: how long
 * runs are depends on the threads, but not what the nodes hold. Pieces that no row of an item sees are not run;
 * the tree leaves out their place.
 */
#ifndef FLASHC_PLAN_H
#define FLASHC_PLAN_H

#include "attention/block.h"
#include "attention/passes.h"
#include "attention/problem.h"
#include "kernels/kernel.h"

/* Bound of plan.blocks_per_item. */
enum { FLASHC_MAX_BLOCKS_PER_ITEM = 8 };

/* No more pieces than this: beyond, pieces get longer. A thread's partial states stand in a stack as deep as the
 * tree, so that its scratch does not grow with seqlen. */
enum { FLASHC_MAX_PIECES = 1024, FLASHC_TREE_LEVELS = 11 }; /* the first a power of two */

/* Half of the smallest L2 that matters (1 MiB a core on Zen 4, 2 MiB on recent Xeons): qt and acc of an item
 * stay within it. */
enum { FLASHC_HALF_L2 = 512 * 1024 };

/* Each thread's scratch, as offsets in bytes into its slot. */
typedef struct flashc_scratch_layout {
    size_t qt, partials, scores, k_tile, v_tile, v_finite, gathered, k_rows, v_rows, k_scale, v_scale;
    size_t k_starts, v_starts, hidden, correction;
    size_t size; /* of a slot */
} flashc_scratch_layout;

typedef struct flashc_plan {
    const flashc_kernel_row *kernel;
    flashc_block_shape block;
    int64_t ld;              /* of tiles; see kernel.h */
    int64_t blocks_per_item; /* row blocks that share each loaded key tile */
    int64_t rows;            /* per (batch, K/V head): seqlen_q * group, the most that a sequence has */
    int64_t row_blocks;      /* of so many rows */
    bool prefetch_keys;      /* hint the next key tile to the GEMMs */
    int64_t row_items;       /* items per (batch, K/V head); a sequence's own may be fewer */
    int64_t longest_piece;   /* keys, over the sequences whose keys are cut; 0 if none are */
    int64_t run_pieces;      /* pieces of a run */
    int64_t runs;            /* per row item, at most: those that its keys reach into */
    int64_t num_items;       /* row_items * runs * batch * K/V heads */
    flashc_chunk_pass pass;  /* where keys go to a state: those that are taken now; runs is then the most of any pass */
    int num_threads;
    flashc_scratch_layout scratch;
    int64_t block_floats, partial_floats; /* a partial state of one row block, and of all of an item */
    size_t shared_partials;               /* offset in the workspace: the results of runs, if there are several */
    size_t shared_counts;                 /* offset in the workspace: an atomic_int per row item, then */
    size_t workspace_size;                /* that this call takes; see flashc_plan_workspace_bound() */
    double flops;
} flashc_plan;

/* Floats of a tile of one row block's scores or acc, with so many columns. */
static inline int64_t flashc_plan_tile_floats(const flashc_plan *plan, int64_t n_cols)
{
    return plan->kernel->vector->rows_along ? plan->block.block_m * plan->ld : n_cols * plan->ld;
}

/* The same of its queries. */
static inline int64_t flashc_plan_query_floats(const flashc_plan *plan, int64_t head_dim)
{
    return flashc_plan_tile_floats(plan, flashc_round_up(head_dim, plan->kernel->vector->col_multiple));
}

/* Keys of a piece of this sequence; not less than all of them if they are not cut. */
int64_t flashc_plan_piece_keys(const flashc_plan *plan, const flashc_problem *problem, const flashc_sequence *s);

/* Pieces begin .. end - 1 hold these keys. */
typedef struct flashc_piece_range {
    int64_t begin, end;
} flashc_piece_range;

static inline flashc_piece_range flashc_plan_pieces(flashc_key_range keys, int64_t piece_keys)
{
    if (keys.begin >= keys.end)
        return (flashc_piece_range){0, 0};
    return (flashc_piece_range){keys.begin / piece_keys, flashc_ceil_div(keys.end, piece_keys)};
}

/* FLASHC_ERR_UNSUPPORTED or _ARGUMENT if the named kernel does not fit, _MEMORY if the workspace is beyond
 * any address space. refused (may be NULL) takes one line per better kernel that was passed over. */
flashc_status flashc_plan_init(flashc_plan *plan, const flashc_problem *problem, char *refused, size_t refused_size);

/* *size: the most workspace that a call takes which is as this one but for its keys: no more than seqlen_k of each
 * sequence, wherever seqlens_k, leftpad_k and offsets put them; to a state, of a chunk, whatever came before it. It
 * does not fall with seqlen_k. Needs as flashc_plan_init() has it fall where more keys mean more pieces, and so items
 * of one row block, or where a window's pieces lie otherwise. FLASHC_ERR_MEMORY as there. */
flashc_status flashc_plan_workspace_bound(const flashc_plan *plan, const flashc_problem *problem, size_t *size);

#endif
