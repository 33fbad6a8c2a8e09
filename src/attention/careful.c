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

void flashc_careful_note_hidden(const float *scores, int64_t count, uint8_t *hidden)
{
    for (int64_t i = 0; i < count; i++)
        hidden[i] = scores[i] == -INFINITY;
}

/* P may have underflowed to 0 where a row sees the element; the element itself is added, since 0 times infinity
 * would be NaN. */
void flashc_careful_add(const flashc_softmax_state *state, const flashc_cache_rows *rows, int64_t sequence,
                        int64_t head, int64_t first_key, int64_t n_keys, const float *copy, int64_t copy_ld,
                        const uint8_t *hidden, int64_t row_step, int64_t key_step)
{
    const flashc_tensor *tensor = &rows->tensor;
    for (int64_t key = 0; key < n_keys; key++) {
        const char *row = flashc_cache_row(rows, sequence, head, first_key + key);
        const float scale = rows->scale.data ? *flashc_cache_scale(rows, sequence, head, first_key + key) : 1.0f;
        for (int64_t d = 0; d < state->head_dim_v; d++) {
            if (copy[key * copy_ld + d] != 0.0f)
                continue;
            float x = flashc_load_f32(row, tensor->dtype, d * tensor->stride[3]);
            if (isfinite(x))
                continue;
            x *= scale;
            for (int64_t r = 0; r < state->rows; r++)
                if (!hidden[r * row_step + key * key_step])
                    state->acc[r * state->acc_row_stride + d * state->acc_col_stride] += x;
        }
    }
}
