// Rows that are limited by what the CPU executes: integers, branches, SSE2, x87.
#include "bench.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

// Multiply, add, shift, xor in registers: 200 million rounds of a short dependent chain.
static double intloop(void) {
    uint64_t a = 1, b = 2;
    for (long i = 0; i < 200000000; i++) {
        a = a * 6364136223846793005u + b;
        b ^= a >> 29;
        __asm__ volatile("" : "+r"(a));
    }
    return (a ^ b) & 0xffff;
}

// Byte stores with a growing stride over 10 MB, three times.
static double sieve(void) {
    enum { N = 10000000 };
    int primes = 0;
    for (int round = 0; round < 3; round++) {
        char *composite = calloc(N + 1, 1);
        if (!composite) die("calloc");
        primes = 0;
        for (long i = 2; i <= N; i++) {
            if (composite[i]) continue;
            primes++;
            for (long j = i * i; j <= N; j += i) composite[j] = 1;
        }
        free(composite);
    }
    return primes;
}

// SHA-256 (FIPS 180-4) of 64 MiB in pieces of 64 KiB, without padding. Constants: fractions of cube roots of primes.
static uint32_t sha_k[64];
static void sha_constants(void) {
    for (int n = 0, p = 2; n < 64; p++) {
        int prime = 1;
        for (int d = 2; d * d <= p; d++) prime &= p % d != 0;
        if (!prime) continue;
        long double root = cbrtl(p);
        sha_k[n++] = (uint32_t)((root - floorl(root)) * 4294967296.0L);
    }
}

static inline uint32_t ror(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void sha_block(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64];
    for (int i = 0; i < 16; i++) {
        uint32_t v;
        memcpy(&v, p + 4 * i, 4);
        w[i] = __builtin_bswap32(v);
    }
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], last = h[7];
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = last + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + ((e & f) ^ (~e & g)) + sha_k[i] + w[i];
        uint32_t t2 = (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        last = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += last;
}

static double sha256(void) {
    static uint8_t buf[65536];
    uint32_t h[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    sha_constants();
    for (unsigned i = 0; i < sizeof buf; i++) buf[i] = rnd();
    for (int round = 0; round < 1024; round++)
        for (unsigned i = 0; i < sizeof buf; i += 64) sha_block(h, buf + i);
    return h[0] & 0xffff;
}

// libc's qsort of two million integers, the comparison through a pointer.
static int compare(const void *a, const void *b) {
    int x = *(const int *)a, y = *(const int *)b;
    return (x > y) - (x < y);
}
static double sort(void) {
    enum { N = 2000000 };
    int *a = malloc(N * sizeof *a);
    if (!a) die("malloc");
    for (int i = 0; i < N; i++) a[i] = rnd();
    qsort(a, N, sizeof *a, compare);
    double middle = a[N / 2] & 0xffff;
    free(a);
    return middle;
}

// The inner loop of a bytecode interpreter: 60 million indirect jumps to eight targets.
static double branchy(void) {
    enum { SIZE = 4096 };
    static uint8_t code[SIZE];
    static const void *const op[] = {&&o0, &&o1, &&o2, &&o3, &&o4, &&o5, &&o6, &&o7};
    uint32_t a = 1, b = 7;
    long left = 60000000;
    unsigned pc = 0;
    for (int i = 0; i < SIZE; i++) code[i] = rnd() & 7;
#define NEXT                          \
    do {                              \
        if (--left < 0) return a & 0xff; \
        pc = (pc + 1) % SIZE;         \
        goto *op[code[pc]];           \
    } while (0)
    NEXT;
o0: a += b; NEXT;
o1: a ^= b << 3; NEXT;
o2: b += a >> 5; NEXT;
o3: a *= 33; NEXT;
o4: b -= a; NEXT;
o5: a = a << 7 | a >> 25; NEXT;
o6: b ^= a; NEXT;
o7: a += 0x9e37; NEXT;
}

// Product of two matrices of 448 x 448 doubles; the inner loop is SSE2.
static double matmul(void) {
    enum { N = 448 };
    double *a = malloc(N * N * 8), *b = malloc(N * N * 8), *c = calloc(N * N, 8);
    if (!a || !b || !c) die("malloc");
    for (int i = 0; i < N * N; i++) {
        a[i] = i % 7;
        b[i] = i % 5;
    }
    for (int i = 0; i < N; i++)
        for (int k = 0; k < N; k++) {
            double x = a[i * N + k];
            for (int j = 0; j < N; j++) c[i * N + j] += x * b[k * N + j];
        }
    double one = c[N * N / 2];
    free(a), free(b), free(c);
    return one;
}

// Five bodies and their gravity, as scalar doubles (SSE2) and as long doubles (x87).
#define NBODY(NAME, REAL, SQRT)                                                                                      \
    static double NAME(int steps) {                                                                                  \
        REAL x[5][3] = {{0, 0, 0}, {4.84, -1.16, -.1}, {8.34, 4.12, -.4}, {12.89, -15.11, -.22}, {15.37, -25.9, .17}};\
        REAL v[5][3] = {{0, 0, 0}, {.6, 2.8, -.02}, {-1, 1.8, .008}, {1.08, .868, -.01}, {.979, .594, -.034}};        \
        REAL m[5] = {39.47, .037, .011, .0017, .002}, dt = 0.01;                                                     \
        for (int s = 0; s < steps; s++) {                                                                            \
            for (int i = 0; i < 5; i++)                                                                              \
                for (int j = i + 1; j < 5; j++) {                                                                    \
                    REAL d[3], dd = 0;                                                                               \
                    for (int k = 0; k < 3; k++) {                                                                    \
                        d[k] = x[i][k] - x[j][k];                                                                    \
                        dd += d[k] * d[k];                                                                           \
                    }                                                                                                \
                    REAL mag = dt / (dd * SQRT(dd));                                                                 \
                    for (int k = 0; k < 3; k++) {                                                                    \
                        v[i][k] -= d[k] * m[j] * mag;                                                                \
                        v[j][k] += d[k] * m[i] * mag;                                                                \
                    }                                                                                                \
                }                                                                                                    \
            for (int i = 0; i < 5; i++)                                                                              \
                for (int k = 0; k < 3; k++) x[i][k] += dt * v[i][k];                                                 \
        }                                                                                                            \
        return x[0][0];                                                                                              \
    }
NBODY(bodies_sse, double, sqrt)
NBODY(bodies_x87, long double, sqrtl)
static double nbody(void) { return bodies_sse(1500000); }
static double x87(void) { return bodies_x87(400000); }

const struct row compute_rows[] = {
    {"intloop", intloop}, {"sieve", sieve},   {"sha256", sha256}, {"qsort", sort}, {"branchy", branchy},
    {"matmul", matmul},   {"nbody", nbody}, {"x87", x87},       {0},
};
