/* Temporary files, listed where a signal handler can find them. */
#include "npy/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

enum { FREE, CLAIMED, LISTED };

/* A path is complete before its slot is LISTED and unchanged while it is. */
static struct {
    atomic_int state;
    char path[PATH_MAX];
} slots[FLASHC_NPY_MAX_OUTPUTS];
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a signal handler may only touch lock-free atomics");

static int claim_slot(void)
{
    for (int slot = 0; slot < FLASHC_NPY_MAX_OUTPUTS; slot++) {
        int expected = FREE;
        if (atomic_compare_exchange_strong(&slots[slot].state, &expected, CLAIMED))
            return slot;
    }
    errno = EMFILE;
    return -1;
}

int flashc_npy_temporary_open(const char *directory, mode_t mode, int *slot)
{
    static atomic_uint counter;
    int claimed = claim_slot();
    if (claimed < 0)
        return -1;

    /* Process and counter make the name unique among the living, the clock among leftovers of the dead;
     * O_EXCL makes sure. open, unlike mkstemp, leaves the permissions to the umask. */
    int fd = -1;
    errno = EEXIST;
    for (int attempt = 0; attempt < 100 && fd < 0 && errno == EEXIST; attempt++) {
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        int length = snprintf(slots[claimed].path, sizeof slots[claimed].path, "%s/.flashc-%ld-%u-%lx.tmp", directory,
                              (long)getpid(), atomic_fetch_add(&counter, 1), (unsigned long)now.tv_nsec);
        if (length < 0 || (size_t)length >= sizeof slots[claimed].path) {
            errno = ENAMETOOLONG;
            break;
        }
        /* Listed before it exists: a signal in between finds nothing, one later finds the file. */
        atomic_store(&slots[claimed].state, LISTED);
        fd = open(slots[claimed].path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (fd < 0)
            atomic_store(&slots[claimed].state, CLAIMED);
    }
    if (fd < 0) {
        atomic_store(&slots[claimed].state, FREE);
        return -1;
    }
    *slot = claimed;
    return fd;
}

const char *flashc_npy_temporary_path(int slot)
{
    return slots[slot].path;
}

void flashc_npy_temporary_close(int slot, bool keep_file)
{
    if (slot < 0)
        return;
    if (!keep_file)
        unlink(slots[slot].path);
    atomic_store(&slots[slot].state, FREE);
}

void flashc_npy_remove_temporaries(void)
{
    int saved = errno;
    for (int slot = 0; slot < FLASHC_NPY_MAX_OUTPUTS; slot++)
        if (atomic_load(&slots[slot].state) == LISTED)
            unlink(slots[slot].path);
    errno = saved;
}
