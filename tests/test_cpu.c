/* The cgroup quota, read from made-up hierarchies of both versions. */
#include "cpu.h"
#include "support/cmocka.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char root[64];

static void write_file(const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int quota(const char *groups)
{
    char path[128];
    write_file("groups", groups);
    snprintf(path, sizeof path, "%s/groups", root);
    return flashc_cpu_quota(path, root);
}

static void test_version_2(void **state)
{
    (void)state;
    write_file("free/cpu.max", "max 100000\n");
    assert_int_equal(quota("0::/free\n"), 0);
    write_file("two/cpu.max", "200000 100000\n");
    assert_int_equal(quota("0::/two\n"), 2);
    write_file("part/cpu.max", "250000 100000\n");
    assert_int_equal(quota("0::/part\n"), 3);
    write_file("less/cpu.max", "1000 100000\n");
    assert_int_equal(quota("0::/less\n"), 1);
    write_file("most/cpu.max", "9223372036854775807 100000\n");
    assert_int_equal(quota("0::/most\n"), 1 << 20); /* more than any machine has */
}

/* A limit on any group above counts, also where the process's own group is not to be seen. */
static void test_tightest_group_above(void **state)
{
    (void)state;
    write_file("slice/cpu.max", "300000 100000\n");
    write_file("slice/service/cpu.max", "800000 100000\n");
    assert_int_equal(quota("0::/slice/service\n"), 3);
    assert_int_equal(quota("0::/slice/not/here\n"), 3);
    write_file("slice/service/cpu.max", "100000 100000\n");
    assert_int_equal(quota("0::/slice/service\n"), 1);
    assert_int_equal(quota("0::/elsewhere\n"), 0);
}

static void test_version_1(void **state)
{
    (void)state;
    write_file("cpu/box/cpu.cfs_quota_us", "150000\n");
    write_file("cpu/box/cpu.cfs_period_us", "50000\n");
    assert_int_equal(quota("4:memory:/other\n3:cpu,cpuacct:/box\n"), 3);
    assert_int_equal(quota("4:memory:/box\n3:cpuset:/box\n"), 0);
    write_file("cpu/box/cpu.cfs_quota_us", "-1\n");
    assert_int_equal(quota("3:cpu:/box\n"), 0);
}

static void test_nonsense_is_no_limit(void **state)
{
    (void)state;
    assert_int_equal(quota(""), 0);
    assert_int_equal(quota("no colons\n0:\n::\n"), 0);
    write_file("bad/cpu.max", "x y\n");
    assert_int_equal(quota("0::/bad\n"), 0);
    write_file("zero/cpu.max", "100000 0\n");
    assert_int_equal(quota("0::/zero\n"), 0);
    assert_int_equal(flashc_cpu_quota("/nonexistent", root), 0);
}

static void test_count_is_within_the_affinity_mask(void **state)
{
    (void)state;
    cpu_set_t before, one;
    const int count = flashc_cpu_count();
    assert_in_range(count, 1, sysconf(_SC_NPROCESSORS_ONLN));
    assert_int_equal(sched_getaffinity(0, sizeof before, &before), 0);
    CPU_ZERO(&one);
    CPU_SET((size_t)sched_getcpu(), &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(flashc_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
    assert_int_equal(flashc_cpu_count(), count);
}

int main(void)
{
    snprintf(root, sizeof root, "/tmp/flashc-test-XXXXXX");
    if (!mkdtemp(root)) {
        puts("not run: no temporary directory");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_version_2),
        cmocka_unit_test(test_tightest_group_above),
        cmocka_unit_test(test_version_1),
        cmocka_unit_test(test_nonsense_is_no_limit),
        cmocka_unit_test(test_count_is_within_the_affinity_mask),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command) == 0 ? failed : 1;
}
