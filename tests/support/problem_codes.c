/* K and V of codes and scales. */
#include "support/problem.h"

#include <math.h>
#include <string.h>

bool is_of_codes(flashc_dtype dtype)
{
    return dtype >= FLASHC_I8;
}

bool has_scales(flashc_dtype dtype)
{
    return is_of_codes(dtype) && dtype != FLASHC_Q8_0;
}

/* Of the type's largest value, or what is left of it in codes for a deviation of 1. */
static double codes_of_one(flashc_dtype dtype)
{
    return dtype == FLASHC_F8_E4M3 ? 80.0 : dtype == FLASHC_F8_E5M2 ? 5000.0 : 30.0;
}

double largest_code(flashc_dtype dtype)
{
    return dtype == FLASHC_F8_E4M3 ? 448.0 : dtype == FLASHC_F8_E5M2 ? 57344.0 : 127.0;
}

/* The deviation of what codes and scale make. Tiny products stay in the normal range of f32, and an f16 scale has no
 * room for such. */
static double unit_of(const problem *p, problem_tensor which, flashc_dtype dtype)
{
    if (strcmp(p->data_kind, "large logits") == 0 && which == TENSOR_K)
        return 8.0;
    if (strcmp(p->data_kind, "tiny") == 0)
        return dtype == FLASHC_Q8_0 ? 1e-2 : which == TENSOR_V ? 1e-30 : 1e-17;
    return 1.0;
}

static void set_code(const flashc_tensor *view, int64_t b, int64_t h, int64_t i, int64_t j, double code, double scale)
{
    if (view->dtype != FLASHC_Q8_0) {
        test_set(view, b, h, i, j, code);
        return;
    }
    unsigned char *block = test_at(view, b, h, i, j);
    const uint32_t bits = test_encode(FLASHC_F16, scale);
    block[0] = (unsigned char)bits;
    block[1] = (unsigned char)(bits >> 8);
    block[2 + j % 32] = (unsigned char)test_encode(FLASHC_I8, code);
}

void problem_fill_codes(problem *p, problem_tensor which, test_rng *rng)
{
    const flashc_tensor *view = problem_view(p, which);
    const flashc_tensor *scales = problem_view(p, which == TENSOR_K ? TENSOR_K_SCALE : TENSOR_V_SCALE);
    const flashc_dtype dtype = view->dtype;
    const bool scaled = scales->data != NULL || dtype == FLASHC_Q8_0;
    const double unit = unit_of(p, which, dtype), codes = scaled ? codes_of_one(dtype) : 1.0;
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t b = 0; b < size[0]; b++)
        for (int64_t h = 0; h < size[1]; h++)
            for (int64_t i = 0; i < size[2]; i++) {
                const double row = test_rng_chance(rng, 2) ? 0.0 : unit * (0.5 + test_rng_uniform(rng)) / codes;
                if (scales->data != NULL)
                    test_set(scales, b, h, i, 0, row);
                for (int64_t j = 0; j < size[3]; j++) {
                    const bool constant = strcmp(p->data_kind, "constant-sign") == 0;
                    const double x = codes * (constant ? 0.5 + test_rng_uniform(rng) : test_rng_normal(rng));
                    set_code(view, b, h, i, j, fmax(-largest_code(dtype), fmin(largest_code(dtype), x)), row);
                }
            }
}
