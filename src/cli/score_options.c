#include "cli/score_options.h"

#include "cli/cli.h"
#include "cli/lengths.h"

int flashc_cli_per_head_read(const char *path, int64_t heads, int64_t batch, flashc_cli_array *array)
{
    char text[FLASHC_CLI_SHAPE_TEXT];
    if (flashc_cli_array_read(path, 0, array) || flashc_cli_array_to_float(array, FLASHC_F32) ||
        flashc_cli_array_pack(array))
        return FLASHC_CLI_FAILED;
    if ((array->rank == 1 && array->shape[0] == heads) ||
        (batch >= 0 && array->rank == 2 && array->shape[0] == batch && array->shape[1] == heads))
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s: expected one number for each of %lld heads%s, found shape %s", array->name,
                            (long long)heads, batch >= 0 ? ", or for each batch element and head" : "",
                            flashc_cli_shape_text(array->rank, array->shape, text));
}

/* [tiles of queries, tiles of keys], with heads or batch elements and heads before them; 1 repeats. */
static int read_block_mask(const flashc_cli_attention_args *args, int plan_only, flashc_cli_array *array,
                           flashc_attention_params *p)
{
    char found[FLASHC_CLI_SHAPE_TEXT], expected[FLASHC_CLI_SHAPE_TEXT];
    const int64_t m = args->block_mask_tile[0], n = args->block_mask_tile[1];
    const int64_t queries = flashc_cli_longest_of(p->cu_seqlens_q, p->batch, p->seqlen_q);
    const int64_t keys = flashc_cli_longest_of(p->cu_seqlens_k, p->batch, p->seqlen_k);
    const int64_t sizes[4] = {p->batch, p->num_heads, queries / m + (queries % m != 0), keys / n + (keys % n != 0)};
    if (flashc_cli_array_read(args->block_mask, plan_only, array) || flashc_cli_array_to_mask(array))
        return FLASHC_CLI_FAILED;
    p->block_mask = (flashc_tensor){.data = array->data, .dtype = FLASHC_BOOL};
    p->block_mask_m = m;
    p->block_mask_n = n;
    int fits = array->rank >= 2 && array->rank <= 4;
    for (int i = 0; fits && i < array->rank; i++) {
        const int axis = 4 - array->rank + i;
        fits = array->shape[i] == sizes[axis] || (axis < 2 && array->shape[i] == 1);
        p->block_mask.stride[axis] = array->shape[i] == 1 ? 0 : array->strides[i];
    }
    if (fits)
        return FLASHC_CLI_OK;
    return flashc_cli_error("%s has shape %s: expected [batch, heads, tiles of %lld queries, tiles of %lld keys] = %s, "
                            "or 1 for the first two",
                            array->name, flashc_cli_shape_text(array->rank, array->shape, found), (long long)m,
                            (long long)n, flashc_cli_shape_text(4, sizes, expected));
}

int flashc_cli_score_options_set(const flashc_cli_attention_args *args, int plan_only,
                                 flashc_cli_score_options *scores, flashc_attention_params *p)
{
    p->window_left = args->window[0];
    p->window_right = args->window[1];
    p->softcap = args->softcap;
    if ((args->alibi && flashc_cli_per_head_read(args->alibi, p->num_heads, p->batch, &scores->alibi)) ||
        (args->sinks && flashc_cli_per_head_read(args->sinks, p->num_heads, -1, &scores->sinks)) ||
        (args->block_mask && read_block_mask(args, plan_only, &scores->block_mask, p)))
        return FLASHC_CLI_FAILED;
    p->alibi_slopes = scores->alibi.data;
    p->alibi_batch_stride = scores->alibi.rank == 2 ? p->num_heads : 0;
    p->sinks = scores->sinks.data;
    return FLASHC_CLI_OK;
}

void flashc_cli_score_options_free(flashc_cli_score_options *scores)
{
    flashc_cli_array_free(&scores->alibi);
    flashc_cli_array_free(&scores->sinks);
    flashc_cli_array_free(&scores->block_mask);
}
