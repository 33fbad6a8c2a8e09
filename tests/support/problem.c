#include "support/problem.h"

#include <stdlib.h>
#include <string.h>

/* Of outputs: a huge number in f32 and bf16, NaN in f16, so that an element that is never written
 * cannot pass for a result. */
static const int OUTPUT_POISON = 0x7f;
/* Of the padding of inputs: NaN in every float type. */
static const int PADDING_POISON = 0xff;

flashc_tensor *params_view(flashc_attention_params *s, problem_tensor which)
{
    flashc_tensor *views[TENSORS] = {&s->q,          &s->k, &s->v,   &s->k_scale, &s->v_scale, &s->mask,    &s->bias,
                                     &s->block_mask, &s->o, &s->lse, &s->row_max, &s->scores,  &s->key_mass};
    return views[which];
}

const flashc_tensor *problem_view(const problem *p, problem_tensor which)
{
    return params_view((flashc_attention_params *)(uintptr_t)&p->params, which);
}

const char *problem_tensor_name(problem_tensor which)
{
    static const char *const names[TENSORS] = {"q",          "k", "v",   "k_scale", "v_scale", "mask",    "bias",
                                               "block_mask", "o", "lse", "row_max", "scores",  "key_mass"};
    return names[which];
}

void problem_sizes(const problem *p, problem_tensor which, int64_t size[4])
{
    params_sizes(&p->params, which, size);
}

void params_sizes(const flashc_attention_params *s, problem_tensor which, int64_t size[4])
{
    bool of_keys = which >= TENSOR_K && which <= TENSOR_V_SCALE;
    size[0] = s->batch;
    size[1] = of_keys ? s->num_heads_k : s->num_heads;
    size[2] = of_keys || which == TENSOR_KEY_MASS ? s->seqlen_k : s->seqlen_q;
    switch (which) {
    case TENSOR_Q:
    case TENSOR_K: size[3] = s->head_dim; break;
    case TENSOR_V:
    case TENSOR_O: size[3] = s->head_dim_v; break;
    case TENSOR_MASK:
    case TENSOR_BIAS:
    case TENSOR_SCORES: size[3] = s->seqlen_k; break;
    case TENSOR_BLOCK_MASK: /* rounded up */
        size[2] = size[3] = 0;
        if (s->block_mask_m > 0 && s->block_mask_n > 0) {
            size[2] = s->seqlen_q / s->block_mask_m + (s->seqlen_q % s->block_mask_m != 0);
            size[3] = s->seqlen_k / s->block_mask_n + (s->seqlen_k % s->block_mask_n != 0);
        }
        break;
    case TENSOR_K_SCALE:
    case TENSOR_V_SCALE:
    case TENSOR_LSE:
    case TENSOR_ROW_MAX:
    case TENSOR_KEY_MASS:
    case TENSORS: size[3] = 1; break;
    }
}

void problem_allocate(problem *p, problem_tensor which, bool guard_start)
{
    flashc_tensor *view = params_view(&p->params, which);
    int64_t size[4], lowest = 0, highest = 0;
    bool empty = false;
    problem_sizes(p, which, size);
    size[3] /= view->dtype == FLASHC_Q8_0 ? 32 : 1;
    for (int a = 0; a < 4; a++) {
        if (size[a] == 0) {
            empty = true;
            continue;
        }
        int64_t last = (size[a] - 1) * view->stride[a];
        lowest += last < 0 ? last : 0;
        highest += last > 0 ? last : 0;
    }
    if (empty) /* nothing may be touched, then; data is the guard page */
        lowest = highest + 1;
    size_t element = flashc_dtype_size(view->dtype);
    p->buffer[which] = guarded_alloc((size_t)(highest - lowest + 1) * element, guard_start);
    memset(p->buffer[which].bytes, PADDING_POISON, p->buffer[which].size);
    view->data = p->buffer[which].bytes;
    if (!empty)
        view->data = p->buffer[which].bytes - lowest * (int64_t)element;
}

void problem_pack(problem *p, problem_tensor which, flashc_dtype dtype)
{
    int64_t size[4];
    problem_sizes(p, which, size);
    *params_view(&p->params, which) = flashc_tensor_bhsd(NULL, dtype, size[1], size[2], size[3]);
    problem_allocate(p, which, false);
}

static void fill_normal(problem *p, problem_tensor which, test_rng *rng)
{
    const flashc_tensor *view = problem_view(p, which);
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t n = 0; n < size[0] * size[1] * size[2] * size[3]; n++)
        test_set(view, n / size[3] / size[2] / size[1], n / size[3] / size[2] % size[1], n / size[3] % size[2],
                 n % size[3], test_rng_normal(rng));
}

static void make_input(problem *p, problem_tensor which, flashc_dtype dtype, test_rng *rng)
{
    problem_pack(p, which, dtype);
    if (has_scales(dtype))
        problem_pack(p, which == TENSOR_K ? TENSOR_K_SCALE : TENSOR_V_SCALE, FLASHC_F32);
    if (is_of_codes(dtype))
        problem_fill_codes(p, which, rng);
    else
        fill_normal(p, which, rng);
}

void problem_typed(problem *p, const problem_shape *shape, flashc_dtype q, flashc_dtype k, flashc_dtype v,
                   flashc_dtype o, uint64_t seed)
{
    *p = (problem){.seed = seed, .data_kind = "normal", .mask_kind = "none", .bias_kind = "none", .zero_mean = true};
    flashc_attention_params *params = &p->params;
    flashc_attention_params_init(params, sizeof *params);
    params->batch = shape->batch;
    params->num_heads = shape->num_heads;
    params->num_heads_k = shape->num_heads_k;
    params->seqlen_q = shape->seqlen_q;
    params->seqlen_k = shape->seqlen_k;
    params->head_dim = shape->head_dim;
    params->head_dim_v = shape->head_dim_v;
    test_rng rng = {seed};
    make_input(p, TENSOR_Q, q, &rng);
    make_input(p, TENSOR_K, k, &rng);
    make_input(p, TENSOR_V, v, &rng);
    problem_pack(p, TENSOR_O, o);
    problem_pack(p, TENSOR_LSE, FLASHC_F32);
    problem_snapshot(p);
}

void problem_plain(problem *p, const problem_shape *shape, flashc_dtype dtype, uint64_t seed)
{
    problem_typed(p, shape, is_of_codes(dtype) ? FLASHC_F32 : dtype, dtype, dtype, FLASHC_F32, seed);
}

problem problem_twin(const problem *p)
{
    problem twin = *p;
    memset(twin.before, 0, sizeof twin.before);
    for (problem_tensor which = 0; which < TENSORS; which++)
        if (which < TENSOR_O || problem_view(p, which)->data == NULL)
            twin.buffer[which] = (guarded_buffer){.bytes = NULL};
        else
            problem_allocate(&twin, which, false);
    return twin;
}

void problem_free_twin(problem *twin)
{
    for (problem_tensor which = TENSOR_O; which < TENSORS; which++) {
        guarded_free(&twin->buffer[which]);
        free(twin->before[which]);
    }
}

void problem_free(problem *p)
{
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++) {
        guarded_free(&p->buffer[which]);
        free(p->before[which]);
    }
    for (problem_array which = ARRAY_OFFSETS; which < ARRAYS; which++)
        guarded_free(&p->array[which]);
    guarded_free(&p->alibi);
    guarded_free(&p->sinks);
    *p = (problem){0};
}

void problem_snapshot(problem *p)
{
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++) {
        guarded_buffer *buffer = &p->buffer[which];
        if (buffer->size == 0)
            continue;
        if (which >= TENSOR_O)
            memset(buffer->bytes, OUTPUT_POISON, buffer->size);
        free(p->before[which]);
        p->before[which] = malloc(buffer->size);
        if (p->before[which] == NULL) {
            perror("problem_snapshot");
            exit(1);
        }
        memcpy(p->before[which], buffer->bytes, buffer->size);
    }
}

/* Copies the elements of an output into its snapshot, so that what differs then is padding. */
static void forgive_elements(const problem *p, problem_tensor which)
{
    const flashc_tensor *view = problem_view(p, which);
    size_t element = flashc_dtype_size(view->dtype);
    int64_t size[4];
    problem_sizes(p, which, size);
    for (int64_t b = 0; b < size[0]; b++) {
        for (int64_t h = 0; h < size[1]; h++) {
            for (int64_t i = 0; i < size[2]; i++) {
                for (int64_t j = 0; j < size[3]; j++) {
                    unsigned char *at = test_at(view, b, h, i, j);
                    memcpy(p->before[which] + (at - p->buffer[which].bytes), at, element);
                }
            }
        }
    }
}

bool problem_unharmed(const problem *p, bool elements_too, char *message, size_t size)
{
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++) {
        const guarded_buffer *buffer = &p->buffer[which];
        if (buffer->size == 0)
            continue;
        if (which >= TENSOR_O && !elements_too && problem_view(p, which)->data != NULL)
            forgive_elements(p, which);
        for (size_t i = 0; i < buffer->size; i++) {
            if (buffer->bytes[i] != p->before[which][i]) {
                snprintf(message, size, "%s: byte %zu of %zu, which the call must not write, changed from %02x to %02x",
                         problem_tensor_name(which), i, buffer->size, p->before[which][i], buffer->bytes[i]);
                return false;
            }
        }
    }
    return true;
}

void problem_print(FILE *stream, const problem *p)
{
    const flashc_attention_params *s = &p->params;
    fprintf(stream,
            "problem: seed %llu, kernel %s, batch %lld, num_heads %lld, num_heads_k %lld, seqlen_q %lld, "
            "seqlen_k %lld, head_dim %lld, head_dim_v %lld\n",
            (unsigned long long)p->seed, s->kernel != NULL ? s->kernel : "(best)", (long long)s->batch,
            (long long)s->num_heads, (long long)s->num_heads_k, (long long)s->seqlen_q, (long long)s->seqlen_k,
            (long long)s->head_dim, (long long)s->head_dim_v);
    fprintf(stream, "  data %s, mask %s, bias %s, softmax_scale %.9g, causal %d, alignment %d, num_threads %d\n",
            p->data_kind, p->mask_kind, p->bias_kind, (double)s->softmax_scale, s->causal, (int)s->alignment,
            s->num_threads);
    fprintf(stream, "  window_left %lld, window_right %lld, block_mask_m %lld, block_mask_n %lld\n",
            (long long)s->window_left, (long long)s->window_right, (long long)s->block_mask_m,
            (long long)s->block_mask_n);
    fprintf(stream, "  softcap %.9g, scores_stage %d, score_mod %s\n", (double)s->softcap, (int)s->scores_stage,
            s->score_mod == NULL                       ? "none"
            : p->mod.added == test_score_mod_wave      ? "wave"
            : p->mod.added == test_score_mod_documents ? "documents"
                                                       : "other");
    for (int64_t h = 0; s->sinks != NULL && h < s->num_heads; h++)
        fprintf(stream, "  sinks[%lld] = %.9g\n", (long long)h, (double)s->sinks[h]);
    for (int64_t n = 0; s->alibi_slopes != NULL && n < s->num_heads * (s->alibi_batch_stride > 0 ? s->batch : 1); n++)
        fprintf(stream, "  alibi_slopes[%lld] = %.9g\n", (long long)n, (double)s->alibi_slopes[n]);
    const struct {
        const char *name;
        const int64_t *array;
    } arrays[] = {{"offsets", s->offsets},
                  {"seqlens_q", s->seqlens_q},
                  {"seqlens_k", s->seqlens_k},
                  {"leftpad_k", s->leftpad_k}};
    for (size_t n = 0; n < sizeof arrays / sizeof arrays[0]; n++)
        for (int64_t b = 0; arrays[n].array != NULL && b < s->batch; b++)
            fprintf(stream, "  %s[%lld] = %lld\n", arrays[n].name, (long long)b, (long long)arrays[n].array[b]);
    for (problem_tensor which = TENSOR_Q; which < TENSORS; which++) {
        const flashc_tensor *view = problem_view(p, which);
        if (view->data != NULL)
            fprintf(stream, "  %-4s %-4s strides %lld %lld %lld %lld\n", problem_tensor_name(which),
                    flashc_dtype_name(view->dtype), (long long)view->stride[0], (long long)view->stride[1],
                    (long long)view->stride[2], (long long)view->stride[3]);
    }
}
