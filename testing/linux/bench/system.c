// Rows that are limited by the kernel and by changes of context. The last three are files and programs: `gen` writes 20 MB of
// text through stdio, the busybox named by $BUSYBOX compresses and unpacks it.
#define _GNU_SOURCE
#include "bench.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

// A million calls of the cheapest kind.
static double calls(void) {
    long sum = 0;
    for (int i = 0; i < 1000000; i++) sum += syscall(SYS_getppid) & 1;
    return sum & 1;
}

static void byte(int in, int out) {
    char c = 0;
    if (in >= 0 && read(in, &c, 1) != 1) die("read");
    if (out >= 0 && write(out, &c, 1) != 1) die("write");
}

// A byte goes to another process and back, 50000 times.
static double pipes(void) {
    enum { ROUNDS = 50000 };
    int there[2], back[2];
    if (pipe(there) || pipe(back)) die("pipe");
    pid_t pid = fork();
    if (pid < 0) die("fork");
    if (!pid) {
        for (int i = 0; i < ROUNDS; i++) byte(there[0], back[1]);
        _exit(0);
    }
    for (int i = 0; i < ROUNDS; i++) {
        byte(-1, there[1]);
        byte(back[0], -1);
    }
    waitpid(pid, 0, 0);
    close(there[0]), close(there[1]), close(back[0]), close(back[1]);
    return ROUNDS;
}

// fork, execve of a static program, exit: 500 times.
static double forkexec(void) {
    enum { ROUNDS = 500 };
    for (int i = 0; i < ROUNDS; i++) {
        int status;
        pid_t pid = fork();
        if (pid < 0) die("fork");
        if (!pid) {
            execl(self_path, self_path, "true", (char *)0);
            _exit(1);
        }
        if (waitpid(pid, &status, 0) < 0 || status) die("forkexec");
    }
    return ROUNDS;
}

// 64 MiB of anonymous pages of 4 KiB touched and given back, eight times.
static double faults(void) {
    enum { N = 64 << 20 };
    long pages = 0;
    for (int round = 0; round < 8; round++) {
        char *a = mmap(0, N, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (a == MAP_FAILED) die("mmap");
        madvise(a, N, MADV_NOHUGEPAGE);
        for (int i = 0; i < N; i += 4096, pages++) a[i] = 1;
        munmap(a, N);
    }
    return pages;
}

#define TEXT "/tmp/visor-bench.txt"
#define PACKED "/tmp/visor-bench.gz"
enum { TEXT_SIZE = 20000000 };

static double gen(void) {
    static const char *const words[] = {"the ", "virtual ", "machine ", "page ", "table ", "exit ", "entry ", "interrupt ",
                                        "memory ", "register ", "{", "}", "\n", "0x", "=", ";"};
    FILE *f = fopen(TEXT, "wb");
    if (!f) die(TEXT);
    long n = 0;
    while (n < TEXT_SIZE) {
        const char *w = words[rnd() & 15];
        fputs(w, f);
        n += strlen(w);
        if ((rnd() & 7) == 0) n += fprintf(f, "%x", (unsigned)rnd());
    }
    if (fclose(f)) die(TEXT);
    return n;
}

static double shell(const char *file, const char *command) {
    char line[512];
    const char *busybox = getenv("BUSYBOX");
    struct stat st;
    snprintf(line, sizeof line, command, busybox ? busybox : "busybox", busybox ? busybox : "busybox");
    if (system(line)) die(line);
    return stat(file, &st) ? 0 : st.st_size;
}

static double gzip20m(void) { return shell(PACKED, "%s gzip -c " TEXT " > " PACKED); }
static double gunzipmd5(void) { return shell("/tmp/visor-bench.md5", "%s gunzip -c " PACKED " | %s md5sum > /tmp/visor-bench.md5"); }

const struct row system_rows[] = {
    {"syscall", calls}, {"pipe", pipes}, {"forkexec", forkexec},     {"mmap", faults},
    {"gen", gen},       {"gzip20M", gzip20m}, {"gunzipmd5", gunzipmd5}, {0},
};
