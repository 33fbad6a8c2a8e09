/*
 * The way of one item: for each key tile, load it once, then for each row block that can see it
 *     Q K^T -> mask and bias -> online softmax -> P V,
 * and at the end divide by the row sums and store.
 *
 * Hidden keys have P = 0, and 0 times a finite V adds nothing; but 0 times NaN or infinity is NaN. Rather
 * than guard every tile, the item runs straight through and looks at the finished acc: if that is finite,
 * no non-finite V ever met it. Otherwise the item runs again with care: non-finite elements of V are
 * replaced by 0 in a copy of the tile and added afterwards to just those rows that see them. Rows that do
 * not see them get the same bits as if they had been finite.
 */
#include "attention/item.h"

#include "attention/cache.h"
#include "attention/mask.h"
#include "attention/upcoming.h"
#include "numerics.h"

#include <math.h>
#include <string.h>

/* The item's scratch and geometry in one place. */
typedef struct item {
    const flashc_problem *p;
    const flashc_plan *plan;
    const flashc_vector_ops *vector;
    int64_t batch, head_k, first_row, n_blocks;
    int64_t likely_next_row; /* first row of the item that this thread takes next, if it is of this head; or < 0 */
    bool careful;
    float *qt, *acc, *scores, *bias, *bias_scratch, *k_tile, *v_tile, *row_max, *row_sum, *correction;
    uint8_t *hidden;
} item;

static item open_item(const flashc_problem *p, const flashc_plan *plan, int64_t index, char *slot)
{
    const flashc_scratch_layout *s = &plan->scratch;
    /* Head by head, so that one head's K and V stay in L2 for all its items; within a head the last rows
     * first: under causal they see the most keys, and the list should end with short items. */
    const int64_t head = index / plan->row_items, row_item = plan->row_items - 1 - index % plan->row_items;
    const int64_t first_block = row_item * plan->blocks_per_item;
    return (item){
        .p = p,
        .plan = plan,
        .vector = plan->kernel->vector,
        .batch = head / p->num_heads_k,
        .head_k = head % p->num_heads_k,
        .first_row = first_block * plan->block.block_m,
        .n_blocks = flashc_min(plan->blocks_per_item, plan->row_blocks - first_block),
        .likely_next_row = (first_block - plan->num_threads * plan->blocks_per_item) * plan->block.block_m,
        .qt = (float *)(void *)(slot + s->qt),
        .acc = (float *)(void *)(slot + s->acc),
        .scores = (float *)(void *)(slot + s->scores),
        .bias = (float *)(void *)(slot + s->bias),
        .bias_scratch = (float *)(void *)(slot + s->bias_scratch),
        .k_tile = (float *)(void *)(slot + s->k_tile),
        .v_tile = (float *)(void *)(slot + s->v_tile),
        .hidden = (uint8_t *)(slot + s->hidden),
        .row_max = (float *)(void *)(slot + s->row_max),
        .row_sum = (float *)(void *)(slot + s->row_sum),
        .correction = (float *)(void *)(slot + s->correction),
    };
}

static flashc_row_block row_block(const item *it, int64_t i)
{
    const int64_t m = it->plan->block.block_m;
    flashc_row_block block = {.batch = it->batch, .head_k = it->head_k, .first_row = it->first_row + i * m};
    block.n_rows = flashc_min(m, it->plan->rows - block.first_row);
    flashc_mask_resolve_block(it->p, &block);
    return block;
}

/* The state of row block i, in the lanes-across layout. */
static flashc_softmax_state block_state(const item *it, int64_t i)
{
    const int64_t m = it->plan->block.block_m;
    return (flashc_softmax_state){
        .rows = m,
        .head_dim_v = it->p->head_dim_v,
        .row_max = it->row_max + i * m,
        .row_sum = it->row_sum + i * m,
        .acc = it->acc + i * m * it->p->head_dim_v,
        .acc_row_stride = 1,
        .acc_col_stride = m,
    };
}

static void start_block(const item *it, int64_t i, const flashc_row_block *block)
{
    const flashc_problem *p = it->p;
    const int64_t m = it->plan->block.block_m;
    const void *row[FLASHC_MAX_BLOCK_M];
    for (int64_t r = 0; r < block->n_rows; r++)
        row[r] = flashc_element(&p->q, block->batch, flashc_row_head(p, block, r), flashc_row_query(p, block, r), 0);
    const flashc_rows rows = {.row = row, .dtype = p->q.dtype, .col_stride = p->q.stride[3]};
    it->vector->load_transposed(it->qt + i * m * p->head_dim, m, rows, block->n_rows, p->head_dim, p->softmax_scale);
    const flashc_softmax_state state = block_state(it, i);
    for (int64_t r = 0; r < m; r++) {
        state.row_max[r] = -INFINITY;
        state.row_sum[r] = 0.0f;
    }
    memset(state.acc, 0, (size_t)(m * p->head_dim_v) * sizeof(float));
}

/* Replaces NaN and infinity in a copy of the V tile by 0; returns whether there were any. */
static bool copy_finite(const item *it, flashc_f32_tile v, int64_t n_keys)
{
    const int64_t dv = it->p->head_dim_v;
    bool found = false;
    for (int64_t key = 0; key < n_keys; key++)
        for (int64_t d = 0; d < dv; d++) {
            const float x = v.data[key * v.ld + d];
            found = found || !isfinite(x);
            it->v_tile[key * dv + d] = isfinite(x) ? x : 0.0f;
        }
    return found;
}

static void note_hidden(const item *it, int64_t n_keys, int64_t lanes)
{
    const int64_t m = it->plan->block.block_m;
    for (int64_t key = 0; key < n_keys; key++)
        for (int64_t r = 0; r < lanes; r++)
            it->hidden[key * m + r] = it->scores[key * m + r] == -INFINITY;
}

/* Adds the elements that copy_finite() left out to the rows that see them. P may have underflowed to 0
 * there; the element itself is added, since 0 times infinity would be NaN. */
static void add_non_finite(const item *it, const flashc_softmax_state *state, const flashc_tensor *tensor,
                           int64_t first_key, int64_t n_keys, int64_t n_rows)
{
    const int64_t m = it->plan->block.block_m;
    const float *const v = it->v_tile;
    for (int64_t key = 0; key < n_keys; key++)
        for (int64_t d = 0; d < state->head_dim_v; d++) {
            if (v[key * state->head_dim_v + d] != 0.0f)
                continue;
            const void *source = flashc_element(tensor, it->batch, it->head_k, first_key + key, d);
            const float x = flashc_load_f32(source, tensor->dtype, 0);
            if (isfinite(x))
                continue;
            for (int64_t r = 0; r < n_rows; r++)
                if (!it->hidden[key * m + r])
                    state->acc[d * m + r] += x;
        }
}

/* One key tile against one row block. */
static void run_tile(const item *it, int64_t i, const flashc_row_block *block, flashc_f32_tile k, flashc_f32_tile v,
                     int64_t first_key, int64_t n_keys, bool v_has_non_finite)
{
    const flashc_problem *p = it->p;
    const flashc_vector_ops *vector = it->vector;
    const flashc_gemm_ops *gemm = it->plan->kernel->gemm;
    const int64_t m = it->plan->block.block_m;
    const int64_t lanes = flashc_round_up(block->n_rows, vector->vector_length);
    const flashc_softmax_state state = block_state(it, i);

    const bool has_bias = flashc_mask_has_bias(p);
    if (has_bias &&
        !flashc_mask_load_bias(p, block, vector, m, first_key, n_keys, it->bias, it->bias_scratch))
        return;
    gemm->qk(it->scores, k, it->qt + i * m * p->head_dim, m, n_keys, lanes, p->head_dim);
    if (has_bias)
        vector->add_bias(it->scores, it->bias, m, n_keys, lanes);
    flashc_mask_hide_by_position(p, block, vector, m, lanes, first_key, n_keys, it->scores);
    if (v_has_non_finite)
        note_hidden(it, n_keys, lanes);
    vector->softmax(it->scores, m, n_keys, lanes, state.row_max, state.row_sum, it->correction);
    if (p->head_dim_v > 0)
        gemm->pv(state.acc, v, it->scores, m, n_keys, lanes, p->head_dim_v, it->correction);
    if (v_has_non_finite)
        add_non_finite(it, &state, &p->v, first_key, n_keys, block->n_rows);
}

/* Hints for row block i at this key tile, `left` keys from the end; see upcoming.h. */
static void name_upcoming(const item *it, int64_t i, const flashc_row_block *block, int64_t key, int64_t left,
                          flashc_f32_tile *k, flashc_f32_tile *v)
{
    const flashc_problem *p = it->p;
    const int64_t block_n = it->plan->block.block_n, m = it->plan->block.block_m;
    k->upcoming = v->upcoming = (flashc_upcoming){.row = NULL};
    if (block->key_end <= key + block_n) {
        k->upcoming =
            flashc_upcoming_rows(p, &p->q, p->head_dim, it->batch, it->head_k, it->likely_next_row + i * m, m);
        v->upcoming =
            flashc_upcoming_rows(p, &p->o, p->head_dim_v, it->batch, it->head_k, block->first_row, block->n_rows);
    } else if (left > 0 && it->plan->prefetch_keys && !it->careful) { /* with care, V is a copy of one tile */
        k->upcoming = flashc_upcoming_keys(*k, block_n, left, p->head_dim, i, it->n_blocks);
        v->upcoming = flashc_upcoming_keys(*v, block_n, left, p->head_dim_v, i, it->n_blocks);
    }
}

/* All key tiles. Returns false if told to end. */
static bool run_keys(const item *it, const flashc_row_block *blocks, flashc_keep_going_fn keep_going, void *context)
{
    const flashc_problem *p = it->p;
    const int64_t block_n = it->plan->block.block_n;
    int64_t key_end = 0;
    for (int64_t i = 0; i < it->n_blocks; i++)
        key_end = flashc_max(key_end, blocks[i].key_end);
    for (int64_t key = 0; key < key_end; key += block_n) {
        if (!keep_going(context))
            return false;
        const int64_t n_keys = flashc_min(block_n, key_end - key);
        flashc_f32_tile k =
            flashc_cache_load(&p->k, it->vector, it->batch, it->head_k, key, n_keys, p->head_dim, it->k_tile);
        flashc_f32_tile v =
            flashc_cache_load(&p->v, it->vector, it->batch, it->head_k, key, n_keys, p->head_dim_v, it->v_tile);
        bool v_has_non_finite = false;
        if (it->careful) {
            v_has_non_finite = copy_finite(it, v, n_keys);
            v = (flashc_f32_tile){.data = it->v_tile, .ld = p->head_dim_v};
        }
        for (int64_t i = 0; i < it->n_blocks; i++)
            if (blocks[i].key_end > key) {
                name_upcoming(it, i, &blocks[i], key, key_end - key - block_n, &k, &v);
                run_tile(it, i, &blocks[i], k, v, key, flashc_min(n_keys, blocks[i].key_end - key), v_has_non_finite);
            }
    }
    return true;
}

static void store_block(const item *it, int64_t i, const flashc_row_block *block)
{
    const flashc_problem *p = it->p;
    const int64_t m = it->plan->block.block_m;
    const flashc_softmax_state state = block_state(it, i);
    void *row[FLASHC_MAX_BLOCK_M];
    float factor[FLASHC_MAX_BLOCK_M] = {0};
    for (int64_t r = 0; r < block->n_rows; r++) {
        const int64_t head = flashc_row_head(p, block, r), query = flashc_row_query(p, block, r);
        const float sum = state.row_sum[r];
        row[r] = flashc_element(&p->o, block->batch, head, query, 0);
        factor[r] = sum == 0.0f ? 0.0f : 1.0f / sum; /* 0: no visible key; NaN stays */
        if (p->lse.data)
            *(float *)(void *)flashc_element(&p->lse, block->batch, head, query, 0) =
                sum == 0.0f ? -INFINITY : (float)((double)state.row_max[r] + log((double)sum));
    }
    it->vector->store_transposed(row, p->o.dtype, p->o.stride[3], state.acc, m, block->n_rows, p->head_dim_v, factor);
}

void flashc_item_run(const flashc_problem *problem, const flashc_plan *plan, int64_t index, char *slot,
                     flashc_keep_going_fn keep_going, void *context)
{
    item it = open_item(problem, plan, index, slot);
    flashc_row_block blocks[FLASHC_MAX_BLOCKS_PER_ITEM];
    for (int64_t i = 0; i < it.n_blocks; i++)
        blocks[i] = row_block(&it, i);

    for (;;) {
        for (int64_t i = 0; i < it.n_blocks; i++)
            start_block(&it, i, &blocks[i]);
        if (!run_keys(&it, blocks, keep_going, context))
            return;
        bool finite = true;
        for (int64_t i = 0; i < it.n_blocks; i++)
            finite = finite && it.vector->all_finite(block_state(&it, i).acc, plan->block.block_m, blocks[i].n_rows,
                                                     problem->head_dim_v);
        if (finite || it.careful)
            break;
        it.careful = true;
    }
    for (int64_t i = 0; i < it.n_blocks; i++)
        store_block(&it, i, &blocks[i]);
}
