/* Conversions between f32, f16, bf16 and the 8-bit floats against a definition in double. */
#include "flashc.h"

#include "support/expect.h"
#include "support/values.h"

#include <fenv.h>
#include <float.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ALL_HALVES 65536

static const flashc_dtype half_types[] = {FLASHC_F16, FLASHC_BF16};

static uint32_t f32_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float f32_from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static uint16_t to_half(flashc_dtype dtype, float x)
{
    uint16_t half;
    expect_ok(flashc_convert(&half, dtype, &x, FLASHC_F32, 1));
    return half;
}

static float to_f32(flashc_dtype dtype, uint16_t half)
{
    float x;
    expect_ok(flashc_convert(&x, FLASHC_F32, &half, dtype, 1));
    return x;
}

static void assert_rounds_as_defined(flashc_dtype dtype, float x)
{
    uint16_t half = to_half(dtype, x);
    if (isnan(x)) {
        if (!isnan(test_decode(dtype, half)))
            fail_msg("NaN %08x became %s %04x", f32_bits(x), flashc_dtype_name(dtype), half);
        return;
    }
    uint32_t expected = test_encode(dtype, (double)x);
    if (half != expected)
        fail_msg("%a to %s: expected %04x, found %04x", (double)x, flashc_dtype_name(dtype), expected, half);
}

static void every_half_value_survives_f32(void **state)
{
    (void)state;
    uint16_t *halves = malloc(ALL_HALVES * sizeof *halves), *back = malloc(ALL_HALVES * sizeof *back);
    float *values = malloc(ALL_HALVES * sizeof *values);
    assert_true(halves && back && values);
    for (int t = 0; t < 2; t++) {
        flashc_dtype dtype = half_types[t];
        for (uint32_t i = 0; i < ALL_HALVES; i++)
            halves[i] = (uint16_t)i;
        expect_ok(flashc_convert(values, FLASHC_F32, halves, dtype, ALL_HALVES));
        expect_ok(flashc_convert(back, dtype, values, FLASHC_F32, ALL_HALVES));
        for (uint32_t i = 0; i < ALL_HALVES; i++) {
            double exact = test_decode(dtype, i);
            if (isnan(exact)) {
                assert_true(isnan(values[i]));
                bool quiet = dtype == FLASHC_F16 || (i & 0x40); /* F16C quiets; bf16 is half of the f32's bits */
                assert_int_equal((f32_bits(values[i]) >> 22) & 1u, quiet);
                assert_true(isnan(test_decode(dtype, back[i])));
                assert_int_equal(signbit(values[i]) != 0, i >> 15);
                continue;
            }
            if ((double)values[i] != exact || (signbit(values[i]) != 0) != (signbit(exact) != 0))
                fail_msg("%s %04x: expected %a, found %a", flashc_dtype_name(dtype), i, exact, (double)values[i]);
            assert_int_equal(back[i], i);
        }
    }
    free(halves);
    free(back);
    free(values);
}

static void every_half_value_converts_to_the_other_half_type(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        flashc_dtype from = half_types[t], to = half_types[1 - t];
        for (uint32_t i = 0; i < ALL_HALVES; i++) {
            uint16_t source = (uint16_t)i, target;
            expect_ok(flashc_convert(&target, to, &source, from, 1));
            double exact = test_decode(from, i);
            if (isnan(exact))
                assert_true(isnan(test_decode(to, target)));
            else
                assert_int_equal(target, test_encode(to, exact));
        }
    }
}

/* Between any two neighbours of a type: the midpoint, which goes to the even one, and the f32 next to
 * it on either side. Beyond the largest finite value the neighbour is what the next step would be. */
static void every_midpoint_rounds_to_even(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        flashc_dtype dtype = half_types[t];
        for (uint32_t i = 0; i < 0x7fff; i++) {
            double low = test_decode(dtype, i), high = test_decode(dtype, i + 1);
            if (!isfinite(low))
                break;
            if (isinf(high))
                high = 2.0 * low - test_decode(dtype, i - 1);
            double exact_middle = low / 2.0 + high / 2.0;
            float middle = (float)exact_middle;
            assert_true((double)middle == exact_middle);
            float points[] = {middle, nextafterf(middle, 0.0f), nextafterf(middle, INFINITY), (float)low};
            for (int p = 0; p < 4; p++) {
                assert_rounds_as_defined(dtype, points[p]);
                assert_rounds_as_defined(dtype, -points[p]);
            }
        }
    }
}

static void random_bits_round_as_defined(void **state)
{
    (void)state;
    test_rng rng = {20240601};
    for (int i = 0; i < 1000000; i++) {
        float x = f32_from_bits((uint32_t)test_rng_next(&rng));
        /* f16 has 40 of f32's 254 exponents: half of the draws go there. */
        float in_f16_range = ldexpf((float)test_rng_uniform(&rng) + 1.0f, (int)test_rng_int(&rng, -28, 17));
        for (int t = 0; t < 2; t++) {
            assert_rounds_as_defined(half_types[t], x);
            assert_rounds_as_defined(half_types[t], -in_f16_range);
        }
    }
}

/* Nearest even is the rule of the conversion, not of the caller's floating-point mode. */
static void rounding_modes_do_not_matter(void **state)
{
    (void)state;
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    enum { VALUES = 20000 };
    static float values[VALUES];
    static uint16_t nearest[VALUES], found[VALUES];
    test_rng rng = {20240602};
    for (int i = 0; i < VALUES; i++)
        values[i] = ldexpf((float)test_rng_uniform(&rng) * 2.0f - 1.0f, (int)test_rng_int(&rng, -28, 17));
    for (int t = 0; t < 2; t++) {
        expect_ok(flashc_convert(nearest, half_types[t], values, FLASHC_F32, VALUES));
        for (int m = 0; m < 3; m++) {
            fesetround(modes[m]);
            flashc_status status = flashc_convert(found, half_types[t], values, FLASHC_F32, VALUES);
            fesetround(FE_TONEAREST);
            expect_ok(status);
            for (int i = 0; i < VALUES; i++)
                if (found[i] != nearest[i])
                    fail_msg("%a to %s: %04x in rounding mode %d, else %04x", (double)values[i],
                             flashc_dtype_name(half_types[t]), found[i], modes[m], nearest[i]);
        }
    }
}

static void nan_stays_nan_whatever_its_payload(void **state)
{
    (void)state;
    /* All payloads that rounding could carry into infinity or -0, and those that truncation would empty. */
    for (int bit = 0; bit < 23; bit++) {
        uint32_t payloads[] = {1u << bit, (1u << bit) | 1u, 0x7fffffu >> bit, 0x7fffffu & ~(1u << bit)};
        for (int p = 0; p < 4; p++) {
            for (uint32_t sign = 0; sign < 2; sign++) {
                float x = f32_from_bits(sign << 31 | 0x7f800000u | payloads[p]);
                assert_true(isnan(x));
                assert_rounds_as_defined(FLASHC_F16, x);
                assert_rounds_as_defined(FLASHC_BF16, x);
            }
        }
    }
}

static const flashc_dtype f8_types[] = {FLASHC_F8_E4M3, FLASHC_F8_E5M2};

static uint8_t to_f8(flashc_dtype dtype, float x)
{
    uint8_t code;
    expect_ok(flashc_convert(&code, dtype, &x, FLASHC_F32, 1));
    return code;
}

static void assert_f8_rounds_as_defined(flashc_dtype dtype, float x)
{
    const uint8_t found = to_f8(dtype, x);
    const uint32_t expected = test_encode(dtype, (double)x);
    if (isnan(test_decode(dtype, expected)) ? !isnan(test_decode(dtype, found)) : found != expected)
        fail_msg("%a to %s: expected %02x, found %02x", (double)x, flashc_dtype_name(dtype), expected, found);
}

/* All 256 codes, and between any two neighbours the midpoint and the f32 next to it on either side. */
static void every_f8_code_converts_both_ways(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++)
        for (uint32_t i = 0; i < 256; i++) {
            const flashc_dtype dtype = f8_types[t];
            const uint8_t code = (uint8_t)i;
            const double exact = test_decode(dtype, i);
            float x;
            expect_ok(flashc_convert(&x, FLASHC_F32, &code, dtype, 1));
            assert_int_equal(signbit(x) != 0, i >> 7);
            if (isnan(exact)) {
                assert_true(isnan(x));
                assert_true(isnan(test_decode(dtype, to_f8(dtype, x))));
                continue;
            }
            if ((double)x != exact)
                fail_msg("%s %02x: expected %a, found %a", flashc_dtype_name(dtype), i, exact, (double)x);
            assert_int_equal(to_f8(dtype, x), i);
            if (isinf(exact))
                continue;
            double next = test_decode(dtype, i + 1);
            if (!isfinite(next)) /* what it would be if the type went on */
                next = exact + 2.0 * test_half_ulp(dtype, exact) * (exact < 0 ? -1.0 : 1.0);
            const float middle = (float)((exact + next) / 2.0);
            const float points[] = {middle, nextafterf(middle, 0.0f), nextafterf(middle, 2.0f * middle)};
            for (int p = 0; p < 3; p++)
                assert_f8_rounds_as_defined(dtype, points[p]);
        }
}

static void random_bits_round_to_f8_as_defined(void **state)
{
    (void)state;
    test_rng rng = {20240603};
    for (int i = 0; i < 400000; i++)
        for (int t = 0; t < 2; t++) {
            assert_f8_rounds_as_defined(f8_types[t], f32_from_bits((uint32_t)test_rng_next(&rng)));
            const float near = ldexpf((float)test_rng_uniform(&rng) + 1.0f, (int)test_rng_int(&rng, -19, 17));
            assert_f8_rounds_as_defined(f8_types[t], near);
        }
}

static void known_f8_values(void **state)
{
    (void)state;
    assert_int_equal(to_f8(FLASHC_F8_E4M3, 448.0f), 0x7e);
    assert_int_equal(to_f8(FLASHC_F8_E4M3, 464.0f), 0x7e); /* half way to what would be 480: to even */
    assert_int_equal(to_f8(FLASHC_F8_E4M3, nextafterf(464.0f, 500.0f)), 0x7f);
    assert_int_equal(to_f8(FLASHC_F8_E4M3, -INFINITY), 0xff);
    assert_int_equal(to_f8(FLASHC_F8_E4M3, 0x1p-9f), 0x01);
    assert_int_equal(to_f8(FLASHC_F8_E4M3, 0x1p-10f), 0x00);
    assert_int_equal(to_f8(FLASHC_F8_E4M3, -1.0f), 0xb8);
    assert_int_equal(to_f8(FLASHC_F8_E5M2, 57344.0f), 0x7b);
    assert_int_equal(to_f8(FLASHC_F8_E5M2, 61440.0f), 0x7c);
    assert_int_equal(to_f8(FLASHC_F8_E5M2, -INFINITY), 0xfc);
    assert_int_equal(to_f8(FLASHC_F8_E5M2, 0x1p-16f), 0x01);
    assert_int_equal(to_f8(FLASHC_F8_E5M2, FLT_MAX), 0x7c);
    assert_int_equal(to_f8(FLASHC_F8_E5M2, -0.0f), 0x80);
}

static void known_values(void **state)
{
    (void)state;
    assert_true(to_f32(FLASHC_BF16, to_half(FLASHC_BF16, 61000.0f)) == 60928.0f);
    assert_true(to_f32(FLASHC_F16, to_half(FLASHC_F16, 61000.0f)) == 60992.0f);
    assert_int_equal(to_half(FLASHC_F16, 65504.0f), 0x7bff);
    assert_int_equal(to_half(FLASHC_F16, nextafterf(65520.0f, 0.0f)), 0x7bff);
    assert_int_equal(to_half(FLASHC_F16, 65520.0f), 0x7c00);
    assert_int_equal(to_half(FLASHC_BF16, FLT_MAX), 0x7f80);
    assert_int_equal(to_half(FLASHC_F16, 0x1p-25f), 0x0000);
    assert_int_equal(to_half(FLASHC_F16, nextafterf(0x1p-25f, 1.0f)), 0x0001);
    assert_int_equal(to_half(FLASHC_F16, -0.0f), 0x8000);
    assert_int_equal(to_half(FLASHC_BF16, -0.0f), 0x8000);
}

static void convert_in_place_and_nothing(void **state)
{
    (void)state;
    uint16_t halves[3] = {0x3c00, 0xc000, 0x0001}; /* f16 1, -2, 2^-24 */
    expect_ok(flashc_convert(halves, FLASHC_BF16, halves, FLASHC_F16, 3));
    assert_int_equal(halves[0], 0x3f80);
    assert_int_equal(halves[1], 0xc000);
    assert_int_equal(halves[2], 0x3380);
    uint32_t signalling = 0x7f800001u; /* the same type is a copy of bits */
    expect_ok(flashc_convert(&signalling, FLASHC_F32, &signalling, FLASHC_F32, 1));
    assert_int_equal(signalling, 0x7f800001u);
    expect_ok(flashc_convert(NULL, FLASHC_F16, NULL, FLASHC_F32, 0));
}

static void convert_refuses(void **state)
{
    (void)state;
    float x[4] = {1, 2, 3, 4};
    uint16_t h[4] = {7, 7, 7, 7};
    expect_argument_error(flashc_convert(h, (flashc_dtype)9, x, FLASHC_F32, 4),
                          "dst_dtype: expected f32, f16, bf16, f8_e4m3 or f8_e5m2, found ? (9)");
    expect_argument_error(flashc_convert(h, FLASHC_F16, x, FLASHC_BOOL, 4),
                          "src_dtype: expected f32, f16, bf16, f8_e4m3 or f8_e5m2, found bool (4)");
    expect_argument_error(flashc_convert(h, FLASHC_F16, x, FLASHC_F32, -1),
                          "n: expected an array that fits in memory, found -1 elements");
    expect_argument_error(flashc_convert(h, FLASHC_F16, x, FLASHC_F32, INT64_MAX / 2),
                          "n: expected an array that fits in memory, found 4611686018427387903 elements");
    expect_argument_error(flashc_convert(NULL, FLASHC_F16, x, FLASHC_F32, 4), "dst: expected a pointer, found NULL");
    expect_argument_error(flashc_convert(h, FLASHC_F16, NULL, FLASHC_F32, 4), "src: expected a pointer, found NULL");
    expect_argument_error(flashc_convert(x, FLASHC_F16, x, FLASHC_F32, 4),
                          "dst: expected no overlap with src (or src itself, types of one size), "
                          "found an overlap of f16 and f32");
    expect_argument_error(flashc_convert(x + 1, FLASHC_F32, x, FLASHC_F32, 3),
                          "dst: expected no overlap with src (or src itself, types of one size), "
                          "found an overlap of f32 and f32");
    for (int i = 0; i < 4; i++) {
        assert_true(x[i] == (float)(i + 1));
        assert_int_equal(h[i], 7);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_value_survives_f32),
        cmocka_unit_test(every_half_value_converts_to_the_other_half_type),
        cmocka_unit_test(every_midpoint_rounds_to_even),
        cmocka_unit_test(random_bits_round_as_defined),
        cmocka_unit_test(rounding_modes_do_not_matter),
        cmocka_unit_test(nan_stays_nan_whatever_its_payload),
        cmocka_unit_test(known_values),
        cmocka_unit_test(every_f8_code_converts_both_ways),
        cmocka_unit_test(random_bits_round_to_f8_as_defined),
        cmocka_unit_test(known_f8_values),
        cmocka_unit_test(convert_in_place_and_nothing),
        cmocka_unit_test(convert_refuses),
    };
    return cmocka_run_group_tests_name("numerics", tests, NULL, NULL);
}
