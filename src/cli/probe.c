#include "cli/arithmetic.h"
#include "cli/cli.h"
#include "cli/clock.h"
#include "cli/probe.h"
#include "cli/sample_call.h"

#include <math.h>
#include <string.h>

/* The sampled call: whole row blocks and tiles of every kernel, in one K/V head. Of more columns (of K and V together)
 * it has fewer keys, so that it takes as long. */
enum { ROWS = 384, KEYS = 1920, KEYS_STEP = 240, COLUMNS = 256 };
/* What a kernel runs for in a round, and when the rounds end, if there are enough to judge by. */
#define TURN_SECONDS 0.002
#define ROUNDS_SECONDS 0.5
enum { ROUNDS_MIN = 5 };
/* A kernel that takes so many times as long as the chosen one is out of the question. */
#define FAR_SLOWER 2.0

typedef struct contender {
    const char *name;
    flashc_sample sample;
    int64_t calls; /* in a turn */
    double seconds[FLASHC_MOST_ROUNDS];
} contender;

/* Calls in a row, *seconds each: CPU time of their one thread, which other processes can stop but hardly lengthen. */
static int time_calls(flashc_sample *sample, int64_t calls, double *seconds)
{
    double elapsed;
    const double start = flashc_cli_cpu_seconds();
    const int code = flashc_sample_calls(sample, calls, &elapsed);
    *seconds = (flashc_cli_cpu_seconds() - start) / (double)calls;
    return code;
}

static int64_t sampled_keys(const flashc_attention_params *p)
{
    const int64_t keys = KEYS * COLUMNS / (p->head_dim + p->head_dim_v) / KEYS_STEP * KEYS_STEP;
    return flashc_cli_min(p->seqlen_k, keys < KEYS_STEP ? KEYS_STEP : flashc_cli_min(keys, KEYS));
}

/* Opens a call on the kernel and takes its first time, of its second call. */
static int enter(contender *c, const char *name, const flashc_cli_attention_args *args,
                 const flashc_attention_params *params, double *seconds)
{
    const flashc_sampled_call call = {.args = args, .params = params, .kernel = name};
    const int64_t rows = params->seqlen_q * (params->num_heads / params->num_heads_k);
    const flashc_sample_shape shape = {.heads = 1, .rows = flashc_cli_min(ROWS, rows), .keys = sampled_keys(params)};
    c->name = name;
    const int code = flashc_sample_open(&call, &shape, 0, &c->sample);
    if (code != FLASHC_CLI_OK || time_calls(&c->sample, 1, seconds) || time_calls(&c->sample, 1, seconds))
        return FLASHC_CLI_FAILED;
    c->calls = 1 + (int64_t)(TURN_SECONDS / fmax(*seconds, 1e-8));
    return FLASHC_CLI_OK;
}

/* Could it run the call, with products of the same type as the plan's? */
static bool is_rival(const char *name, const flashc_attention_params *params, const flashc_explanation *plan)
{
    flashc_attention_params with_it = *params;
    flashc_explanation explanation = {.struct_size = sizeof explanation};
    with_it.kernel = name;
    return strcmp(name, plan->kernel) != 0 && flashc_explain(&with_it, &explanation) == FLASHC_OK &&
           explanation.compute == plan->compute;
}

/* The chosen kernel first, then its rivals; *count of them are to be closed, also after an error. */
static int enter_all(const flashc_cli_attention_args *args, const flashc_attention_params *params,
                     const flashc_explanation *plan, contender *list, int *count)
{
    double chosen = 0.0, seconds = 0.0;
    *count = 1;
    int code = enter(&list[0], plan->kernel, args, params, &chosen);
    for (int i = 0; code == FLASHC_CLI_OK && i < flashc_kernel_count() && *count <= FLASHC_MOST_RIVALS; i++) {
        flashc_kernel kernel;
        if (flashc_kernel_get(i, &kernel) != FLASHC_OK || !is_rival(kernel.name, params, plan))
            continue;
        contender *rival = &list[(*count)++];
        code = enter(rival, kernel.name, args, params, &seconds);
        if (code == FLASHC_CLI_OK && seconds > FAR_SLOWER * chosen) {
            flashc_sample_close(&rival->sample);
            (*count)--;
        }
    }
    return code;
}

/* Everyone has a turn in each round, there and back by turns, so that whatever slows the machine for longer than a turn
 * does not always meet the same one. */
static int time_rounds(contender *list, int count, int *rounds)
{
    const double start = flashc_cli_now();
    for (*rounds = 0; *rounds < FLASHC_MOST_ROUNDS; (*rounds)++) {
        if (*rounds >= ROUNDS_MIN && flashc_cli_now() - start > ROUNDS_SECONDS)
            break;
        for (int i = 0; i < count; i++) {
            contender *c = &list[*rounds % 2 ? count - 1 - i : i];
            if (time_calls(&c->sample, c->calls, &c->seconds[*rounds]))
                return FLASHC_CLI_FAILED;
        }
    }
    return FLASHC_CLI_OK;
}

int flashc_probe_run(const flashc_cli_attention_args *args, const flashc_attention_params *params,
                     const flashc_explanation *plan, flashc_probe *out)
{
    contender list[1 + FLASHC_MOST_RIVALS];
    int count = 0;
    *out = (flashc_probe){.chosen = plan->kernel};
    if (plan->flops <= 0.0)
        return flashc_cli_error("--probe: this call computes nothing");
    int code = enter_all(args, params, plan, list, &count);
    if (code == FLASHC_CLI_OK && count > 1)
        code = time_rounds(list, count, &out->rounds);
    for (int i = 1; code == FLASHC_CLI_OK && i < count; i++) {
        const flashc_probe_verdict verdict = flashc_probe_judge(out->rounds, list[0].seconds, list[i].seconds);
        if (verdict.speed >= 1.0 / FAR_SLOWER)
            out->rivals[out->count++] = (flashc_probe_rival){.name = list[i].name, .verdict = verdict};
    }
    for (int i = 0; i < count; i++)
        flashc_sample_close(&list[i].sample);
    return code;
}

/* Of the fastest that disagrees. */
static void warn(const flashc_probe *probe)
{
    const flashc_probe_rival *fastest = NULL;
    for (int i = 0; i < probe->count; i++) {
        const flashc_probe_rival *rival = &probe->rivals[i];
        if (rival->verdict.disagrees && (!fastest || rival->verdict.speed > fastest->verdict.speed))
            fastest = rival;
    }
    if (fastest)
        fprintf(stderr, "flashc-run: warning: %s was %.2f times as fast as %s (--kernel %s takes it; of itself no "
                        "timing chooses a kernel, since that would change bits)\n",
                fastest->name, fastest->verdict.speed, probe->chosen, fastest->name);
}

void flashc_probe_print(const flashc_probe *probe, FILE *out)
{
    if (probe->count == 0)
        fprintf(out, "probe      no other kernel comes near\n");
    for (int i = 0; i < probe->count; i++) {
        const flashc_probe_rival *rival = &probe->rivals[i];
        fprintf(out, "probe      %s: %.2f times as fast (middle half of %d rounds: %.2f to %.2f)%s\n", rival->name,
                rival->verdict.speed, probe->rounds, rival->verdict.low, rival->verdict.high,
                rival->verdict.disagrees ? ", against the choice" : "");
    }
    warn(probe);
}

void flashc_probe_json(const flashc_probe *probe, flashc_cli_json *json)
{
    flashc_cli_json_array(json, "probe");
    for (int i = 0; i < probe->count; i++) {
        const flashc_probe_rival *rival = &probe->rivals[i];
        flashc_cli_json_object(json, NULL);
        flashc_cli_json_string(json, "kernel", rival->name);
        flashc_cli_json_double(json, "speed", rival->verdict.speed);
        flashc_cli_json_double(json, "low", rival->verdict.low);
        flashc_cli_json_double(json, "high", rival->verdict.high);
        flashc_cli_json_bool(json, "disagrees", rival->verdict.disagrees);
        flashc_cli_json_end(json, '}');
    }
    flashc_cli_json_end(json, ']');
    warn(probe);
}
