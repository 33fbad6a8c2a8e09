#include "attention/scratch.h"

#include "attention/kv_tiles.h"

static size_t take(size_t *size, int64_t count, size_t element_size)
{
    size_t offset = *size;
    *size += (size_t)flashc_round_up(count * (int64_t)element_size, FLASHC_ALIGNMENT);
    return offset;
}

void flashc_scratch_lay_out(flashc_plan *plan, const flashc_problem *p)
{
    flashc_scratch_layout *s = &plan->scratch;
    const int64_t m = plan->block.block_m, n = plan->block.block_n;
    const int64_t tile = flashc_plan_tile_floats(plan, n);
    const flashc_operand *k = &plan->kernel->gemm->k, *v = &plan->kernel->gemm->v;
    *s = (flashc_scratch_layout){.size = 0};
    s->qt = take(&s->size, plan->blocks_per_item * flashc_plan_query_floats(plan, p->head_dim), sizeof(float));
    const int64_t levels = plan->longest_piece > 0 ? FLASHC_TREE_LEVELS : 1;
    s->partials = take(&s->size, plan->partial_floats * levels, sizeof(float));
    s->scores = take(&s->size, tile, sizeof(float));
    const bool k_in_place = flashc_kv_in_place(&p->k, k, p->head_dim);
    s->k_tile = take(&s->size, k_in_place ? 0 : flashc_kv_copy_floats(k, n, p->head_dim), sizeof(float));
    s->v_tile = take(&s->size, flashc_kv_copy_floats(v, n, p->head_dim_v), sizeof(float));
    /* The careful pass's rows of f32: where a copy of V lies, unless it packs them into that. */
    s->v_finite = v->pack ? take(&s->size, flashc_kv_copy_floats(v, n, p->head_dim_v), sizeof(float)) : s->v_tile;
    s->gathered = take(&s->size, flashc_max(flashc_kv_gathered_bytes(&p->k, k, n, p->head_dim),
                                            flashc_kv_gathered_bytes(&p->v, v, n, p->head_dim_v)), 1);
    s->k_rows = take(&s->size, flashc_kv_row_pointers(k, n), sizeof(void *));
    s->v_rows = take(&s->size, flashc_kv_row_pointers(v, n), sizeof(void *));
    s->k_scale = take(&s->size, flashc_kv_scales(&p->k, n), sizeof(float));
    s->v_scale = take(&s->size, flashc_kv_scales(&p->v, n), sizeof(float));
    s->k_starts = take(&s->size, flashc_kv_starts(&p->k, k), sizeof(flashc_start));
    s->v_starts = take(&s->size, flashc_kv_starts(&p->v, v), sizeof(flashc_start));
    s->hidden = take(&s->size, tile, sizeof(uint8_t));
    s->correction = take(&s->size, m, sizeof(float));
}

flashc_status flashc_scratch_size_workspace(flashc_plan *plan, int64_t split_items, int64_t most_runs)
{
    const size_t partials = (size_t)(split_items * most_runs), counts = (size_t)split_items * sizeof(int);
    size_t shared;
    if (__builtin_mul_overflow(plan->scratch.size, (size_t)plan->num_threads, &plan->shared_partials) ||
        __builtin_mul_overflow((size_t)plan->partial_floats * sizeof(float), partials, &shared) ||
        __builtin_add_overflow(plan->shared_partials, shared, &plan->shared_counts) ||
        __builtin_add_overflow(plan->shared_counts, (size_t)flashc_round_up((int64_t)counts, FLASHC_ALIGNMENT),
                               &plan->workspace_size) ||
        /* No allocation can be larger, and a caller may round the size up. */
        plan->workspace_size > PTRDIFF_MAX)
        return flashc_fail(FLASHC_ERR_MEMORY,
                           "workspace: %d threads with %zu bytes each are more than any machine can address",
                           plan->num_threads, plan->scratch.size);
    return FLASHC_OK;
}
