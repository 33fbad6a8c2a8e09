/* Which row of the kernel table runs a problem: the one it names, or the first that fits and is fast. A pure function
 * of the problem, the CPU and the OpenBLAS build. */
#ifndef FLASHC_CHOOSE_H
#define FLASHC_CHOOSE_H

#include "attention/problem.h"
#include "kernels/kernel.h"

/* rows: of queries per K/V head, at most. FLASHC_ERR_UNSUPPORTED or _ARGUMENT if the named kernel does not fit. refused
 * (NULL if its size is 0) takes one line per better kernel that was passed over: cut where it is too short. */
flashc_status flashc_choose_kernel(const flashc_problem *problem, int64_t rows, const flashc_kernel_row **kernel,
                                   char *refused, size_t refused_size);

#endif
