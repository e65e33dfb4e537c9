// The disk benchmark: `disk DEVICE` reads and writes DEVICE past the page cache and prints `BENCH row seconds s check value` for
// each row. Random rows visit scattered places; `32` rows keep 32 requests under way. Writes end with a flush. What is written
// is read back and compared.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { DEPTH = 32, SMALL = 4096, LARGE = 1 << 20 };

static int fd;
static uint64_t blocks;
static char *buffers;

static void die(const char *what) {
    fprintf(stderr, "disk: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

// An odd step through a power of two of blocks visits each once.
static uint64_t place(uint64_t i) { return i * 7919 % blocks * SMALL; }

static uint64_t sequential(int writing) {
    uint64_t check = 0;
    for (int i = 0; i < 128; i++) {
        memset(buffers, i, writing ? LARGE : 1);
        ssize_t n = writing ? pwrite(fd, buffers, LARGE, (off_t)i * LARGE) : pread(fd, buffers, LARGE, (off_t)i * LARGE);
        if (n != LARGE) die("sequential");
        check += (unsigned char)buffers[LARGE - 1];
    }
    return check;
}

static uint64_t one_by_one(int writing, int count) {
    uint64_t check = 0;
    for (int i = 0; i < count; i++) {
        if (writing) memset(buffers, i, SMALL);
        ssize_t n = writing ? pwrite(fd, buffers, SMALL, place(i)) : pread(fd, buffers, SMALL, place(i));
        if (n != SMALL) die("random");
        check += (unsigned char)buffers[0];
    }
    return check;
}

static uint64_t many(int writing, int count) {
    aio_context_t context = 0;
    if (syscall(SYS_io_setup, DEPTH, &context)) die("io_setup");
    struct iocb control[DEPTH];
    struct io_event events[DEPTH];
    uint64_t check = 0;
    int started = 0, finished = 0, slot_free[DEPTH], free_slots = DEPTH;
    for (int i = 0; i < DEPTH; i++) slot_free[i] = i;
    while (finished < count) {
        struct iocb *batch[DEPTH];
        int n = 0;
        while (free_slots && started < count) {
            int slot = slot_free[--free_slots];
            char *b = buffers + (size_t)slot * SMALL;
            if (writing) memset(b, started, SMALL);
            struct iocb *c = &control[slot];
            memset(c, 0, sizeof *c);
            c->aio_fildes = fd;
            c->aio_lio_opcode = writing ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD;
            c->aio_buf = (uint64_t)(uintptr_t)b;
            c->aio_nbytes = SMALL;
            c->aio_offset = place(started++);
            c->aio_data = slot;
            batch[n++] = c;
        }
        if (n && syscall(SYS_io_submit, context, n, batch) != n) die("io_submit");
        int got = syscall(SYS_io_getevents, context, 1, DEPTH, events, NULL);
        if (got < 1) die("io_getevents");
        for (int i = 0; i < got; i++) {
            if (events[i].res != SMALL) die("a request failed");
            check += (unsigned char)buffers[events[i].data * SMALL];
            slot_free[free_slots++] = events[i].data;
        }
        finished += got;
    }
    syscall(SYS_io_destroy, context);
    return check;
}

static uint64_t flushes(int count) {
    for (int i = 0; i < count; i++)
        if (pwrite(fd, buffers, SMALL, place(i)) != SMALL || fdatasync(fd)) die("flush");
    return count;
}

static uint64_t verify(int count) {
    for (int i = 0; i < count; i++) {
        if (pread(fd, buffers, SMALL, place(i)) != SMALL) die("verify");
        for (int k = 0; k < SMALL; k++)
            if (buffers[k] != (char)i) {
                fprintf(stderr, "disk: block %d does not hold what was written\n", i);
                exit(1);
            }
    }
    return count;
}

#define ROW(name, work)                                               \
    do {                                                              \
        double begin = seconds();                                     \
        uint64_t check = (work);                                      \
        if (fdatasync(fd)) die("fdatasync");                          \
        printf("BENCH %s %.4f s check %llu\n", name, seconds() - begin, (unsigned long long)check); \
        fflush(stdout);                                               \
    } while (0)

int main(int argc, char **argv) {
    uint64_t bytes;
    if (argc != 2) return 2;
    fd = open(argv[1], O_RDWR | O_DIRECT);
    if (fd < 0 || ioctl(fd, BLKGETSIZE64, &bytes)) die(argv[1]);
    for (blocks = 1; blocks * 2 * SMALL <= bytes; blocks *= 2);
    if (posix_memalign((void **)&buffers, SMALL, LARGE)) die("memory");
    ROW("seqread", sequential(0));
    ROW("randread", one_by_one(0, 2000));
    ROW("randread32", many(0, 8000));
    ROW("seqwrite", sequential(1));
    ROW("randwrite", one_by_one(1, 2000));
    ROW("randwrite32", many(1, 8000));
    ROW("verify", verify(2000));
    ROW("flush", flushes(100));
    return 0;
}
