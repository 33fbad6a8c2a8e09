#include "attention/state.h"

flashc_softmax_state flashc_attention_state_node(const flashc_attention_state *s, int64_t node)
{
    return (flashc_softmax_state){.rows = s->rows,
                                  .head_dim_v = s->head_dim_v,
                                  .row_max = s->row_max + node * s->rows,
                                  .row_sum = s->row_sum + node * s->rows,
                                  .acc = s->head_dim_v > 0 ? s->acc + node * s->rows * s->head_dim_v : NULL,
                                  .acc_row_stride = s->head_dim_v,
                                  .acc_col_stride = 1};
}

int64_t flashc_attention_state_row(const flashc_attention_state *s, const flashc_sequence *sequence, int64_t head,
                                   int64_t query)
{
    return sequence->q_element * s->row_stride[0] + head * s->row_stride[1] +
           (sequence->first_query + query) * s->row_stride[2];
}

static int64_t block_row_of(const flashc_problem *p, const flashc_row_block *block, int64_t r)
{
    return flashc_attention_state_row(p->state, &block->sequence, flashc_row_head(p, block, r),
                                      flashc_row_query(p, block, r));
}

void flashc_attention_state_load(const flashc_problem *p, const flashc_row_block *block, int64_t node,
                                 const flashc_softmax_state *to)
{
    const flashc_softmax_state from = flashc_attention_state_node(p->state, node);
    for (int64_t r = 0; r < block->n_rows; r++) {
        const int64_t row = block_row_of(p, block, r);
        to->row_max[r] = from.row_max[row];
        to->row_sum[r] = from.row_sum[row];
        for (int64_t d = 0; d < p->head_dim_v; d++)
            to->acc[r * to->acc_row_stride + d * to->acc_col_stride] = from.acc[row * from.head_dim_v + d];
    }
}

void flashc_attention_state_store(const flashc_problem *p, const flashc_row_block *block, int64_t node,
                                  const flashc_softmax_state *from)
{
    const flashc_softmax_state to = flashc_attention_state_node(p->state, node);
    for (int64_t r = 0; r < block->n_rows; r++) {
        const int64_t row = block_row_of(p, block, r);
        to.row_max[row] = from->row_max[r];
        to.row_sum[row] = from->row_sum[r];
        for (int64_t d = 0; d < p->head_dim_v; d++)
            to.acc[row * to.head_dim_v + d] = from->acc[r * from->acc_row_stride + d * from->acc_col_stride];
    }
}
