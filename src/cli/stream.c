#include "cli/stream.h"

#include "cli/caches.h"
#include "cli/cli.h"
#include "cli/layout.h"

#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

int flashc_cli_stream_check(const flashc_cli_attention_args *args)
{
    const struct {
        const char *option, *value;
    } refused[] = {{"--cu-seqlens-k", args->cu_seqlens_k}, {"--block-table", args->block_table},
                   {"--key-mass", args->key_mass}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i].value)
            return flashc_cli_usage_error("--stream-kv and %s do not go together", refused[i].option);
    if (args->scores && args->scores_stage == FLASHC_SCORES_WEIGHTS)
        return flashc_cli_usage_error("--stream-kv and --scores-stage weights do not go together: weights need all "
                                      "keys");
    if (strcmp(args->k, "-") == 0 || strcmp(args->v, "-") == 0)
        return flashc_cli_usage_error("--stream-kv expects files for K and V, found standard input");
    if (args->dry_run)
        return flashc_cli_usage_error("--stream-kv and --dry-run do not go together");
    return FLASHC_CLI_OK;
}

/* K or V on disk. */
typedef struct stream_file {
    flashc_npy_pieces pieces;
    flashc_dtype dtype; /* that it is to have */
    int rows_axis;
    flashc_cli_array chunk;
} stream_file;

static int open_file(const char *path, const flashc_cli_array *whole, int bshd, stream_file *file)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    int axes[4];
    if (!flashc_npy_pieces_open(path, &file->pieces, message, sizeof message))
        return flashc_cli_error("%s", message);
    if (file->pieces.header.fortran_order && file->pieces.header.rank > 1)
        return flashc_cli_error("%s: --stream-kv expects C order, found Fortran order", path);
    flashc_cli_layout_axes(whole->rank, bshd, axes);
    file->dtype = whole->dtype;
    file->rows_axis = axes[2];
    return FLASHC_CLI_OK;
}

/* Rows first .. first + n - 1 of all heads and batch elements. */
static int read_chunk(stream_file *file, int64_t first, int64_t n)
{
    char message[FLASHC_NPY_MESSAGE_SIZE];
    const flashc_npy_header *whole = &file->pieces.header;
    flashc_cli_array *chunk = &file->chunk;
    int64_t shape[FLASHC_NPY_MAX_RANK], outer = 1, inner = 1;
    for (int i = 0; i < whole->rank; i++) {
        shape[i] = i == file->rows_axis ? n : whole->shape[i];
        outer *= i < file->rows_axis ? whole->shape[i] : 1;
        inner *= i > file->rows_axis ? whole->shape[i] : 1;
    }
    flashc_cli_array_free(chunk);
    if (flashc_cli_array_make_raw(file->pieces.path, whole->type, whole->rank, shape, chunk))
        return FLASHC_CLI_FAILED;
    const int64_t rows = whole->shape[file->rows_axis];
    for (int64_t i = 0; i < outer; i++)
        if (!flashc_npy_pieces_read(&file->pieces, (i * rows + first) * inner, n * inner,
                                    (char *)chunk->data + (size_t)(i * n * inner) * whole->item_size,
                                    message, sizeof message))
            return flashc_cli_error("%s", message);
    return flashc_cli_array_to_cache(chunk, (int)file->dtype);
}

static void close_file(stream_file *file)
{
    flashc_cli_array_free(&file->chunk);
    flashc_npy_pieces_close(&file->pieces);
}

typedef struct stream {
    stream_file k, v;
    flashc_attention_state state;
    flashc_attention_params params; /* of the chunk */
    int64_t *seqlens_k;             /* [batch] */
} stream;

static int allocate(stream *s)
{
    const size_t rows = (size_t)(s->state.levels * s->state.rows) + 1, batch = (size_t)s->params.batch + 1;
    s->state.row_max = calloc(rows, sizeof(float));
    s->state.row_sum = calloc(rows, sizeof(float));
    s->state.acc = calloc(rows, (size_t)s->state.head_dim_v * sizeof(float) + 1);
    s->seqlens_k = calloc(batch, sizeof *s->seqlens_k);
    if (!s->state.row_max || !s->state.row_sum || !s->state.acc || !s->seqlens_k)
        return flashc_cli_error("no memory for a state of %lld x %lld rows of %lld columns", (long long)s->state.levels,
                                (long long)s->state.rows, (long long)s->state.head_dim_v);
    return FLASHC_CLI_OK;
}

/* The chunk's part of what is in memory whole. */
static flashc_tensor skip(const flashc_tensor *whole, int axis, int64_t first)
{
    flashc_tensor part = *whole;
    if (part.data)
        part.data = (char *)part.data + first * part.stride[axis] * (int64_t)flashc_dtype_size(part.dtype);
    return part;
}

static int run_chunk(stream *s, const flashc_attention_params *whole, int bshd, int64_t first, int64_t n)
{
    flashc_attention_params *p = &s->params;
    int64_t sizes[4];
    if (read_chunk(&s->k, first, n) || read_chunk(&s->v, first, n))
        return FLASHC_CLI_FAILED;
    p->k = flashc_cli_layout_tensor(&s->k.chunk, bshd, sizes);
    p->v = flashc_cli_layout_tensor(&s->v.chunk, bshd, sizes);
    p->seqlen_k = n;
    p->k_scale = skip(&whole->k_scale, 2, first);
    p->v_scale = skip(&whole->v_scale, 2, first);
    p->mask = skip(&whole->mask, 3, first);
    p->bias = skip(&whole->bias, 3, first);
    p->scores = skip(&whole->scores, 3, first);
    for (int64_t b = 0; whole->seqlens_k && b < p->batch; b++) {
        const int64_t left = whole->seqlens_k[b] - first;
        s->seqlens_k[b] = left < 0 ? 0 : left < n ? left : n;
    }
    p->seqlens_k = whole->seqlens_k ? s->seqlens_k : NULL;
    const flashc_status status = flashc_attention_accumulate(&s->state, p);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error(status);
}

static int run_chunks(stream *s, const flashc_cli_attention_args *args, const flashc_attention_params *whole,
                      flashc_cli_progress *progress)
{
    progress->parts = whole->seqlen_k / args->stream_kv + (whole->seqlen_k % args->stream_kv != 0);
    for (int64_t first = 0; first < whole->seqlen_k; first += args->stream_kv) {
        const int64_t left = whole->seqlen_k - first;
        if (run_chunk(s, whole, args->bshd, first, left < args->stream_kv ? left : args->stream_kv))
            return FLASHC_CLI_FAILED;
        progress->part++;
    }
    const flashc_status status = flashc_attention_finish(&s->state, whole);
    return status == FLASHC_OK ? FLASHC_CLI_OK : flashc_cli_library_error(status);
}

static int run(stream *s, const flashc_cli_attention_args *args, const flashc_cli_job *job,
               flashc_cli_progress *progress)
{
    const flashc_attention_params *whole = &job->params;
    if (open_file(args->k, &job->k, args->bshd, &s->k) || open_file(args->v, &job->v, args->bshd, &s->v))
        return FLASHC_CLI_FAILED;
    flashc_status status = flashc_attention_state_init(&s->state, sizeof s->state, whole);
    if (status != FLASHC_OK)
        return flashc_cli_library_error(status);
    s->params = *whole;
    s->state.seqlens_k = whole->seqlens_k;
    if (allocate(s))
        return FLASHC_CLI_FAILED;
    status = flashc_attention_state_clear(&s->state);
    if (status != FLASHC_OK)
        return flashc_cli_library_error(status);
    return run_chunks(s, args, whole, progress);
}

int flashc_cli_stream_run(const flashc_cli_attention_args *args, const flashc_cli_job *job,
                          flashc_cli_progress *progress)
{
    stream s = {.state = {.row_max = NULL}};
#ifdef __GLIBC__
    /* Chunks straight from the system, and back: on the heap each next one would not fit into the hole that aligned
     * memory of the same size left (265 MB for chunks of 34 MB). */
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
    const int exit_code = run(&s, args, job, progress);
    close_file(&s.k);
    close_file(&s.v);
    free(s.state.row_max);
    free(s.state.row_sum);
    free(s.state.acc);
    free(s.seqlens_k);
    return exit_code;
}
