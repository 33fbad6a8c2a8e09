/*
 * S^T = K Q^T and O^T += V^T P^T by cblas_sgemm. Column-major, A is Q^T or P^T and not transposed, which is
 * what OpenBLAS's small-matrix path for AVX-512 asks for; that path reaches 93-98 % of the FMA peak
 * at these sizes (Xeon, AVX-512, OpenBLAS 0.3.21) where the packed path gives 76-88 % (Zen 4).
 *
 * Never set thread counts here: openblas_set_num_threads() is process-wide. The caller runs inside an
 * OpenMP region in which each worker's own team size is 1, and OpenBLAS's OpenMP build obeys that.
 */
#include "kernels/gemm_openblas.h"

#include "cpu.h"

#include <cblas.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* The small-matrix path's own limit on M*N*K (OpenBLAS 0.3.21, SkylakeX permit function). */
enum { SMALL_MATRIX_LIMIT = 1000000 };

/* openblas_get_parallel(): */
enum { BUILT_SERIAL = 0, BUILT_PTHREADS = 1, BUILT_OPENMP = 2 };

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char name[128];
static char slow_core[256];
static const char *unsafe;
static bool small_matrix_core, small_matrix_version;

static void inspect(void)
{
    static const char *const builds[] = {"serial", "pthreads", "openmp"};
    static const char *const cores_with_small_path[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    const int parallel = openblas_get_parallel();
    const char *core = openblas_get_corename();
    int major = 0, minor = 0, patch = 0;
    if (sscanf(openblas_get_config(), "OpenBLAS %d.%d.%d", &major, &minor, &patch) != 3)
        major = minor = patch = 0;
    snprintf(name, sizeof name, "OpenBLAS %d.%d.%d %s %s", major, minor, patch, core,
             parallel >= 0 && parallel <= 2 ? builds[parallel] : "?");
    if (parallel == BUILT_SERIAL)
        unsafe = "this OpenBLAS is the serial build, silently wrong when two threads call it; the OpenMP build is "
                 "needed (Debian: libopenblas0-openmp)";
    else if (parallel != BUILT_OPENMP)
        unsafe = "this OpenBLAS is the pthread build, which starts threads of its own inside ours; the OpenMP build is "
                 "needed (Debian: libopenblas0-openmp)";
    for (size_t i = 0; i < sizeof cores_with_small_path / sizeof cores_with_small_path[0]; i++)
        small_matrix_core = small_matrix_core || strcmp(core, cores_with_small_path[i]) == 0;
    small_matrix_version = major > 0 || minor > 3 || (minor == 3 && patch >= 21);
    snprintf(slow_core, sizeof slow_core, "OpenBLAS runs its %s code here, which has no small-matrix path", core);
}

const char *flashc_openblas_name(void)
{
    pthread_once(&once, inspect);
    return name;
}

const char *flashc_openblas_unsafe(void)
{
    pthread_once(&once, inspect);
    return unsafe;
}

const char *flashc_openblas_not_preferred(flashc_block_shape block, int64_t head_dim, int64_t head_dim_v)
{
    pthread_once(&once, inspect);
    if (!small_matrix_core)
        return slow_core;
    if (!small_matrix_version)
        return "this OpenBLAS is older than 0.3.21, the first whose small-matrix path was measured";
    /* head_dim 64 / 128, 8 heads, seqlen 2048, one thread, OpenBLAS 0.3.21: OpenBLAS 74 / 74 % of the FMA peak, built-in
     * 81 / 83 % (Xeon, Emerald Rapids, two FMA units); a prototype on OpenBLAS reached 89 / 92 % on Zen 4. */
    if (flashc_cpu_is_intel())
        return "on Intel CPUs the built-in tiles are faster (81 against 74 % of the FMA peak at head_dim 64)";
    const int64_t depth = flashc_max(flashc_min(head_dim, FLASHC_QK_DEPTH), head_dim_v);
    if (block.block_m * block.block_n > SMALL_MATRIX_LIMIT / depth)
        return "tiles of this head_dim are beyond OpenBLAS's small-matrix path";
    if (head_dim % 16 != 0 || head_dim_v % 16 != 0)
        return "OpenBLAS's small-matrix path is slow for head_dim that is no multiple of 16";
    return NULL;
}

static void qk(float *scores, flashc_f32_tile k, const float *qt, int64_t ld, int64_t n_keys, int64_t lanes,
               int64_t head_dim)
{
    for (int64_t d = 0; d < head_dim; d += FLASHC_QK_DEPTH)
        cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n_keys, (blasint)lanes,
                    (blasint)flashc_min(head_dim - d, FLASHC_QK_DEPTH), 1.0f, k.data + d, (blasint)k.ld, qt + d * ld,
                    (blasint)ld, d == 0 ? 0.0f : 1.0f, scores, (blasint)ld);
}

static void pv(float *acc, flashc_f32_tile v, const float *p, int64_t ld, int64_t n_keys, int64_t lanes,
               int64_t head_dim_v, const float *correction)
{
    bool rescale = false;
    for (int64_t lane = 0; lane < lanes; lane++)
        rescale = rescale || correction[lane] != 1.0f; /* NaN too */
    if (rescale)
        for (int64_t d = 0; d < head_dim_v; d++)
            for (int64_t lane = 0; lane < lanes; lane++)
                acc[d * ld + lane] *= correction[lane];
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)head_dim_v, (blasint)lanes, (blasint)n_keys, 1.0f,
                v.data, (blasint)v.ld, p, (blasint)ld, 1.0f, acc, (blasint)ld);
}

const flashc_gemm_ops flashc_gemm_openblas = {.qk = qk, .pv = pv};
