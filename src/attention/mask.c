#include "attention/mask.h"

#include <math.h>

int64_t flashc_mask_key_end(const flashc_problem *p, int64_t batch, int64_t query)
{
    if (!p->causal)
        return p->seqlen_k;
    int64_t end; /* position + 1 */
    if (__builtin_add_overflow(flashc_problem_offset(p, batch), query + 1, &end))
        return p->seqlen_k; /* query >= 0: only upwards */
    return flashc_max(0, flashc_min(end, p->seqlen_k));
}

void flashc_mask_resolve_block(const flashc_problem *p, flashc_row_block *block)
{
    block->key_full = flashc_mask_key_end(p, block->batch, flashc_row_query(p, block, 0));
    block->key_end = flashc_mask_key_end(p, block->batch, flashc_row_query(p, block, block->n_rows - 1));
}

static void load(const flashc_tensor *t, const flashc_problem *p, const flashc_row_block *block,
                 const flashc_vector_ops *vector, int64_t ld, int64_t first_key, int64_t n_keys, float *tile)
{
    const void *row[FLASHC_MAX_BLOCK_M];
    for (int64_t r = 0; r < block->n_rows; r++)
        row[r] =
            flashc_element(t, block->batch, flashc_row_head(p, block, r), flashc_row_query(p, block, r), first_key);
    const flashc_rows rows = {.row = row, .dtype = t->dtype, .col_stride = t->stride[3]};
    vector->load_rows(tile, ld, rows, block->n_rows, n_keys, 1.0f);
}

bool flashc_mask_load_bias(const flashc_problem *p, const flashc_row_block *block, const flashc_vector_ops *vector,
                           int64_t ld, int64_t first_key, int64_t n_keys, float *bias, float *scratch)
{
    const int64_t lanes = flashc_round_up(block->n_rows, vector->row_multiple);
    load(p->bias.data ? &p->bias : &p->mask, p, block, vector, ld, first_key, n_keys, bias);
    if (p->bias.data && p->mask.data) {
        load(&p->mask, p, block, vector, ld, first_key, n_keys, scratch);
        vector->add_bias(bias, scratch, ld, n_keys, lanes);
    }
    const int64_t row_step = flashc_row_step(vector, ld), key_step = flashc_col_step(vector, ld);
    for (int64_t key = 0; key < n_keys; key++)
        for (int64_t r = 0; r < block->n_rows; r++)
            if (bias[r * row_step + key * key_step] != -INFINITY)
                return true;
    return false;
}

void flashc_mask_hide_by_position(const flashc_problem *p, const flashc_row_block *block,
                                  const flashc_vector_ops *vector, int64_t ld, int64_t lanes, int64_t first_key,
                                  int64_t n_keys, float *scores)
{
    if (first_key + n_keys <= block->key_full)
        return;
    int32_t first[FLASHC_MAX_BLOCK_M] = {0}, last[FLASHC_MAX_BLOCK_M] = {0};
    /* Keys before key_full are visible to all rows: only the others are walked. */
    const int64_t skip = flashc_max(0, block->key_full - first_key);
    for (int64_t r = 0; r < block->n_rows; r++) {
        int64_t end = flashc_mask_key_end(p, block->batch, flashc_row_query(p, block, r)) - first_key - skip;
        last[r] = (int32_t)flashc_max(0, flashc_min(end, n_keys));
    }
    vector->hide(scores + skip * flashc_col_step(vector, ld), ld, n_keys - skip, lanes, first, last);
}
