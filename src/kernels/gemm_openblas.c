/*
 * S^T = K Q^T and O^T += V^T P^T by cblas_sgemm. Column-major, A is Q^T or P^T and not transposed, which is
 * what OpenBLAS's small-matrix path for AVX-512 asks for; that path reaches 93-98 % of the FMA peak
 * at these sizes (Xeon, AVX-512, OpenBLAS 0.3.21) where the packed path gives 76-88 % (Zen 4).
 *
 * OpenBLAS is loaded when a row first needs it, and never unloaded. RTLD_LOCAL: the host's own BLAS stays the host's.
 * RTLD_NOW: all of OpenBLAS's references to itself are bound before the host can load another one. Its OpenMP
 * build asks for libgomp.so.1 as flashc does, so the loader gives it the runtime that is there already.
 *
 * Never set thread counts here: openblas_set_num_threads() is process-wide. The caller runs inside an
 * OpenMP region in which each worker's own team size is 1, and OpenBLAS's OpenMP build obeys that.
 */
#include "kernels/gemm_openblas.h"

#include "config.h"
#include "cpu.h"

#include <cblas.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Where it is within 3 % of the built-in tiles; see flashc_openblas_not_preferred(). */
enum { LARGEST_HEAD_DIM = 64, FEWEST_ROWS = 2048 };

/* openblas_get_parallel(): */
enum { BUILT_SERIAL = 0, BUILT_PTHREADS = 1, BUILT_OPENMP = 2 };

/* MiB of address space without which OpenBLAS 0.3.21 loops for ever while it is loaded: a buffer for each CPU, and the
 * library (150 to 170 MiB in all for one thread, 280 to 300 for two). */
enum { BUFFER_MIB = 128, LIBRARY_MIB = 64 };

static struct {
    __typeof__(&cblas_sgemm) sgemm;
    __typeof__(&openblas_get_parallel) parallel;
    __typeof__(&openblas_get_corename) corename;
    __typeof__(&openblas_get_config) config;
} blas;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char name[320];
static char unusable[256]; /* empty if it may be called */
static char slow_core[256];
static bool small_matrix_core, small_matrix_version;

/* A function pointer is not a data pointer in C; POSIX makes them alike. */
static bool find(void *library, const char *symbol, void *function)
{
    void *address = dlsym(library, symbol);
    memcpy(function, &address, sizeof address);
    return address != NULL;
}

static bool address_space_is_left(void)
{
    const size_t size = ((size_t)sysconf(_SC_NPROCESSORS_CONF) * BUFFER_MIB + LIBRARY_MIB) << 20;
    void *room = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return room != MAP_FAILED && munmap(room, size) == 0;
}

/* The library, or NULL with the reason in unusable. */
static void *load(void)
{
    const char *path = secure_getenv("FLASHC_OPENBLAS"), *reason = NULL;
    if (!path || *path == '\0') {
        path = FLASHC_OPENBLAS_LIBRARY;
    } else if (!strchr(path, '/')) { /* the loader would look for it in many places */
        snprintf(unusable, sizeof unusable, "FLASHC_OPENBLAS: expected a path with a /, found %s", path);
        return NULL;
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD);
    const void *visible = dlsym(RTLD_DEFAULT, "openblas_get_parallel");
    if (visible && (!library || dlsym(library, "openblas_get_parallel") != visible))
        reason = "the program has another OpenBLAS, and functions of the two would be mixed";
    else if (!library && !address_space_is_left())
        reason = "too little address space is left (it wants 128 MiB for each CPU and would wait for them for ever)";
    if (!reason && !library) {
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        reason = library ? NULL : dlerror();
    }
    if (!reason && !(find(library, "cblas_sgemm", &blas.sgemm) &&
                     find(library, "openblas_get_parallel", &blas.parallel) &&
                     find(library, "openblas_get_corename", &blas.corename) &&
                     find(library, "openblas_get_config", &blas.config)))
        reason = dlerror();
    if (!reason)
        return library;
    snprintf(unusable, sizeof unusable, "OpenBLAS could not be loaded: %s", reason);
    return NULL;
}

/* Why the library, though loaded, must not be called from our threads; NULL if it may. */
static const char *unsafe_build(void *library)
{
    const int parallel = blas.parallel();
    if (parallel == BUILT_SERIAL)
        return "this OpenBLAS is the serial build, silently wrong when two threads call it; the OpenMP build is "
               "needed (Debian: libopenblas0-openmp)";
    if (parallel != BUILT_OPENMP)
        return "this OpenBLAS is the pthread build, which starts threads of its own inside ours; the OpenMP build is "
               "needed (Debian: libopenblas0-openmp)";
    if (dlsym(library, "omp_in_parallel") != dlsym(RTLD_DEFAULT, "omp_in_parallel"))
        return "this OpenBLAS runs on another OpenMP runtime than flashc, and would start threads of its own inside "
               "ours";
    if ((strstr(blas.config(), "USE64BITINT") != NULL) != (sizeof(blasint) == 8))
        return "this OpenBLAS takes integers of another size than the one that flashc was built for";
    return NULL;
}

static void inspect(void *library)
{
    static const char *const builds[] = {"serial", "pthreads", "openmp"};
    static const char *const avx512_cores[] = {"SkylakeX", "Cooperlake", "SapphireRapids"};
    const int parallel = blas.parallel();
    const char *core = blas.corename(), *unsafe = unsafe_build(library);
    int major = 0, minor = 0, patch = 0;
    if (sscanf(blas.config(), "OpenBLAS %d.%d.%d", &major, &minor, &patch) != 3)
        major = minor = patch = 0;
    snprintf(name, sizeof name, "OpenBLAS %d.%d.%d %s %s", major, minor, patch, core,
             parallel >= 0 && parallel <= 2 ? builds[parallel] : "?");
    for (size_t i = 0; i < sizeof avx512_cores / sizeof avx512_cores[0]; i++)
        small_matrix_core = small_matrix_core || strcmp(core, avx512_cores[i]) == 0;
    if (unsafe)
        snprintf(unusable, sizeof unusable, "%s", unsafe);
    else if (small_matrix_core && !flashc_cpu_can_run(FLASHC_CPU_AVX512F))
        snprintf(unusable, sizeof unusable,
                 "OpenBLAS would run its %s code (OPENBLAS_CORETYPE chooses it), and the CPU has no avx512f", core);
    small_matrix_version = major > 0 || minor > 3 || (minor == 3 && patch >= 21);
    snprintf(slow_core, sizeof slow_core, "OpenBLAS runs its %s code here, which has no small-matrix path", core);
}

static void load_and_inspect(void)
{
    /* A library's initialisers may set the mode (those of -ffast-math do). */
    const unsigned float_mode = flashc_cpu_default_float_mode();
    void *library = load();
    flashc_cpu_restore_float_mode(float_mode);
    if (library)
        inspect(library);
    else
        snprintf(name, sizeof name, "none: %s", unusable);
}

const char *flashc_openblas_name(void)
{
    pthread_once(&once, load_and_inspect);
    return name;
}

const char *flashc_openblas_unusable(void)
{
    pthread_once(&once, load_and_inspect);
    return unusable[0] != '\0' ? unusable : NULL;
}

/* What needs no OpenBLAS is decided first: where nothing would choose it, it is not even loaded. */
const char *flashc_openblas_not_preferred(const flashc_kernel_shape *shape)
{
    if (!(flashc_cpu_features() & FLASHC_CPU_AVX512F))
        return "OpenBLAS's small-matrix path, the one fit for tiles, needs avx512f";
    /* 8 heads, seqlen 2048, one thread, OpenBLAS 0.3.21, GFLOP/s at head_dim 32 / 64 / 128 / 256:
     *                                       OpenBLAS                built-in
     *   Xeon, Emerald Rapids, full           -  / 132 / 132 /  -     -  / 145 / 148 /  -
     *   Zen 5, full                         213 / 240 / 245 / 238   232 / 253 / 263 / 263
     *   Zen 5, causal                       195 / 229 / 234 / 219   221 / 243 / 254 / 252
     *   Zen 4, full                          94 / 102 / 102 / 100    95 / 104 / 108 / 108
     *   Zen 4, full, 12 heads of 1024 x 4     -  /  99 /  -  /  -     -  / 103 /  -  /  -
     *   Zen 4, full, 12 heads of 512 x 16     -  /  95 /  -  /  -     -  / 100 /  -  /  -
     *   Zen 4, causal                        87 /  95 /  96 /  96    89 /  99 / 102 / 102
     *   Zen 4, bias                          -  /  86 /  -  /  -     -  /  95 /  -  /  -
     * On Zen 4 it is within 3 % at head_dim 16 to 64 and 2,048 to 8,192 tokens, none of them hidden. */
    if (flashc_cpu_amd_family() != FLASHC_AMD_ZEN_3_AND_4) /* of these Zen 4 has avx512f */
        return "the built-in tiles were faster on every CPU measured but Zen 4 (by 5 to 15 %)";
    if (shape->masked)
        return "the built-in tiles were faster on Zen 4 with causal, window, mask or bias (by 3 to 10 %)";
    if (shape->head_dim > LARGEST_HEAD_DIM || shape->head_dim_v > LARGEST_HEAD_DIM)
        return "the built-in tiles were faster on Zen 4 for head_dim beyond 64 (by 4 to 7 %)";
    if (shape->n_rows < FEWEST_ROWS)
        return "the built-in tiles were faster on Zen 4 for fewer than 2048 query rows per K/V head (by 4 to 6 %)";
    if (shape->head_dim % 16 != 0 || shape->head_dim_v % 16 != 0)
        return "OpenBLAS's small-matrix path is slow for head_dim that is no multiple of 16";
    if (flashc_openblas_unusable())
        return unusable;
    if (!small_matrix_core)
        return slow_core;
    if (!small_matrix_version)
        return "this OpenBLAS is older than 0.3.21, the first whose small-matrix path was measured";
    return NULL;
}

static void qk(float *scores, flashc_kv_tile k, const void *queries, int64_t ld, int64_t n_keys, int64_t lanes,
               int64_t head_dim, float factor)
{
    (void)factor;
    const float *data = k.data, *qt = queries;
    for (int64_t d = 0; d < head_dim; d += FLASHC_QK_DEPTH)
        blas.sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (blasint)n_keys, (blasint)lanes,
                   (blasint)flashc_min(head_dim - d, FLASHC_QK_DEPTH), 1.0f, data + d, (blasint)k.row_stride,
                   qt + d * ld, (blasint)ld, d == 0 ? 0.0f : 1.0f, scores, (blasint)ld);
}

static void pv(float *acc, flashc_kv_tile v, const void *p, int64_t ld, int64_t n_keys, int64_t lanes,
               int64_t head_dim_v, const float *correction)
{
    bool rescale = false;
    for (int64_t lane = 0; lane < lanes; lane++)
        rescale = rescale || correction[lane] != 1.0f; /* NaN too */
    if (rescale)
        for (int64_t d = 0; d < head_dim_v; d++)
            for (int64_t lane = 0; lane < lanes; lane++)
                acc[d * ld + lane] *= correction[lane];
    blas.sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, (blasint)head_dim_v, (blasint)lanes, (blasint)n_keys, 1.0f,
               v.data, (blasint)v.row_stride, p, (blasint)ld, 1.0f, acc, (blasint)ld);
}

const flashc_gemm_ops flashc_gemm_openblas = {
    .k = FLASHC_F32_OPERAND, .v = FLASHC_F32_OPERAND, .qk = qk, .pv = pv};
