// The guest benchmark: `bench [ROW...]` runs the rows (default: all) and prints `BENCH row seconds s check value` for each.
// `bench true` does nothing, fast: the rows forkexec starts it. `bench twice ROW` runs a row alone and then two processes with it
// at once, and prints the rows `ROW:alone` and `ROW:twice`.
//
// Build: gcc -O2 -static (baseline x86-64, so SSE2 and no more). Rows do the same work in every run and on every machine.
#define _GNU_SOURCE
#include "bench.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

const char *self_path;
static const struct row *const groups[] = {compute_rows, memory_rows, system_rows};

void die(const char *what) {
    fprintf(stderr, "bench: %s: %s\n", what, strerror(errno));
    exit(1);
}

double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static uint64_t state;
void rnd_reset(void) { state = 0x9e3779b97f4a7c15; }
uint64_t rnd(void) {
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void report(const char *name, const char *suffix, double took, double check) {
    printf("BENCH %s%s %.4f s check %.6g\n", name, suffix, took, check);
    fflush(stdout);
}

static void run(const struct row *row) {
    rnd_reset();
    double begin = seconds(), check = row->run();
    report(row->name, "", seconds() - begin, check);
}

static const struct row *find(const char *name) {
    for (unsigned g = 0; g < sizeof groups / sizeof *groups; g++)
        for (const struct row *r = groups[g]; r->name; r++)
            if (!strcmp(r->name, name)) return r;
    fprintf(stderr, "bench: no row is called %s\n", name);
    exit(2);
}

static void twice(const struct row *row) {
    rnd_reset();
    double begin = seconds(), check = row->run();
    report(row->name, ":alone", seconds() - begin, check);
    begin = seconds();
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid < 0) die("fork");
        if (!pid) {
            rnd_reset();
            _exit(row->run() == check ? 0 : 1);
        }
    }
    for (int i = 0; i < 2; i++) {
        int status;
        if (wait(&status) < 0) die("wait");
        if (status) {
            fprintf(stderr, "bench: the same work gave another result\n");
            exit(1);
        }
    }
    report(row->name, ":twice", seconds() - begin, check);
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "true")) return 0;
    self_path = strchr(argv[0], '/') ? argv[0] : "/proc/self/exe";
    if (argc == 3 && !strcmp(argv[1], "twice")) {
        twice(find(argv[2]));
        return 0;
    }
    for (int i = 1; i < argc; i++) run(find(argv[i]));
    for (unsigned g = 0; argc == 1 && g < sizeof groups / sizeof *groups; g++)
        for (const struct row *r = groups[g]; r->name; r++) run(r);
    return 0;
}
