#include "attention/stages.h"

#include "attention/careful.h"
#include "attention/mask.h"

#include <math.h>

/* A row's distances in double: one rounding a score. */
static void add_far_alibi(const flashc_score_tile *tile, int64_t row, float slope, double distance)
{
    float *s = tile->scores + row * flashc_row_step(tile->vector, tile->ld);
    const int64_t step = flashc_col_step(tile->vector, tile->ld);
    for (int64_t key = 0; key < tile->n_keys; key++)
        s[key * step] = (float)((double)s[key * step] - (double)slope * fabs(distance - (double)key));
}

/* Distances below 2^24 are exact in f32, so also in the kernels, which subtract a key's place in the tile from that of
 * the tile's first key; of larger ones both would be rounded. Doubles hold the difference of an offset beyond 2^53 and
 * a key well enough. */
static void add_alibi(const flashc_problem *p, const flashc_score_tile *tile)
{
    enum { EXACT = (1 << 24) - (1 << 10) }; /* of the first key: no tile is longer than what is left */
    const flashc_row_block *block = tile->block;
    const float *slopes = p->alibi_slopes + block->batch * p->alibi_batch_stride;
    float slope[FLASHC_MAX_BLOCK_M] = {0}, distance[FLASHC_MAX_BLOCK_M] = {0};
    for (int64_t r = 0; r < block->n_rows; r++) {
        const float of_head = slopes[flashc_row_head(p, block, r)];
        const double first =
            (double)block->sequence.offset + (double)(flashc_row_query(p, block, r) - tile->first_key);
        if (fabs(first) > EXACT) {
            add_far_alibi(tile, r, of_head, first); /* and 0 for the kernel */
        } else {
            slope[r] = of_head;
            distance[r] = (float)first;
        }
    }
    tile->vector->alibi(tile->scores, tile->ld, tile->n_keys, tile->lanes, slope, distance);
}

/* One call for each head that has rows in the block: their queries follow one another, `group` rows apart. */
static void call_score_mod(const flashc_problem *p, const flashc_score_tile *tile)
{
    const flashc_row_block *block = tile->block;
    const int64_t row_step = flashc_row_step(tile->vector, tile->ld);
    for (int64_t row = 0; row < flashc_min(p->group, block->n_rows); row++) {
        const int64_t query = flashc_row_query(p, block, row);
        flashc_score_block part = {
            .scores = tile->scores + row * row_step,
            .query_stride = p->group * row_step,
            .key_stride = flashc_col_step(tile->vector, tile->ld),
            .batch = block->batch,
            .head = flashc_row_head(p, block, row),
            .first_query = query,
            .n_queries = flashc_ceil_div(block->n_rows - row, p->group),
            .first_key = tile->first_key,
            .n_keys = tile->n_keys,
        };
        if (__builtin_add_overflow(block->sequence.offset, query, &part.first_position))
            part.first_position = INT64_MAX; /* query >= 0: only upwards */
        p->score_mod(p->score_mod_user_data, &part);
    }
}

/* What is -inf before score_mod stays so, whatever it writes. */
static void run_score_mod(const flashc_problem *p, const flashc_score_tile *tile, uint8_t *noted)
{
    flashc_careful_note_hidden(tile, noted);
    call_score_mod(p, tile);
    const int64_t count = flashc_score_tile_floats(tile);
    for (int64_t i = 0; i < count; i++)
        tile->scores[i] = noted[i] ? -INFINITY : tile->scores[i];
}

void flashc_stages_run(const flashc_problem *p, const flashc_score_tile *tile, uint8_t *noted)
{
    if (p->softcap > 0.0f)
        tile->vector->softcap(tile->scores, tile->ld, tile->n_keys, tile->lanes, p->softcap);
    if (p->bias.data)
        flashc_mask_add(p, &p->bias, tile);
    if (p->alibi_slopes)
        add_alibi(p, tile);
    if (p->score_mod)
        run_score_mod(p, tile, noted);
}

void flashc_stages_finish_row(const flashc_problem *p, int64_t head, float row_max, float row_sum, float *factor,
                              float *lse, float *max_out)
{
    *factor = row_sum == 0.0f ? 0.0f : 1.0f / row_sum; /* 0: no visible key; NaN stays */
    const float sink = p->sinks ? p->sinks[head] : -INFINITY;
    double max = (double)row_max, sum = (double)row_sum;
    if (sink != -INFINITY && row_sum != 0.0f) {
        max = row_max > sink ? max : (double)sink;
        const double weight = exp((double)row_max - max);
        sum = sum * weight + exp((double)sink - max);
        *factor = (float)(weight / sum);
    }
    if (lse)
        *lse = row_sum == 0.0f ? sink : (float)(max + log(sum));
    if (max_out)
        *max_out = isnan(row_sum) ? NAN : row_max;
}
