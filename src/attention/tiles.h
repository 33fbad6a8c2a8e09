/* An item's key tiles, one after the other, each against all row blocks that see it. */
#ifndef FLASHC_TILES_H
#define FLASHC_TILES_H

#include "attention/block.h"
#include "attention/fold.h"
#include "attention/kv_tiles.h"
#include "attention/span.h"

/* The thread that an item runs on. */
typedef struct flashc_worker {
    char *workspace;
    int slot;                          /* of the workspace, the worker's own */
    bool (*keep_going)(void *context); /* asked between key tiles; false ends the item */
    void *context;
} flashc_worker;

/* The item's scratch and geometry in one place. */
typedef struct flashc_item {
    const flashc_problem *p;
    const flashc_plan *plan;
    const flashc_vector_ops *vector;
    const flashc_worker *worker;
    int64_t index; /* of num_items */
    flashc_span span;
    const flashc_row_block *blocks; /* span.n_blocks */
    flashc_span next; /* of the item that this thread will likely take next; without row blocks if there is none */
    bool careful;
    float *partials; /* the fold's stack */
    float *partial;  /* the state that this piece is made in */
    flashc_tile_scratch k_scratch, v_scratch;
    float *qt, *scores, *v_finite, *correction;
    uint8_t *hidden;
} flashc_item;

/* The item's parts in the worker's slot of the workspace, without a span or blocks. */
flashc_item flashc_tiles_open(const flashc_problem *problem, const flashc_plan *plan, const flashc_worker *worker);

/* The block's queries into qt, as the kernel takes them. */
void flashc_tiles_load_queries(const flashc_item *it, const flashc_row_block *block);

/* All rows of the block that the kernel may touch, of it->partial. */
static inline flashc_softmax_state flashc_tiles_state(const flashc_item *it, const flashc_row_block *block)
{
    return flashc_fold_block(it->plan, it->p->head_dim_v, it->partial, block->index, it->plan->block.block_m);
}

static inline float *flashc_tiles_queries(const flashc_item *it, const flashc_row_block *block)
{
    return it->qt + block->index * flashc_plan_query_floats(it->plan, it->p->head_dim);
}

/* it->scores for these keys. */
static inline flashc_score_tile flashc_tiles_scores(const flashc_item *it, const flashc_row_block *block,
                                                    int64_t first_key, int64_t n_keys)
{
    return (flashc_score_tile){.block = block,
                               .vector = it->vector,
                               .scores = it->scores,
                               .ld = it->plan->ld,
                               .lanes = flashc_round_up(block->n_rows, it->vector->row_multiple),
                               .first_key = first_key,
                               .n_keys = n_keys};
}

/* Q K^T of the tile's rows and k, its keys, in natural units. */
void flashc_tiles_multiply(const flashc_item *it, const flashc_score_tile *tile, flashc_kv_tile k);

/* The scores as softmax takes them: the same through all stages, hidden keys being -inf. */
void flashc_tiles_score(const flashc_item *it, const flashc_score_tile *tile, flashc_kv_tile k);

/* The key tiles begin .. end of an item whose keys go on until run_end. Returns false if told to end. */
bool flashc_tiles_run(const flashc_item *it, int64_t begin, int64_t end, int64_t run_end);

#endif
