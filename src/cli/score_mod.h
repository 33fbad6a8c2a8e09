/* --score-mod of `attention`, `explain` and `bench`: a function of the user's, from a shared object. */
#ifndef FLASHC_CLI_SCORE_MOD_H
#define FLASHC_CLI_SCORE_MOD_H

#include "cli/attention_options.h"
#include "cli/json.h"

#include <flashc.h>
#include <stdio.h>

typedef struct flashc_cli_score_mod {
    void *library;            /* from dlopen(); NULL: none */
    char *path, *symbol;      /* path has a slash */
} flashc_cli_score_mod;

/* Loads what args->score_mod names, "LIBRARY[:SYMBOL]", and gives it to params; nothing if that is NULL. FLASHC_CLI_OK,
 * or the exit code after a message; to be closed in any case, after the last call with these params. */
int flashc_cli_score_mod_open(const flashc_cli_attention_args *args, flashc_cli_score_mod *mod,
                              flashc_attention_params *params);
void flashc_cli_score_mod_close(flashc_cli_score_mod *mod);

/* Which function it is, as a line or as a member of the open JSON object; nothing if there is none. */
void flashc_cli_score_mod_print(const flashc_cli_score_mod *mod, FILE *out);
void flashc_cli_score_mod_json(const flashc_cli_score_mod *mod, flashc_cli_json *json);

#endif
