#include "cache/rotary.h"

#include "numerics.h"

/* Columns, or pairs of them, at a time: four arrays of this many floats stand on the stack. */
enum { CHUNK = 128 };

static inline void load_spaced(float *out, const void *data, flashc_dtype dtype, int64_t stride, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        out[i] = flashc_load_f32(data, dtype, i * stride);
}

static inline void store_spaced(void *data, flashc_dtype dtype, int64_t stride, const float *in, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        flashc_store_f32(data, dtype, i * stride, in[i]);
}

static void *column(flashc_row row, int64_t col)
{
    return (char *)row.data + col * row.stride * (int64_t)flashc_dtype_size(row.dtype);
}

/* n columns first, first + step, ...; type and a stride of 1 are constants in the loops. */
static void load(float *out, flashc_row row, int64_t first, int64_t step, int64_t n)
{
    const void *data = column(row, first);
    const int64_t stride = row.stride * step;
    if (row.dtype == FLASHC_F32 && stride == 1)
        load_spaced(out, data, FLASHC_F32, 1, n);
    else if (row.dtype == FLASHC_F32)
        load_spaced(out, data, FLASHC_F32, stride, n);
    else if (row.dtype == FLASHC_BF16 && stride == 1)
        load_spaced(out, data, FLASHC_BF16, 1, n);
    else
        load_spaced(out, data, row.dtype, stride, n);
}

static void store(flashc_row row, int64_t first, int64_t step, const float *in, int64_t n)
{
    void *data = column(row, first);
    const int64_t stride = row.stride * step;
    if (row.dtype == FLASHC_F32 && stride == 1)
        store_spaced(data, FLASHC_F32, 1, in, n);
    else if (row.dtype == FLASHC_F32)
        store_spaced(data, FLASHC_F32, stride, in, n);
    else if (row.dtype == FLASHC_BF16 && stride == 1)
        store_spaced(data, FLASHC_BF16, 1, in, n);
    else
        store_spaced(data, row.dtype, stride, in, n);
}

/* Of one type: elements of 4 or 2 bytes. */
static void copy_bits(flashc_row dst, flashc_row src, int64_t begin, int64_t end)
{
    const size_t size = flashc_dtype_size(src.dtype);
    if (dst.stride == 1 && src.stride == 1)
        memcpy(column(dst, begin), column(src, begin), (size_t)(end - begin) * size);
    else
        for (int64_t col = begin; col < end; col++)
            memcpy(column(dst, col), column(src, col), size);
}

void flashc_row_copy(flashc_row dst, flashc_row src, int64_t begin, int64_t end)
{
    if (dst.dtype == src.dtype) {
        if (dst.data != src.data) /* else q in place: of src's strides too */
            copy_bits(dst, src, begin, end);
        return;
    }
    float x[CHUNK];
    for (int64_t first = begin; first < end; first += CHUNK) {
        const int64_t n = flashc_min(CHUNK, end - first);
        load(x, src, first, 1, n);
        store(dst, first, 1, x, n);
    }
}

void flashc_row_rotate(flashc_row dst, flashc_row src, const flashc_rotation *rotation)
{
    const int64_t half = rotation->dim / 2;
    const int64_t step = rotation->interleaved ? 2 : 1, partner = rotation->interleaved ? 1 : half;
    float x[CHUNK], y[CHUNK], c[CHUNK], s[CHUNK];
    for (int64_t first = 0; first < half; first += CHUNK) {
        const int64_t n = flashc_min(CHUNK, half - first);
        load(c, rotation->cos, first, 1, n);
        load(s, rotation->sin, first, 1, n);
        load(x, src, first * step, step, n);
        load(y, src, first * step + partner, step, n);
        for (int64_t i = 0; i < n; i++) {
            const float turned = x[i] * c[i] - y[i] * s[i];
            y[i] = y[i] * c[i] + x[i] * s[i];
            x[i] = turned;
        }
        store(dst, first * step, step, x, n);
        store(dst, first * step + partner, step, y, n);
    }
}
