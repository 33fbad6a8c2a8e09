#include "cli/prefix.h"

#include "cli/caches.h"
#include "cli/cli.h"
#include "cli/layout.h"

int flashc_cli_prefix_check(const flashc_cli_attention_args *args)
{
    const struct {
        const char *option;
        int given;
    } refused[] = {{"--seqlens-q", args->seqlens_q != NULL},
                   {"--leftpad-k", args->leftpad_k != NULL},
                   {"--mask", args->mask != NULL},
                   {"--bias", args->bias != NULL},
                   {"--block-mask", args->block_mask != NULL},
                   {"--alibi", args->alibi != NULL},
                   {"--score-mod", args->score_mod != NULL},
                   {"--window", args->window[0] >= 0 || args->window[1] >= 0},
                   {"--scores", args->scores != NULL},
                   {"--key-mass", args->key_mass != NULL}};
    const char *given = args->prefix_k         ? "--prefix-k"
                        : args->prefix_v       ? "--prefix-v"
                        : args->prefix_k_scale ? "--prefix-k-scale"
                        : args->prefix_v_scale ? "--prefix-v-scale"
                                               : NULL;
    if (given && (!args->prefix_k || !args->prefix_v))
        return flashc_cli_usage_error("%s needs %s", given, args->prefix_k ? "--prefix-v" : "--prefix-k");
    for (size_t i = 0; given && i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i].given)
            return flashc_cli_usage_error("--prefix-k and %s do not go together", refused[i].option);
    return FLASHC_CLI_OK;
}

/* K or V: [H,L,D], and the view of it. */
static int read(const char *path, const flashc_cli_attention_args *args, int plan_only, const flashc_cli_array *q,
                flashc_cli_array *array, flashc_tensor *view, int64_t sizes[4])
{
    char found[FLASHC_CLI_SHAPE_TEXT];
    const int rank = q->rank < 4 ? q->rank : 3;
    if (flashc_cli_array_read(path, plan_only || args->stream_kv, array) ||
        flashc_cli_array_to_cache(array, args->cache_dtype ? args->cache_dtype : args->dtype))
        return FLASHC_CLI_FAILED;
    if (array->rank != rank)
        return flashc_cli_error("%s: expected rank %d %s, which all batch elements share, found rank %d %s",
                                array->name, rank, rank == 2 ? "[L,D]" : args->bshd ? "[L,H,D]" : "[H,L,D]",
                                array->rank, flashc_cli_shape_text(array->rank, array->shape, found));
    *view = flashc_cli_layout_tensor(array, args->bshd, sizes);
    sizes[3] *= flashc_cli_dtype_columns(array->dtype);
    return FLASHC_CLI_OK;
}

/* The queries of all sequences as one row after the other: [B,L,H,D] in memory. */
static int rearrange_queries(int bshd, flashc_cli_array *q, flashc_attention_params *p)
{
    int64_t sizes[4];
    if (p->cu_seqlens_q || p->batch <= 1 || p->seqlen_q <= 1 || p->q.stride[0] == p->seqlen_q * p->q.stride[2])
        return FLASHC_CLI_OK;
    if (q->reserved) {
        p->q = flashc_tensor_bshd(q->data, q->dtype, p->num_heads, p->seqlen_q, p->head_dim);
        return FLASHC_CLI_OK;
    }
    if (!bshd)
        flashc_cli_array_swap_axes(q, 1, 2);
    if (flashc_cli_array_pack(q))
        return FLASHC_CLI_FAILED;
    if (!bshd)
        flashc_cli_array_swap_axes(q, 1, 2);
    p->q = flashc_cli_layout_tensor(q, bshd, sizes);
    return FLASHC_CLI_OK;
}

int flashc_cli_prefix_open(const flashc_cli_attention_args *args, int plan_only, flashc_cli_prefix *prefix,
                           flashc_cli_array *q, flashc_attention_params *p)
{
    int64_t k[4], v[4];
    flashc_shared_prefix *s = &prefix->shared;
    flashc_shared_prefix_init(s, sizeof *s);
    if (read(args->prefix_k, args, plan_only, q, &prefix->k, &s->k, k) ||
        read(args->prefix_v, args, plan_only, q, &prefix->v, &s->v, v))
        return FLASHC_CLI_FAILED;
    const struct {
        const flashc_cli_array *array;
        int64_t found, expected;
        const char *what;
    } sizes[] = {{&prefix->k, k[1], p->num_heads_k, "heads, as K"},
                 {&prefix->v, v[1], p->num_heads_k, "heads, as V"},
                 {&prefix->k, k[3], p->head_dim, "columns, as K"},
                 {&prefix->v, v[3], p->head_dim_v, "columns, as V"},
                 {&prefix->v, v[2], k[2], "rows, as the prefix of K"}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        if (sizes[i].found != sizes[i].expected)
            return flashc_cli_error("%s: expected %lld %s has, found %lld", sizes[i].array->name,
                                    (long long)sizes[i].expected, sizes[i].what, (long long)sizes[i].found);
    s->seqlen = k[2];
    if (flashc_cli_scales_read("--prefix-k-scale", args->prefix_k_scale, plan_only, &prefix->k, args->bshd,
                               &prefix->k_scale, &s->k_scale) ||
        flashc_cli_scales_read("--prefix-v-scale", args->prefix_v_scale, plan_only, &prefix->v, args->bshd,
                               &prefix->v_scale, &s->v_scale))
        return FLASHC_CLI_FAILED;
    return rearrange_queries(args->bshd, q, p);
}

void flashc_cli_prefix_close(flashc_cli_prefix *prefix)
{
    flashc_cli_array *const arrays[] = {&prefix->k, &prefix->v, &prefix->k_scale, &prefix->v_scale};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++)
        flashc_cli_array_free(arrays[i]);
}
