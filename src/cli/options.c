#include "cli/options.h"

#include "cli/cli.h"

#include <errno.h>
#include <flashc.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_OPTIONS = 96, LONG_BASE = 256, HELP_COLUMN = 26, HELP_WIDTH = 80 };

/* The table entry at a position of the getopt arrays, NULL for --help. */
typedef struct getopt_arrays {
    struct option long_options[MAX_OPTIONS + 2];
    char short_options[2 * MAX_OPTIONS + 4];
    const flashc_cli_option *entries[MAX_OPTIONS + 1];
    int count;
} getopt_arrays;

static void add_option(getopt_arrays *arrays, const flashc_cli_option *entry, const char *name, char short_name,
                       int has_argument)
{
    const int index = arrays->count++;
    arrays->entries[index] = entry;
    arrays->long_options[index] =
        (struct option){name, has_argument ? required_argument : no_argument, NULL, LONG_BASE + index};
    if (short_name) {
        size_t n = strlen(arrays->short_options);
        arrays->short_options[n++] = short_name;
        if (has_argument)
            arrays->short_options[n] = ':';
    }
}

static void build_arrays(getopt_arrays *arrays, const flashc_cli_option *table, unsigned command)
{
    memset(arrays, 0, sizeof *arrays);
    arrays->short_options[0] = ':'; /* tells a missing argument (':') from an unknown option ('?') */
    for (const flashc_cli_option *entry = table; entry->name && arrays->count < MAX_OPTIONS; entry++)
        if (entry->commands & command)
            add_option(arrays, entry, entry->name, entry->short_name, entry->argument != NULL);
    add_option(arrays, NULL, "help", 'h', 0);
}

/* Index of the option that getopt's return value (or optopt) stands for, -1 if none. */
static int index_of(const getopt_arrays *arrays, int code)
{
    if (code >= LONG_BASE)
        return code - LONG_BASE < arrays->count ? code - LONG_BASE : -1;
    for (int i = 0; i < arrays->count; i++) {
        const char short_name = arrays->entries[i] ? arrays->entries[i]->short_name : 'h';
        if (short_name && short_name == code)
            return i;
    }
    return -1;
}

/* Prints text from column `column` on, broken at blanks; the caller has printed up to there. */
static void print_wrapped(const char *text, int column, int indent)
{
    while (*text) {
        const size_t word = strcspn(text, " ");
        if (column > indent && column + (int)word > HELP_WIDTH) {
            printf("\n%*s", indent, "");
            column = indent;
        }
        printf("%.*s", (int)word, text);
        column += (int)word;
        text += word;
        if (*text == ' ') {
            text++;
            if (*text && column + 1 + (int)strcspn(text, " ") <= HELP_WIDTH) {
                putchar(' ');
                column++;
            } else if (*text) {
                printf("\n%*s", indent, "");
                column = indent;
            }
        }
    }
    putchar('\n');
}

static void print_option(char short_name, const char *name, const char *argument, const char *help)
{
    char left[64];
    if (short_name)
        snprintf(left, sizeof left, "  -%c, --%s%s%s", short_name, name, argument ? " " : "", argument ? argument : "");
    else
        snprintf(left, sizeof left, "      --%s%s%s", name, argument ? " " : "", argument ? argument : "");
    if (strlen(left) + 2 > HELP_COLUMN)
        printf("%s\n%*s", left, HELP_COLUMN, "");
    else
        printf("%-*s", HELP_COLUMN, left);
    print_wrapped(help, HELP_COLUMN, HELP_COLUMN);
}

/* The options that the command lets pass, in one sentence. */
static void print_without_effect(const flashc_cli_syntax *syntax)
{
    char text[1024] = "";
    size_t used = 0;
    for (const flashc_cli_option *entry = syntax->options; entry->name; entry++) {
        if (!(entry->commands >> FLASHC_CLI_NO_EFFECT & syntax->command))
            continue;
        const char short_name[] = {'-', entry->short_name, ',', ' ', '\0'};
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%s--%s", used ? ", " : "",
                                 entry->short_name ? short_name : "", entry->name);
    }
    if (used == 0)
        return;
    const int column = printf("\nTaken, but without effect here: ") - 1;
    print_wrapped(text, column, 0);
}

/* Whatever --help says of the option, below the title of its group if it is the first that is printed of it. */
static void print_entry(const flashc_cli_syntax *syntax, const flashc_cli_option *entry, const char **title)
{
    for (const flashc_cli_group *group = syntax->groups; group && group->title; group++)
        if (group->first == entry->id)
            *title = group->title;
    if (!(entry->commands & ~(entry->commands >> FLASHC_CLI_NO_EFFECT) & syntax->command))
        return;
    if (*title)
        printf("\n%s:\n", *title);
    *title = NULL;
    print_option(entry->short_name, entry->name, entry->argument, entry->help);
}

static int print_help(const flashc_cli_syntax *syntax)
{
    const char *title = "Options";
    printf("Usage: %s\n\n", syntax->usage);
    print_wrapped(syntax->description, 0, 0);
    for (const flashc_cli_option *entry = syntax->options; entry->name; entry++)
        print_entry(syntax, entry, &title);
    print_option('h', "help", NULL, "Show this help.");
    print_without_effect(syntax);
    if (syntax->notes)
        printf("\n%s", syntax->notes);
    return flashc_cli_finish_stdout(FLASHC_CLI_OK);
}

/* What getopt_long() did not like. */
static int wrong_option(const getopt_arrays *arrays, int code, const char *word)
{
    const int index = index_of(arrays, optopt);
    if (code == ':' && index >= 0)
        return flashc_cli_usage_error("option --%s needs an argument", arrays->long_options[index].name);
    if (optopt >= LONG_BASE && index >= 0)
        return flashc_cli_usage_error("option --%s takes no argument, found '%s'", arrays->long_options[index].name,
                                      word);
    if (optopt > ' ' && optopt <= '~')
        return flashc_cli_usage_error("unknown option '-%c'", optopt);
    if (optopt != 0)
        return flashc_cli_usage_error("unknown option: byte 0x%02x after '-'", (unsigned)optopt & 0xffu);
    return flashc_cli_usage_error("unknown or ambiguous option '%s'", word);
}

int flashc_cli_options_parse(const flashc_cli_syntax *syntax, int argc, char **argv, void *args, int *exit_code)
{
    getopt_arrays arrays;
    build_arrays(&arrays, syntax->options, syntax->command);
    opterr = 0;
    int code;
    while ((code = getopt_long(argc, argv, arrays.short_options, arrays.long_options, NULL)) != -1) {
        if (code == ':' || code == '?') {
            *exit_code = wrong_option(&arrays, code, argv[optind - 1]);
            return 0;
        }
        const flashc_cli_option *option = arrays.entries[index_of(&arrays, code)];
        *exit_code = option ? syntax->take(option->id, optarg, args) : print_help(syntax);
        if (!option || *exit_code)
            return 0;
    }
    *exit_code = FLASHC_CLI_OK;
    if (optind < argc && !syntax->takes_operands)
        *exit_code = flashc_cli_usage_error("unexpected argument '%s'", argv[optind]);
    return *exit_code == FLASHC_CLI_OK;
}

char **flashc_cli_operands(int argc, char **argv, int *count)
{
    *count = argc - optind;
    return argv + optind;
}

int flashc_cli_parse_int(const char *option, const char *text, int64_t min, int64_t max, int64_t *out)
{
    const char *digits = text + (text[0] == '-' || text[0] == '+');
    const size_t length = strspn(digits, "0123456789");
    errno = 0;
    const long long value = strtoll(text, NULL, 10);
    if (length == 0 || digits[length] != '\0')
        return flashc_cli_usage_error("%s expects a whole number, found '%s'", option, text);
    if (errno == ERANGE || value < min || value > max)
        return flashc_cli_usage_error("%s expects a number from %lld to %lld, found '%s'", option, (long long)min,
                                      (long long)max, text);
    *out = value;
    return 0;
}

int flashc_cli_parse_double(const char *option, const char *text, double min, double max, double *out)
{
    char *end = NULL;
    /* Only decimal notation: strtod would also take blanks, hexadecimal, "inf" and "nan". */
    const size_t length = strspn(text, "+-.0123456789eE");
    const double value = strtod(text, &end);
    if (length == 0 || text[length] != '\0' || end == text || *end != '\0')
        return flashc_cli_usage_error("%s expects a finite number, found '%s'", option, text);
    if (!(value >= min && value <= max))
        return flashc_cli_usage_error("%s expects a number from %g to %g, found '%s'", option, min, max, text);
    *out = value;
    return 0;
}

int flashc_cli_parse_float(const char *option, const char *text, float min, float max, float *out)
{
    double value = 0;
    if (flashc_cli_parse_double(option, text, (double)min, (double)max, &value))
        return FLASHC_CLI_USAGE;
    *out = (float)value;
    if (value != 0 && *out == 0)
        return flashc_cli_usage_error("%s expects 0 or a number that f32 has, found '%s'", option, text);
    return 0;
}

int flashc_cli_parse_pair(const char *option, const char *text, int64_t least, int64_t pair[2])
{
    char first[32];
    const char *comma = strchr(text, ',');
    const size_t length = comma ? (size_t)(comma - text) : 0;
    if (!comma || length >= sizeof first)
        return flashc_cli_usage_error("%s expects two whole numbers with a comma between them, found '%s'", option,
                                      text);
    memcpy(first, text, length);
    first[length] = '\0';
    return flashc_cli_parse_int(option, first, least, INT64_MAX, &pair[0]) ||
                   flashc_cli_parse_int(option, comma + 1, least, INT64_MAX, &pair[1])
               ? FLASHC_CLI_USAGE
               : 0;
}

int flashc_cli_parse_word(const char *option, const char *text, const char *const *words, const char *expected,
                          int *index)
{
    for (int i = 0; words[i]; i++)
        if (strcmp(text, words[i]) == 0) {
            *index = i;
            return 0;
        }
    return flashc_cli_usage_error("%s expects %s, found '%s'", option, expected, text);
}

/* The floats, then the types that only caches have. */
static const flashc_dtype dtypes[] = {FLASHC_F32,     FLASHC_F16,     FLASHC_BF16, FLASHC_I8,
                                      FLASHC_F8_E4M3, FLASHC_F8_E5M2, FLASHC_Q8_0};
enum { FLOATS = 3, TYPES = 7 };

static int parse_type(const char *option, const char *text, int count, const char *expected, int *out)
{
    const char *names[TYPES + 1] = {NULL};
    int index = 0;
    for (int i = 0; i < count; i++)
        names[i] = flashc_dtype_name(dtypes[i]);
    if (flashc_cli_parse_word(option, text, names, expected, &index))
        return FLASHC_CLI_USAGE;
    *out = (int)dtypes[index];
    return 0;
}

int flashc_cli_parse_dtype(const char *option, const char *text, int *out)
{
    return parse_type(option, text, FLOATS, "f32, f16 or bf16", out);
}

int flashc_cli_parse_cache_dtype(const char *option, const char *text, int *out)
{
    return parse_type(option, text, TYPES, "f32, f16, bf16, i8, f8_e4m3, f8_e5m2 or q8_0", out);
}

int flashc_cli_parse_layout(const char *text, int *bshd)
{
    static const char *const layouts[] = {"bhsd", "bshd", NULL};
    return flashc_cli_parse_word("--layout", text, layouts, "bhsd or bshd", bshd);
}
