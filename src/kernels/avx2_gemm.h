/*
 * The sums of AVX2's register block in assembly, four steps of depth in a pass of the loop. Part of f32_avx2.c.
 *
 * What a core with a busy other thread lacks is places for instructions, not multiply-adds. A step of 4 rows and 3
 * vectors is 3 loads, 4 broadcasts and 12 multiply-adds; four of them take 80 instructions here, the loop included.
 * gcc 12 takes 45 for two, with addresses and moves between registers, and spills at four. Tiles of 48 queries take
 * 1.80 to 1.87 instructions a multiply-add in all, in place of 2.1. Zen 3, whole calls beside neighbours, medians: 5 to
 * 8 % less time at head_dim 128, 1 to 9 at 64; best calls are the same.
 */
#ifndef FLASHC_AVX2_GEMM_H
#define FLASHC_AVX2_GEMM_H

#define FLASHC_OWN_GEMM_SUMS
enum { PREFETCH_STEPS = 32 };

/* One row of sums: its a, broadcast, times the vectors of b, which are in ymm12, ymm13 and ymm14. */
#define TIMES_2(a, row)                                                                                                \
    "vbroadcastss " a ", %%ymm15\n\t"                                                                                  \
    "vfmadd231ps %%ymm15, %%ymm12, %[sum" row "0]\n\t"                                                                 \
    "vfmadd231ps %%ymm15, %%ymm13, %[sum" row "1]\n\t"
#define TIMES_3(a, row) TIMES_2(a, row) "vfmadd231ps %%ymm15, %%ymm14, %[sum" row "2]\n\t"

#define LOAD_2(b) "vmovups " b ", %%ymm12\n\tvmovups 32" b ", %%ymm13\n\t"
#define LOAD_3(b) LOAD_2(b) "vmovups 64" b ", %%ymm14\n\t"

/* Step `at` of four, whose b is there. Of Q K^T rows of a are a_stride apart and steps one float; P V the other way. */
#define QK_STEP(vecs, at, b)                                                                                           \
    LOAD_##vecs(b) TIMES_##vecs(at "(%%rax)", "0") TIMES_##vecs(at "(%%rax,%[a_stride])", "1")                         \
        TIMES_##vecs(at "(%%rax,%[a_stride],2)", "2") TIMES_##vecs(at "(%%rax,%%rsi)", "3")
#define PV_STEP(vecs, a, b)                                                                                            \
    LOAD_##vecs(b) TIMES_##vecs("0" a, "0") TIMES_##vecs("4" a, "1") TIMES_##vecs("8" a, "2") TIMES_##vecs("12" a, "3")

#define QK_STEPS(vecs)                                                                                                 \
    QK_STEP(vecs, "0", "(%%rdx)")                                                                                      \
    QK_STEP(vecs, "4", "(%%rdx,%[b_stride])")                                                                          \
    QK_STEP(vecs, "8", "(%%rdx,%[b_stride],2)")                                                                        \
    QK_STEP(vecs, "12", "(%%rdx,%%rdi)")                                                                               \
    "add $16, %%rax\n\t"
#define PV_STEPS(vecs)                                                                                                 \
    PV_STEP(vecs, "(%%rax)", "(%%rdx)")                                                                                \
    PV_STEP(vecs, "(%%rax,%[a_stride])", "(%%rdx,%[b_stride])")                                                        \
    PV_STEP(vecs, "(%%rax,%[a_stride],2)", "(%%rdx,%[b_stride],2)")                                                    \
    PV_STEP(vecs, "(%%rax,%%rsi)", "(%%rdx,%%rdi)")                                                                    \
    "lea (%%rax,%[a_stride],4), %%rax\n\t"

#define SUM(row, vec) [sum##row##vec] "+x"(sum[row][vec])
#define SUMS_2 SUM(0, 0), SUM(0, 1), SUM(1, 0), SUM(1, 1), SUM(2, 0), SUM(2, 1), SUM(3, 0), SUM(3, 1)
#define SUMS_3 SUMS_2, SUM(0, 2), SUM(1, 2), SUM(2, 2), SUM(3, 2)

/* passes > 0 times four steps from a and b on; strides in bytes. Operands are inputs that are copied, since gcc counts
 * each sum twice of the 30 operands that it allows. */
#define FOUR_STEPS(steps, vecs)                                                                                        \
    __asm__("mov %[a], %%rax\n\t"                                                                                      \
            "mov %[b], %%rdx\n\t"                                                                                      \
            "mov %[passes], %%rcx\n\t"                                                                                 \
            "lea (%[a_stride],%[a_stride],2), %%rsi\n\t"                                                               \
            "lea (%[b_stride],%[b_stride],2), %%rdi\n\t"                                                               \
            ".p2align 5\n"                                                                                             \
            "1:\n\t" steps(vecs) "lea (%%rdx,%[b_stride],4), %%rdx\n\t"                                                \
            "sub $1, %%rcx\n\t"                                                                                        \
            "jnz 1b"                                                                                                   \
            : SUMS_##vecs                                                                                              \
            : [a] "r"(a), [b] "r"(b), [a_stride] "r"(a_stride), [b_stride] "r"(b_stride), [passes] "r"(passes)         \
            : "rax", "rdx", "rcx", "rsi", "rdi", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory")

/* One of a_row and a_depth is 1, as they are in Q K^T and P V. */
V_INLINE void gemm_sums(vec sum[GEMM_ROWS][GEMM_VECS], int rows, int vecs, int64_t depth, const float *a, int64_t a_row,
                        int64_t a_depth, const float *b, int64_t ldb)
{
    const int64_t passes = depth / 4;
    int64_t k = 0;
    if (rows == GEMM_ROWS && vecs > 1 && passes > 0) {
        const int64_t b_stride = ldb * (int64_t)sizeof(float);
        const int64_t a_stride = (a_row == 1 ? a_depth : a_row) * (int64_t)sizeof(float);
        if (a_row == 1 && vecs == 3)
            FOUR_STEPS(PV_STEPS, 3);
        else if (a_row == 1)
            FOUR_STEPS(PV_STEPS, 2);
        else if (vecs == 3)
            FOUR_STEPS(QK_STEPS, 3);
        else
            FOUR_STEPS(QK_STEPS, 2);
        k = 4 * passes;
    }
    for (; k < depth; k++) {
        vec bk[GEMM_VECS];
        for (int j = 0; j < vecs; j++)
            bk[j] = v_load(b + k * ldb + j * VL);
        for (int r = 0; r < rows; r++) {
            const vec ar = v_set1(a[r * a_row + k * a_depth]);
            for (int j = 0; j < vecs; j++)
                sum[r][j] = v_dot(ar, bk[j], sum[r][j]);
        }
    }
}

#endif
