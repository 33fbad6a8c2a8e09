#include "cli/sequences.h"

#include "cli/array.h"
#include "cli/cli.h"

#include <stdlib.h>

int flashc_cli_sequences_read(const flashc_cli_attention_args *args, flashc_cli_sequences *s)
{
    const struct {
        const char *path;
        flashc_cli_integers *integers;
    } files[] = {{args->cu_seqlens_q, &s->cu_seqlens_q}, {args->cu_seqlens_k, &s->cu_seqlens_k},
                 {args->seqlens_q, &s->seqlens_q},       {args->seqlens_k, &s->seqlens_k},
                 {args->leftpad_k, &s->leftpad_k},       {args->offsets, &s->offsets},
                 {args->block_table, &s->block_table},   {args->block_table_v, &s->block_table_v}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const int is_table = files[i].integers == &s->block_table || files[i].integers == &s->block_table_v;
        if (files[i].path && (flashc_cli_integers_read(files[i].path, is_table ? 2 : 1, files[i].integers) ||
                              (is_table && flashc_cli_integers_narrow(files[i].integers))))
            return FLASHC_CLI_FAILED;
    }
    const flashc_cli_integers *cu[] = {&s->cu_seqlens_q, &s->cu_seqlens_k};
    for (int i = 0; i < 2; i++)
        if (cu[i]->values && cu[i]->shape[0] < 1)
            return flashc_cli_error("%s: expected a number for each sequence and one more, found none", cu[i]->name);
    return FLASHC_CLI_OK;
}

static int make(const char *name, int64_t rows, int64_t columns, flashc_cli_integers *out)
{
    *out = (flashc_cli_integers){.name = name, .shape = {rows, columns}};
    out->values = calloc((size_t)(rows * columns) + 1, sizeof *out->values);
    return out->values ? FLASHC_CLI_OK
                       : flashc_cli_error("%s: no memory for %lld numbers", name, (long long)(rows * columns));
}

int flashc_cli_sequences_pack(int64_t batch, int64_t seqlen_q, int64_t seqlen_k, flashc_cli_sequences *s)
{
    if (make("cu_seqlens_q", batch + 1, 1, &s->cu_seqlens_q) || make("cu_seqlens_k", batch + 1, 1, &s->cu_seqlens_k))
        return FLASHC_CLI_FAILED;
    for (int64_t b = 0; b <= batch; b++) {
        s->cu_seqlens_q.values[b] = b * seqlen_q;
        s->cu_seqlens_k.values[b] = b * seqlen_k;
    }
    return FLASHC_CLI_OK;
}

int flashc_cli_sequences_page(int64_t batch, int64_t pages_each, int64_t seqlen_k, flashc_cli_sequences *s)
{
    const int64_t count = batch * pages_each;
    if (make("block_table", batch, pages_each, &s->block_table) || make("seqlens_k", batch, 1, &s->seqlens_k))
        return FLASHC_CLI_FAILED;
    for (int64_t b = 0; b < batch; b++)
        s->seqlens_k.values[b] = seqlen_k;
    uint64_t state = 1;
    for (int64_t i = 0; i < count; i++) { /* a shuffle, by a linear congruential generator (Knuth's MMIX) */
        state = state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        const int64_t j = (int64_t)((state >> 33) % (uint64_t)(i + 1));
        s->block_table.values[i] = s->block_table.values[j];
        s->block_table.values[j] = i;
    }
    return flashc_cli_integers_narrow(&s->block_table);
}

static int set_table(const flashc_cli_integers *pages, const int64_t sizes[2], const flashc_attention_params *p,
                     flashc_block_table *table)
{
    char text[FLASHC_CLI_SIZE_TEXT];
    if (pages->shape[0] != p->batch)
        return flashc_cli_error("%s has %s: expected %lld, one for each sequence", pages->name,
                                flashc_cli_size_text("rows", pages->shape[0], text), (long long)p->batch);
    *table = (flashc_block_table){.pages = pages->narrow,
                                  .stride = {pages->shape[1], 1},
                                  .max_pages = pages->shape[1],
                                  .num_pages = sizes[0],
                                  .page_size = sizes[1]};
    return FLASHC_CLI_OK;
}

int flashc_cli_sequences_set(const flashc_cli_sequences *s, const int64_t k_pages[2], const int64_t v_pages[2],
                             flashc_attention_params *p)
{
    const struct {
        const flashc_cli_integers *integers;
        const int64_t **array;
        int extra;
    } arrays[] = {{&s->cu_seqlens_q, &p->cu_seqlens_q, 1},
                  {&s->cu_seqlens_k, &p->cu_seqlens_k, 1},
                  {&s->seqlens_q, &p->seqlens_q, 0},
                  {&s->seqlens_k, &p->seqlens_k, 0},
                  {&s->leftpad_k, &p->leftpad_k, 0},
                  {&s->offsets, &p->offsets, 0}};
    for (size_t i = 0; i < sizeof arrays / sizeof arrays[0]; i++) {
        if (!arrays[i].integers->values)
            continue;
        if (flashc_cli_integers_check_count(arrays[i].integers, p->batch + arrays[i].extra,
                                            arrays[i].extra ? "one for each sequence and one more"
                                                            : "one for each sequence"))
            return FLASHC_CLI_FAILED;
        *arrays[i].array = arrays[i].integers->values;
    }
    if ((s->block_table.narrow && set_table(&s->block_table, k_pages, p, &p->block_table)) ||
        (s->block_table_v.narrow && set_table(&s->block_table_v, v_pages, p, &p->block_table_v)))
        return FLASHC_CLI_FAILED;
    return FLASHC_CLI_OK;
}

void flashc_cli_sequences_free(flashc_cli_sequences *s)
{
    flashc_cli_integers *const all[] = {&s->cu_seqlens_q, &s->cu_seqlens_k, &s->seqlens_q,    &s->seqlens_k,
                                        &s->leftpad_k,    &s->offsets,      &s->block_table,  &s->block_table_v};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        flashc_cli_integers_free(all[i]);
}
