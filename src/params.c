#include "params.h"

#include <inttypes.h>
#include <string.h>

flashc_status flashc_params_check_size(const char *name, int64_t value, int64_t low)
{
    if (value < low || value > FLASHC_SIZE_LIMIT)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s: expected %" PRId64 " to 2^48, found %" PRId64, name, low, value);
    return FLASHC_OK;
}

void flashc_params_fill(void *params, size_t struct_size, const void *defaults, size_t our_size)
{
    if (!params)
        return;
    memset(params, 0, struct_size);
    memcpy(params, defaults, struct_size < our_size ? struct_size : our_size);
}

flashc_status flashc_params_read(void *ours, size_t our_size, const void *params, size_t first_size, const char *init)
{
    if (!params)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "params: expected a pointer, found NULL");
    size_t size;
    memcpy(&size, params, sizeof size);
    if (size < first_size)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "struct_size: expected at least %zu (%s sets it), found %zu",
                           first_size, init, size);
    /* A newer caller may run on this library as long as it leaves what this library lacks unset. */
    if (size > 65536)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "struct_size: expected at most 65536, found %zu", size);
    const unsigned char *bytes = params;
    for (size_t i = our_size; i < size; i++)
        if (bytes[i] != 0)
            return flashc_fail(FLASHC_ERR_UNSUPPORTED,
                               "struct_size: found %zu, and byte %zu is set: a feature that flashc %s does not have",
                               size, i, flashc_version());
    memcpy(ours, params, size < our_size ? size : our_size);
    memcpy(ours, &our_size, sizeof our_size);
    return FLASHC_OK;
}

flashc_status flashc_params_check_cu_seqlens(const char *name, const int64_t *cu, int64_t batch, int64_t total,
                                             const char *total_name)
{
    if (cu[0] != 0)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s[0]: expected 0, found %" PRId64, name, cu[0]);
    for (int64_t b = 0; b < batch; b++)
        if (cu[b + 1] < cu[b])
            return flashc_fail(FLASHC_ERR_ARGUMENT,
                               "%s[%" PRId64 "]: expected at least %" PRId64 " (the entry before), found %" PRId64,
                               name, b + 1, cu[b], cu[b + 1]);
    if (cu[batch] != total)
        return flashc_fail(FLASHC_ERR_ARGUMENT, "%s[%" PRId64 "]: expected %s = %" PRId64 ", found %" PRId64, name,
                           batch, total_name, total, cu[batch]);
    return FLASHC_OK;
}
