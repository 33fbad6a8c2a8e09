#include "attention/careful.h"

#include "numerics.h"

#include <math.h>

bool flashc_careful_clear(float *copy, int64_t n_keys, int64_t n_cols, int64_t ld)
{
    bool found = false;
    for (int64_t key = 0; key < n_keys; key++)
        for (int64_t d = 0; d < n_cols; d++)
            if (!isfinite(copy[key * ld + d])) {
                found = true;
                copy[key * ld + d] = 0.0f;
            }
    return found;
}

void flashc_careful_note_hidden(const flashc_score_tile *tile, uint8_t *hidden)
{
    const float *scores = tile->scores;
    const int64_t count = flashc_score_tile_floats(tile);
    for (int64_t i = 0; i < count; i++)
        hidden[i] = scores[i] == -INFINITY;
}

/* Adds x to column d of the rows that see the tile's key. */
static void add_to_column(const flashc_softmax_state *state, const flashc_score_tile *tile, const uint8_t *hidden,
                          int64_t key, int64_t d, float x)
{
    const int64_t row_step = flashc_row_step(tile->vector, tile->ld);
    const uint8_t *hidden_key = hidden + key * flashc_col_step(tile->vector, tile->ld);
    for (int64_t r = 0; r < state->rows; r++)
        if (!hidden_key[r * row_step])
            state->acc[r * state->acc_row_stride + d * state->acc_col_stride] += x;
}

/* P may have underflowed to 0 where a row sees the element; the element itself is added, since 0 times infinity
 * would be NaN. */
void flashc_careful_add(const flashc_softmax_state *state, const flashc_cache_rows *v, const flashc_score_tile *tile,
                        const float *copy, int64_t copy_ld, const uint8_t *hidden)
{
    const int64_t sequence = tile->block->sequence.k_element, head = tile->block->head_k;
    const int64_t first_row = tile->block->sequence.first_key + tile->first_key;
    for (int64_t key = 0; key < tile->n_keys; key++) {
        const char *row = flashc_cache_row(v, sequence, head, first_row + key);
        const float scale = v->scale.data ? *flashc_cache_scale(v, sequence, head, first_row + key) : 1.0f;
        for (int64_t d = 0; d < state->head_dim_v; d++) {
            if (copy[key * copy_ld + d] != 0.0f)
                continue;
            const float x = flashc_load_f32(row, v->tensor.dtype, d * v->tensor.stride[3]);
            if (!isfinite(x))
                add_to_column(state, tile, hidden, key, d, x * scale);
        }
    }
}
