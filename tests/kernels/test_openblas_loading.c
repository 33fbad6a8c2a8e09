/* OpenBLAS is loaded when a kernel needs it and not before, for flashc alone. A program of its own, because what is
 * loaded once stays. */
#include "support/cmocka.h"
#include "support/kernels.h"

#include "cpu.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static bool is_loaded(void)
{
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4096];
    bool found = false;
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps) != NULL)
        found = found || strstr(line, "/libopenblas") != NULL;
    fclose(maps);
    return found;
}

static void run_default(int64_t head_dim)
{
    problem p;
    problem_plain(&p, &(problem_shape){1, 2, 2, 260, 270, head_dim, head_dim}, FLASHC_F32, 71);
    run_problem(&p);
    size_t size;
    assert_int_equal(flashc_attention_workspace_size(&p.params, &size), FLASHC_OK);
    problem_free(&p);
}

/* What explain says of a call whose choice of kernel needs no OpenBLAS, or needs it. */
static void explain(int64_t head_dim, flashc_explanation *plan)
{
    problem p;
    problem_plain(&p, &(problem_shape){1, 2, 2, 260, 270, head_dim, head_dim}, FLASHC_F32, 71);
    *plan = plan_of(&p);
    problem_free(&p);
}

static void loaded_when_needed(void **state)
{
    (void)state;
    static flashc_explanation before[2], after[2];
    assert_false(is_loaded());
    assert_true(flashc_kernel_count() > 0);
    run_default(72); /* OpenBLAS's small-matrix path is slow for such a head_dim on any CPU */
    explain(72, &before[0]);
    assert_false(is_loaded());
    if (flashc_cpu_amd_family() != FLASHC_AMD_ZEN_3_AND_4 || !(flashc_cpu_features() & FLASHC_CPU_AVX512F)) {
        run_default(64);
        explain(64, &before[1]);
        assert_false(is_loaded());
    } else {
        print_message("not run: that head_dim 64 loads no OpenBLAS: on this CPU it does\n");
        explain(64, &before[1]);
    }

    flashc_system_info system = {.struct_size = sizeof system};
    assert_int_equal(flashc_system_get(&system), FLASHC_OK);
    if (strncmp(system.blas, "OpenBLAS", 8) != 0)
        print_message("not run: that OpenBLAS is loaded when it is needed: %s\n", system.blas);
    else
        assert_true(is_loaded());

    /* Nobody else's calls can reach it, unless the host has one too. */
    assert_null(dlsym(RTLD_DEFAULT, "openblas_get_parallel"));

    explain(72, &after[0]);
    explain(64, &after[1]);
    for (int n = 0; n < 2; n++) {
        assert_string_equal(before[n].refused, after[n].refused);
        assert_string_equal(before[n].kernel, after[n].kernel);
        assert_string_equal(before[n].gemm, after[n].gemm);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(loaded_when_needed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
