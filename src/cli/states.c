#include "cli/states.h"

#include "cli/arithmetic.h"
#include "cli/cli.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of partial results: there are no more than a binary counter over FLASHC_CLI_MOST keys has digits. */
enum { MOST_LEVELS = 48 };

flashc_cli_states_shape flashc_cli_states_shape_of(const flashc_attention_params *p, int rank_q)
{
    const int64_t queries[3] = {p->cu_seqlens_q ? 1 : p->batch, p->num_heads, p->seqlen_q};
    flashc_cli_states_shape shape = {.rank = rank_q - 1, .head_dim_v = p->head_dim_v, .sequences = p->batch};
    for (int i = 0; i < shape.rank; i++)
        shape.queries[i] = queries[3 - shape.rank + i];
    return shape;
}

int flashc_cli_states_check_name(const char *option, const char *name)
{
    if (*name && strcmp(name, "-") != 0)
        return FLASHC_CLI_OK;
    return flashc_cli_usage_error("%s expects what the names of two files begin with, found '%s'", option, name);
}

static char *path_of(const char *name, const char *what)
{
    const size_t size = strlen(name) + strlen(what) + 1;
    char *path = malloc(size);
    if (path)
        snprintf(path, size, "%s%s", name, what);
    return path;
}

int flashc_cli_states_name(const char *name, flashc_cli_states *states)
{
    states->rows_path = path_of(name, ".rows.npy");
    states->keys_path = path_of(name, ".keys.npy");
    return states->rows_path && states->keys_path ? FLASHC_CLI_OK : flashc_cli_error("no memory for the name %s", name);
}

/* An array of a state as a file has it; of the type, and in C order. */
static int read_array(const char *path, flashc_npy_type type, flashc_cli_array *array)
{
    if (flashc_cli_array_read(path, 0, array))
        return FLASHC_CLI_FAILED;
    if (array->file_type != type)
        return flashc_cli_error("%s: expected the %s of a state, found %s", path, flashc_npy_type_name(type),
                                flashc_npy_type_name(array->file_type));
    if (array->file->header.fortran_order && array->rank > 1)
        return flashc_cli_error("%s: expected C order, found Fortran order", path);
    return FLASHC_CLI_OK;
}

static int check_rows(const flashc_cli_array *rows)
{
    char text[FLASHC_CLI_SHAPE_TEXT];
    if (rows->rank >= 3 && rows->rank <= 5 && rows->shape[0] >= 1 && rows->shape[0] <= MOST_LEVELS &&
        rows->shape[rows->rank - 1] >= FLASHC_STATE_BESIDES)
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s: expected the shape [1 to %d, (batch, heads,) queries, head_dim_v + 2], found %s",
                            rows->name, MOST_LEVELS, flashc_cli_shape_text(rows->rank, rows->shape, text));
}

static int check_keys(const flashc_cli_array *keys, int64_t levels)
{
    static const char *const names[FLASHC_STATE_COLUMNS] = {"next_key", "n_nodes", "piece_n"};
    const int64_t most[FLASHC_STATE_COLUMNS] = {FLASHC_CLI_MOST, levels, FLASHC_CLI_MOST};
    char text[FLASHC_CLI_SHAPE_TEXT];
    if (keys->rank != 2 || keys->shape[1] != FLASHC_STATE_COLUMNS)
        return flashc_cli_error("%s: expected the shape [sequences, %d], found %s", keys->name, FLASHC_STATE_COLUMNS,
                                flashc_cli_shape_text(keys->rank, keys->shape, text));
    for (int64_t i = 0; i < keys->count; i++) {
        const int column = (int)(i % FLASHC_STATE_COLUMNS);
        const int64_t value = ((const int64_t *)keys->data)[i];
        if (value < 0 || value > most[column])
            return flashc_cli_error("%s: expected %s from 0 to %" PRId64 ", found %" PRId64 " at [%" PRId64 ", %d]",
                                    keys->name, names[column], most[column], value, i / FLASHC_STATE_COLUMNS, column);
    }
    return FLASHC_CLI_OK;
}

int flashc_cli_states_read(const char *name, flashc_cli_states *states)
{
    if (flashc_cli_states_name(name, states) || read_array(states->rows_path, FLASHC_NPY_F32, &states->rows) ||
        read_array(states->keys_path, FLASHC_NPY_I64, &states->keys))
        return FLASHC_CLI_FAILED;
    states->rows.dtype = FLASHC_F32;
    return check_rows(&states->rows) || check_keys(&states->keys, states->rows.shape[0]);
}

/* Of the rows' array, with so many partial results: its rank, and its sizes. */
static int rows_shape(const flashc_cli_states_shape *shape, int64_t levels, int64_t sizes[5])
{
    sizes[0] = levels;
    memcpy(sizes + 1, shape->queries, (size_t)shape->rank * sizeof sizes[0]);
    sizes[shape->rank + 1] = shape->head_dim_v + FLASHC_STATE_BESIDES;
    return shape->rank + 2;
}

int flashc_cli_states_make(const flashc_cli_states_shape *shape, int64_t levels, flashc_cli_states *states)
{
    int64_t sizes[5];
    const int rank = rows_shape(shape, levels, sizes);
    const int64_t keys[2] = {shape->sequences, FLASHC_STATE_COLUMNS};
    if (flashc_cli_array_make("state", FLASHC_F32, rank, sizes, 0, &states->rows) ||
        flashc_cli_array_make_raw("state", FLASHC_NPY_I64, 2, keys, &states->keys))
        return FLASHC_CLI_FAILED;
    memset(states->keys.data, 0, (size_t)states->keys.count * sizeof(int64_t));
    float *rows = states->rows.data;
    for (int64_t i = shape->head_dim_v; i < states->rows.count; i += shape->head_dim_v + FLASHC_STATE_BESIDES)
        rows[i] = -INFINITY;
    return FLASHC_CLI_OK;
}

int flashc_cli_states_check(const flashc_cli_states *states, const flashc_cli_states_shape *shape, const char *of)
{
    char found[FLASHC_CLI_SHAPE_TEXT], expected[FLASHC_CLI_SHAPE_TEXT];
    int64_t sizes[5];
    const int rank = rows_shape(shape, states->rows.shape[0], sizes);
    if (states->rows.rank != rank || memcmp(states->rows.shape, sizes, (size_t)rank * sizeof sizes[0]) != 0)
        return flashc_cli_error("%s has shape %s: expected %s for the queries of %s, and head_dim_v %" PRId64 " + 2",
                                states->rows_path, flashc_cli_shape_text(states->rows.rank, states->rows.shape, found),
                                flashc_cli_shape_text(rank, sizes, expected), of, shape->head_dim_v);
    if (states->keys.shape[0] != shape->sequences)
        return flashc_cli_error("%s has %" PRId64 " rows: expected %" PRId64 ", one for each sequence of %s",
                                states->keys_path, states->keys.shape[0], shape->sequences, of);
    return FLASHC_CLI_OK;
}

int64_t flashc_cli_states_number(const flashc_cli_states *states, int64_t sequence, int column)
{
    return ((const int64_t *)states->keys.data)[sequence * FLASHC_STATE_COLUMNS + column];
}

/* The numbers of a query's partial result. */
static float *row_of(const flashc_cli_states *states, int64_t node, int64_t element, int64_t head, int64_t query)
{
    const flashc_cli_array *rows = &states->rows;
    const int r = rows->rank;
    const int64_t queries = rows->shape[r - 2], heads = r > 3 ? rows->shape[r - 3] : 1;
    const int64_t elements = r > 4 ? rows->shape[r - 4] : 1;
    return (float *)rows->data +
           (((node * elements + element) * heads + head) * queries + query) * rows->shape[r - 1];
}

void flashc_cli_states_load(const flashc_cli_states *states, const flashc_cli_states_part *part,
                            flashc_attention_state *to)
{
    const size_t acc_size = (size_t)to->head_dim_v * sizeof(float);
    to->next_key = flashc_cli_states_number(states, part->sequence, FLASHC_STATE_NEXT_KEY);
    to->n_nodes = flashc_cli_states_number(states, part->sequence, FLASHC_STATE_NODES);
    for (int64_t node = 0; node < to->n_nodes; node++)
        for (int64_t row = 0; row < to->rows; row++) {
            const int64_t at = node * to->rows + row;
            const float *from = row_of(states, node, part->element, row / part->n, part->first + row % part->n);
            memcpy(to->acc + at * to->head_dim_v, from, acc_size);
            to->row_max[at] = from[to->head_dim_v];
            to->row_sum[at] = from[to->head_dim_v + 1];
        }
}

void flashc_cli_states_store(flashc_cli_states *states, const flashc_cli_states_part *part,
                             const flashc_attention_state *from)
{
    const size_t acc_size = (size_t)from->head_dim_v * sizeof(float);
    int64_t *keys = (int64_t *)states->keys.data + part->sequence * FLASHC_STATE_COLUMNS;
    keys[FLASHC_STATE_NEXT_KEY] = from->next_key;
    keys[FLASHC_STATE_NODES] = from->n_nodes;
    keys[FLASHC_STATE_PIECE] = from->piece_n;
    for (int64_t node = 0; node < from->n_nodes; node++)
        for (int64_t row = 0; row < from->rows; row++) {
            const int64_t at = node * from->rows + row;
            float *to = row_of(states, node, part->element, row / part->n, part->first + row % part->n);
            memcpy(to, from->acc + at * from->head_dim_v, acc_size);
            to[from->head_dim_v] = from->row_max[at];
            to[from->head_dim_v + 1] = from->row_sum[at];
        }
}

void flashc_cli_states_trim(flashc_cli_states *states)
{
    int64_t most = 1;
    for (int64_t b = 0; b < states->keys.shape[0]; b++)
        most = flashc_cli_max(most, flashc_cli_states_number(states, b, FLASHC_STATE_NODES));
    states->rows.count = states->rows.count / states->rows.shape[0] * most;
    states->rows.shape[0] = most;
}

void flashc_cli_states_free(flashc_cli_states *states)
{
    flashc_cli_array_free(&states->rows);
    flashc_cli_array_free(&states->keys);
    free(states->rows_path);
    free(states->keys_path);
    *states = (flashc_cli_states){.rows_path = NULL};
}
