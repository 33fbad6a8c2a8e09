#include "cli/extra_outputs.h"

#include "cli/cli.h"

/* The last `rank` of `axes` sizes, in C order, f32. */
static int make(const char *name, int axes, const int64_t *sizes, int rank, flashc_cli_array *array,
                flashc_tensor *tensor)
{
    const int left_out = axes - rank;
    if (flashc_cli_array_make(name, FLASHC_F32, rank, sizes + left_out, 0, array))
        return FLASHC_CLI_FAILED;
    *tensor = (flashc_tensor){.data = array->data, .dtype = FLASHC_F32};
    for (int i = 0; i < rank; i++)
        tensor->stride[left_out + i] = array->strides[i];
    return FLASHC_CLI_OK;
}

int flashc_cli_extra_outputs_make(const flashc_cli_attention_args *args, int rank_q, int rank_k,
                                  flashc_cli_extra_outputs *extra, flashc_attention_params *p)
{
    const int64_t of_queries[4] = {p->cu_seqlens_q ? 1 : p->batch, p->num_heads, p->seqlen_q, p->seqlen_k};
    const int64_t of_keys[3] = {p->cu_seqlens_k ? 1 : p->batch, p->num_heads, p->seqlen_k};
    p->scores_stage = args->scores_stage;
    return (args->scores && make("scores", 4, of_queries, rank_q, &extra->scores, &p->scores)) ||
           (args->key_mass && make("key mass", 3, of_keys, rank_k - 1, &extra->key_mass, &p->key_mass)) ||
           (args->row_max && make("row max", 3, of_queries, rank_q - 1, &extra->row_max, &p->row_max));
}

void flashc_cli_extra_outputs_free(flashc_cli_extra_outputs *extra)
{
    flashc_cli_array_free(&extra->scores);
    flashc_cli_array_free(&extra->key_mass);
    flashc_cli_array_free(&extra->row_max);
}
