/* What --stream-kv is given besides K and V, before the work. */
#include "cli/arithmetic.h"
#include "cli/cli.h"
#include "cli/lengths.h"
#include "cli/stream.h"
#include "cli/stream_calls.h"

#include <stdlib.h>
#include <string.h>

/* An option that makes the keys of the files some of all, NULL if none does. */
static const char *option_of_a_part(const flashc_cli_attention_args *args)
{
    return args->save_state       ? "--save-state"
           : args->resume_state   ? "--resume-state"
           : args->first_key >= 0 ? "--first-key"
           : args->total_keys     ? "--total-keys"
                                  : NULL;
}

/* What goes with all keys of a sequence does not with a part of them. */
static int check_part(const flashc_cli_attention_args *args, const char *part)
{
    const struct {
        const char *option;
        int given;
    } refused[] = {{"--leftpad-k", args->leftpad_k != NULL},
                   {"--block-mask", args->block_mask != NULL},
                   {"--prefix-k", args->prefix_k != NULL}};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (refused[i].given)
            return flashc_cli_usage_error("%s and %s do not go together", part, refused[i].option);
    if (args->resume_state && args->first_key >= 0)
        return flashc_cli_usage_error("--resume-state and --first-key do not go together: the state says where its "
                                      "keys end");
    if (args->alignment == FLASHC_ALIGN_BOTTOM_RIGHT && !args->total_keys)
        return flashc_cli_usage_error("%s and --align bottom-right need --total-keys N, from which positions count",
                                      part);
    if (args->save_state && flashc_cli_states_check_name("--save-state", args->save_state))
        return FLASHC_CLI_USAGE;
    return args->resume_state ? flashc_cli_states_check_name("--resume-state", args->resume_state) : FLASHC_CLI_OK;
}

int flashc_cli_stream_check(const flashc_cli_attention_args *args)
{
    const char *const files[] = {args->k, args->v, args->prefix_k, args->prefix_v};
    const char *part = option_of_a_part(args);
    if (part && !args->stream_kv)
        return flashc_cli_usage_error("%s needs --stream-kv", part);
    if (!args->stream_kv)
        return FLASHC_CLI_OK;
    if (args->key_mass)
        return flashc_cli_usage_error("--stream-kv and --key-mass do not go together: the mass needs the log-sum-exp "
                                      "of all keys");
    if (args->scores && args->scores_stage == FLASHC_SCORES_WEIGHTS)
        return flashc_cli_usage_error("--stream-kv and --scores-stage weights do not go together: weights need the "
                                      "log-sum-exp of all keys");
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (files[i] && strcmp(files[i], "-") == 0)
            return flashc_cli_usage_error("--stream-kv expects files for K and V, found standard input");
    return part ? check_part(args, part) : FLASHC_CLI_OK;
}

int64_t flashc_cli_stream_first_key(const flashc_cli_attention_args *args, const flashc_cli_stream_states *states,
                                    int64_t sequence)
{
    return states->before.rows.data ? flashc_cli_states_number(&states->before, sequence, FLASHC_STATE_NEXT_KEY)
                                    : flashc_cli_max(args->first_key, 0);
}

int flashc_cli_stream_open(const flashc_cli_attention_args *args, flashc_cli_job *job, flashc_cli_stream_states *states)
{
    flashc_attention_params *p = &job->params;
    if (args->resume_state) {
        const flashc_cli_states_shape shape = flashc_cli_states_shape_of(p, job->q.rank);
        if (flashc_cli_states_read(args->resume_state, &states->before) ||
            flashc_cli_states_check(&states->before, &shape, job->q.name))
            return FLASHC_CLI_FAILED;
    }
    if (!option_of_a_part(args))
        return FLASHC_CLI_OK;
    int64_t *offsets = calloc((size_t)p->batch + 1, sizeof *offsets);
    if (!offsets)
        return flashc_cli_error("no memory for the offsets of %lld batch elements", (long long)p->batch);
    int code = FLASHC_CLI_OK;
    for (int64_t b = 0; b < p->batch && code == FLASHC_CLI_OK; b++) {
        const int64_t first = flashc_cli_stream_first_key(args, states, b);
        const int64_t end = flashc_cli_stream_add(first, flashc_cli_keys_of(p, b));
        offsets[b] = flashc_cli_stream_add(flashc_cli_offset_of(p, b, args->total_keys), -first);
        if (args->total_keys && args->total_keys < end)
            code = flashc_cli_error("--total-keys %lld: expected at least the %lld keys of sequence %lld up to the "
                                    "last row of %s",
                                    (long long)args->total_keys, (long long)end, (long long)b, job->k.name);
    }
    if (p->alignment != FLASHC_ALIGN_UNSET)
        p->alignment = FLASHC_ALIGN_EXPLICIT;
    free(job->offsets);
    job->offsets = offsets;
    p->offsets = p->alignment == FLASHC_ALIGN_EXPLICIT ? offsets : NULL;
    return code;
}

void flashc_cli_stream_close(flashc_cli_stream_states *states)
{
    flashc_cli_states_free(&states->before);
    flashc_cli_states_free(&states->after);
}
