// What the parts of the benchmark share. Each row is one function that returns a check value; the caller takes the time.
#ifndef BENCH_H
#define BENCH_H
#include <stdint.h>

struct row {
    const char *name;
    double (*run)(void);
};

extern const struct row compute_rows[], memory_rows[], system_rows[];
// Path of this program, for rows that execute it again.
extern const char *self_path;

// Ends the program with a message about errno.
void die(const char *what);
// Seconds of the monotonic clock.
double seconds(void);
// xorshift64 with a fixed seed: every run does the same work.
uint64_t rnd(void);
void rnd_reset(void);
// Keeps the compiler from dropping the work behind p.
static inline void keep(const void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }
#endif
