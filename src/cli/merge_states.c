#include "cli/merge.h"

#include "cli/arithmetic.h"
#include "cli/cli.h"
#include "cli/library_error.h"
#include "cli/score_options.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What the rows of the union are while states come to it. */
typedef struct flashc_union {
    flashc_softmax_state state;
    float *row_max, *row_sum;           /* of the union */
    float *from_row_max, *from_row_sum; /* of what comes */
} flashc_union;

static int begin(flashc_cli_array *rows, flashc_union *u)
{
    const int64_t width = rows->shape[rows->rank - 1], n = rows->count / width;
    float **const numbers[] = {&u->row_max, &u->row_sum, &u->from_row_max, &u->from_row_sum};
    *u = (flashc_union){.row_max = NULL};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        *numbers[i] = calloc((size_t)n + 1, sizeof(float));
        if (!*numbers[i])
            return flashc_cli_error("no memory for the states of %lld queries", (long long)n);
    }
    u->state = (flashc_softmax_state){.rows = n, .head_dim_v = width - FLASHC_STATE_BESIDES, .row_max = u->row_max,
                                      .row_sum = u->row_sum, .acc = rows->data, .acc_row_stride = width,
                                      .acc_col_stride = 1};
    return flashc_softmax_state_init(&u->state) == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error();
}

static void end(flashc_union *u)
{
    free(u->row_max);
    free(u->row_sum);
    free(u->from_row_max);
    free(u->from_row_sum);
}

/* The partial results of each query come from the last to the first, as when a state is finished. */
static int take(flashc_union *u, const flashc_cli_states *states)
{
    const int64_t width = u->state.acc_row_stride;
    for (int64_t level = states->rows.shape[0] - 1; level >= 0; level--) {
        float *rows = (float *)states->rows.data + level * u->state.rows * width;
        flashc_softmax_state from = u->state;
        from.acc = rows;
        from.row_max = u->from_row_max;
        from.row_sum = u->from_row_sum;
        for (int64_t i = 0; i < from.rows; i++) {
            from.row_max[i] = rows[i * width + width - FLASHC_STATE_BESIDES];
            from.row_sum[i] = rows[i * width + width - 1];
        }
        if (flashc_softmax_state_merge(&u->state, &from) != FLASHC_OK)
            return flashc_cli_library_error();
    }
    return FLASHC_CLI_OK;
}

/* Of all states: the farthest key, and one node where one has keys; the pieces are those of the first. */
static void take_keys(flashc_cli_array *keys, const flashc_cli_array *from, int first)
{
    for (int64_t i = 0; i < keys->count; i += FLASHC_STATE_COLUMNS) {
        int64_t *into = (int64_t *)keys->data + i;
        const int64_t *other = (const int64_t *)from->data + i;
        into[FLASHC_STATE_NEXT_KEY] = flashc_cli_max(into[FLASHC_STATE_NEXT_KEY], other[FLASHC_STATE_NEXT_KEY]);
        into[FLASHC_STATE_NODES] |= other[FLASHC_STATE_NODES] > 0;
        into[FLASHC_STATE_PIECE] = first ? other[FLASHC_STATE_PIECE] : into[FLASHC_STATE_PIECE];
    }
}

/* A sink is a key whose value is 0: it is added to what O is divided by. In the order of bhsd; O and LSE alone, since a
 * state has no sinks. */
static void add_sinks(const float *sinks, int64_t heads, flashc_cli_merged *out)
{
    const int64_t columns = out->o.shape[out->o.rank - 1], queries = out->o.shape[out->o.rank - 2];
    float *o = out->o.data, *lse = out->lse.data;
    for (int64_t i = 0; i < out->lse.count; i++) {
        const double sink = (double)sinks[i / queries % heads], before = (double)lse[i];
        if (sink == (double)-INFINITY)
            continue;
        const double after = fmax(before, sink) + log1p(exp(-fabs(before - sink)));
        const double kept = exp(before - after);
        for (int64_t d = 0; d < columns; d++)
            o[i * columns + d] = (float)(kept * (double)o[i * columns + d]);
        lse[i] = (float)after;
    }
}

static int take_sinks(const char *path, flashc_cli_merged *out)
{
    const int64_t heads = out->o.rank > 2 ? out->o.shape[out->o.rank - 3] : 1;
    flashc_cli_array sinks = {.data = NULL};
    int code = flashc_cli_per_head_read(path, heads, -1, &sinks);
    for (int64_t h = 0; code == FLASHC_CLI_OK && h < heads; h++)
        if (!(((const float *)sinks.data)[h] < INFINITY))
            code = flashc_cli_error("--sinks %s: sinks[%lld]: expected a finite value, or -inf for none, found %g",
                                    path, (long long)h, (double)((const float *)sinks.data)[h]);
    if (code == FLASHC_CLI_OK)
        add_sinks(sinks.data, heads, out);
    flashc_cli_array_free(&sinks);
    return code;
}

/* O and LSE, and the numbers of the union to its rows. */
static int finish(flashc_union *u, int bshd, const char *sinks, flashc_cli_merged *out)
{
    flashc_cli_array *rows = &out->states.rows;
    const int rank = rows->rank - 1;
    const int64_t width = u->state.acc_row_stride;
    int64_t sizes[FLASHC_NPY_MAX_RANK];
    memcpy(sizes, rows->shape + 1, (size_t)rank * sizeof sizes[0]);
    sizes[rank - 1] = u->state.head_dim_v;
    if (flashc_cli_array_make("O", FLASHC_F32, rank, sizes, 0, &out->o) ||
        flashc_cli_array_make("LSE", FLASHC_F32, rank - 1, sizes, 0, &out->lse))
        return FLASHC_CLI_FAILED;
    for (int64_t i = 0; i < u->state.rows; i++) {
        ((float *)rows->data)[i * width + width - FLASHC_STATE_BESIDES] = u->row_max[i];
        ((float *)rows->data)[i * width + width - 1] = u->row_sum[i];
    }
    if (flashc_softmax_state_finish(&u->state, out->o.data, u->state.head_dim_v, out->lse.data) != FLASHC_OK)
        return flashc_cli_library_error();
    if (sinks && take_sinks(sinks, out))
        return FLASHC_CLI_FAILED;
    if (!bshd || rank < 3)
        return FLASHC_CLI_OK;
    flashc_cli_array_swap_axes(&out->o, rank - 3, rank - 2);
    return flashc_cli_array_pack(&out->o);
}

/* The shape that all must have: of the first. */
static flashc_cli_states_shape shape_of(const flashc_cli_states *states)
{
    const flashc_cli_array *rows = &states->rows;
    flashc_cli_states_shape shape = {.rank = rows->rank - 2, .sequences = states->keys.shape[0]};
    memcpy(shape.queries, rows->shape + 1, (size_t)shape.rank * sizeof shape.queries[0]);
    shape.head_dim_v = rows->shape[rows->rank - 1] - FLASHC_STATE_BESIDES;
    return shape;
}

static int merge(int count, char **names, flashc_cli_merged *out, flashc_union *u)
{
    flashc_cli_states_shape shape;
    for (int i = 0; i < count; i++) {
        flashc_cli_states states = {.rows_path = NULL};
        int code = flashc_cli_states_read(names[i], &states);
        if (code == FLASHC_CLI_OK && i == 0) {
            shape = shape_of(&states);
            code = flashc_cli_states_make(&shape, 1, &out->states) || begin(&out->states.rows, u);
        }
        if (code == FLASHC_CLI_OK)
            code = flashc_cli_states_check(&states, &shape, names[0]) || take(u, &states);
        if (code == FLASHC_CLI_OK)
            take_keys(&out->states.keys, &states.keys, i == 0);
        flashc_cli_states_free(&states);
        if (code)
            return FLASHC_CLI_FAILED;
    }
    return FLASHC_CLI_OK;
}

int flashc_cli_merge_states(int count, char **names, int bshd, const char *sinks, flashc_cli_merged *out)
{
    flashc_union u = {.row_max = NULL};
    const int code = merge(count, names, out, &u) || finish(&u, bshd, sinks, out);
    end(&u);
    return code ? FLASHC_CLI_FAILED : FLASHC_CLI_OK;
}

void flashc_cli_merged_free(flashc_cli_merged *merged)
{
    flashc_cli_states_free(&merged->states);
    flashc_cli_array_free(&merged->o);
    flashc_cli_array_free(&merged->lse);
}
