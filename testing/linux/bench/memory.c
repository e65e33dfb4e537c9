// Rows that are limited by memory.
#include "bench.h"
#include <stdlib.h>
#include <string.h>

// Two loads, one store and a multiply-add over three arrays of 16 MB, twenty times.
static double stream(void) {
    enum { N = 2000000 };
    double *a = malloc(N * 8), *b = malloc(N * 8), *c = malloc(N * 8);
    if (!a || !b || !c) die("malloc");
    for (int i = 0; i < N; i++) {
        a[i] = 1;
        b[i] = 2;
        c[i] = 0;
    }
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < N; i++) c[i] = a[i] + 3.0 * b[i];
        keep(c);
    }
    double one = c[5];
    free(a), free(b), free(c);
    return one;
}

// libc's memcpy of 32 MiB, twenty times.
static double copy(void) {
    enum { N = 32 << 20 };
    char *a = malloc(N), *b = malloc(N);
    if (!a || !b) die("malloc");
    memset(a, 1, N);
    memset(b, 2, N);
    for (int round = 0; round < 20; round++) {
        memcpy(b, a, N);
        keep(b);
    }
    double one = b[77];
    free(a), free(b);
    return one;
}

// A random cycle through 16 MiB (Sattolo's algorithm), made and followed for five million steps.
static double chase(void) {
    enum { N = 4 << 20 };
    uint32_t *next = malloc(N * sizeof *next), at = 0;
    if (!next) die("malloc");
    for (int i = 0; i < N; i++) next[i] = i;
    for (int i = N - 1; i > 0; i--) {
        int j = rnd() % i;
        uint32_t t = next[i];
        next[i] = next[j];
        next[j] = t;
    }
    for (int i = 0; i < 5000000; i++) at = next[at];
    free(next);
    return at & 0xff;
}

const struct row memory_rows[] = {{"stream", stream}, {"memcpy", copy}, {"chase", chase}, {0}};
