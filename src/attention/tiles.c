#include "attention/tiles.h"

#include "attention/careful.h"
#include "attention/mask.h"
#include "attention/stages.h"
#include "attention/upcoming.h"

flashc_item flashc_tiles_open(const flashc_problem *p, const flashc_plan *plan, const flashc_worker *worker)
{
    const flashc_scratch_layout *s = &plan->scratch;
    char *slot = worker->workspace + (size_t)worker->slot * s->size;
    return (flashc_item){
        .p = p,
        .plan = plan,
        .vector = plan->kernel->vector,
        .worker = worker,
        .partials = (float *)(void *)(slot + s->partials),
        .qt = (float *)(void *)(slot + s->qt),
        .scores = (float *)(void *)(slot + s->scores),
        .k_scratch = {.copy = (float *)(void *)(slot + s->k_tile),
                      .gathered = slot + s->gathered,
                      .row = (const void **)(void *)(slot + s->k_rows),
                      .start = (flashc_start *)(void *)(slot + s->k_starts),
                      .scale = (float *)(void *)(slot + s->k_scale)},
        .v_scratch = {.copy = (float *)(void *)(slot + s->v_tile),
                      .gathered = slot + s->gathered,
                      .row = (const void **)(void *)(slot + s->v_rows),
                      .start = (flashc_start *)(void *)(slot + s->v_starts),
                      .scale = (float *)(void *)(slot + s->v_scale)},
        .v_finite = (float *)(void *)(slot + s->v_finite),
        .hidden = (uint8_t *)(slot + s->hidden),
        .correction = (float *)(void *)(slot + s->correction),
    };
}

void flashc_tiles_load_queries(const flashc_item *it, const flashc_row_block *block)
{
    const flashc_problem *p = it->p;
    const void *row[FLASHC_MAX_BLOCK_M];
    for (int64_t r = 0; r < block->n_rows; r++)
        row[r] = flashc_row_element(p, block, &p->q, r);
    const flashc_rows rows = {.row = row, .dtype = p->q.dtype, .col_stride = p->q.stride[3]};
    it->vector->load_rows(flashc_tiles_queries(it, block), it->plan->ld, rows, block->n_rows, p->head_dim,
                          it->plan->kernel->gemm->scales_scores ? 1.0f : p->softmax_scale);
}

/* Floats from a row of v_finite to the next. */
static int64_t finite_v_ld(const flashc_item *it)
{
    return flashc_round_up(it->p->head_dim_v, it->plan->kernel->gemm->v.col_multiple);
}

void flashc_tiles_multiply(const flashc_item *it, const flashc_score_tile *tile, flashc_kv_tile k)
{
    const flashc_problem *p = it->p;
    const flashc_gemm_ops *gemm = it->plan->kernel->gemm;
    gemm->qk(tile->scores, k, flashc_tiles_queries(it, tile->block), tile->ld, tile->n_keys, tile->lanes, p->head_dim,
             gemm->scales_scores ? p->softmax_scale : 1.0f);
    if (k.scale)
        tile->vector->scale_keys(tile->scores, tile->ld, tile->n_keys, tile->lanes, k.scale);
}

void flashc_tiles_score(const flashc_item *it, const flashc_score_tile *tile, flashc_kv_tile k)
{
    flashc_tiles_multiply(it, tile, k);
    flashc_stages_run(it->p, tile, it->hidden);
    flashc_mask_hide(it->p, tile);
}

/* One key tile against one row block. */
static void run_tile(const flashc_item *it, const flashc_score_tile *tile, flashc_kv_tile k, flashc_kv_tile v,
                     bool v_has_non_finite)
{
    const flashc_problem *p = it->p;
    const flashc_vector_ops *vector = tile->vector;
    const int64_t ld = tile->ld, n_keys = tile->n_keys, lanes = tile->lanes;
    const flashc_softmax_state state = flashc_tiles_state(it, tile->block);

    if (flashc_mask_hides_tile(p, tile))
        return;
    flashc_tiles_score(it, tile, k);
    if (v_has_non_finite)
        flashc_careful_note_hidden(tile, it->hidden);
    vector->softmax(tile->scores, ld, n_keys, lanes, state.row_max, state.row_sum, it->correction);
    if (v.scale)
        vector->scale_keys(tile->scores, ld, n_keys, lanes, v.scale);
    if (p->head_dim_v > 0)
        it->plan->kernel->gemm->pv(state.acc, v, tile->scores, ld, n_keys, lanes, p->head_dim_v, it->correction);
    if (v_has_non_finite) {
        flashc_softmax_state rows = state;
        rows.rows = tile->block->n_rows;
        flashc_careful_add(&rows, &p->v, tile, it->v_finite, finite_v_ld(it), it->hidden);
    }
}

/* Hints at a row block's last key tile: where it will be stored, and what the next item reads first. */
static void name_next(const flashc_item *it, const flashc_row_block *block, flashc_upcoming *k, flashc_upcoming *v)
{
    const flashc_problem *p = it->p;
    const flashc_span *next = &it->next;
    const int64_t m = it->plan->block.block_m, block_n = it->plan->block.block_n;
    const int64_t i = block->index, parts = it->span.n_blocks;
    v[0] = flashc_upcoming_rows(p, &p->o, p->head_dim_v, &block->sequence, it->span.head_k, block->first_row,
                                block->n_rows);
    if (next->n_blocks == 0)
        return;
    k[0] = flashc_upcoming_rows(p, &p->q, p->head_dim, &next->sequence, next->head_k, (next->first_block + i) * m, m);
    if (next->head_k != it->span.head_k || next->batch != it->span.batch) {
        const int64_t first = next->keys.begin, n = flashc_min(block_n, next->keys.end - first);
        k[1] = flashc_upcoming_keys(&p->k, next, first, n, p->head_dim, i, parts);
        v[1] = flashc_upcoming_keys(&p->v, next, first, n, p->head_dim_v, i, parts);
    }
}

/* Hints for a row block at this key tile, `left` keys from the end; see upcoming.h. */
static void name_upcoming(const flashc_item *it, const flashc_score_tile *tile, int64_t left, flashc_kv_tile *k,
                          flashc_kv_tile *v)
{
    const flashc_row_block *block = tile->block;
    const flashc_problem *p = it->p;
    const int64_t block_n = it->plan->block.block_n;
    for (int list = 0; list < FLASHC_UPCOMING; list++)
        k->upcoming[list] = v->upcoming[list] = (flashc_upcoming){.row = NULL};
    if (k->row) /* decode: knows the rows to come, and reads nothing else of size */
        return;
    if (block->keys.end <= tile->first_key + block_n) {
        name_next(it, block, k->upcoming, v->upcoming);
    } else if (it->plan->prefetch_keys) {
        const int64_t first = tile->first_key + block_n, n = flashc_min(block_n, left);
        const int64_t i = block->index, parts = it->span.n_blocks;
        k->upcoming[0] = flashc_upcoming_keys(&p->k, &it->span, first, n, p->head_dim, i, parts);
        v->upcoming[0] = flashc_upcoming_keys(&p->v, &it->span, first, n, p->head_dim_v, i, parts);
    }
    const flashc_upcoming bias = flashc_upcoming_bias(p, block, tile->first_key,
                                                      flashc_min(block_n, block->keys.end - tile->first_key));
    if (bias.n_rows > 0)
        k->upcoming[0] = bias; /* needed before the next keys, and harder to foresee */
}

/* A tile of V: of the careful pass with 0 in place of NaN and infinity, see careful.h. Its scales multiply P; but where
 * V is packed P may be of fewer bits, and they multiply the rows on their way. */
static flashc_kv_tile load_v(const flashc_item *it, const flashc_tile_rows *rows, bool *has_non_finite)
{
    const flashc_problem *p = it->p;
    const flashc_kernel_row *kernel = it->plan->kernel;
    const flashc_operand *operand = &kernel->gemm->v;
    const float *scale = flashc_kv_load_scales(&p->v, rows, &it->v_scratch);
    const bool scale_rows = scale && operand->pack;
    flashc_kv_tile v;
    *has_non_finite = false;
    if (it->careful || scale_rows) {
        const int64_t ld = finite_v_ld(it);
        flashc_kv_load_f32(&p->v, kernel, rows, p->head_dim_v, it->v_finite, ld);
        if (it->careful)
            *has_non_finite = flashc_careful_clear(it->v_finite, rows->n, p->head_dim_v, ld);
        for (int64_t i = 0; i < rows->n * ld && scale_rows; i++)
            it->v_finite[i] *= scale[i / ld];
        const flashc_tile tile = {.data = it->v_finite, .dtype = FLASHC_F32, .row_stride = ld, .col_stride = 1};
        v = operand->pack ? operand->pack(it->v_scratch.copy, tile, rows->n, p->head_dim_v)
                          : flashc_kv_copied(operand, it->v_finite, rows->n, ld, &it->v_scratch);
    } else {
        v = flashc_kv_load(&p->v, kernel, operand, rows, p->head_dim_v, &it->v_scratch);
    }
    v.scale = scale_rows ? NULL : scale;
    return v;
}

static bool any_block_reaches(const flashc_item *it, int64_t key, int64_t n_keys)
{
    for (int64_t i = 0; i < it->span.n_blocks; i++)
        if (flashc_mask_reaches(it->p, &it->blocks[i], key, n_keys))
            return true;
    return false;
}

bool flashc_tiles_run(const flashc_item *it, int64_t begin, int64_t end, int64_t run_end)
{
    const flashc_problem *p = it->p;
    const flashc_kernel_row *kernel = it->plan->kernel;
    const int64_t block_n = it->plan->block.block_n;
    for (int64_t key = begin; key < end; key += block_n) {
        if (!it->worker->keep_going(it->worker->context))
            return false;
        const int64_t n_keys = flashc_min(block_n, end - key);
        if (p->block_mask.data && !any_block_reaches(it, key, n_keys))
            continue;
        const flashc_tile_rows rows = {.sequence = it->span.sequence.k_element,
                                       .head = it->span.head_k,
                                       .first = it->span.sequence.first_key + key,
                                       .n = n_keys,
                                       .next = flashc_min(n_keys, run_end - key - n_keys)};
        flashc_kv_tile k =
            flashc_kv_load(&p->k, kernel, &kernel->gemm->k, &rows, p->head_dim, &it->k_scratch);
        k.scale = flashc_kv_load_scales(&p->k, &rows, &it->k_scratch);
        bool v_has_non_finite;
        flashc_kv_tile v = load_v(it, &rows, &v_has_non_finite);
        for (int64_t i = 0; i < it->span.n_blocks; i++) {
            const flashc_row_block *block = &it->blocks[i];
            if (!flashc_mask_reaches(p, block, key, n_keys))
                continue;
            const flashc_score_tile tile =
                flashc_tiles_scores(it, block, key, flashc_min(n_keys, block->keys.end - key));
            name_upcoming(it, &tile, run_end - key - block_n, &k, &v);
            run_tile(it, &tile, k, v, v_has_non_finite);
        }
    }
    return true;
}
