#include "cli/cli.h"
#include "cli/library_error.h"
#include "cli/merge.h"

#include <stdlib.h>
#include <string.h>

typedef struct merge_parts {
    int count, bshd, dtype;
    flashc_cli_array *o, *lse;           /* of each part, f32, in C order, rows in the same order in both */
    const float **o_parts, **lse_parts;  /* their data */
} merge_parts;

/* LSE [.., H, L] with its last two axes exchanged: the order of O's rows in the layout bshd, and back. */
static int exchange_rows(flashc_cli_array *lse)
{
    if (lse->rank < 2)
        return FLASHC_CLI_OK;
    flashc_cli_array_swap_axes(lse, lse->rank - 2, lse->rank - 1);
    return flashc_cli_array_pack(lse);
}

static int read_part(merge_parts *run, int part, const char *o_path, const char *lse_path)
{
    flashc_cli_array *o = &run->o[part], *lse = &run->lse[part];
    char found[FLASHC_CLI_SHAPE_TEXT], expected[FLASHC_CLI_SHAPE_TEXT];
    if (flashc_cli_array_read(o_path, 0, o) || flashc_cli_array_to_float(o, run->dtype) ||
        flashc_cli_array_convert(o, FLASHC_F32) || flashc_cli_array_pack(o))
        return FLASHC_CLI_FAILED;
    if (flashc_cli_array_read(lse_path, 0, lse))
        return FLASHC_CLI_FAILED;
    if (lse->file_type != FLASHC_NPY_F32)
        return flashc_cli_error("%s: expected an LSE of type f32, found %s", lse->name,
                                flashc_npy_type_name(lse->file_type));
    lse->dtype = FLASHC_F32;
    if (o->rank < 2 || o->rank > 4)
        return flashc_cli_error("%s: expected an O of rank 2, 3 or 4, found %s", o->name,
                                flashc_cli_shape_text(o->rank, o->shape, found));
    const flashc_cli_array *first = &run->o[0];
    if (o->rank != first->rank || memcmp(o->shape, first->shape, (size_t)o->rank * sizeof o->shape[0]) != 0)
        return flashc_cli_error("%s has shape %s, %s has %s: the parts must have the same shape", o->name,
                                flashc_cli_shape_text(o->rank, o->shape, found), first->name,
                                flashc_cli_shape_text(first->rank, first->shape, expected));
    int64_t rows[4];
    memcpy(rows, o->shape, sizeof rows);
    if (run->bshd && o->rank > 2) {
        rows[o->rank - 3] = o->shape[o->rank - 2];
        rows[o->rank - 2] = o->shape[o->rank - 3];
    }
    if (lse->rank != o->rank - 1 || memcmp(lse->shape, rows, (size_t)lse->rank * sizeof rows[0]) != 0)
        return flashc_cli_error("%s has shape %s: %s needs an LSE of shape %s", lse->name,
                                flashc_cli_shape_text(lse->rank, lse->shape, found), o->name,
                                flashc_cli_shape_text(o->rank - 1, rows, expected));
    if (run->bshd ? exchange_rows(lse) : flashc_cli_array_pack(lse))
        return FLASHC_CLI_FAILED;
    run->o_parts[part] = o->data;
    run->lse_parts[part] = lse->data;
    return FLASHC_CLI_OK;
}

/* Merges into the first part, and takes that over. */
static int merge_all(merge_parts *run, flashc_cli_merged *out)
{
    flashc_cli_array *o = &run->o[0], *lse = &run->lse[0];
    const flashc_status status = flashc_merge_partials(run->count, lse->count, o->shape[o->rank - 1], run->o_parts,
                                                       run->lse_parts, o->data, lse->data);
    if (status != FLASHC_OK)
        return flashc_cli_library_error();
    if (run->bshd && exchange_rows(lse))
        return FLASHC_CLI_FAILED;
    out->o = *o;
    out->lse = *lse;
    *o = *lse = (flashc_cli_array){.data = NULL};
    return FLASHC_CLI_OK;
}

static int read_and_merge(merge_parts *run, char **paths, flashc_cli_merged *out)
{
    for (int i = 0; i < run->count; i++)
        if (read_part(run, i, paths[2 * i], paths[2 * i + 1]))
            return FLASHC_CLI_FAILED;
    return merge_all(run, out);
}

int flashc_cli_merge_parts(int count, char **paths, int bshd, int dtype, flashc_cli_merged *out)
{
    const size_t n = (size_t)count;
    int exit_code = FLASHC_CLI_FAILED;
    merge_parts run = {.count = count, .bshd = bshd, .dtype = dtype};
    run.o = calloc(n, sizeof *run.o);
    run.lse = calloc(n, sizeof *run.lse);
    run.o_parts = calloc(n, sizeof *run.o_parts);
    run.lse_parts = calloc(n, sizeof *run.lse_parts);
    if (run.o && run.lse && run.o_parts && run.lse_parts)
        exit_code = read_and_merge(&run, paths, out);
    else
        flashc_cli_error("no memory for %d parts", count);
    for (size_t i = 0; i < n && run.o && run.lse; i++) {
        flashc_cli_array_free(&run.o[i]);
        flashc_cli_array_free(&run.lse[i]);
    }
    free(run.o);
    free(run.lse);
    free(run.o_parts);
    free(run.lse_parts);
    return exit_code;
}
