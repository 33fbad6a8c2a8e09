#include "attention/mask.h"

#include "numerics.h"

#include <math.h>
#include <string.h>

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

/* Walks the rows of a block: its queries, and the heads of the group for each. No division a row. */
typedef struct walk {
    int64_t query, member;
} walk;

static walk first_of(const flashc_problem *p, const flashc_row_block *block)
{
    return (walk){.query = block->first_row / p->group, .member = block->first_row % p->group};
}

/* Where the keys from first_key on of this row begin in a mask or bias; then steps to the next row. */
static const char *next_row(walk *w, const flashc_problem *p, const flashc_row_block *block, const flashc_tensor *t,
                            int64_t first_key)
{
    const char *row =
        flashc_element(t, block->batch, block->head_k * p->group + w->member, w->query, first_key);
    if (++w->member == p->group)
        *w = (walk){.query = w->query + 1};
    return row;
}

static bool hides(const flashc_tensor *t, const char *row, int64_t index)
{
    return t->dtype == FLASHC_BOOL ? row[index] == 0 : flashc_load_f32(row, t->dtype, index) == -INFINITY;
}

static bool row_hides_all(const flashc_tensor *t, const char *row, int64_t n_keys)
{
    if (!hides(t, row, 0))
        return false;
    const int64_t stride = t->stride[3];
    if (stride == 1) { /* one bit pattern of each type hides: are all elements like their neighbours? */
        const size_t size = flashc_dtype_size(t->dtype);
        return memcmp(row, row + size, (size_t)(n_keys - 1) * size) == 0;
    }
    for (int64_t key = 1; key < n_keys; key++)
        if (!hides(t, row, key * stride))
            return false;
    return true;
}

static bool hides_tile(const flashc_tensor *t, const flashc_problem *p, const flashc_row_block *block,
                       int64_t first_key, int64_t n_keys)
{
    if (!t->data)
        return false;
    walk w = first_of(p, block);
    const char *before = NULL;
    for (int64_t r = 0; r < block->n_rows; r++) {
        const char *row = next_row(&w, p, block, t, first_key);
        if (row != before && !row_hides_all(t, row, n_keys))
            return false;
        before = row;
    }
    return true;
}

bool flashc_mask_hides_tile(const flashc_problem *p, const flashc_row_block *block, int64_t first_key, int64_t n_keys)
{
    return hides_tile(&p->mask, p, block, first_key, n_keys) || hides_tile(&p->bias, p, block, first_key, n_keys);
}

static void add(const flashc_tensor *t, const flashc_problem *p, const flashc_row_block *block,
                const flashc_vector_ops *vector, int64_t ld, int64_t first_key, int64_t n_keys, float *scores)
{
    if (!t->data)
        return;
    const void *row[FLASHC_MAX_BLOCK_M];
    walk w = first_of(p, block);
    for (int64_t r = 0; r < block->n_rows; r++)
        row[r] = next_row(&w, p, block, t, first_key);
    const flashc_rows rows = {.row = row, .dtype = t->dtype, .col_stride = t->stride[3]};
    vector->add_rows(scores, ld, rows, block->n_rows, n_keys);
}

void flashc_mask_add(const flashc_problem *p, const flashc_row_block *block, const flashc_vector_ops *vector,
                     int64_t ld, int64_t first_key, int64_t n_keys, float *scores)
{
    add(&p->bias, p, block, vector, ld, first_key, n_keys, scores);
    add(&p->mask, p, block, vector, ld, first_key, n_keys, scores);
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
