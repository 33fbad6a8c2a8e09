#include "cli/append_job.h"

#include "cli/caches.h"
#include "cli/cli.h"
#include "cli/layout.h"

/* Reads an array, converts it and brings it into C order, in which it is written again. */
static int read_array(flashc_cli_append_job *job, int which)
{
    flashc_cli_array *array = &job->array[which];
    const int is_cache = which == APPEND_CACHE_K || which == APPEND_CACHE_V;
    const int is_table = which == APPEND_COS || which == APPEND_SIN;
    if (flashc_cli_array_read(job->array_path[which], 0, array) ||
        (is_cache ? flashc_cli_array_to_cache(array, job->cache_dtype)
                  : flashc_cli_array_to_float(array, is_table ? 0 : job->dtype)))
        return FLASHC_CLI_FAILED;
    char found[FLASHC_CLI_SHAPE_TEXT];
    if (is_table ? array->rank != 2 : array->rank != 3 && array->rank != 4)
        return flashc_cli_error("%s: expected rank %s, found rank %d %s", array->name, is_table ? "2" : "3 or 4",
                                array->rank, flashc_cli_shape_text(array->rank, array->shape, found));
    return is_table ? FLASHC_CLI_OK : flashc_cli_array_pack(array);
}

static int read_files(flashc_cli_append_job *job)
{
    for (int i = 0; i < APPEND_SCALE_K; i++)
        if (job->array_path[i] && read_array(job, i))
            return FLASHC_CLI_FAILED;
    for (int i = 0; i < APPEND_INTEGERS; i++) {
        const int is_table = i == APPEND_BLOCK_TABLE || i == APPEND_BLOCK_TABLE_V;
        if (job->integers_path[i] &&
            (flashc_cli_integers_read(job->integers_path[i], is_table ? 2 : 1, &job->integers[i]) ||
             (is_table && flashc_cli_integers_narrow(&job->integers[i]))))
            return FLASHC_CLI_FAILED;
    }
    return FLASHC_CLI_OK;
}

static int check_size(const flashc_cli_array *array, int64_t found, int64_t expected, const char *what)
{
    char text[FLASHC_CLI_SIZE_TEXT];
    if (found == expected)
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s has %s: expected %lld", array->name, flashc_cli_size_text(what, found, text),
                            (long long)expected);
}

/* A cache in the same layout, of so many heads and columns. */
static int set_cache(flashc_cli_append_job *job, int which, int64_t heads, int64_t cols, flashc_tensor *view,
                     const flashc_cli_integers *pages, flashc_block_table *table)
{
    const flashc_cli_array *array = &job->array[which];
    flashc_append_params *p = &job->params;
    char text[FLASHC_CLI_SIZE_TEXT];
    int64_t sizes[4];
    *view = flashc_cli_layout_tensor(array, job->bshd, sizes);
    if (check_size(array, sizes[1], heads, "heads") ||
        check_size(array, sizes[3] * flashc_cli_dtype_columns(array->dtype), cols, "columns") ||
        (!pages->narrow && check_size(array, sizes[0], p->batch, "batch")) ||
        (!pages->narrow && which == APPEND_CACHE_V && job->array_path[APPEND_CACHE_K] &&
         check_size(array, sizes[2], p->seqlen_cache, "rows")))
        return FLASHC_CLI_FAILED;
    p->seqlen_cache = sizes[2];
    if (pages->narrow)
        *table = (flashc_block_table){.pages = pages->narrow,
                                      .stride = {pages->shape[1], 1},
                                      .max_pages = pages->shape[1],
                                      .num_pages = sizes[0],
                                      .page_size = sizes[2]};
    return pages->narrow && pages->shape[0] != p->batch
               ? flashc_cli_error("%s has %s: expected %lld, one for each sequence", pages->name,
                                  flashc_cli_size_text("rows", pages->shape[0], text), (long long)p->batch)
               : FLASHC_CLI_OK;
}

/* The new rows: all of one batch and length. */
static int set_new_rows(flashc_cli_append_job *job)
{
    flashc_append_params *p = &job->params;
    flashc_tensor *const views[] = {&p->k, &p->v, &p->q};
    int64_t sizes[4], elements = -1;
    for (int i = APPEND_K; i <= APPEND_Q; i++) {
        const flashc_cli_array *array = &job->array[i];
        if (!job->array_path[i])
            continue;
        *views[i] = flashc_cli_layout_tensor(array, job->bshd, sizes);
        if (elements >= 0 && (check_size(array, sizes[0], elements, "batch") ||
                              check_size(array, sizes[2], p->seqlen_new, "rows") ||
                              (i == APPEND_V && check_size(array, sizes[1], p->num_heads_k, "heads")) ||
                              (i == APPEND_Q && job->array_path[APPEND_K] &&
                               check_size(array, sizes[3], p->head_dim, "head_dim"))))
            return FLASHC_CLI_FAILED;
        elements = sizes[0];
        p->seqlen_new = sizes[2];
        *(i == APPEND_Q ? &p->num_heads : &p->num_heads_k) = sizes[1];
        *(i == APPEND_V ? &p->head_dim_v : &p->head_dim) = sizes[3];
    }
    const flashc_cli_integers *cu = &job->integers[APPEND_CU_SEQLENS];
    if (cu->values && elements != 1)
        return flashc_cli_error("%s: packed rows have no batch axis, found one of %lld", cu->name, (long long)elements);
    if (cu->values && cu->shape[0] < 1)
        return flashc_cli_error("%s: expected a number for each sequence and one more, found none", cu->name);
    p->batch = cu->values ? cu->shape[0] - 1 : elements;
    if (p->head_dim == 0) /* of V alone */
        p->head_dim = 1;
    return FLASHC_CLI_OK;
}

static int set_caches(flashc_cli_append_job *job)
{
    flashc_append_params *p = &job->params;
    const flashc_cli_integers *pages = &job->integers[APPEND_BLOCK_TABLE];
    const flashc_cli_integers *pages_v = &job->integers[APPEND_BLOCK_TABLE_V];
    const int has_k = job->array_path[APPEND_K] != NULL, has_v = job->array_path[APPEND_V] != NULL;
    const int own_v = pages_v->narrow != NULL;
    flashc_block_table same;
    if ((has_k && set_cache(job, APPEND_CACHE_K, p->num_heads_k, p->head_dim, &p->k_cache, pages, &p->block_table)) ||
        (has_v && set_cache(job, APPEND_CACHE_V, p->num_heads_k, p->head_dim_v, &p->v_cache, own_v ? pages_v : pages,
                            own_v   ? &p->block_table_v
                            : has_k ? &same
                                    : &p->block_table)))
        return FLASHC_CLI_FAILED;
    if (has_k && has_v && pages->narrow && !own_v &&
        (same.num_pages != p->block_table.num_pages || same.page_size != p->block_table.page_size))
        return flashc_cli_error("%s has %lld pages of %lld rows, %s has %lld of %lld: one table is for both",
                                job->array[APPEND_CACHE_K].name, (long long)p->block_table.num_pages,
                                (long long)p->block_table.page_size, job->array[APPEND_CACHE_V].name,
                                (long long)same.num_pages, (long long)same.page_size);
    return FLASHC_CLI_OK;
}

static int set_rotation(flashc_cli_append_job *job)
{
    flashc_append_params *p = &job->params;
    const flashc_cli_array *cosines = &job->array[APPEND_COS], *sines = &job->array[APPEND_SIN];
    int64_t sizes[4];
    p->rotary_interleaved = job->interleaved;
    if (!job->array_path[APPEND_COS])
        return FLASHC_CLI_OK;
    p->rotary_cos = flashc_cli_layout_tensor(cosines, 0, sizes);
    p->rotary_sin = flashc_cli_layout_tensor(sines, 0, sizes);
    p->rotary_dim = 2 * cosines->shape[1];
    p->rotary_len = cosines->shape[0];
    return check_size(sines, sines->shape[0], p->rotary_len, "rows") ||
           check_size(sines, sines->shape[1], p->rotary_dim / 2, "columns");
}

static int set_rotated(flashc_cli_append_job *job)
{
    const flashc_cli_array *q = &job->array[APPEND_Q];
    int64_t sizes[4];
    job->params.q_out = job->params.q;
    if (!q->data || !job->out_dtype || job->out_dtype == (int)q->dtype)
        return FLASHC_CLI_OK;
    if (flashc_cli_array_make("rotated Q", (flashc_dtype)job->out_dtype, q->rank, q->shape, 0, &job->q_out))
        return FLASHC_CLI_FAILED;
    job->params.q_out = flashc_cli_layout_tensor(&job->q_out, job->bshd, sizes);
    return FLASHC_CLI_OK;
}

const flashc_cli_array *flashc_cli_append_rotated(const flashc_cli_append_job *job)
{
    return job->q_out.data ? &job->q_out : &job->array[APPEND_Q];
}

int flashc_cli_append_open(flashc_cli_append_job *job)
{
    flashc_append_params *p = &job->params;
    flashc_append_params_init(p, sizeof *p);
    if (read_files(job) || set_new_rows(job))
        return FLASHC_CLI_FAILED;
    const flashc_cli_integers *n = job->integers;
    const int per_sequence[] = {APPEND_POSITIONS, APPEND_SEQLENS, APPEND_ROTARY_POSITIONS};
    for (size_t i = 0; i < sizeof per_sequence / sizeof per_sequence[0]; i++)
        if (n[per_sequence[i]].values &&
            flashc_cli_integers_check_count(&n[per_sequence[i]], p->batch, "one for each sequence"))
            return FLASHC_CLI_FAILED;
    p->positions = n[APPEND_POSITIONS].values;
    p->seqlens_new = n[APPEND_SEQLENS].values;
    p->cu_seqlens_new = n[APPEND_CU_SEQLENS].values;
    p->rotary_positions = n[APPEND_ROTARY_POSITIONS].values;
    if (set_caches(job) || set_rotated(job))
        return FLASHC_CLI_FAILED;
    flashc_tensor *const scales[] = {&p->k_cache_scale, &p->v_cache_scale};
    const char *const options[] = {"--k-scale", "--v-scale"};
    for (int i = 0; i < 2; i++)
        if (job->array_path[APPEND_SCALE_K + i] &&
            flashc_cli_scales_read(options[i], job->array_path[APPEND_SCALE_K + i], 0, &job->array[APPEND_CACHE_K + i],
                                   job->bshd, &job->array[APPEND_SCALE_K + i], scales[i]))
            return FLASHC_CLI_FAILED;
    return set_rotation(job);
}

void flashc_cli_append_close(flashc_cli_append_job *job)
{
    for (int i = 0; i < APPEND_ARRAYS; i++)
        flashc_cli_array_free(&job->array[i]);
    flashc_cli_array_free(&job->q_out);
    for (int i = 0; i < APPEND_INTEGERS; i++)
        flashc_cli_integers_free(&job->integers[i]);
}
