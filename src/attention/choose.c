#include "attention/choose.h"

#include "attention/mask.h"
#include "cpu.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The row that the problem names. */
static flashc_status choose_named(const flashc_problem *p, int64_t rows, const flashc_kernel_row **kernel)
{
    char known[256];
    size_t used = 0;
    for (int i = 0; i < flashc_kernel_rows(); i++) {
        const flashc_kernel_row *row = flashc_kernel_row_at(i);
        if (strcmp(row->name, p->kernel) == 0) {
            const char *unavailable = flashc_kernel_unavailable(row);
            if (unavailable)
                return flashc_fail(FLASHC_ERR_UNSUPPORTED, "kernel: %s cannot run here: %s", p->kernel, unavailable);
            const char *too_many = flashc_kernel_too_many_rows(row, rows);
            if (too_many)
                return flashc_fail(FLASHC_ERR_UNSUPPORTED,
                                   "kernel: %s takes %s (seqlen_q * num_heads / num_heads_k), found %" PRId64,
                                   p->kernel, too_many, rows);
            if (row->bf16 && p->compute == FLASHC_COMPUTE_F32)
                return flashc_fail(FLASHC_ERR_UNSUPPORTED, "kernel: %s computes in bf16, compute asks for f32",
                                   p->kernel);
            *kernel = row;
            return FLASHC_OK;
        }
        used += (size_t)snprintf(known + used, sizeof known - used, "%s%s", i ? ", " : "", row->name);
        used = used < sizeof known ? used : sizeof known - 1;
    }
    return flashc_fail(FLASHC_ERR_ARGUMENT, "kernel: expected one of %s, found \"%.64s\"", known, p->kernel);
}

/* May inputs and weights be rounded to bf16? */
static bool allows_bf16(const flashc_problem *p)
{
    return p->compute == FLASHC_COMPUTE_BF16 ||
           (p->compute == FLASHC_COMPUTE_DEFAULT && p->q.dtype == FLASHC_BF16 && p->k.tensor.dtype == FLASHC_BF16 &&
            p->v.tensor.dtype == FLASHC_BF16);
}

static void choose_best(const flashc_problem *p, int64_t rows, const flashc_kernel_row **kernel, char *refused,
                        size_t refused_size)
{
    const flashc_kernel_shape shape = {
        .n_rows = rows,
        .head_dim = p->head_dim,
        .head_dim_v = p->head_dim_v,
        .masked = flashc_mask_is_given(p) || p->bias.data,
        .k_dtype = p->k.tensor.dtype,
        .v_dtype = p->v.tensor.dtype,
        .allows_bf16 = allows_bf16(p),
    };
    size_t used = 0;
    for (int i = 0; i < flashc_kernel_rows(); i++) {
        const flashc_kernel_row *row = flashc_kernel_row_at(i);
        const char *reason = flashc_cpu_missing(row->cpu_features);
        if (!reason)
            reason = flashc_kernel_too_many_rows(row, rows);
        if (!reason)
            reason = flashc_kernel_not_preferred(row, &shape);
        if (!reason && row->bf16 && !shape.allows_bf16)
            reason = "computes in bf16, which neither compute nor the types of q, k and v ask for";
        if (!reason) {
            *kernel = row;
            return;
        }
        if (refused && used < refused_size)
            used += (size_t)snprintf(refused + used, refused_size - used, "%s: %s\n", row->name, reason);
    }
}

flashc_status flashc_choose_kernel(const flashc_problem *p, int64_t rows, const flashc_kernel_row **kernel,
                                   char *refused, size_t refused_size)
{
    if (refused_size > 0)
        refused[0] = '\0';
    if (p->kernel)
        return choose_named(p, rows, kernel);
    choose_best(p, rows, kernel, refused, refused_size);
    return FLASHC_OK;
}
