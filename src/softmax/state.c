#include "softmax/state.h"

#include "cpu.h"
#include "softmax/check.h"

#include <inttypes.h>

static float *acc_row(const flashc_softmax_state *state, int64_t row)
{
    return state->head_dim_v > 0 ? state->acc + row * state->acc_row_stride : NULL;
}

static void clear_row(const flashc_softmax_state *state, int64_t row)
{
    float *acc = acc_row(state, row);
    state->row_max[row] = -INFINITY;
    state->row_sum[row] = 0.0f;
    for (int64_t col = 0; col < state->head_dim_v; col++)
        acc[col * state->acc_col_stride] = 0.0f;
}

void flashc_state_init(const flashc_softmax_state *state)
{
    for (int64_t row = 0; row < state->rows; row++)
        clear_row(state, row);
}

/* Makes new_max the row's max: what was summed so far shrinks by exp(old max - new max). */
static void raise_max(const flashc_softmax_state *state, int64_t row, float new_max)
{
    if (state->row_max[row] == new_max)
        return;
    float *acc = acc_row(state, row);
    float correction = flashc_exp(state->row_max[row] - new_max);
    state->row_max[row] = new_max;
    state->row_sum[row] *= correction;
    for (int64_t col = 0; col < state->head_dim_v; col++)
        acc[col * state->acc_col_stride] *= correction;
}

static void update_row(const flashc_softmax_state *state, int64_t row, int64_t n_keys, const float *scores,
                       const float *v, int64_t v_row_stride)
{
    /* NaN is not larger than anything: it comes in with the sum. */
    float row_max = state->row_max[row];
    for (int64_t key = 0; key < n_keys; key++)
        row_max = scores[key] > row_max ? scores[key] : row_max;

    /* Nothing to shrink yet, and 0 times what an unused acc holds may not be 0. */
    if (flashc_softmax_row_is_empty(state->row_max[row], state->row_sum[row])) {
        clear_row(state, row);
        state->row_max[row] = row_max;
    }
    raise_max(state, row, row_max);

    float *acc = acc_row(state, row);
    for (int64_t begin = 0; begin < n_keys; begin += FLASHC_SUM_CHUNK) {
        int64_t end = flashc_min(begin + FLASHC_SUM_CHUNK, n_keys);
        float chunk_sum = 0.0f;
        for (int64_t key = begin; key < end; key++) {
            if (scores[key] == -INFINITY) /* its V row may be NaN: not even times 0 */
                continue;
            float p = flashc_exp(scores[key] - row_max);
            chunk_sum += p;
            for (int64_t col = 0; col < state->head_dim_v; col++)
                acc[col * state->acc_col_stride] += p * v[key * v_row_stride + col];
        }
        state->row_sum[row] += chunk_sum;
    }
}

void flashc_state_update(const flashc_softmax_state *state, int64_t n_keys, const float *scores,
                         int64_t scores_row_stride, const float *v, int64_t v_row_stride)
{
    if (n_keys == 0)
        return;
    for (int64_t row = 0; row < state->rows; row++)
        update_row(state, row, n_keys, scores + row * scores_row_stride, v, v_row_stride);
}

/* The union's max and sum of a row that neither side is empty in; what each side's acc is worth in it. */
static void merge_sums(const flashc_softmax_state *into, const flashc_softmax_state *from, int64_t row, float *keep,
                       float *weight)
{
    const float into_max = into->row_max[row], from_max = from->row_max[row];
    const bool rises = from_max > into_max;
    *keep = rises ? flashc_exp(into_max - from_max) : 1.0f;
    *weight = rises ? 1.0f : flashc_exp(from_max - into_max);
    into->row_max[row] = rises ? from_max : into_max;
    into->row_sum[row] = into->row_sum[row] * *keep + *weight * from->row_sum[row];
}

static bool is_empty(const flashc_softmax_state *state, int64_t row)
{
    return flashc_softmax_row_is_empty(state->row_max[row], state->row_sum[row]);
}

static void merge_row(const flashc_softmax_state *into, const flashc_softmax_state *from, int64_t row)
{
    if (is_empty(from, row))
        return;
    float *acc = acc_row(into, row);
    const float *from_acc = acc_row(from, row);
    if (is_empty(into, row)) {
        into->row_max[row] = from->row_max[row];
        into->row_sum[row] = from->row_sum[row];
        for (int64_t col = 0; col < into->head_dim_v; col++)
            acc[col * into->acc_col_stride] = from_acc[col * from->acc_col_stride];
        return;
    }
    float keep, weight;
    merge_sums(into, from, row, &keep, &weight);
    for (int64_t col = 0; col < into->head_dim_v; col++)
        acc[col * into->acc_col_stride] =
            acc[col * into->acc_col_stride] * keep + weight * from_acc[col * from->acc_col_stride];
}

/* Rows that go through merge_lanes() together. */
enum { MERGE_LANES = 64 };

/* The same for rows that lie one beside the other, column by column, so that memory is walked as it lies.
 * Returns false, having done nothing, if a row is empty on either side. */
static bool merge_lanes(const flashc_softmax_state *into, const flashc_softmax_state *from, int64_t first, int64_t rows)
{
    float keep[MERGE_LANES], weight[MERGE_LANES];
    for (int64_t row = 0; row < rows; row++)
        if (is_empty(into, first + row) || is_empty(from, first + row))
            return false;
    for (int64_t row = 0; row < rows; row++)
        merge_sums(into, from, first + row, &keep[row], &weight[row]);
    for (int64_t col = 0; col < into->head_dim_v; col++) {
        float *restrict acc = into->acc + col * into->acc_col_stride + first;
        const float *restrict from_acc = from->acc + col * from->acc_col_stride + first;
        for (int64_t row = 0; row < rows; row++)
            acc[row] = acc[row] * keep[row] + weight[row] * from_acc[row];
    }
    return true;
}

void flashc_state_merge(const flashc_softmax_state *into, const flashc_softmax_state *from)
{
    const bool lanes = into->acc_row_stride == 1 && from->acc_row_stride == 1;
    for (int64_t first = 0; first < into->rows; first += MERGE_LANES) {
        const int64_t rows = flashc_min(MERGE_LANES, into->rows - first);
        if (lanes && merge_lanes(into, from, first, rows))
            continue;
        for (int64_t row = first; row < first + rows; row++)
            merge_row(into, from, row);
    }
}

void flashc_state_finish(const flashc_softmax_state *state, float *o, int64_t o_row_stride, float *lse)
{
    for (int64_t row = 0; row < state->rows; row++) {
        float row_sum = state->row_sum[row];
        bool empty = flashc_softmax_row_is_empty(state->row_max[row], row_sum);
        if (o) {
            const float *acc = acc_row(state, row);
            /* Adding +0 turns a -0 (a negative partial sum that underflowed) into +0. */
            for (int64_t col = 0; col < state->head_dim_v; col++)
                o[row * o_row_stride + col] = empty ? 0.0f : acc[col * state->acc_col_stride] / row_sum + 0.0f;
        }
        if (lse)
            lse[row] = flashc_softmax_row_lse(state->row_max[row], row_sum);
    }
}

/* Elements (row, col) at row*row_stride + col*col_stride are all different if the longer stride
 * steps over everything that the shorter one reaches. */
static bool overlaps_itself(int64_t rows, int64_t cols, int64_t row_stride, int64_t col_stride)
{
    uint64_t inner = flashc_magnitude(col_stride), outer = flashc_magnitude(row_stride);
    uint64_t n_inner = (uint64_t)cols;
    if (rows <= 1)
        return cols > 1 && inner == 0;
    if (cols <= 1)
        return outer == 0;
    if (outer < inner) {
        uint64_t swap = inner;
        inner = outer;
        outer = swap;
        n_inner = (uint64_t)rows;
    }
    return inner == 0 || (outer - 1) / inner < n_inner - 1;
}

static flashc_status check_state(const char *name, const flashc_softmax_state *state)
{
    flashc_status status = flashc_check_pointer(name, state);
    if (status != FLASHC_OK)
        return status;
    if (state->rows < 0 || state->head_dim_v < 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s->%s: expected 0 or more, found %" PRId64, name,
                           state->rows < 0 ? "rows" : "head_dim_v", state->rows < 0 ? state->rows : state->head_dim_v);
    if (state->rows == 0)
        return FLASHC_OK;
    if (!state->row_max || !state->row_sum || (!state->acc && state->head_dim_v > 0))
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s->%s: expected a pointer, found NULL", name,
                           !state->row_max   ? "row_max"
                           : !state->row_sum ? "row_sum"
                                             : "acc");
    uint64_t limit = (uint64_t)PTRDIFF_MAX / sizeof(float);
    uint64_t row_steps = (uint64_t)(state->rows - 1), col_steps = 0;
    bool fits = (uint64_t)state->rows <= limit;
    if (state->head_dim_v > 0) {
        col_steps = (uint64_t)(state->head_dim_v - 1);
        uint64_t row_stride = flashc_magnitude(state->acc_row_stride);
        uint64_t col_stride = flashc_magnitude(state->acc_col_stride);
        /* The two distances add up: each gets half of what there is. */
        fits = fits && (row_steps == 0 || row_stride <= limit / 2 / row_steps) &&
               (col_steps == 0 || col_stride <= limit / 2 / col_steps);
    }
    if (!fits)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s: expected an array that fits in memory, found %" PRId64 " x %" PRId64
                           " elements with strides %" PRId64 ", %" PRId64,
                           name, state->rows, state->head_dim_v, state->acc_row_stride, state->acc_col_stride);
    if (state->head_dim_v > 0 &&
        overlaps_itself(state->rows, state->head_dim_v, state->acc_row_stride, state->acc_col_stride))
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "%s->acc: expected elements that do not overlap, found %" PRId64 " x %" PRId64
                           " elements with strides %" PRId64 ", %" PRId64,
                           name, state->rows, state->head_dim_v, state->acc_row_stride, state->acc_col_stride);
    return FLASHC_OK;
}

flashc_status flashc_softmax_state_init(const flashc_softmax_state *state)
{
    flashc_status status = check_state("state", state);
    if (status == FLASHC_OK)
        flashc_state_init(state);
    return status;
}

flashc_status flashc_softmax_state_update(const flashc_softmax_state *state, int64_t n_keys, const float *scores,
                                          int64_t scores_row_stride, const float *v, int64_t v_row_stride)
{
    flashc_status status = check_state("state", state);
    if (status == FLASHC_OK)
        status = flashc_check_size("n_keys", n_keys);
    if (status == FLASHC_OK)
        status = flashc_check_input("scores", scores, state->rows, n_keys, scores_row_stride, sizeof(float));
    if (status == FLASHC_OK && state->rows > 0 && state->head_dim_v > 0)
        status = flashc_check_input("v", v, n_keys, state->head_dim_v, v_row_stride, sizeof(float));
    if (status != FLASHC_OK)
        return status;
    FLASHC_IN_DEFAULT_FLOAT_MODE;
    flashc_state_update(state, n_keys, scores, scores_row_stride, v, v_row_stride);
    return FLASHC_OK;
}

flashc_status flashc_softmax_state_merge(const flashc_softmax_state *into, const flashc_softmax_state *from)
{
    flashc_status status = check_state("into", into);
    if (status == FLASHC_OK)
        status = check_state("from", from);
    if (status != FLASHC_OK)
        return status;
    if (from->rows != into->rows)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "from->rows: expected into->rows (%" PRId64 "), found %" PRId64,
                           into->rows, from->rows);
    if (from->head_dim_v != into->head_dim_v)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "from->head_dim_v: expected into->head_dim_v (%" PRId64 "), found %" PRId64,
                           into->head_dim_v, from->head_dim_v);
    if (into->rows > 0 && from->row_max == into->row_max)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "from: expected another state than into, found the same");
    FLASHC_IN_DEFAULT_FLOAT_MODE;
    flashc_state_merge(into, from);
    return FLASHC_OK;
}

flashc_status flashc_softmax_state_finish(const flashc_softmax_state *state, float *o, int64_t o_row_stride, float *lse)
{
    flashc_status status = check_state("state", state);
    if (status == FLASHC_OK && o)
        status = flashc_check_output("o", o, state->rows, state->head_dim_v, o_row_stride, sizeof(float));
    if (status != FLASHC_OK)
        return status;
    bool same_layout = (state->rows <= 1 || o_row_stride == state->acc_row_stride) &&
                       (state->head_dim_v <= 1 || state->acc_col_stride == 1);
    if (o && o == state->acc && !same_layout)
        return flashc_fail(FLASHC_ERR_ARGUMENT,
                           "o: expected state->acc's strides %" PRId64 ", %" PRId64
                           " where it is that array, found %" PRId64 ", 1",
                           state->acc_row_stride, state->acc_col_stride, o_row_stride);
    FLASHC_IN_DEFAULT_FLOAT_MODE;
    flashc_state_finish(state, o, o_row_stride, lse);
    return FLASHC_OK;
}
