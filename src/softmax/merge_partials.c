#include "cpu.h"
#include "softmax/check.h"
#include "softmax/state.h"

#include <inttypes.h>
#include <stdio.h>

/* Columns of O that go through the tree together. Columns do not depend on each other, so a row is
 * taken in such blocks and the stack of open nodes stays small whatever head_dim_v is. */
#define BLOCK 16

/* A binary counter over at most 2^63 - 1 parts has at most 63 open nodes, and one that arrives. */
#define MAX_NODES 64

typedef struct tree_stack {
    int n_nodes;
    float row_max[MAX_NODES], row_sum[MAX_NODES];
    float acc[MAX_NODES][BLOCK];
} tree_stack;

static flashc_softmax_state node_state(tree_stack *stack, int node, int64_t cols)
{
    flashc_softmax_state state = {.rows = 1,
                                  .head_dim_v = cols,
                                  .row_max = &stack->row_max[node],
                                  .row_sum = &stack->row_sum[node],
                                  .acc = stack->acc[node],
                                  .acc_row_stride = BLOCK,
                                  .acc_col_stride = 1};
    return state;
}

/* Replaces the two topmost nodes by their union. */
static void merge_top(tree_stack *stack, int64_t cols)
{
    flashc_softmax_state from = node_state(stack, stack->n_nodes - 1, cols);
    flashc_softmax_state into = node_state(stack, stack->n_nodes - 2, cols);
    flashc_state_merge(&into, &from);
    stack->n_nodes--;
}

/* Part (o, lse) is the state with row_max = lse, row_sum = 1, acc = o: both mean exp(lse) * o. An lse
 * of -inf makes it a state without keys, whose acc nobody reads. One of +inf is no sum of finite logits:
 * it is the NaN that a +inf logit means. */
static void push_leaf(tree_stack *stack, int64_t cols, const float *o, float lse)
{
    int node = stack->n_nodes++;
    stack->row_max[node] = lse;
    stack->row_sum[node] = lse < INFINITY ? 1.0f : NAN;
    for (int64_t col = 0; col < cols; col++)
        stack->acc[node][col] = o[col];
}

/* The caller's: of each part o is [rows, head_dim_v], lse [rows]. */
typedef struct partials {
    int64_t n_parts, rows, head_dim_v;
    const float *const *o, *const *lse;
} partials;

/* Columns first .. + cols of a row of all parts, into the stack's one remaining node. */
static void merge_block(const partials *parts, int64_t row, int64_t first, int64_t cols, tree_stack *stack)
{
    stack->n_nodes = 0;
    for (int64_t part = 0; part < parts->n_parts; part++) {
        const float *o = cols > 0 ? parts->o[part] + row * parts->head_dim_v + first : NULL;
        push_leaf(stack, cols, o, parts->lse[part][row]);
        for (int carries = flashc_softmax_tree_carries(part); carries > 0; carries--)
            merge_top(stack, cols);
    }
    while (stack->n_nodes > 1)
        merge_top(stack, cols);
}

static flashc_status check_parts(const partials *parts, const float *o, const float *lse)
{
    const int64_t elements = parts->rows * parts->head_dim_v;
    flashc_status status = FLASHC_OK;
    if (lse)
        status = flashc_check_apart("lse", lse, parts->rows, "o", o, elements);
    for (int64_t part = 0; part < parts->n_parts && status == FLASHC_OK; part++) {
        char o_name[48], lse_name[48];
        snprintf(o_name, sizeof o_name, "o_parts[%" PRId64 "]", part);
        snprintf(lse_name, sizeof lse_name, "lse_parts[%" PRId64 "]", part);
        status = flashc_check_pointer(lse_name, parts->lse[part]);
        if (status == FLASHC_OK && lse)
            status = flashc_check_no_overlap("lse", lse, lse_name, parts->lse[part], parts->rows);
        if (status == FLASHC_OK)
            status = flashc_check_apart("o", o, elements, lse_name, parts->lse[part], parts->rows);
        if (status != FLASHC_OK || elements == 0)
            continue;
        status = flashc_check_pointer(o_name, parts->o[part]);
        if (status == FLASHC_OK && lse)
            status = flashc_check_apart("lse", lse, parts->rows, o_name, parts->o[part], elements);
        if (status == FLASHC_OK)
            status = flashc_check_no_overlap("o", o, o_name, parts->o[part], elements);
    }
    return status;
}

flashc_status flashc_merge_partials(int64_t n_parts, int64_t rows, int64_t head_dim_v, const float *const *o_parts,
                                    const float *const *lse_parts, float *o, float *lse)
{
    const partials parts = {n_parts, rows, head_dim_v, o_parts, lse_parts};
    if (n_parts < 1)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "n_parts: expected 1 or more, found %" PRId64, n_parts);
    flashc_status status = flashc_check_size("rows", rows);
    if (status == FLASHC_OK)
        status = flashc_check_size("head_dim_v", head_dim_v);
    if (status != FLASHC_OK || rows == 0)
        return status;
    status = flashc_check_output("o", o, rows, head_dim_v, head_dim_v, sizeof(float));
    if (status == FLASHC_OK)
        status = flashc_check_input("lse_parts", lse_parts, 1, rows, rows, sizeof(float));
    if (status == FLASHC_OK && head_dim_v > 0)
        status = flashc_check_pointer("o_parts", o_parts);
    if (status == FLASHC_OK)
        status = check_parts(&parts, o, lse);
    if (status != FLASHC_OK)
        return status;

    FLASHC_IN_DEFAULT_FLOAT_MODE;
    for (int64_t row = 0; row < rows; row++) {
        tree_stack stack;
        int64_t first = 0;
        do { /* once also for head_dim_v = 0, which leaves the lse */
            int64_t cols = flashc_min(BLOCK, head_dim_v - first);
            merge_block(&parts, row, first, cols, &stack);
            flashc_softmax_state root = node_state(&stack, 0, cols);
            flashc_state_finish(&root, cols > 0 ? o + row * head_dim_v + first : NULL, head_dim_v, NULL);
            first += BLOCK;
        } while (first < head_dim_v);
        /* Last, because lse may be one of the parts that every block reads. */
        if (lse)
            lse[row] = flashc_softmax_row_lse(stack.row_max[0], stack.row_sum[0]);
    }
    return FLASHC_OK;
}
