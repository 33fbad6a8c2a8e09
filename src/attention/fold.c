#include "attention/fold.h"

#include "softmax/state.h"

flashc_softmax_state flashc_fold_block(const flashc_plan *plan, int64_t head_dim_v, float *partial, int64_t i,
                                       int64_t n_rows)
{
    const flashc_vector_ops *vector = plan->kernel->vector;
    const int64_t m = flashc_round_up(plan->block.block_m, FLASHC_COLUMN_MULTIPLE);
    float *block = partial + i * plan->block_floats;
    return (flashc_softmax_state){
        .rows = n_rows,
        .head_dim_v = head_dim_v,
        .row_max = block,
        .row_sum = block + m,
        .acc = block + 2 * m,
        .acc_row_stride = flashc_row_step(vector, plan->ld),
        .acc_col_stride = flashc_col_step(vector, plan->ld),
    };
}

static void merge(const flashc_fold *fold, float *into, float *from)
{
    const int64_t m = fold->plan->block.block_m;
    for (int64_t i = 0; i * m < fold->n_rows; i++) {
        const int64_t rows = flashc_min(m, fold->n_rows - i * m);
        const flashc_softmax_state a = flashc_fold_block(fold->plan, fold->head_dim_v, into, i, rows);
        const flashc_softmax_state b = flashc_fold_block(fold->plan, fold->head_dim_v, from, i, rows);
        flashc_state_merge(&a, &b);
    }
}

static float *node(const flashc_fold *fold, int64_t i)
{
    return fold->stack + i * fold->plan->partial_floats;
}

static void merge_top(flashc_fold *fold)
{
    merge(fold, node(fold, fold->open - 2), node(fold, fold->open - 1));
    fold->open--;
}

float *flashc_fold_next(const flashc_fold *fold)
{
    return node(fold, fold->open);
}

void flashc_fold_add(flashc_fold *fold)
{
    fold->open++;
    /* Nodes to the left of the first piece are not there: its own then stand for what they would be merged to. */
    for (int carries = flashc_softmax_tree_carries(fold->next_piece++); carries > 0 && fold->open > 1; carries--)
        merge_top(fold);
}

float *flashc_fold_finish(flashc_fold *fold)
{
    while (fold->open > 1)
        merge_top(fold);
    return fold->stack;
}

void flashc_fold_runs(const flashc_fold *fold, float *partials, int64_t first, int64_t n)
{
    const int64_t floats = fold->plan->partial_floats;
    for (int64_t step = 1; step < first + n; step *= 2)
        for (int64_t left = first / (2 * step) * (2 * step); left + step < first + n; left += 2 * step) {
            const int64_t into = flashc_max(left, first) - first, from = left + step - first;
            if (from > into) /* else there is nothing on the left */
                merge(fold, partials + into * floats, partials + from * floats);
        }
}
