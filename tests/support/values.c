#include "support/values.h"

#include <math.h>
#include <string.h>

uint64_t test_rng_next(test_rng *rng)
{
    rng->state += 0x9e3779b97f4a7c15u;
    uint64_t z = rng->state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

int64_t test_rng_int(test_rng *rng, int64_t low, int64_t high)
{
    /* The bias of the remainder is below 2^-40 for the small ranges of tests. */
    return low + (int64_t)(test_rng_next(rng) % ((uint64_t)(high - low) + 1u));
}

bool test_rng_chance(test_rng *rng, int percent)
{
    return test_rng_int(rng, 0, 99) < percent;
}

double test_rng_uniform(test_rng *rng)
{
    return (double)(test_rng_next(rng) >> 11) * 0x1p-53;
}

double test_rng_normal(test_rng *rng)
{
    /* Four uniform numbers of 16 bits, whose sum has a variance of 4/12. Logarithms and cosines were most of the time
     * of the tests. */
    const uint64_t bits = test_rng_next(rng);
    const uint64_t sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
    return 1.7320508075688772 * (0x1p-16 * (double)sum - 2.0);
}

/* Of an IEEE-like binary format: bits of mantissa and exponent below one sign bit. finite: the largest exponent is one
 * like the others, but for NaN where all bits are ones, and there is no infinity. */
typedef struct format {
    int mantissa, exponent;
    bool finite;
} format;

static format format_of(flashc_dtype dtype)
{
    switch (dtype) {
    case FLASHC_F16: return (format){10, 5, false};
    case FLASHC_BF16: return (format){7, 8, false};
    case FLASHC_F8_E4M3: return (format){3, 4, true};
    case FLASHC_F8_E5M2: return (format){2, 5, false};
    case FLASHC_F32:
    case FLASHC_BOOL:
    case FLASHC_I8:
    case FLASHC_Q8_0: break;
    }
    return (format){23, 8, false};
}

double test_decode(flashc_dtype dtype, uint32_t bits)
{
    if (dtype == FLASHC_BOOL)
        return bits != 0;
    if (dtype == FLASHC_I8)
        return bits < 128 ? (double)bits : (double)bits - 256.0;
    format f = format_of(dtype);
    int bias = (1 << (f.exponent - 1)) - 1;
    int exponent = (int)(bits >> f.mantissa) & ((1 << f.exponent) - 1);
    if (exponent != 0 && exponent != (1 << f.exponent) - 1) { /* as below, many times faster: the same fields, wider */
        const uint64_t magnitude = bits & ((1u << (f.mantissa + f.exponent)) - 1u);
        const uint64_t negative = bits >> (f.mantissa + f.exponent) & 1u;
        const uint64_t wide = (magnitude << (52 - f.mantissa)) + ((uint64_t)(1023 - bias) << 52) + (negative << 63);
        double x;
        memcpy(&x, &wide, sizeof x);
        return x;
    }
    double fraction = (double)(bits & ((1u << f.mantissa) - 1u));
    double sign = (bits >> (f.mantissa + f.exponent)) & 1u ? -1.0 : 1.0;
    if (exponent == (1 << f.exponent) - 1) {
        if (!f.finite)
            return fraction == 0.0 ? sign * (double)INFINITY : (double)NAN;
        if (fraction == (double)((1 << f.mantissa) - 1))
            return (double)NAN;
    }
    if (exponent == 0)
        return sign * ldexp(fraction, 1 - bias - f.mantissa);
    return sign * ldexp(fraction + (double)(1u << f.mantissa), exponent - bias - f.mantissa);
}

/* The exponent of the last kept bit of a number of this magnitude. */
static int last_bit(format f, double magnitude)
{
    int bias = (1 << (f.exponent - 1)) - 1;
    int lowest = 1 - bias - f.mantissa;
    if (magnitude == 0.0)
        return lowest;
    int exponent;
    (void)frexp(magnitude, &exponent); /* magnitude in [2^(exponent-1), 2^exponent) */
    int last = exponent - 1 - f.mantissa;
    return last > lowest ? last : lowest;
}

/* Nearest integer, ties to even, whatever the rounding mode of the thread. */
static double round_even(double x)
{
    double below = floor(x), rest = x - below;
    if (rest > 0.5 || (rest == 0.5 && fmod(below, 2.0) != 0.0))
        return below + 1.0;
    return below;
}

uint32_t test_encode(flashc_dtype dtype, double value)
{
    if (dtype == FLASHC_BOOL)
        return value != 0.0;
    if (dtype == FLASHC_I8)
        return (uint32_t)(int32_t)fmax(-128.0, fmin(127.0, round_even(value))) & 0xffu;
    format f = format_of(dtype);
    uint32_t sign = signbit(value) ? 1u << (f.mantissa + f.exponent) : 0u;
    uint32_t infinity = (uint32_t)((1 << f.exponent) - 1) << f.mantissa;
    if (f.finite) /* its only NaN stands in for infinity, too */
        infinity |= (1u << f.mantissa) - 1u;
    if (isnan(value))
        return sign | infinity | 1u << (f.mantissa - 1);
    double magnitude = fabs(value);
    if (isinf(magnitude))
        return sign | infinity;
    int bias = (1 << (f.exponent - 1)) - 1;
    uint64_t wide;
    memcpy(&wide, &magnitude, sizeof wide);
    const int64_t above = (int64_t)(wide >> 52) - (1023 - bias); /* the biased exponent in this format */
    if (above > 0 && above < 1 << f.exponent) { /* as below, many times faster: on the fields of a double */
        const int cut = 52 - f.mantissa;
        wide += ((uint64_t)1 << (cut - 1)) - 1u + (wide >> cut & 1u);
        const uint32_t bits = (uint32_t)((wide >> cut) - ((uint64_t)(1023 - bias) << f.mantissa));
        return sign | (bits < infinity ? bits : infinity);
    }
    int last = last_bit(f, magnitude);
    /* Counted in last bits; a carry into the next binade, or from the subnormals into the smallest
     * normal, moves the biased exponent by itself because the two fields add. */
    uint32_t count = (uint32_t)round_even(ldexp(magnitude, -last));
    uint32_t exponent = (uint32_t)(last - (1 - bias - f.mantissa));
    uint32_t bits = count + (exponent << f.mantissa);
    return sign | (bits < infinity ? bits : infinity);
}

double test_half_ulp(flashc_dtype dtype, double value)
{
    return ldexp(0.5, last_bit(format_of(dtype), fabs(value)));
}

/* As flashc_dtype_size(), and inlined: it is asked for each element. */
static int64_t element_size(flashc_dtype dtype)
{
    switch (dtype) {
    case FLASHC_F32: return 4;
    case FLASHC_F16:
    case FLASHC_BF16: return 2;
    case FLASHC_Q8_0: return 34;
    case FLASHC_BOOL:
    case FLASHC_I8:
    case FLASHC_F8_E4M3:
    case FLASHC_F8_E5M2: break;
    }
    return 1;
}

unsigned char *test_at(const flashc_tensor *view, int64_t i0, int64_t i1, int64_t i2, int64_t i3)
{
    if (view->dtype == FLASHC_Q8_0)
        i3 /= 32;
    int64_t index = i0 * view->stride[0] + i1 * view->stride[1] + i2 * view->stride[2] + i3 * view->stride[3];
    return (unsigned char *)view->data + index * element_size(view->dtype);
}

uint32_t test_get_bits(const flashc_tensor *view, int64_t i0, int64_t i1, int64_t i2, int64_t i3)
{
    const unsigned char *at = test_at(view, i0, i1, i2, i3);
    uint16_t half;
    uint32_t bits = 0;
    switch (element_size(view->dtype)) {
    case 1: return *at;
    case 2: memcpy(&half, at, 2); return half;
    default: memcpy(&bits, at, 4); return bits;
    }
}

double test_get(const flashc_tensor *view, int64_t i0, int64_t i1, int64_t i2, int64_t i3)
{
    if (view->dtype == FLASHC_Q8_0) {
        const unsigned char *block = test_at(view, i0, i1, i2, i3);
        return test_decode(FLASHC_F16, block[0] + 256u * block[1]) * test_decode(FLASHC_I8, block[2 + i3 % 32]);
    }
    return test_decode(view->dtype, test_get_bits(view, i0, i1, i2, i3));
}

void test_set(const flashc_tensor *view, int64_t i0, int64_t i1, int64_t i2, int64_t i3, double value)
{
    unsigned char *at = test_at(view, i0, i1, i2, i3);
    if (view->dtype == FLASHC_Q8_0) {
        const uint32_t scale = test_encode(FLASHC_F16, value);
        at[0] = (unsigned char)scale;
        at[1] = (unsigned char)(scale >> 8);
        at[2 + i3 % 32] = 1;
        return;
    }
    uint32_t bits = test_encode(view->dtype, value);
    uint16_t half = (uint16_t)bits;
    switch (element_size(view->dtype)) {
    case 1: *at = (unsigned char)bits; break;
    case 2: memcpy(at, &half, 2); break;
    default: memcpy(at, &bits, 4); break;
    }
}
