/* Arrays of rank 2, 3 or 4 as views [batch, head, row, column]. */
#ifndef FLASHC_CLI_LAYOUT_H
#define FLASHC_CLI_LAYOUT_H

#include "cli/array.h"

/* Where the axes [batch, head, row, column] are among the array's axes; -1: missing, of size 1. */
void flashc_cli_layout_axes(int rank, int bshd, int axes[4]);

/* View and sizes of an array whose axes are in the given layout. */
flashc_tensor flashc_cli_layout_tensor(const flashc_cli_array *array, int bshd, int64_t sizes[4]);

#endif
