#include "attention/state_check.h"

#include "attention/passes.h"
#include "attention/plan.h"
#include "attention/problem.h"
#include "params.h"
#include "tensor.h"

#include <inttypes.h>

/* As many pieces of them as there may be are keys. */
static const int64_t MOST_PIECE_KEYS = FLASHC_SIZE_LIMIT / FLASHC_MAX_PIECES;

int64_t flashc_attention_state_capacity(const flashc_attention_state *s)
{
    if (s->piece_n == 0)
        return FLASHC_SIZE_LIMIT - 1;
    const int64_t pieces = s->levels < FLASHC_TREE_LEVELS ? (INT64_C(1) << s->levels) - 1 : FLASHC_MAX_PIECES;
    return pieces * s->piece_n;
}

/* The most nodes that so many keys leave: one for each whole run of pieces, and what is unfinished. Fewer where states
 * were merged or begin in the middle; more would not fit into the levels later on. */
static int64_t most_nodes(const flashc_attention_state *s)
{
    const int64_t keys = flashc_attention_state_piece_keys(s);
    int64_t nodes = s->next_key % keys != 0;
    for (int64_t pieces = s->next_key / keys; pieces > 0; pieces /= 2)
        nodes += pieces % 2;
    return nodes;
}

flashc_status flashc_attention_state_check_memory(const char *name, const flashc_attention_state *s)
{
    int64_t rows, floats;
    const int64_t width = flashc_max(1, s->head_dim_v); /* of the widest array */
    if (!__builtin_mul_overflow(s->levels, s->rows, &rows) && !__builtin_mul_overflow(rows, width, &floats) &&
        floats <= PTRDIFF_MAX / (int64_t)sizeof(float))
        return FLASHC_OK;
    return flashc_fail(FLASHC_ERR_ARGUMENT,
                       "%s: expected arrays that fit in memory, found levels * rows * head_dim_v = %" PRId64
                       " * %" PRId64 " * %" PRId64, name, s->levels, s->rows, s->head_dim_v);
}

flashc_status flashc_attention_state_check_state(const char *name, const flashc_attention_state *s)
{
    if (!s)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected a pointer, found NULL", name);
    if (s->struct_size != sizeof *s)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s->struct_size: expected %zu (flashc_attention_state_init sets it), found %zu", name,
                           sizeof *s, s->struct_size);
    if (s->next_key == -1)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s->next_key: expected 0 or more, found -1: a cancelled chunk left the state unusable; "
                           "flashc_attention_state_clear() makes it one of no keys", name);
    /* Of others there is no capacity, and they are refused before it is asked for. */
    const bool fits = s->levels >= 1 && s->levels <= FLASHC_TREE_LEVELS && s->piece_n >= 0 &&
                      s->piece_n <= MOST_PIECE_KEYS;
    const struct {
        const char *name;
        int64_t value, low, high;
    } sizes[] = {
        {"rows", s->rows, 0, FLASHC_SIZE_LIMIT},
        {"head_dim_v", s->head_dim_v, 0, FLASHC_SIZE_LIMIT},
        {"piece_n", s->piece_n, 0, MOST_PIECE_KEYS},
        {"seqlen_k", s->seqlen_k, 0, FLASHC_SIZE_LIMIT},
        {"levels", s->levels, 1, FLASHC_TREE_LEVELS},
        {"n_nodes", s->n_nodes, 0, s->levels},
        {"next_key", s->next_key, 0, fits ? flashc_attention_state_capacity(s) : 0},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].value < sizes[i].low || sizes[i].value > sizes[i].high)
            return flashc_fail(FLASHC_ERR_ARGUMENT, "%s->%s: expected %" PRId64 " to %" PRId64 ", found %" PRId64, name,
                               sizes[i].name, sizes[i].low, sizes[i].high, sizes[i].value);
    flashc_status status = flashc_attention_state_check_memory(name, s);
    if (status != FLASHC_OK)
        return status;
    if (s->n_nodes > most_nodes(s))
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s->n_nodes: expected 0 to %" PRId64
                           ", which the keys before next_key leave, found %" PRId64, name, most_nodes(s), s->n_nodes);
    if (s->rows > 0 && (!s->row_max || !s->row_sum || (!s->acc && s->head_dim_v > 0)))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s->%s: expected a pointer, found NULL", name,
                           !s->row_max ? "row_max" : !s->row_sum ? "row_sum" : "acc");
    return FLASHC_OK;
}

flashc_status flashc_attention_state_read_call(flashc_attention_params *ours, const flashc_attention_state *state,
                                               const flashc_attention_params *params)
{
    const flashc_status status = flashc_attention_state_check_state("state", state);
    return status == FLASHC_OK ? flashc_problem_read_params(ours, params) : status;
}

flashc_status flashc_attention_state_check_rows(const flashc_attention_state *s, const flashc_attention_params *p)
{
    const int64_t size[3] = {p->cu_seqlens_q ? 1 : p->batch, p->num_heads, p->seqlen_q};
    if (s->rows != size[0] * size[1] * size[2])
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "state->rows: expected the %" PRId64 " * %" PRId64 " * %" PRId64
                           " queries of the call, found %" PRId64, size[0], size[1], size[2], s->rows);
    if (s->head_dim_v != p->head_dim_v)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "state->head_dim_v: expected that of the call, %" PRId64
                           ", found %" PRId64, p->head_dim_v, s->head_dim_v);
    int64_t last = 0;
    bool fits = true;
    for (int i = 0; i < 3 && s->rows > 0; i++) {
        fits = fits && s->row_stride[i] >= 0 && (size[i] == 1 || s->row_stride[i] < s->rows);
        int64_t extent = 0;
        if (fits && size[i] > 1)
            fits = !__builtin_mul_overflow(size[i] - 1, s->row_stride[i], &extent) && extent < s->rows;
        last += fits ? extent : 0;
        fits = fits && last < s->rows;
    }
    if (!fits)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "state->row_stride: expected rows 0 to %" PRId64 ", found strides %" PRId64 ", %" PRId64
                           ", %" PRId64, s->rows - 1, s->row_stride[0], s->row_stride[1], s->row_stride[2]);
    const flashc_tensor rows = {s->row_max, FLASHC_F32, {s->row_stride[0], s->row_stride[1], s->row_stride[2], 0}};
    return flashc_tensor_check(&(flashc_tensor_argument){
        .name = "state->rows", .tensor = &rows, .size = {size[0], size[1], size[2], 1}, .direction = FLASHC_OUTPUT,
        .types = FLASHC_TYPES_F32});
}

flashc_status flashc_attention_state_check_outputs(const flashc_attention_params *p)
{
    const bool weights = p->scores.data && p->scores_stage == FLASHC_SCORES_WEIGHTS;
    if (weights || p->key_mass.data)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s: expected NULL with a state, found %p: softmax weights need the LSE of all keys, which "
                           "is known when the last chunk has come and the first ones may be gone",
                           weights ? "scores of FLASHC_SCORES_WEIGHTS" : "key_mass",
                           weights ? p->scores.data : p->key_mass.data);
    return FLASHC_OK;
}
