#include "cli/score_mod.h"

#include "cli/cli.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static const char DEFAULT_SYMBOL[] = "flashc_score_mod";

/* The colon before the symbol, or NULL: a path may have colons too, but no symbol has a slash. */
static const char *find_colon(const char *spec)
{
    const char *colon = strrchr(spec, ':');
    return colon && !strchr(colon, '/') ? colon : NULL;
}

static int split(const char *spec, flashc_cli_score_mod *mod)
{
    const char *colon = find_colon(spec);
    const char *symbol = colon ? colon + 1 : DEFAULT_SYMBOL;
    const size_t length = colon ? (size_t)(colon - spec) : strlen(spec);
    if (length == 0 || !*symbol)
        return flashc_cli_usage_error("--score-mod expects LIBRARY or LIBRARY:SYMBOL, found '%s'", spec);
    /* A file as all others are: without a slash the loader would look for it in its own directories instead. */
    const char *folder = memchr(spec, '/', length) ? "" : "./";
    const size_t before = strlen(folder);
    mod->path = malloc(before + length + 1);
    mod->symbol = malloc(strlen(symbol) + 1);
    if (!mod->path || !mod->symbol)
        return flashc_cli_error("no memory for the name of --score-mod");
    memcpy(mod->path, folder, before);
    memcpy(mod->path + before, spec, length);
    mod->path[before + length] = '\0';
    strcpy(mod->symbol, symbol);
    return FLASHC_CLI_OK;
}

int flashc_cli_score_mod_open(const flashc_cli_attention_args *args, flashc_cli_score_mod *mod,
                              flashc_attention_params *params)
{
    if (!args->score_mod)
        return FLASHC_CLI_OK;
    const int code = split(args->score_mod, mod);
    if (code)
        return code;
    mod->library = dlopen(mod->path, RTLD_NOW | RTLD_LOCAL);
    if (!mod->library)
        return flashc_cli_error("--score-mod: expected a shared object that can be loaded, found %s", dlerror());
    void *const address = dlsym(mod->library, mod->symbol);
    if (!address)
        return flashc_cli_error("--score-mod: expected the function %s in %s, found none of that name", mod->symbol,
                                mod->path);
    memcpy(&params->score_mod, &address, sizeof address); /* C has no cast from an object's address to a function's */
    params->score_mod_user_data = (void *)(uintptr_t)args->score_mod_data;
    return FLASHC_CLI_OK;
}

void flashc_cli_score_mod_close(flashc_cli_score_mod *mod)
{
    if (mod->library)
        dlclose(mod->library);
    free(mod->path);
    free(mod->symbol);
    *mod = (flashc_cli_score_mod){.library = NULL};
}

void flashc_cli_score_mod_print(const flashc_cli_score_mod *mod, FILE *out)
{
    if (mod->library)
        fprintf(out, "score mod  %s of %s\n", mod->symbol, mod->path);
}

void flashc_cli_score_mod_json(const flashc_cli_score_mod *mod, flashc_cli_json *json)
{
    if (!mod->library)
        return;
    flashc_cli_json_object(json, "score_mod");
    flashc_cli_json_string(json, "library", mod->path);
    flashc_cli_json_string(json, "symbol", mod->symbol);
    flashc_cli_json_end(json, '}');
}
