/* flashc-run info: what this library and this machine have. */
#include "cli/cli.h"
#include "cli/cpu_features.h"
#include "cli/json.h"
#include "cli/options.h"
#include "cli/proc.h"

#include <flashc.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { OPT_JSON = 1, CPU_NAME_SIZE = 128, FEATURES_SIZE = 256 };

static const flashc_cli_option options[] = {
    {OPT_JSON, "json", 0, NULL, "One JSON object on standard output instead of text.", FLASHC_CLI_FOR_ALL},
    {0, NULL, 0, NULL, NULL, 0},
};

/* Characters of the longest name, so that descriptions stand in one column. */
static int name_width(void)
{
    size_t width = 0;
    flashc_kernel kernel;
    for (int i = 0; i < flashc_kernel_count(); i++)
        if (flashc_kernel_get(i, &kernel) == FLASHC_OK && strlen(kernel.name) > width)
            width = strlen(kernel.name);
    return (int)width;
}

static void print_text(const flashc_system_info *system)
{
    const int width = name_width();
    char cpu[CPU_NAME_SIZE], unknown[FEATURES_SIZE];
    printf("version          %s\n", system->version);
    printf("CPU              %s\n", flashc_proc_cpu_name(cpu, sizeof cpu));
    printf("CPU features     %s\n", system->cpu_features[0] != '\0' ? system->cpu_features : "none");
    if (*flashc_cli_unknown_cpu_features(unknown, sizeof unknown))
        printf("unknown features %s (in FLASHC_DISABLE_CPU_FEATURES, whose names are %s)\n", unknown,
               flashc_cli_cpu_features);
    printf("BLAS             %s\n", system->blas);
    printf("OpenMP           %s\n", system->openmp ? "yes" : "no");
    printf("default threads  %d\n", system->default_threads);
    printf("kernels, best first:\n");
    for (int i = 0; i < flashc_kernel_count(); i++) {
        flashc_kernel kernel;
        if (flashc_kernel_get(i, &kernel) != FLASHC_OK)
            continue;
        printf("  %-*s %s\n", width, kernel.name, kernel.description);
        printf("  %-*s %s%s\n", width, "", kernel.unavailable == NULL ? "available" : "not available: ",
               kernel.unavailable == NULL ? "" : kernel.unavailable);
    }
}

static void print_json(const flashc_system_info *system)
{
    char cpu[CPU_NAME_SIZE], unknown[FEATURES_SIZE];
    flashc_cli_json json;
    flashc_cli_json_begin(&json, stdout);
    flashc_cli_json_object(&json, NULL);
    flashc_cli_json_string(&json, "version", system->version);
    flashc_cli_json_string(&json, "cpu", flashc_proc_cpu_name(cpu, sizeof cpu));
    flashc_cli_json_string(&json, "cpu_features", system->cpu_features);
    flashc_cli_json_string(&json, "unknown_cpu_features", flashc_cli_unknown_cpu_features(unknown, sizeof unknown));
    flashc_cli_json_string(&json, "blas", system->blas);
    flashc_cli_json_bool(&json, "openmp", system->openmp != 0);
    flashc_cli_json_int(&json, "default_threads", system->default_threads);
    flashc_cli_json_array(&json, "kernels");
    for (int i = 0; i < flashc_kernel_count(); i++) {
        flashc_kernel kernel;
        if (flashc_kernel_get(i, &kernel) != FLASHC_OK)
            continue;
        flashc_cli_json_object(&json, NULL);
        flashc_cli_json_string(&json, "name", kernel.name);
        flashc_cli_json_string(&json, "description", kernel.description);
        flashc_cli_json_bool(&json, "available", kernel.unavailable == NULL);
        flashc_cli_json_string(&json, "unavailable", kernel.unavailable);
        flashc_cli_json_end(&json, '}');
    }
    flashc_cli_json_end(&json, ']');
    flashc_cli_json_end(&json, '}');
}

static int take_option(int id, const char *value, void *args)
{
    (void)id, (void)value;
    *(bool *)args = true; /* --json */
    return 0;
}

static const flashc_cli_syntax syntax = {
    .options = options,
    .command = FLASHC_CLI_FOR_ALL,
    .take = take_option,
    .usage = "flashc-run info [--json]",
    .description =
        "Shows the library's version, the CPU and those of its features that kernels ask for, the kernels with the "
        "reason where one cannot run here, the OpenBLAS build and the default number of threads.",
};

int flashc_cmd_info(int argc, char **argv)
{
    bool json = false;
    int exit_code;
    if (!flashc_cli_options_parse(&syntax, argc, argv, &json, &exit_code))
        return exit_code;
    flashc_system_info system = {.struct_size = sizeof system};
    if (flashc_system_get(&system) != FLASHC_OK)
        return flashc_cli_error("%s", flashc_last_error());
    if (json)
        print_json(&system);
    else
        print_text(&system);
    return flashc_cli_finish_stdout(FLASHC_CLI_OK);
}
