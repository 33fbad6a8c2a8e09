/*
 * flashc: exact attention forward for CPUs, as one C call.
 *
 *     O = softmax(scale * Q K^T + bias) V,   LSE = log(sum(exp(scores)))
 *
 * without ever storing the score matrix. Tiles of Q K^T are streamed through an online softmax
 * (Milakov & Gimelshein, "Online normalizer calculation for softmax", 2018) that rescales the
 * partial output whenever the running max rises (Dao et al., "FlashAttention", 2022).
 *
 * This header is the manual. It holds for every function, unless the function says otherwise:
 *
 *   Ownership  The caller owns every array and struct; flashc keeps no pointer after it returns.
 *              Returned `const char *` point to static or thread-local text: never free them.
 *   Overlap    Outputs share no memory with each other or with inputs, but where a function says so. Attention and
 *              append refuse two arguments at one address and leave the rest to the caller, so that views that
 *              interleave are valid; the functions of softmax refuse what certainly overlaps.
 *   Alignment  Pointers are aligned to their elements, those of a params struct to arrays of numbers too. Of
 *              flashc_attention_params that is checked.
 *   Versions   The struct_size of a params struct may be of an older version (what it lacks is as after init) or of a
 *              newer one (what this one lacks must be 0). Of structs that flashc fills in or keeps up to date
 *              (flashc_system_info, flashc_explanation, flashc_attention_state) it must be that of this version.
 *   Threads    Any function may be called from any number of threads at once, on different outputs.
 *              flashc changes no process-wide state: not the OpenMP or OpenBLAS thread counts, not
 *              the floating-point mode, not the locale, not the signal mask. It prints nothing (libgomp does,
 *              see Errors).
 *   Rounding   Results are those of the IEEE default (to nearest, with subnormal numbers), whatever
 *              floating-point mode the caller is in.
 *   Fork       In a child made by fork() calls run on one thread (libgomp hangs there otherwise).
 *   Errors     A status other than FLASHC_OK comes with a message (flashc_last_error()) that names
 *              the argument, what was expected and what was found. Nothing aborts, with one exception: where the
 *              system refuses a thread, libgomp prints that and ends the process (num_threads 1 needs none). After
 *              any error but FLASHC_ERR_CANCELLED the outputs are as they were.
 *   Units      Sizes count elements, strides count elements of the tensor's type (they may be 0 or
 *              negative), *_size of memory counts bytes. All index arithmetic is 64-bit.
 *
 *   Sections   1 status, version, machine, types; 2 attention; 3 caches of keys and values; 4 keys in chunks, shared
 *              prefixes; 5 softmax, the online-softmax state, partial results; 6 arrays: conversion and checks.
 *
 * The smallest program:
 *
 *     #include <flashc.h>
 *     #include <stdio.h>
 *     int main(void) {
 *         float q[4 * 8] = {1}, k[6 * 8] = {1}, v[6 * 8] = {1}, o[4 * 8];
 *         flashc_attention_params p;
 *         flashc_attention_params_init(&p, sizeof p);
 *         p.seqlen_q = 4; p.seqlen_k = 6; p.head_dim = p.head_dim_v = 8;
 *         p.q = flashc_tensor_bhsd(q, FLASHC_F32, 1, 4, 8);
 *         p.k = flashc_tensor_bhsd(k, FLASHC_F32, 1, 6, 8);
 *         p.v = flashc_tensor_bhsd(v, FLASHC_F32, 1, 6, 8);
 *         p.o = flashc_tensor_bhsd(o, FLASHC_F32, 1, 4, 8);
 *         if (flashc_attention_fwd(&p) != FLASHC_OK) return puts(flashc_last_error()), 1;
 *         return printf("%f\n", (double)o[0]) < 0;
 *     }
 */
#ifndef FLASHC_H
#define FLASHC_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FLASHC_VERSION_MAJOR 0
#define FLASHC_VERSION_MINOR 1
#define FLASHC_VERSION_PATCH 0

#if defined(__GNUC__)
#define FLASHC_API __attribute__((visibility("default")))
#else
#define FLASHC_API
#endif

/* ---------------------------------------------------------------------------------------------
 * 1. Status, version, machine, types
 * ------------------------------------------------------------------------------------------- */

typedef enum flashc_status {
    FLASHC_OK = 0,
    FLASHC_ERR_ARGUMENT = 1,    /* a value, shape, stride or pointer is not valid                */
    FLASHC_ERR_UNSUPPORTED = 2, /* valid, but the named kernel cannot run it, or not on this CPU */
    FLASHC_ERR_MEMORY = 3,      /* the scratch memory could not be had                           */
    FLASHC_ERR_WORKSPACE = 4,   /* the caller's workspace is too small or not aligned            */
    FLASHC_ERR_CANCELLED = 5    /* the progress callback asked to stop                           */
} flashc_status;

/* The status in a few words, e.g. "invalid argument". Never NULL; unknown values are named so. */
FLASHC_API const char *flashc_status_string(flashc_status status);

/* The message of this thread's latest failed call ("" before the first). Valid until this thread's
 * next call into flashc. */
FLASHC_API const char *flashc_last_error(void);

/* "MAJOR.MINOR.PATCH" of the library that is loaded. */
FLASHC_API const char *flashc_version(void);

/* What this machine and this build have. */
typedef struct flashc_system_info {
    size_t struct_size;       /* the caller sets it to sizeof(flashc_system_info) */
    const char *version;      /* of the library */
    const char *cpu_features; /* those that kernels ask for, e.g. "avx2 fma f16c avx512f" */
    const char *blas;         /* e.g. "OpenBLAS 0.3.21 SkylakeX openmp"; "none: " and why it could not be loaded; "none"
                                 in a build without it */
    int openmp;               /* 1 if built with OpenMP */
    int default_threads;      /* what num_threads = 0 means here */
} flashc_system_info;

/* The environment variable FLASHC_DISABLE_CPU_FEATURES (a comma-separated list of the names in
 * cpu_features), read once, hides features from the choice of kernels. Names that it does not know are ignored.
 *
 * OpenBLAS is loaded at run time, once, visible to flashc alone, and only when something needs it: this call,
 * flashc_kernel_get(), a kernel that is named, or a choice that depends on it (on Zen 4 alone, with
 * avx512f). The environment variable FLASHC_OPENBLAS (the path of a shared library, with a /) names another one
 * than the path chosen when flashc was built; setuid programs ignore it. Where none can be loaded the built-in
 * kernels remain. */
FLASHC_API flashc_status flashc_system_get(flashc_system_info *out);

/* The kernels, best first. */
typedef struct flashc_kernel {
    const char *name;        /* e.g. "f32_avx512" */
    const char *description; /* one line */
    const char *unavailable; /* NULL if this machine can run it, else the reason. Forcing a slow but
                                runnable kernel by name is allowed. */
} flashc_kernel;

FLASHC_API int flashc_kernel_count(void);
/* Kernel number index in 0 .. count-1; FLASHC_ERR_ARGUMENT outside. */
FLASHC_API flashc_status flashc_kernel_get(int index, flashc_kernel *out);

/* Element types. Arithmetic is f32 whatever the type; conversion to a type of fewer bits rounds to nearest
 * even. FLASHC_BOOL is one byte per element, 0 = false, anything else = true (masks only). The types from
 * FLASHC_I8 on are for K and V: their elements are code * scale, the codes being numbers of the type. */
typedef enum flashc_dtype {
    FLASHC_F32 = 1,     /* IEEE binary32                                                              */
    FLASHC_F16 = 2,     /* IEEE binary16                                                              */
    FLASHC_BF16 = 3,    /* bfloat16, the upper half of an f32                                         */
    FLASHC_BOOL = 4,    /* one byte                                                                   */
    FLASHC_I8 = 5,      /* -128 .. 127                                                                */
    FLASHC_F8_E4M3 = 6, /* OCP's 8-bit float of 4 + 3 bits ("fn": no infinity, 0x7f and 0xff are NaN) */
    FLASHC_F8_E5M2 = 7, /* OCP's 8-bit float of 5 + 2 bits, the upper half of an f16                  */
    FLASHC_Q8_0 = 8     /* ggml's blocks of 32 columns: an f16 scale, then 32 codes of 8 bits (34 bytes). An
                           "element" is a block: strides count blocks, and a row of n columns has n/32 */
} flashc_dtype;

/* Bytes per element: 4, 2, 2, 1, 1, 1, 1, 34; 0 for an unknown type. */
FLASHC_API size_t flashc_dtype_size(flashc_dtype dtype);
/* "f32", "f16", "bf16", "bool", "i8", "f8_e4m3", "f8_e5m2", "q8_0"; "?" for an unknown type. */
FLASHC_API const char *flashc_dtype_name(flashc_dtype dtype);

/* A view of memory, read or written as element [i0][i1][i2][i3] at
 * data + (i0*stride[0] + i1*stride[1] + i2*stride[2] + i3*stride[3]) * flashc_dtype_size(dtype).
 * Axes are always [batch, head, row, column], whatever the order in memory; the strides say that
 * order. Inputs take any strides: 0 broadcasts, negative ones walk backwards (data then points to
 * element [0][0][0][0], not to the lowest address). The sizes stand once, in the params struct.
 * data must be aligned to the element's size (FLASHC_Q8_0: to 2 bytes). data == NULL means "absent" where that is
 * allowed. */
typedef struct flashc_tensor {
    void *data;
    flashc_dtype dtype;
    int64_t stride[4];
} flashc_tensor;

/* Views of packed arrays. bhsd: [batch, heads, seqlen, dim] (PyTorch SDPA, ONNX 4-D);
 * bshd: [batch, seqlen, heads, dim] (FlashAttention, vLLM, JAX). dim counts columns (FLASHC_Q8_0: a multiple of 32). */
FLASHC_API flashc_tensor flashc_tensor_bhsd(const void *data, flashc_dtype dtype, int64_t heads, int64_t seqlen,
                                            int64_t dim);
FLASHC_API flashc_tensor flashc_tensor_bshd(const void *data, flashc_dtype dtype, int64_t heads, int64_t seqlen,
                                            int64_t dim);

/* ---------------------------------------------------------------------------------------------
 * 2. Attention
 * ------------------------------------------------------------------------------------------- */

/* How query positions line up with key positions. Query i of batch element b sits at position
 * p = i + offset(b), key j at position j, counted from the batch element's first real key. Causal shows the
 * keys j <= p, a window those with p - window_left <= j <= p + window_right. */
typedef enum flashc_alignment {
    FLASHC_ALIGN_UNSET = 0,        /* an error wherever a position is needed (causal, window, ALiBi) */
    FLASHC_ALIGN_TOP_LEFT = 1,     /* offset 0: PyTorch's is_causal, ONNX without a cache        */
    FLASHC_ALIGN_BOTTOM_RIGHT = 2, /* offset (number of keys) - (number of queries) of the batch element, so
                                      that its last query sees its last key: FlashAttention, KV caches */
    FLASHC_ALIGN_EXPLICIT = 3      /* offset = offsets[b]                                        */
} flashc_alignment;

/* Pages of K or V: row j of sequence b is row j % page_size of page
 * pages[b*stride[0] + (j / page_size)*stride[1]]. The tensor that goes with a table is a view
 * [num_pages, num_heads_k, page_size, dim]; its strides say the order in memory (vLLM and FlashAttention have
 * [page, row, head, dim], so stride[1] = dim and stride[2] = num_heads_k*dim). Only entries that the lengths of
 * the sequences reach are looked at; each must be 0 .. num_pages - 1. */
typedef struct flashc_block_table {
    const int32_t *pages; /* NULL: no pages, and sizes 0; row j of sequence b is [b][head][j] of the tensor */
    int64_t stride[2];    /* elements: from a sequence to the next, from an entry to the next */
    int64_t max_pages;    /* entries of a sequence */
    int64_t num_pages;    /* of the tensor */
    int64_t page_size;    /* rows of a page, at least 1 */
} flashc_block_table;

/* What the two products are computed in. Sums, scores and softmax are f32 always. */
typedef enum flashc_compute {
    FLASHC_COMPUTE_DEFAULT = 0, /* that of the kernel, if one is named; else BF16 where q, k and v all are bf16 (nothing
                                   of them is rounded then) and that is faster, F32 otherwise */
    FLASHC_COMPUTE_F32 = 1,     /* f32 products, the stated bound */
    FLASHC_COMPUTE_BF16 = 2     /* allows kernels that round q, k, v and the softmax weights to bf16; not an order */
} flashc_compute;

/* What the output `scores` holds, as ONNX's qk_matmul_output_mode counts it. It, and key_mass, are made in a pass over
 * all keys after the others, which costs another Q K^T and exp: a call takes 1.4 to 1.8 times as long (head_dim 64). In
 * its rows and columns that are no queries and no keys of a batch element (seqlens_q, seqlens_k, leftpad_k; of packed
 * keys those of other sequences) stands -inf, or as a weight 0. Of queries and keys that are packed both, the blocks
 * on the diagonal alone are written. */
typedef enum flashc_score_stage {
    FLASHC_SCORES_SCALED = 0, /* softmax_scale * (q . k), of hidden keys too */
    FLASHC_SCORES_CAPPED = 1, /* after softcap, of hidden keys too */
    FLASHC_SCORES_MASKED = 2, /* as softmax takes them; hidden keys are -inf */
    FLASHC_SCORES_WEIGHTS = 3 /* softmax weights, with lse: exp(score - lse), so with a relative error of at most the
                                 bound of LSE and u (cA + 4) (where bf16 rounds inputs, e besides); hidden keys are 0,
                                 and weights below 2^-126. Sinks are in lse */
} flashc_score_stage;

/* Called on the calling thread only, from time to time while it has work itself (not while it waits for
 * the last items of other threads), with the work items done so far and their number; the last time, unless
 * cancelled, when all are done. Where there are no items (no queries) it is not called.
 * (flashc_attention_shared_prefix() counts the prefix's items first, and then those of
 * the sequences' own keys.) Return 0 to go on; anything else cancels the call. Must not call longjmp or throw. */
typedef int (*flashc_progress_fn)(void *user_data, int64_t done, int64_t total);

/* One head's scores of some queries and keys, in f32 and natural units, on their way to softmax. Key 0 is the batch
 * element's first real key (row leftpad_k[batch] of k). */
typedef struct flashc_score_block {
    float *scores; /* of query first_query + i and key first_key + j: scores[i * query_stride + j * key_stride] */
    int64_t query_stride, key_stride;
    int64_t batch, head;
    int64_t first_query, n_queries;
    int64_t first_key, n_keys;
    int64_t first_position; /* of query first_query, at most INT64_MAX; with alignment UNSET as with TOP_LEFT */
} flashc_score_block;

/* Changes a block's scores in place; -inf hides a key. Called in the worker threads, several at a time, in the IEEE
 * default floating-point mode, for blocks of any size in any order and more than once for the same scores: what
 * becomes of a score may depend on itself and its coordinates alone. Scores of keys that a mask, position or -inf hides
 * may be among them: they stay hidden whatever is written. Must not call longjmp or throw, and leave the mode.
 *
 * A relative-position bias (T5, Swin), of a table [num_heads][2 * reach + 1] for distances of -reach to reach:
 *
 *     static void add_relative_bias(void *user_data, const flashc_score_block *b) {
 *         const struct bias_table *t = user_data;
 *         for (int64_t i = 0; i < b->n_queries; i++)
 *             for (int64_t j = 0; j < b->n_keys; j++) {
 *                 int64_t d = b->first_key + j - (b->first_position + i);
 *                 d = d < -t->reach ? -t->reach : d > t->reach ? t->reach : d;
 *                 b->scores[i * b->query_stride + j * b->key_stride] +=
 *                     t->value[b->head * (2 * t->reach + 1) + t->reach + d];
 *             }
 *     }
 *
 * A document mask, of the documents' numbers [seqlen] (queries and keys are the same tokens):
 *
 *     static void hide_other_documents(void *user_data, const flashc_score_block *b) {
 *         const int *document = user_data;
 *         for (int64_t i = 0; i < b->n_queries; i++)
 *             for (int64_t j = 0; j < b->n_keys; j++)
 *                 if (document[b->first_query + i] != document[b->first_key + j])
 *                     b->scores[i * b->query_stride + j * b->key_stride] = -INFINITY;
 *     }
 */
typedef void (*flashc_score_mod_fn)(void *user_data, const flashc_score_block *block);

/* softmax_scale's default: 1 / sqrt(head_dim). (NaN and +infinity are refused, so that a scale that
 * came out of a division by zero is seen.) */
#define FLASHC_SCALE_DEFAULT (-(float)INFINITY)

/* One attention call. Always flashc_attention_params_init() first, then set what differs.
 *
 * Shapes   q    [batch, num_heads,   seqlen_q, head_dim]
 *          k    [batch, num_heads_k, seqlen_k, head_dim]
 *          v    [batch, num_heads_k, seqlen_k, head_dim_v]
 *          o    [batch, num_heads,   seqlen_q, head_dim_v]
 *          lse  [batch, num_heads,   seqlen_q]            (stride[3] is not used; contiguous it is
 *               flashc_tensor_bhsd(lse, FLASHC_F32, num_heads, seqlen_q, 1))
 *          mask, bias [batch, num_heads, seqlen_q, seqlen_k]; stride 0 broadcasts an axis
 *          k_scale, v_scale [batch, num_heads_k, seqlen_k]  (stride[3] is not used; as k and v where they are packed
 *                           or in pages: [num_pages, num_heads_k, page_size])
 * num_heads is a multiple of num_heads_k; query head h reads K/V head h / (num_heads/num_heads_k)
 * (grouped-query and multi-query attention). Sizes may be 0, but head_dim >= 1.
 *
 * Lengths  Batch element b has the queries 0 .. seqlens_q[b]-1, and its keys are the rows leftpad_k[b] ..
 *          seqlens_k[b]-1 of k and v (so seqlens_k counts the padding on the left, as FlashAttention's
 *          cache_seqlens does). Key j of it is row leftpad_k[b] + j; mask and bias have a column for each
 *          row of k, padding included. Rows of q, k and v outside these are not read, except that a
 *          tile of keys may be; they cannot influence a result bit. Rows of o from seqlens_q[b] on become 0,
 *          those of lse and row_max -inf, whether there are sinks or not.
 *
 * Packed   With cu_seqlens_q the queries of all sequences lie one after the other: q, o and lse are views
 *          [1, num_heads, seqlen_q, ...], sequence b has their rows cu_seqlens_q[b] .. cu_seqlens_q[b+1]-1, and
 *          seqlen_q counts them all. So do cu_seqlens_k and seqlen_k for k and v. Either may be packed alone;
 *          seqlens_q (seqlens_k) must then be NULL, and stride[0] of what is packed is not used.
 *          mask and bias have a row for each row of q, in its element of the batch axis (packed: the one
 *          element 0), and a column for each row of k of one element: packed on both sides, they are
 *          [1, num_heads, seqlen_q, seqlen_k], of which sequence b has a block on the diagonal.
 *
 * Pages    With block_table k and v are views [num_pages, num_heads_k, page_size, ...], see flashc_block_table; a
 *          sequence has at most seqlen_k rows there, and seqlens_k says how many. Not with cu_seqlens_k.
 *
 * Types    With FLASHC_I8 an element of k is its code times k_scale[b][h][j], the scale of its row (token) and head;
 *          k_scale is needed then. With FLASHC_F8_E4M3 and _E5M2 it may be given; stride[2] = 0 makes it one scale a
 *          head, stride[0] = 0 the same for the whole batch. With the other types there is none (FLASHC_Q8_0 has
 *          its scales in the blocks; head_dim is a multiple of 32 and stride[3] 1). The same for v and v_scale. Scales
 *          of the sequences' keys are finite and not negative, or flashc_attention_fwd() refuses them before any work;
 *          others are not looked at. A NaN or infinite scale of a Q8_0 block is found in its elements, as in f16.
 *
 * Semantics, per score, in this order and in natural units (not log2):
 *   1. s = softmax_scale * (q . k)
 *   2. softcap > 0: s = softcap * tanh(s / softcap)
 *   3. s += bias
 *   4. s -= alibi_slopes[head] * |p - j|, the distance of the query's position from the key's
 *   5. score_mod changes s
 *   6. hidden keys are left out (not: given a large negative number). Hidden are keys that the
 *      boolean mask (0 = hidden), the block mask, causal or the window hides, and keys whose score is -inf from any
 *      source, a bias of -inf included, also where q . k is NaN. (q . k of -inf plus a bias of +inf is NaN.)
 *   7. sinks[head] is one more logit in the softmax, of a key with V = 0
 *   8. softmax over the visible keys; O = P V.
 *
 *   - A row with no visible key: O = 0, LSE = -inf, or the sink where there is one.
 *   - A hidden key cannot influence the result, bit for bit, whatever its K and V hold (NaN too).
 *   - NaN in a visible q . k, or a logit of +inf, makes that row of O and LSE NaN. NaN or infinity in
 *     a visible row of V makes its column of O NaN or infinite, and nothing else.
 *   - LSE is in natural log. A zero in an f32 O is +0.
 *   - Exponentials have a relative error of at most u (3 + 0.03 |x|), u = 2^-24, and are exactly 0 where that of x is
 *     below 2^-126.
 *   - Same machine and same kernel: the same bits for any number of threads, any batch size and
 *     any neighbours in the batch; also whether a batch element is padded (seqlens_q, seqlens_k, leftpad_k) or
 *     alone in a call of its own size, packed or in pages. But with kernel NULL the longest sequence's queries decide
 *     which kernel that is, so that a neighbour with more of them changes the bits of all. For bits that depend on no
 *     neighbour, name a kernel, the same for decode and prefill: one that takes any number of query rows (those whose
 *     names do not begin with "decode"; the first of flashc_kernel_get() that runs here). Decode is slower with it; a
 *     decode_* kernel may be named for all calls of few query rows instead, not for the others.
 *   - Error against exact arithmetic on the same inputs (code * scale is not rounded), with u = 2^-24, for finite data:
 *       |O - exact|   <= u (8 + cA + 2(n + T)) sum_j p_j |v_j|  + half an ulp of o's type
 *                        + 2^-126 sum_j |v_j| + 2^-149 (n + T), which is underflow
 *       |LSE - exact| <= u ((14 + c/2) max(1, |LSE|, A) + 2(n + T))
 *     c = 4 for usual data. More takes data made for it, whose roundings of a sum of products q_d k_d pile up (a
 *     large product and then many that are just above half its last place, or, weaker, many that are all the same), or
 *     an O that is carried by one tiny weight of a key with one or two products. Whatever the data,
 *     c = 32 + 2 min(head_dim, 64) + head_dim/32, since sums of 64 products are added up (of up to 256 in kernels that
 *     compute in bf16).
 *     A = max over visible keys of |scale| sum_d |q_d k_d| + softcap + |bias| + |ALiBi| (+ what score_mod adds),
 *     n = seqlen_k (the longest sequential chain over keys), T = key tiles. Products scale*q must be 0 or normal
 *     f32 numbers, and sums of |v| over the keys must not overflow; u A must be well below 1. With k_scale and v_scale
 *     that holds of q . codes and of sums of p * v_scale * |codes|, too, and the last term of the first bound is
 *     2^-149 (n + T) times the largest |code|.
 *   - Kernels that compute in bf16 (see flashc_compute; flashc_explain() tells) round the weights to bf16, which adds
 *     2^-8 sum_j p_j |v_j| to the bound of O and nothing to that of LSE. Subnormal numbers count as 0 there: each
 *     product of one with x adds |x| 2^-126, and each key 2^-126. Inputs of other types are rounded to bf16 first, each
 *     by up to 2^-8 of it; against the inputs as they were, scores are then off by e = 2^-7 (1 + 2^-9) A besides, and
 *       |O - exact|   <= the bound of f32 + (exp(2e) (1 + 2^-8)^2 - 1) sum_j p_j |v_j|
 *       |LSE - exact| <= the bound + e
 */
typedef struct flashc_attention_params {
    size_t struct_size; /* set by init: lets later versions add fields without breaking callers */

    int64_t batch, num_heads, num_heads_k; /* 1, 1, 1 after init   */
    int64_t seqlen_q, seqlen_k;            /* 0 after init         */
    int64_t head_dim, head_dim_v;          /* 0 after init; to set both: head_dim_v 0 is an O of no columns */

    flashc_tensor q;    /* f32, f16 or bf16 */
    flashc_tensor k, v; /* f32, f16, bf16, or one of the types of caches, each its own */
    flashc_tensor k_scale, v_scale; /* f32, see Types; data NULL after init */
    flashc_tensor o;       /* output; f32, f16 or bf16, the caller's choice; must not overlap itself, and share no
                              element with an input, see Overlap */
    flashc_tensor lse;     /* output; f32; optional */
    flashc_tensor row_max; /* output; f32, as lse; optional: the largest visible score of each query, -inf without
                              one, NaN where LSE is */
    flashc_tensor scores;  /* output; f32, f16 or bf16, as mask; optional; see flashc_score_stage */
    flashc_score_stage scores_stage; /* SCALED after init; ignored without scores */
    flashc_tensor key_mass; /* output; f32 [batch, num_heads, seqlen_k] (packed keys: as k); optional, with lse: the
                               sum over the queries of each key's softmax weights, itself off by at most u seqlen_q
                               relative */

    float softmax_scale;        /* any finite value, 0 and negatives too; FLASHC_SCALE_DEFAULT after init */
    int causal;                 /* 0 or 1; needs alignment */
    flashc_alignment alignment; /* UNSET after init */
    const int64_t *offsets;     /* [batch], for FLASHC_ALIGN_EXPLICIT alone: position of query 0, may be negative */
    int64_t window_left, window_right; /* how many keys before and after its position a query sees, its position's
                                          own key besides; 0 or more, or -1: all (after init). Needs alignment.
                                          With causal, keys must be in both. */
    const int64_t *seqlens_q;   /* [batch], 0 .. seqlen_q; NULL: all seqlen_q */
    const int64_t *seqlens_k;   /* [batch], 0 .. seqlen_k; NULL: all seqlen_k */
    const int64_t *leftpad_k;   /* [batch], 0 .. seqlens_k[b] (packed: the sequence's rows); NULL: 0 */
    const int64_t *cu_seqlens_q; /* [batch + 1], from 0 to seqlen_q, never falling; NULL: not packed */
    const int64_t *cu_seqlens_k; /* [batch + 1], from 0 to seqlen_k, never falling; NULL: not packed */
    flashc_block_table block_table;   /* of k and v, if they have pages */
    flashc_block_table block_table_v; /* of v, if its pages are others */
    flashc_tensor mask;         /* FLASHC_BOOL, non-zero = visible; optional */
    /* A mask of whole tiles of block_mask_m queries x block_mask_n keys: FLASHC_BOOL [batch, num_heads,
     * ceil(seqlen_q / block_mask_m), ceil(seqlen_k / block_mask_n)], non-zero = visible; optional. Query i and key j of
     * a batch element, counted from its own first, are in tile (i / block_mask_m, j / block_mask_n); of packed
     * sequences, the longest says how many tiles there are. Hidden tiles are not computed where the plan's own tiles
     * fit into them: it takes lengths that divide theirs, if there are any that are not too short. (So few query rows
     * per K/V head that one tile holds all stay one tile, for which keys are read once.) */
    flashc_tensor block_mask;
    int64_t block_mask_m, block_mask_n; /* at least 1 with a block mask */

    float softcap;              /* 0 (after init): none; otherwise positive, finite and normal */
    flashc_tensor bias;         /* f32, f16 or bf16, added to the scaled (and capped) score; optional */
    const float *alibi_slopes;  /* [num_heads], finite; NULL: none. Needs alignment. */
    int64_t alibi_batch_stride; /* elements; 0 (after init): the same slopes for every batch element; num_heads: the
                                   slopes are [batch, num_heads]. Ignored without slopes */
    flashc_score_mod_fn score_mod; /* NULL: none */
    void *score_mod_user_data;
    /* [num_heads], finite or -inf (none); NULL: none. LSE includes them, so results with sinks are no partial results:
     * leave them out there, and merge one more part with O = 0 and LSE = sink at the end. */
    const float *sinks;

    /* 0: the OpenMP default, limited by the affinity mask and the cgroup CPU quota. Otherwise
     * obeyed, bounded by 1024 and the number of work items. Inside a parallel region of the caller's the
     * OpenMP nesting setting decides how many of them run. */
    int num_threads;
    const char *kernel; /* a name from flashc_kernel_get(); NULL = the best that fits */
    flashc_compute compute; /* DEFAULT after init */

    /* Scratch of at least flashc_attention_workspace_size() bytes, aligned to 64; NULL: one internal
     * allocation, freed before return. A thread's part goes with the tile; partial results of key pieces come
     * besides. So it rises with seqlen_k as long as more pieces occupy more threads, and then no more. */
    void *workspace;
    size_t workspace_size;

    /* Optional. After a cancel FLASHC_ERR_CANCELLED is returned: rows of o and lse hold either their
     * result or what they held before. */
    flashc_progress_fn progress;
    void *progress_user_data;
} flashc_attention_params;

/* Fills *params with the defaults above. struct_size is sizeof *params. */
FLASHC_API void flashc_attention_params_init(flashc_attention_params *params, size_t struct_size);

/* Computes o (and lse). Errors: FLASHC_ERR_ARGUMENT, _UNSUPPORTED, _MEMORY, _WORKSPACE, _CANCELLED. */
FLASHC_API flashc_status flashc_attention_fwd(const flashc_attention_params *params);

/* Bytes of workspace for these params, and for any that differ in this alone: no sequence has more keys (seqlen_k, or
 * with it as the most that there will be seqlens_k, leftpad_k and offsets). So a decode loop asks once, for the most
 * keys, and serves every length from 1 on; one call may take less. With another seqlen_q, batch or number of threads
 * ask again: fewer queries may take more. Tensor data is not read (arrays of one number per batch element are);
 * params->workspace is ignored. Errors as flashc_attention_fwd(). */
FLASHC_API flashc_status flashc_attention_workspace_size(const flashc_attention_params *params, size_t *size);

/* The plan of a call: a pure function of params, CPU, OpenBLAS build and thread limits. */
typedef struct flashc_explanation {
    size_t struct_size;    /* the caller sets it to sizeof(flashc_explanation) */
    const char *kernel;    /* name, as in params->kernel */
    flashc_compute compute; /* what the kernel computes in: F32 or BF16 */
    const char *gemm;      /* who multiplies the tiles: "built-in" or e.g. "OpenBLAS 0.3.21 SkylakeX openmp" */
    int64_t block_m;       /* query rows per tile */
    int64_t block_n;       /* keys per tile */
    int64_t rows_per_item; /* query rows that share each loaded key tile; fewer for more threads */
    int64_t piece_n;       /* keys are split at multiples of this, and the pieces' partial results merged in a
                              fixed binary tree; 0: not split. It depends on kernel and shape, never on
                              threads or on other batch elements; of several lengths, this is the longest. */
    int64_t num_items;     /* work items: units of scheduling; where keys are split, their number depends on
                              num_threads, but the result does not */
    int64_t num_threads;   /* team size */
    size_t workspace_size; /* bytes, as flashc_attention_workspace_size() has them */
    double flops;          /* useful floating-point operations: 2 * (head_dim + head_dim_v) per visible
                              (query, key) pair; causal, window and lengths are counted out, masks
                              and bias are not read */
    char refused[1024];    /* one line per faster kernel that was not taken: "name: reason\n" */
} flashc_explanation;

/* Fills *out; tensor data is not read (arrays of one number per batch element are), params->workspace is ignored.
 * Errors as flashc_attention_fwd(). */
FLASHC_API flashc_status flashc_explain(const flashc_attention_params *params, flashc_explanation *out);

/* What one work item has to do, in units that a cost can be put to: counted from shapes, lengths and positions
 * (mask and bias are not read), not measured. All 0 but the first line where lengths or positions leave nothing. */
typedef struct flashc_item_work {
    int64_t batch, head_k; /* whose K and V it reads */
    int64_t rows;          /* query rows; of several items over the same rows (keys split) each counts them */
    int64_t first_key;     /* it loads the keys first_key .. first_key + keys - 1, once for all its rows */
    int64_t keys;
    int64_t pieces;        /* partial results that it makes of them, at least 1; 1 unless keys are split */
    int64_t tiles;         /* at most block_m rows against at most block_n keys: Q K^T, softmax, P V */
    int64_t edge_tiles;    /* of these: where position hides keys of the tile from some row */
    double scores;         /* elements of the tiles, those hidden and rows that pad a vector included */
    double flops;          /* useful operations: of all items together flashc_explanation.flops */
} flashc_item_work;

/* Fills items[0 .. count-1] with the work of items first .. first + count - 1 of the num_items that flashc_explain()
 * tells, in the order in which they are taken: whichever thread is free takes the next one. So the balance of a call,
 * and its time given what a tile costs, can be worked out for any params->num_threads, also more than this machine
 * has; `flashc-run explain --predict` does that. A pure function as flashc_explain(), with its errors, and
 * FLASHC_ERR_ARGUMENT for items that are not there. */
FLASHC_API flashc_status flashc_explain_items(const flashc_attention_params *params, int64_t first, int64_t count,
                                              flashc_item_work *items);

/* ---------------------------------------------------------------------------------------------
 * 3. Caches of keys and values
 * ------------------------------------------------------------------------------------------- */

/* One append call: new rows of K and V into a cache, with rotary embedding if wanted. Always
 * flashc_append_params_init() first.
 *
 * Shapes   k        [batch, num_heads_k, seqlen_new, head_dim]    new rows
 *          v        [batch, num_heads_k, seqlen_new, head_dim_v]
 *          k_cache  [batch, num_heads_k, seqlen_cache, head_dim], or pages, see flashc_block_table
 *          v_cache  [batch, num_heads_k, seqlen_cache, head_dim_v], or pages
 *          q, q_out [batch, num_heads, seqlen_new, head_dim]      the queries of the same positions
 *          rotary_cos, rotary_sin [rotary_len, rotary_dim / 2]    (stride[2] and stride[3]; the others are not used)
 *
 * Row i of sequence b becomes row positions[b] + i of its cache. Of each of the pairs (k, k_cache), (v, v_cache) and
 * (q, q_out) both are given or neither.
 *
 *          k_cache_scale, v_cache_scale [batch, num_heads_k, seqlen_cache], or in pages; as k_scale of
 *                   flashc_attention_params, and given where that is
 *
 * Caches of codes: FLASHC_I8 and FLASHC_Q8_0 get max|x| / 127 of the row, or of the block of 32, as their scale (0 if
 * all x are 0, otherwise at least 2^-126, the smallest normal f32), and the integers nearest to x / scale:
 * |error| <= 0.501 scale. A row with NaN or infinity gets such a scale, which attention refuses (of FLASHC_Q8_0 it
 * finds elements that are NaN). FLASHC_Q8_0 rounds the scale to f16: that adds 2^-11 |x| to the error, or at most 2^-18
 * where the scale is below f16's normal numbers (2^-14), and makes it infinite from 65520 on. The 8-bit floats get
 * x / scale, rounded to nearest even, first to f32 and then to the type; what is finite becomes at most the type's
 * largest number. Their scales are finite and above 0.
 *
 * Sequences of different numbers of new rows: either seqlens_new[b] of the seqlen_new rows are used, or, with
 * cu_seqlens_new, k, v, q and q_out are packed: views [1, heads, seqlen_new, dim] in which sequence b has the rows
 * cu_seqlens_new[b] .. cu_seqlens_new[b + 1] - 1 (stride[0] is not used).
 *
 * Rotary embedding, of k and q: with c, s = rotary_cos, rotary_sin[p][d], p the row's position, the pair (x, y) of
 * columns becomes (x c - y s, y c + x s) for d = 0 .. rotary_dim/2 - 1. The pair is columns d and d + rotary_dim/2
 * (half-split: Llama, GPT-NeoX), or 2d and 2d + 1 (interleaved: GPT-J). Columns from rotary_dim on go through as
 * they are. Arithmetic is f32, rounded once, to the output's type: |error| <= 2^-23 (|x c| + |y s|) + half an ulp of
 * that type + 2^-149, which is underflow. A row that is neither rotated nor converted keeps its bits.
 *
 * Runs on the calling thread, at about the speed of memory; calls on different sequences may run at once. */
typedef struct flashc_append_params {
    size_t struct_size; /* set by init */

    int64_t batch, num_heads, num_heads_k; /* 1, 1, 1 after init; num_heads is of q alone */
    int64_t seqlen_new;                    /* 0 after init; packed: of all sequences together */
    int64_t seqlen_cache;                  /* 0 after init; not used with pages */
    int64_t head_dim, head_dim_v;          /* 0 after init; to set */
    const int64_t *seqlens_new;            /* [batch], 0 .. seqlen_new; NULL: seqlen_new for each */
    const int64_t *cu_seqlens_new;         /* [batch + 1], from 0 to seqlen_new, never falling; NULL: not packed */

    flashc_tensor k, v;                          /* f32, f16 or bf16, each its own, as all other tensors here */
    flashc_tensor k_cache, v_cache;              /* outputs, of any type that k and v have in flashc_attention_params;
                                                    must not overlap themselves or an input */
    flashc_tensor k_cache_scale, v_cache_scale;  /* f32: outputs with FLASHC_I8, inputs with the 8-bit floats */
    flashc_block_table block_table;              /* of the caches, if they have pages */
    flashc_block_table block_table_v;            /* of v_cache, if its pages are others */
    const int64_t *positions;                    /* [batch]: row of the cache that a sequence's first new row becomes */
    flashc_tensor q, q_out;                      /* q_out: output; may be q itself, then of its type and strides */

    int64_t rotary_dim;                  /* even, at most head_dim; 0 after init: no rotation */
    int64_t rotary_len;                  /* rows of rotary_cos and rotary_sin */
    int rotary_interleaved;              /* 0 (half-split) or 1 */
    flashc_tensor rotary_cos, rotary_sin;
    const int64_t *rotary_positions;     /* [batch]: position of the first new row in them; NULL: positions */
} flashc_append_params;

/* Fills *params with the defaults above. struct_size is sizeof *params. */
FLASHC_API void flashc_append_params_init(flashc_append_params *params, size_t struct_size);

/* Writes the new rows, and q_out. Before anything is written every position and page is checked: rows beyond the
 * cache or the rotary tables, entries that are no page of the tensor, and a page that two entries would have written.
 * Errors: FLASHC_ERR_ARGUMENT, _MEMORY (for a bit per page, and a row of f32 that becomes codes). */
FLASHC_API flashc_status flashc_append(const flashc_append_params *params);

/* ---------------------------------------------------------------------------------------------
 * 4. Keys in chunks, shared prefixes
 * ------------------------------------------------------------------------------------------- */

/* Attention whose keys come chunk by chunk: K and V larger than memory, or arriving over time.
 *
 *     flashc_attention_state s;
 *     p.seqlen_k = the most keys there will be;
 *     flashc_attention_state_init(&s, sizeof s, &p);
 *     s.row_max = malloc(s.levels * s.rows * sizeof(float));      row_sum the same
 *     s.acc = malloc(s.levels * s.rows * s.head_dim_v * sizeof(float));
 *     flashc_attention_state_clear(&s);
 *     for each chunk: p.k, p.v, p.seqlen_k = its rows; flashc_attention_accumulate(&s, &p);
 *     flashc_attention_finish(&s, &p);                             now, or after any chunk
 *
 * p is that of the one call on all keys. In a chunk row 0 of k and v is row next_key of those of the one call (packed:
 * of each sequence), and all positions are those of the one call; k, v, k_scale, v_scale, mask, bias and scores hold
 * the chunk alone, and seqlens_k (or cu_seqlens_k) says which of its rows are keys, while leftpad_k counts rows of the
 * one call, and block_mask has the tiles of all keys. next_key then moves on by seqlen_k (packed: by the longest
 * sequence): a batch element that had fewer keys has none at the positions left out. FLASHC_ALIGN_BOTTOM_RIGHT takes
 * the rows that there will be in all from the state: seqlen_k, or seqlens_k, which must be set where chunks have
 * seqlens_k or cu_seqlens_k.
 *
 * The result is that of the one call on the same kernel, bit for bit, where the chunks end at multiples of the keys
 * of a tile (flashc_explanation.block_n) and piece_n is that of the one call (where seqlens_q differ, of each
 * sequence): so also for any number of threads. Chunks that end elsewhere cut a tile in two, so that T of the stated
 * bound counts the chunks too; so do the ends of tiles and pieces where leftpad_k is no multiple of their keys, since
 * pieces are cut by rows. States that were merged are within that bound with one more u per merge in T.
 *
 * A state is plain: its numbers and arrays may be written to a file and read back, by a machine of the same byte
 * order. */
typedef struct flashc_attention_state {
    size_t struct_size;    /* set by init */
    int64_t rows;          /* batch * num_heads * seqlen_q; packed: num_heads * seqlen_q */
    int64_t row_stride[3]; /* the row of (batch element, head, query); after init {num_heads * seqlen_q, seqlen_q, 1} */
    int64_t head_dim_v;
    int64_t piece_n;       /* as flashc_explanation.piece_n of the one call; 0: one partial result */
    int64_t seqlen_k;      /* rows of keys that there will be in all, or at most (packed: of the longest sequence):
                              levels and piece_n are made for so many. FLASHC_ALIGN_BOTTOM_RIGHT refuses more;
                              otherwise more are taken, as many as the levels hold */
    const int64_t *seqlens_k; /* [batch], the caller's: the same of each batch element, where it is not seqlen_k; NULL
                                 after init */
    int64_t levels;        /* partial results that the arrays have room for: init says how many so many keys need */
    int64_t n_nodes;       /* how many of them hold keys; 0 after clear. At most what the keys before next_key leave,
                              or the state is refused: one for each binary 1 of next_key / piece_n, the whole pieces,
                              and one for keys behind them (piece_n 0: all keys are) */
    int64_t next_key;      /* position of the next chunk's first key; 0 after clear, and may then be set, for a state of
                              keys in the middle */
    float *row_max, *row_sum; /* [levels, rows], the caller's; NULL after init */
    float *acc;               /* [levels, rows, head_dim_v], as flashc_softmax_state has it */
} flashc_attention_state;

/* Fills *state for the one call that params describe; struct_size is sizeof *state. Of tensors only the types are
 * looked at, and whether there is a mask, bias or block mask, which the choice of a kernel and its tiles goes by. */
FLASHC_API flashc_status flashc_attention_state_init(flashc_attention_state *state, size_t struct_size,
                                                     const flashc_attention_params *params);
/* No keys seen, also where a cancelled chunk left the state of no other use (next_key -1). */
FLASHC_API flashc_status flashc_attention_state_clear(flashc_attention_state *state);
/* Takes a chunk of seqlen_k keys. o, lse, row_max and sinks are not looked at. Scratch is params->workspace, the
 * caller's, of at least flashc_attention_accumulate_workspace_size() bytes, aligned to 64; NULL: one internal
 * allocation, freed before return. It holds nothing between calls. scores are filled for the chunk's keys, but weights
 * (FLASHC_SCORES_WEIGHTS) and key_mass are refused: they take the LSE of all keys, which is known only when the last
 * chunk has come. Threads share the blocks of query rows and, where these are few, the pieces (piece_n) of the chunk's
 * keys. Errors as flashc_attention_fwd(), and more keys than levels; after FLASHC_ERR_CANCELLED the state can only be
 * cleared. */
FLASHC_API flashc_status flashc_attention_accumulate(flashc_attention_state *state,
                                                     const flashc_attention_params *params);
/* Bytes of workspace for this chunk, and for every one of no more keys that comes before or after it, all else equal.
 * It rises with the chunk's pieces as long as these occupy more threads. Tensor data is not read, and
 * params->workspace ignored. Errors as flashc_attention_accumulate(). */
FLASHC_API flashc_status flashc_attention_accumulate_workspace_size(const flashc_attention_state *state,
                                                                    const flashc_attention_params *params,
                                                                    size_t *size);
/* into = the state over the union of both (disjoint) key sets, one partial result; its next_key becomes the larger of
 * both. from is not changed. Their pieces and levels need not be the same: where more keys come than a state has levels
 * for, it goes on in one of no keys that init made for as many. */
FLASHC_API flashc_status flashc_attention_state_merge(flashc_attention_state *into, const flashc_attention_state *from);
/* Writes o (and lse and row_max), with sinks if there are any. What params say of keys, scores included, is not looked
 * at, but weights and key_mass are refused. The state is not changed: more chunks may follow. Runs on the calling
 * thread. */
FLASHC_API flashc_status flashc_attention_finish(const flashc_attention_state *state,
                                                 const flashc_attention_params *params);

/* A shared prefix: sequences that begin with the same keys (a system prompt, branches of one text), which are read
 * once for the queries of all of them.
 *
 *     flashc_shared_prefix prefix;
 *     flashc_shared_prefix_init(&prefix, sizeof prefix);
 *     prefix.seqlen = 2000; prefix.k = ...; prefix.v = ...;
 *     p: the queries of all sequences, and each one's own keys, which come behind the prefix
 *     flashc_attention_shared_prefix(&p, &prefix);
 */
typedef struct flashc_shared_prefix {
    size_t struct_size;             /* set by init */
    int64_t seqlen;                 /* 0 after init */
    flashc_tensor k, v;             /* [1, num_heads_k, seqlen, head_dim or head_dim_v], types as in params */
    flashc_tensor k_scale, v_scale; /* [1, num_heads_k, seqlen], as there */
} flashc_shared_prefix;

/* No prefix. struct_size is sizeof *prefix. */
FLASHC_API void flashc_shared_prefix_init(flashc_shared_prefix *prefix, size_t struct_size);
/* As flashc_attention_fwd() on the prefix and each sequence's own keys (padded, packed or in pages). Every query sees
 * the whole prefix; causal hides own keys, alignment and offsets counting from the first of them. seqlens_q, leftpad_k,
 * window, mask, block_mask, bias, alibi_slopes, score_mod, scores and key_mass are refused; the queries are packed, or
 * q.stride[0] is seqlen_q * stride[2] (one query a sequence: any). It is a state to which the prefix is one chunk, for
 * all queries as those of one sequence, and own keys the next, so T of the bound counts one tile more. Memory,
 * allocated here: head_dim_v + 2 floats a query and level of the state; params->workspace is not used. Errors as
 * flashc_attention_fwd(); those about its tensors begin with "prefix->". */
FLASHC_API flashc_status flashc_attention_shared_prefix(const flashc_attention_params *params,
                                                        const flashc_shared_prefix *prefix);
/* The plans of its two parts, as flashc_explain() has them: of all queries on the prefix, and of each sequence's on its
 * own keys. Tensor data is not read. Errors as flashc_attention_shared_prefix(). */
FLASHC_API flashc_status flashc_explain_shared_prefix(const flashc_attention_params *params,
                                                      const flashc_shared_prefix *prefix,
                                                      flashc_explanation *prefix_plan, flashc_explanation *own_plan);

/* ---------------------------------------------------------------------------------------------
 * 5. Softmax, the online-softmax state, partial results
 * ------------------------------------------------------------------------------------------- */

/* Softmax over the last axis. x, y: [rows, cols], contiguous last axis, row strides in elements,
 * both of type dtype (f32, f16, bf16). lse: [rows] f32, natural log, or NULL. y may be x; otherwise x, y and lse share
 * no element, and are refused where one without gaps has the first or last byte of another.
 * -inf leaves an element out (0); a row of nothing but -inf gives zeros and LSE -inf; NaN or +inf makes
 * the row NaN. Error per element: u (8 + 4 max|x| + 2 (128 + cols/128)) relative, u = 2^-24, plus
 * half an ulp of dtype, and 2^-126: weights below that of the largest are 0. */
FLASHC_API flashc_status flashc_softmax(int64_t rows, int64_t cols, const void *x, int64_t x_row_stride, void *y,
                                        int64_t y_row_stride, flashc_dtype dtype, float *lse);

/* The mergeable state of an online softmax over any set of keys seen so far, one per query row:
 *     row_max = max s_j,  row_sum = sum exp(s_j - row_max),  acc = sum exp(s_j - row_max) v_j
 * Attention holds its partial results in this type. Arrays are the caller's:
 * row_max, row_sum: [rows]; acc: element (row, col) at acc[row*acc_row_stride + col*acc_col_stride],
 * [rows, head_dim_v]; acc may be NULL if head_dim_v is 0 (softmax denominators only). */
typedef struct flashc_softmax_state {
    int64_t rows, head_dim_v;
    float *row_max, *row_sum, *acc;
    int64_t acc_row_stride, acc_col_stride;
} flashc_softmax_state;

/* No keys seen: row_max = -inf, row_sum = 0, acc = 0; the identity of merge. */
FLASHC_API flashc_status flashc_softmax_state_init(const flashc_softmax_state *state);

/* Takes n_keys more keys. scores: [rows, n_keys] f32 in natural units, row stride in elements, -inf
 * hides; v: [n_keys, head_dim_v] f32 with contiguous rows (NULL if head_dim_v is 0). */
FLASHC_API flashc_status flashc_softmax_state_update(const flashc_softmax_state *state, int64_t n_keys,
                                                     const float *scores, int64_t scores_row_stride, const float *v,
                                                     int64_t v_row_stride);

/* into = the state over the union of both (disjoint) key sets. from is not changed. */
FLASHC_API flashc_status flashc_softmax_state_merge(const flashc_softmax_state *into, const flashc_softmax_state *from);

/* o: [rows, head_dim_v] f32 = acc / row_sum (0 for a row without keys), may be acc itself;
 * lse: [rows] = row_max + log(row_sum). Either may be NULL. */
FLASHC_API flashc_status flashc_softmax_state_finish(const flashc_softmax_state *state, float *o, int64_t o_row_stride,
                                                     float *lse);

/* Merges n_parts >= 1 partial attention results over disjoint keys into exact attention over their
 * union, in a fixed binary tree over the part index. o_parts[i]: [rows, head_dim_v], lse_parts[i]:
 * [rows], f32, contiguous. o and lse may be any of the parts. A part row whose LSE is -inf is the
 * identity, whatever its O holds; identities merge to O = 0, LSE = -inf. A part row whose LSE is NaN or
 * +inf makes the row NaN. Sums of |O| over the parts must not overflow. o may be an array of o_parts and lse one of
 * lse_parts, but neither overlaps a part otherwise, nor the other one; that is refused. lse may be NULL. */
FLASHC_API flashc_status flashc_merge_partials(int64_t n_parts, int64_t rows, int64_t head_dim_v,
                                               const float *const *o_parts, const float *const *lse_parts, float *o,
                                               float *lse);

/* One step of the online recurrence over x_0 .. x_{N-1}, in double. m_i is the max of x_0 .. x_i. */
typedef struct flashc_trace_step {
    double x;              /* x_i */
    double row_max;        /* m_i */
    double denom_standard; /* d_i  = sum_{j<=i} exp(x_j - m_{N-1}): the final max, known only at the end */
    double denom_online;   /* d'_i = d'_{i-1} exp(m_{i-1} - m_i) + exp(x_i - m_i) */
    double scale;          /* exp(m_{N-1} - m_i): d'_i = d_i * scale */
    double correction;     /* exp(m_{i-1} - m_i): what the step multiplied the old sum by; 0 at i = 0 */
    double p_standard;     /* exp(x_i - m_{N-1}) / d_{N-1} */
    double p_online;       /* exp(x_i - m_i) * exp(m_i - m_{N-1}) / d'_{N-1} */
} flashc_trace_step;

/* Fills steps[0 .. n-1]. Values must be finite. */
FLASHC_API flashc_status flashc_softmax_trace(int64_t n, const double *x, flashc_trace_step *steps);

/* ---------------------------------------------------------------------------------------------
 * 6. Arrays: conversion and checks
 * ------------------------------------------------------------------------------------------- */

/* dst[i] = src[i] for n contiguous elements, any pair of f32, f16, bf16, f8_e4m3, f8_e5m2. Round to nearest even;
 * NaN stays NaN; overflow gives infinity, in f8_e4m3 NaN. dst == src only if the types are the same size. */
FLASHC_API flashc_status flashc_convert(void *dst, flashc_dtype dst_dtype, const void *src, flashc_dtype src_dtype,
                                        int64_t n);

/* What a comparison found. */
typedef struct flashc_compare_report {
    int equal;             /* 1 if every element is within tolerance */
    int64_t mismatches;    /* how many are not */
    int64_t worst;         /* index of the largest excess over the tolerance, -1 if n is 0 */
    double max_abs_error;  /* largest |a - b| over elements that are finite in both */
    int64_t max_abs_index; /* where; -1 if none is */
} flashc_compare_report;

/* Elementwise |a - b| <= atol + rtol * |b| over n contiguous elements (f32, f16, bf16, each its own
 * type). NaN equals NaN and nothing else; an infinity equals itself alone. rtol, atol: finite, >= 0. */
FLASHC_API flashc_status flashc_compare(int64_t n, const void *a, flashc_dtype a_dtype, const void *b,
                                        flashc_dtype b_dtype, double rtol, double atol, flashc_compare_report *out);

/* Is every row of y [rows, cols] a softmax: non-negative, and summing to 1 within the tolerance?
 * tolerance < 0 takes the type's default: cols elements each rounded to half an ulp of values at
 * most 1 give cols*2^-25 + 1e-6 (f32), 2^-11 + cols*2^-25 + 1e-6 (f16), 2^-8 + 1e-6 (bf16).
 * A row of no elements is not a softmax. *valid: 1 or 0. *bad_row (may be NULL): the first row that is
 * not, -1 if all are. */
FLASHC_API flashc_status flashc_is_softmax(int64_t rows, int64_t cols, const void *y, int64_t y_row_stride,
                                           flashc_dtype dtype, double tolerance, int *valid, int64_t *bad_row);

#ifdef __cplusplus
}
#endif

#endif /* FLASHC_H */
