/* The tile products by OpenBLAS, and what there is to know about the OpenBLAS that these functions load. */
#ifndef FLASHC_GEMM_OPENBLAS_H
#define FLASHC_GEMM_OPENBLAS_H

#include "kernels/kernel.h"

extern const flashc_gemm_ops flashc_gemm_openblas;

/* "OpenBLAS 0.3.21 SkylakeX openmp", or "none: " and why. Loads it. */
const char *flashc_openblas_name(void);

/* Why OpenBLAS cannot be loaded or must not be called from our threads (its build is not the OpenMP one); NULL if it
 * may be. Loads it. */
const char *flashc_openblas_unusable(void);

/* Why it is not taken unasked: it is unusable, or slow here: only its small-matrix path (no packing, no locks, no
 * allocation, no threads) is fit for tiles, and that depends on version, core and shape. NULL if it is. Loads it
 * only if CPU and sizes alone do not decide. */
const char *flashc_openblas_not_preferred(const flashc_kernel_shape *shape);

#endif
