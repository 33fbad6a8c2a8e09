#include "attention/score_outputs.h"

#include "attention/mask.h"
#include "numerics.h"

#include <math.h>

int64_t flashc_score_outputs_items(const flashc_problem *p, const flashc_plan *plan)
{
    const bool has_scores = p->scores.data && p->seqlen_q > 0;
    if (p->num_heads == 0 || (!has_scores && !p->key_mass.data))
        return 0;
    /* Of no keys one tile too: it fills what is no key. */
    return p->batch * p->num_heads_k * flashc_max(1, flashc_ceil_div(p->seqlen_k, plan->block.block_n));
}

static float *mass_of(const flashc_problem *p, const flashc_sequence *s, int64_t head, int64_t key)
{
    return (float *)(void *)flashc_element(&p->key_mass, s->k_element, head, s->first_key + key, 0);
}

static void fill_row(const flashc_problem *p, const flashc_sequence *s, int64_t head, int64_t query, int64_t begin,
                     int64_t end)
{
    const float nothing = p->scores_stage == FLASHC_SCORES_WEIGHTS ? 0.0f : -INFINITY;
    char *row = flashc_element(&p->scores, s->q_element, head, s->first_query + query, 0);
    for (int64_t column = begin; column < end; column++)
        flashc_store_f32(row, p->scores.dtype, column * p->scores.stride[3], nothing);
}

/* Rows and columns that are no queries and no keys of the sequence, as far as they are no others'. (Where the keys
 * alone are packed, a row of scores is of one sequence, and the other sequences' columns are nobody's.) */
static void fill_padding(const flashc_problem *p, const flashc_sequence *s, int64_t batch, int64_t head)
{
    const int64_t first = p->cu_seqlens_k ? p->cu_seqlens_k[batch] : 0;
    const int64_t last = p->cu_seqlens_k ? p->cu_seqlens_k[batch + 1] : p->seqlen_k;
    const bool whole_rows = p->cu_seqlens_k && !p->cu_seqlens_q;
    const int64_t first_score = whole_rows ? 0 : first, last_score = whole_rows ? p->cu_seqlens_k[p->batch] : last;
    const int64_t rows = p->cu_seqlens_q ? s->n_queries : p->seqlen_q;
    const int64_t begin = flashc_min(last, s->first_key + s->begin_key); /* a chunk may have padding alone */
    const int64_t end = flashc_min(last, s->first_key + s->n_keys);
    for (int64_t query = 0; p->scores.data && query < rows; query++) {
        const bool padding = query >= s->n_queries;
        fill_row(p, s, head, query, first_score, padding ? last_score : begin);
        fill_row(p, s, head, query, padding ? last_score : end, last_score);
    }
    for (int64_t column = first; p->key_mass.data && column < last; column++)
        if (column < begin || column >= end)
            *mass_of(p, s, head, column - s->first_key) = 0.0f;
}

/* The scores of a tile at a stage before the masks. */
static void make_early_scores(const flashc_item *it, const flashc_score_tile *tile, flashc_kv_tile k)
{
    const flashc_problem *p = it->p;
    flashc_tiles_multiply(it, tile, k);
    if (p->scores_stage == FLASHC_SCORES_CAPPED && p->softcap > 0.0f)
        tile->vector->softcap(tile->scores, tile->ld, tile->n_keys, tile->lanes, p->softcap);
}

/* A tile's row and key. */
static float *score_at(const flashc_score_tile *tile, int64_t row, int64_t key)
{
    return &tile->scores[row * flashc_row_step(tile->vector, tile->ld) + key * flashc_col_step(tile->vector, tile->ld)];
}

/* exp(score - LSE): what softmax makes of scores that have LSE for their max so far. */
static void make_weights(const flashc_problem *p, const flashc_score_tile *tile)
{
    const flashc_row_block *block = tile->block;
    float lse[FLASHC_MAX_BLOCK_M];
    _Alignas(FLASHC_ALIGNMENT) float max[FLASHC_MAX_BLOCK_M], sum[FLASHC_MAX_BLOCK_M], unused[FLASHC_MAX_BLOCK_M];
    for (int64_t r = 0; r < tile->lanes; r++) {
        lse[r] = r < block->n_rows ? *(float *)(void *)flashc_row_element(p, block, &p->lse, r) : 0.0f;
        max[r] = lse[r];
        sum[r] = 0.0f;
        for (int64_t key = 0; isnan(lse[r]) && key < tile->n_keys; key++) {
            float *score = score_at(tile, r, key);
            if (*score != -INFINITY)
                *score = NAN; /* the row is, wherever it sees a key */
        }
        if (isnan(lse[r]))
            max[r] = 0.0f;
    }
    /* Not rounded. */
    const flashc_vector_ops *f32 = tile->vector->groups_weights ? &flashc_f32_generic.vector : tile->vector;
    f32->softmax(tile->scores, tile->ld, tile->n_keys, tile->lanes, max, sum, unused);
}

static void add_mass(const flashc_problem *p, const flashc_score_tile *tile)
{
    const flashc_row_block *block = tile->block;
    for (int64_t member = 0; member < flashc_min(p->group, block->n_rows); member++)
        for (int64_t key = 0; key < tile->n_keys; key++) {
            float sum = 0.0f;
            for (int64_t r = member; r < block->n_rows; r += p->group)
                sum += *score_at(tile, r, key);
            *mass_of(p, &block->sequence, flashc_row_head(p, block, member), tile->first_key + key) += sum;
        }
}

static void store_scores(const flashc_problem *p, const flashc_score_tile *tile)
{
    const flashc_row_block *block = tile->block;
    void *row[FLASHC_MAX_BLOCK_M];
    float one[FLASHC_MAX_BLOCK_M];
    for (int64_t r = 0; r < block->n_rows; r++) {
        row[r] = flashc_element(&p->scores, block->sequence.q_element, flashc_row_head(p, block, r),
                                block->sequence.first_query + flashc_row_query(p, block, r),
                                block->sequence.first_key + tile->first_key);
        one[r] = 1.0f;
    }
    tile->vector->store_rows(row, p->scores.dtype, p->scores.stride[3], tile->scores, tile->ld, block->n_rows,
                             tile->n_keys, one);
}

/* The tile's place in scores, where no row sees any of its keys. */
static void fill_hidden(const flashc_problem *p, const flashc_score_tile *tile)
{
    const flashc_row_block *block = tile->block;
    const int64_t begin = block->sequence.first_key + tile->first_key;
    for (int64_t r = 0; r < block->n_rows; r++)
        fill_row(p, &block->sequence, flashc_row_head(p, block, r), flashc_row_query(p, block, r), begin,
                 begin + tile->n_keys);
}

static void run_tile(const flashc_item *it, const flashc_score_tile *tile, flashc_kv_tile k)
{
    const flashc_problem *p = it->p;
    const flashc_score_stage stage = p->scores_stage;
    const bool wants_scores = p->scores.data != NULL, before_masks = wants_scores && stage < FLASHC_SCORES_MASKED;
    flashc_tiles_load_queries(it, tile->block);
    if (before_masks) {
        make_early_scores(it, tile, k);
        store_scores(p, tile);
    }
    if (!flashc_mask_reaches(p, tile->block, tile->first_key, tile->n_keys)) {
        if (wants_scores && !before_masks)
            fill_hidden(p, tile);
        return;
    }
    if (before_masks && !p->key_mass.data)
        return;
    flashc_tiles_score(it, tile, k);
    if (wants_scores && stage == FLASHC_SCORES_MASKED)
        store_scores(p, tile);
    if (!p->key_mass.data && stage != FLASHC_SCORES_WEIGHTS)
        return;
    make_weights(p, tile);
    if (wants_scores && stage == FLASHC_SCORES_WEIGHTS)
        store_scores(p, tile);
    if (p->key_mass.data)
        add_mass(p, tile);
}

void flashc_score_outputs_run(const flashc_problem *p, const flashc_plan *plan, int64_t index,
                              const flashc_worker *worker)
{
    const int64_t block_n = plan->block.block_n, m = plan->block.block_m;
    const int64_t tiles = flashc_max(1, flashc_ceil_div(p->seqlen_k, block_n)), head_index = index / tiles;
    const int64_t batch = head_index / p->num_heads_k, head_k = head_index % p->num_heads_k;
    const flashc_item it = flashc_tiles_open(p, plan, worker);
    const flashc_sequence s = flashc_problem_sequence(p, batch);
    const int64_t first_key = s.begin_key + index % tiles * block_n;
    const int64_t n_keys = flashc_min(block_n, s.n_keys - first_key);
    for (int64_t head = head_k * p->group; head < (head_k + 1) * p->group; head++) {
        if (index % tiles == 0)
            fill_padding(p, &s, batch, head);
        for (int64_t key = 0; p->key_mass.data && key < n_keys; key++)
            *mass_of(p, &s, head, first_key + key) = 0.0f;
    }
    if (n_keys <= 0)
        return;
    const flashc_tile_rows rows = {
        .sequence = s.k_element, .head = head_k, .first = s.first_key + first_key, .n = n_keys};
    const flashc_operand *operand = &plan->kernel->gemm->k;
    flashc_kv_tile k = flashc_kv_load(&p->k, plan->kernel, operand, &rows, p->head_dim, &it.k_scratch);
    k.scale = flashc_kv_load_scales(&p->k, &rows, &it.k_scratch);
    const int64_t rows_end = s.n_queries * p->group;
    for (int64_t first_row = 0; first_row < rows_end && worker->keep_going(worker->context); first_row += m) {
        flashc_row_block block = {.batch = batch,
                                  .head_k = head_k,
                                  .sequence = s,
                                  .first_row = first_row,
                                  .n_rows = flashc_min(m, rows_end - first_row)};
        flashc_mask_resolve_block(p, &block);
        const flashc_score_tile tile = flashc_tiles_scores(&it, &block, first_key, n_keys);
        run_tile(&it, &tile, k);
    }
}
