/* An item's key tiles, one after the other, each against all row blocks that see it. */
#ifndef FLASHC_TILES_H
#define FLASHC_TILES_H

#include "attention/cache.h"
#include "attention/fold.h"
#include "attention/mask.h"
#include "attention/span.h"

/* Asked between key tiles; false ends the item. */
typedef bool (*flashc_keep_going_fn)(void *context);

/* The item's scratch and geometry in one place. */
typedef struct flashc_item {
    const flashc_problem *p;
    const flashc_plan *plan;
    const flashc_vector_ops *vector;
    flashc_span span;
    flashc_span next; /* of the item that this thread will likely take next; without row blocks if there is none */
    bool careful;
    float *partial; /* the state that this piece is made in */
    flashc_tile_scratch k_scratch, v_scratch;
    float *qt, *scores, *v_finite, *correction;
    uint8_t *hidden;
} flashc_item;

/* The item's parts in a thread's slot of the workspace, without a span. */
flashc_item flashc_tiles_open(const flashc_problem *problem, const flashc_plan *plan, char *slot);

/* Row block i's queries into qt, as the kernel takes them. */
void flashc_tiles_load_queries(const flashc_item *it, int64_t i, const flashc_row_block *block);

/* All rows of row block i that the kernel may touch, of it->partial. */
static inline flashc_softmax_state flashc_tiles_state(const flashc_item *it, int64_t i)
{
    return flashc_fold_block(it->plan, it->p->head_dim_v, it->partial, i, it->plan->block.block_m);
}

static inline float *flashc_tiles_queries(const flashc_item *it, int64_t i)
{
    return it->qt + i * flashc_plan_query_floats(it->plan, it->p->head_dim);
}

/* Q K^T of row block i and a key tile into it->scores, in natural units. */
void flashc_tiles_multiply(const flashc_item *it, int64_t i, const flashc_row_block *block, flashc_kv_tile k,
                           int64_t n_keys);

/* The scores as softmax takes them: the same through all stages, hidden keys being -inf. */
void flashc_tiles_score(const flashc_item *it, int64_t i, const flashc_row_block *block, flashc_kv_tile k,
                        int64_t first_key, int64_t n_keys);

/* The key tiles begin .. end of an item whose keys go on until run_end. Returns false if told to end. */
bool flashc_tiles_run(const flashc_item *it, const flashc_row_block *blocks, int64_t begin, int64_t end,
                      int64_t run_end, flashc_keep_going_fn keep_going, void *context);

#endif
