#include "cli/bench_data.h"

#include "cli/caches.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Of x86-64, and of AArch64 with pages of 4 KiB. */
enum { HUGE_PAGE_BYTES = 2 << 20 };

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

static void fill(flashc_cli_array *array, flashc_cli_array *scales, uint64_t *state)
{
    enum { BLOCK = 512 };
    float block[BLOCK];
    const int64_t count = array->count * flashc_cli_dtype_columns(array->dtype);
    for (int64_t i = 0; i < count; i += BLOCK) {
        for (int j = 0; j < BLOCK; j += 2)
            next_normals(state, block + j);
        flashc_cli_cache_fill(array, scales, block, i, count - i < BLOCK ? count - i : BLOCK);
    }
}

void flashc_bench_fill(flashc_cli_job *job, uint64_t seed)
{
    uint64_t state = seed;
    fill(&job->q, NULL, &state);
    fill(&job->k, &job->k_scale, &state);
    fill(&job->v, &job->v_scale, &state);
}

static size_t bytes_of(const flashc_cli_array *array)
{
    return (size_t)array->count * flashc_dtype_size(array->dtype);
}

static void *allocate(size_t size, bool huge_pages)
{
    const size_t alignment = huge_pages ? HUGE_PAGE_BYTES : 64;
    void *memory = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (memory && huge_pages && madvise(memory, size, MADV_HUGEPAGE) != 0) {
        free(memory);
        return NULL;
    }
    return memory;
}

bool flashc_bench_rotation_open(const flashc_cli_job *job, flashc_bench_copies copies, int64_t read_buffer_size,
                                flashc_bench_rotation *rotation)
{
    const flashc_cli_array *const arrays[FLASHC_BENCH_ROTATING] = {&job->k, &job->v, &job->k_scale, &job->v_scale};
    size_t bytes = 0, step = 0;
    *rotation = (flashc_bench_rotation){.count = 1};
    for (int i = 0; i < FLASHC_BENCH_ROTATING; i++) {
        rotation->data[i] = arrays[i]->data;
        bytes += arrays[i]->data ? bytes_of(arrays[i]) : 0;
    }
    const bool enough = bytes >= (size_t)read_buffer_size && copies != FLASHC_BENCH_HUGE_PAGES;
    if (copies == FLASHC_BENCH_NO_COPIES || bytes == 0 || enough)
        return true;
    /* Steps of whole cache lines and one more: copies do not all start at the same place of a page. */
    for (int i = 0; i < FLASHC_BENCH_ROTATING; i++) {
        rotation->step[i] = arrays[i]->data ? (bytes_of(arrays[i]) + 127) / 64 * 64 : 0;
        step += rotation->step[i];
    }
    rotation->count = read_buffer_size / (int64_t)step + 1;
    rotation->owned = allocate((size_t)rotation->count * step, copies == FLASHC_BENCH_HUGE_PAGES);
    if (rotation->owned == NULL)
        return false;
    char *next = rotation->owned;
    for (int i = 0; i < FLASHC_BENCH_ROTATING; i++) {
        if (!arrays[i]->data)
            continue;
        rotation->data[i] = next;
        for (int64_t n = 0; n < rotation->count; n++, next += rotation->step[i])
            memcpy(next, arrays[i]->data, bytes_of(arrays[i]));
    }
    return true;
}

void flashc_bench_rotate(flashc_bench_rotation *rotation, flashc_attention_params *params)
{
    flashc_tensor *const views[FLASHC_BENCH_ROTATING] = {&params->k, &params->v, &params->k_scale, &params->v_scale};
    for (int i = 0; i < FLASHC_BENCH_ROTATING; i++)
        if (rotation->data[i])
            views[i]->data = rotation->data[i] + (size_t)rotation->next * rotation->step[i];
    rotation->next = rotation->next + 1 < rotation->count ? rotation->next + 1 : 0;
}

void flashc_bench_rotation_close(flashc_bench_rotation *rotation)
{
    free(rotation->owned);
    *rotation = (flashc_bench_rotation){0};
}
