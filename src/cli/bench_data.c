#include "cli/bench_data.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* splitmix64: Steele, Lea & Flood, "Fast splittable pseudorandom number generators", 2014. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Two normal numbers from two uniform ones (Box and Muller). */
static void next_normals(uint64_t *state, float pair[2])
{
    const uint64_t bits = next_random(state);
    const float u = (float)((bits >> 40) + 1) * 0x1p-24f; /* (0, 1] */
    const float angle = (float)(bits & 0xffffff) * 0x1p-24f * 6.2831853f;
    const float radius = sqrtf(-2.0f * logf(u));
    pair[0] = radius * cosf(angle);
    pair[1] = radius * sinf(angle);
}

static void fill(flashc_cli_array *array, uint64_t *state)
{
    enum { BLOCK = 512 };
    float block[BLOCK];
    const size_t size = flashc_dtype_size(array->dtype);
    for (int64_t i = 0; i < array->count; i += BLOCK) {
        for (int j = 0; j < BLOCK; j += 2)
            next_normals(state, block + j);
        const int64_t n = array->count - i < BLOCK ? array->count - i : BLOCK;
        flashc_convert((char *)array->data + (size_t)i * size, array->dtype, block, FLASHC_F32, n);
    }
}

void flashc_bench_fill(flashc_cli_job *job, uint64_t seed)
{
    uint64_t state = seed;
    fill(&job->q, &state);
    fill(&job->k, &state);
    fill(&job->v, &state);
}

static size_t bytes_of(const flashc_cli_array *array)
{
    return (size_t)array->count * flashc_dtype_size(array->dtype);
}

bool flashc_bench_rotation_open(const flashc_cli_job *job, bool cold, int64_t read_buffer_size,
                                flashc_bench_rotation *rotation)
{
    const size_t k_bytes = bytes_of(&job->k), v_bytes = bytes_of(&job->v);
    *rotation = (flashc_bench_rotation){.k = job->k.data, .v = job->v.data, .count = 1};
    if (!cold || k_bytes + v_bytes == 0 || k_bytes + v_bytes >= (size_t)read_buffer_size)
        return true;
    /* Steps of whole cache lines and one more: copies do not all start at the same place of a page. */
    rotation->k_step = (k_bytes + 127) / 64 * 64;
    rotation->v_step = (v_bytes + 127) / 64 * 64;
    rotation->count = read_buffer_size / (int64_t)(rotation->k_step + rotation->v_step) + 1;
    rotation->owned = aligned_alloc(64, (size_t)rotation->count * (rotation->k_step + rotation->v_step));
    if (rotation->owned == NULL)
        return false;
    rotation->k = rotation->owned;
    rotation->v = rotation->k + (size_t)rotation->count * rotation->k_step;
    for (int64_t i = 0; i < rotation->count; i++) {
        memcpy(rotation->k + (size_t)i * rotation->k_step, job->k.data, k_bytes);
        memcpy(rotation->v + (size_t)i * rotation->v_step, job->v.data, v_bytes);
    }
    return true;
}

void flashc_bench_rotate(flashc_bench_rotation *rotation, flashc_attention_params *params)
{
    params->k.data = rotation->k + (size_t)rotation->next * rotation->k_step;
    params->v.data = rotation->v + (size_t)rotation->next * rotation->v_step;
    rotation->next = rotation->next + 1 < rotation->count ? rotation->next + 1 : 0;
}

void flashc_bench_rotation_close(flashc_bench_rotation *rotation)
{
    free(rotation->owned);
    *rotation = (flashc_bench_rotation){0};
}
