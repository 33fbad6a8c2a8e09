#include "cli/layout.h"

void flashc_cli_layout_axes(int rank, int bshd, int axes[4])
{
    axes[0] = rank == 4 ? 0 : -1;
    axes[1] = rank == 2 ? -1 : bshd ? rank - 2 : rank - 3;
    axes[2] = rank > 2 && bshd ? rank - 3 : rank - 2;
    axes[3] = rank - 1;
}

flashc_tensor flashc_cli_layout_tensor(const flashc_cli_array *array, int bshd, int64_t sizes[4])
{
    flashc_tensor tensor = {.data = array->data, .dtype = array->dtype};
    int axes[4];
    flashc_cli_layout_axes(array->rank, bshd, axes);
    for (int i = 0; i < 4; i++) {
        sizes[i] = axes[i] < 0 ? 1 : array->shape[axes[i]];
        tensor.stride[i] = axes[i] < 0 ? 0 : array->strides[axes[i]];
    }
    return tensor;
}
