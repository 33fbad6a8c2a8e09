/*
 * Inner loops whose speed is the machine's: multiply-adds on registers, and reads.
 *
 * On x86 and AArch64 the arithmetic is written as assembly, so that what is timed does not depend on the
 * compiler, its options or the build type: no spill, no hoisting, one loop of independent chains. An FMA
 * takes 4-5 cycles and two start per cycle (four on the largest Arm cores), so 10 (16) chains fill the units; there are
 * 12 to 24. Values
 * settle near 1 (acc = acc * x + y), far from denormals, and change all the time as real data do (zeros would
 * draw less power, and clock higher).
 */
#include "cli/peak_loops.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

/* An instruction for each register from 0 to 23, whose number it writes as \\r. */
#define FOR_24(instruction)                                                                                            \
    ".irp r,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23\n\t" instruction "\n\t.endr\n\t"

#define MULTIPLIER 0.75f
#define ADDEND 0.25f

#if defined(__x86_64__)

static bool usable_avx512(void)
{
    return __builtin_cpu_supports("avx512f");
}

static bool usable_avx512_bf16(void)
{
    return __builtin_cpu_supports("avx512bf16");
}

static bool usable_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

enum { CHAINS_AVX512 = 24 };
__attribute__((target("avx512f"))) static void f32_avx512(int64_t rounds)
{
    const float x = MULTIPLIER, y = ADDEND;
    __asm__ volatile("vbroadcastss %[x], %%zmm30\n\t"
                     "vbroadcastss %[y], %%zmm31\n\t"
                     FOR_24("vmovaps %%zmm31, %%zmm\\r")
                     ".p2align 6\n"
                     "1:\n\t"
                     FOR_24("vfmadd213ps %%zmm31, %%zmm30, %%zmm\\r")
                     "decq %[rounds]\n\t"
                     "jnz 1b\n\t"
                     "vzeroupper"
                     : [rounds] "+r"(rounds)
                     : [x] "m"(x), [y] "m"(y)
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20",
                       "xmm21", "xmm22", "xmm23", "xmm30", "xmm31");
}

/* vdpbf16ps: acc += a0*b0 + a1*b1 on 16 lanes. Sums of products of +0.75 and -0.75 keep the
 * accumulators bounded: half of the chains' steps add what the other half take away. */
__attribute__((target("avx512f,avx512bf16"))) static void bf16_avx512(int64_t rounds)
{
    const uint32_t x = 0x3f403f40u, minus_x = 0xbf40bf40u; /* a pair of 0.75, a pair of -0.75 */
    __asm__ volatile("vpbroadcastd %[x], %%zmm30\n\t"
                     "vpbroadcastd %[minus_x], %%zmm31\n\t"
                     FOR_24("vmovdqa64 %%zmm30, %%zmm\\r")
                     ".p2align 6\n"
                     "1:\n\t"
                     FOR_24("vdpbf16ps %%zmm30, %%zmm30, %%zmm\\r")
                     FOR_24("vdpbf16ps %%zmm30, %%zmm31, %%zmm\\r")
                     "decq %[rounds]\n\t"
                     "jnz 1b\n\t"
                     "vzeroupper"
                     : [rounds] "+r"(rounds)
                     : [x] "m"(x), [minus_x] "m"(minus_x)
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                       "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20",
                       "xmm21", "xmm22", "xmm23", "xmm30", "xmm31");
}

enum { CHAINS_AVX2 = 12 };
__attribute__((target("avx2,fma"))) static void f32_avx2(int64_t rounds)
{
    const float x = MULTIPLIER, y = ADDEND;
    __asm__ volatile("vbroadcastss %[x], %%ymm14\n\t"
                     "vbroadcastss %[y], %%ymm15\n\t"
                     ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n\t"
                     "vmovaps %%ymm15, %%ymm\\r\n\t"
                     ".endr\n\t"
                     ".p2align 6\n"
                     "1:\n\t"
                     ".irp r,0,1,2,3,4,5,6,7,8,9,10,11\n\t"
                     "vfmadd213ps %%ymm15, %%ymm14, %%ymm\\r\n\t"
                     ".endr\n\t"
                     "decq %[rounds]\n\t"
                     "jnz 1b\n\t"
                     "vzeroupper"
                     : [rounds] "+r"(rounds)
                     : [x] "m"(x), [y] "m"(y)
                     : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
                       "xmm11", "xmm14", "xmm15");
}

__attribute__((target("avx512f"))) static void read_avx512(const void *data, size_t n)
{
    const char *p = data, *end = p + n;
    __asm__ volatile(".p2align 6\n"
                     "1:\n\t"
                     ".irp r,0,1,2,3,4,5,6,7\n\t"
                     "vmovdqa64 64*\\r(%[p]), %%zmm\\r\n\t"
                     ".endr\n\t"
                     "addq $512, %[p]\n\t"
                     "cmpq %[end], %[p]\n\t"
                     "jb 1b\n\t"
                     "vzeroupper"
                     : [p] "+r"(p)
                     : [end] "r"(end)
                     : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
}

__attribute__((target("avx2"))) static void read_avx2(const void *data, size_t n)
{
    const char *p = data, *end = p + n;
    __asm__ volatile(".p2align 6\n"
                     "1:\n\t"
                     ".irp r,0,1,2,3,4,5,6,7\n\t"
                     "vmovdqa 32*\\r(%[p]), %%ymm\\r\n\t"
                     ".endr\n\t"
                     "addq $256, %[p]\n\t"
                     "cmpq %[end], %[p]\n\t"
                     "jb 1b\n\t"
                     "vzeroupper"
                     : [p] "+r"(p)
                     : [end] "r"(end)
                     : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7");
}

static const flashc_peak_loop avx512_bf16 = {
    "avx512f", usable_avx512_bf16, f32_avx512, CHAINS_AVX512 * 16 * 2, bf16_avx512, CHAINS_AVX512 * 16 * 4 * 2,
    read_avx512, false,
};
static const flashc_peak_loop avx512 = {
    "avx512f", usable_avx512, f32_avx512, CHAINS_AVX512 * 16 * 2, NULL, 0.0, read_avx512, false,
};
static const flashc_peak_loop avx2 = {
    "avx2+fma", usable_avx2, f32_avx2, CHAINS_AVX2 * 8 * 2, NULL, 0.0, read_avx2, true,
};

#elif defined(__aarch64__)

static bool usable_neon(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_ASIMD) != 0;
}

static bool usable_neon_bf16(void)
{
    return usable_neon() && (getauxval(AT_HWCAP2) & HWCAP2_BF16) != 0;
}

#define CLOBBERS_NEON                                                                                                  \
    "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10", "v11", "v12", "v13", "v14", "v15", "v16", \
        "v17", "v18", "v19", "v20", "v21", "v22", "v23", "v30", "v31"

/* FMLA adds to its destination: acc += x * x, then acc -= x * x. */
enum { CHAINS_NEON = 24 };
static void f32_neon(int64_t rounds)
{
    const float x = MULTIPLIER, y = ADDEND;
    __asm__ volatile("ld1r {v30.4s}, %[x]\n\t"
                     "ld1r {v31.4s}, %[y]\n\t"
                     FOR_24("mov v\\r\\().16b, v31.16b")
                     ".p2align 6\n"
                     "1:\n\t"
                     FOR_24("fmla v\\r\\().4s, v30.4s, v30.4s")
                     FOR_24("fmls v\\r\\().4s, v30.4s, v30.4s")
                     "subs %[rounds], %[rounds], #1\n\t"
                     "b.ne 1b"
                     : [rounds] "+r"(rounds)
                     : [x] "Q"(x), [y] "Q"(y)
                     : CLOBBERS_NEON);
}

/* bfmmla: a 2 x 2 block of sums of four products, as with vdpbf16ps of both signs by turns. */
static void bf16_neon(int64_t rounds)
{
    const uint16_t x = 0x3f40, minus_x = 0xbf40;
    __asm__ volatile(".arch_extension bf16\n\t"
                     "ld1r {v30.8h}, %[x]\n\t"
                     "ld1r {v31.8h}, %[minus_x]\n\t"
                     FOR_24("mov v\\r\\().16b, v30.16b")
                     ".p2align 6\n"
                     "1:\n\t"
                     FOR_24("bfmmla v\\r\\().4s, v30.8h, v30.8h")
                     FOR_24("bfmmla v\\r\\().4s, v30.8h, v31.8h")
                     "subs %[rounds], %[rounds], #1\n\t"
                     "b.ne 1b"
                     : [rounds] "+r"(rounds)
                     : [x] "Q"(x), [minus_x] "Q"(minus_x)
                     : CLOBBERS_NEON);
}

static void read_neon(const void *data, size_t n)
{
    const char *p = data, *end = p + n;
    __asm__ volatile(".p2align 6\n"
                     "1:\n\t"
                     ".irp r,0,1,2,3,4,5,6,7\n\t"
                     "ldp q0, q1, [%[p], #32*\\r]\n\t"
                     ".endr\n\t"
                     "add %[p], %[p], #256\n\t"
                     "cmp %[p], %[end]\n\t"
                     "b.lo 1b"
                     : [p] "+r"(p)
                     : [end] "r"(end)
                     : "cc", "memory", "v0", "v1");
}

static const flashc_peak_loop neon_bf16 = {
    "neon", usable_neon_bf16, f32_neon, CHAINS_NEON * 4 * 2 * 2, bf16_neon, CHAINS_NEON * 16 * 2 * 2, read_neon,
    false,
};
static const flashc_peak_loop neon = {
    "neon", usable_neon, f32_neon, CHAINS_NEON * 4 * 2 * 2, NULL, 0.0, read_neon, false,
};

#endif

static bool usable_always(void)
{
    return true;
}

/* Plain C: 12 vectors of four floats. The multiply and the add fuse where the target always has FMA. */
enum { CHAINS_GENERIC = 12 };
typedef float float4_t __attribute__((vector_size(16)));

static void f32_generic(int64_t rounds)
{
    volatile float runtime[2] = {MULTIPLIER, ADDEND}; /* unknown to the compiler */
    const float x = runtime[0], y = runtime[1];
    float4_t acc[CHAINS_GENERIC];
    for (int c = 0; c < CHAINS_GENERIC; c++)
        acc[c] = (float4_t){y, y, y, y} * (float)(c + 1); /* all different: equal chains could be merged */
    for (int64_t i = 0; i < rounds; i++) {
        for (int c = 0; c < CHAINS_GENERIC; c++) {
#if defined(__FP_FAST_FMAF)
            for (int lane = 0; lane < 4; lane++)
                acc[c][lane] = __builtin_fmaf(acc[c][lane], x, y);
#else
            acc[c] = acc[c] * x + y;
#endif
        }
    }
    volatile float used = 0.0f;
    for (int c = 0; c < CHAINS_GENERIC; c++)
        used += acc[c][0] + acc[c][1] + acc[c][2] + acc[c][3];
    (void)used;
}

/* Eight sums, so that the adds are never the limit. */
static void read_generic(const void *data, size_t n)
{
    const uint64_t *p = data;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < n / sizeof *p; i += 8)
        for (size_t j = 0; j < 8; j++)
            sum[j] ^= p[i + j];
    volatile uint64_t used = 0;
    for (size_t j = 0; j < 8; j++)
        used ^= sum[j];
    (void)used;
}

static const flashc_peak_loop generic = {
    "generic", usable_always, f32_generic, CHAINS_GENERIC * 4 * 2, NULL, 0.0, read_generic, false,
};

const flashc_peak_loop *const flashc_peak_loops[] = {
#if defined(__x86_64__)
    &avx512_bf16,
    &avx512,
    &avx2,
#elif defined(__aarch64__)
    &neon_bf16,
    &neon,
#endif
    &generic,
    NULL,
};
