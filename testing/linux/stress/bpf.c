// BPF programs, which the kernel's JIT turns into machine code: random classic filters on a socket against an interpreter here, and
// seccomp filters, one for each of many processes.
#include "stress.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static void jit_on(void) {
    // 1: on. In kernels that have nothing but the JIT the file is read-only or fixed.
    put_file("/proc/sys/net/core/bpf_jit_enable", "1");
}

// The semantics of classic BPF (Linux Documentation/networking/filter.rst) for what is generated below.
static uint32_t interpret(const struct sock_filter *f, const uint8_t *data, uint32_t size) {
    uint32_t a = 0, x = 0, m[16] = {0};
    for (int pc = 0;; pc++) {
        uint32_t k = f[pc].k, operand = BPF_SRC(f[pc].code) == BPF_X ? x : k;
        switch (BPF_CLASS(f[pc].code)) {
        case BPF_RET: return BPF_RVAL(f[pc].code) == BPF_A ? a : k;
        case BPF_LD:
            if (BPF_MODE(f[pc].code) == BPF_IMM) { a = k; break; }
            if (BPF_MODE(f[pc].code) == BPF_MEM) { a = m[k]; break; }
            if (BPF_MODE(f[pc].code) == BPF_LEN) { a = size; break; }
            {
                uint64_t at = BPF_MODE(f[pc].code) == BPF_IND ? (uint64_t)(uint32_t)(x + k) : k;
                int n = BPF_SIZE(f[pc].code) == BPF_W ? 4 : BPF_SIZE(f[pc].code) == BPF_H ? 2 : 1;
                if (at + n > size) return 0;
                a = 0;
                for (int i = 0; i < n; i++) a = a << 8 | data[at + i];
            }
            break;
        case BPF_LDX: x = BPF_MODE(f[pc].code) == BPF_MEM ? m[k] : k; break;
        case BPF_ST: m[k] = a; break;
        case BPF_STX: m[k] = x; break;
        case BPF_MISC: if (BPF_MISCOP(f[pc].code) == BPF_TAX) x = a; else a = x; break;
        case BPF_ALU:
            switch (BPF_OP(f[pc].code)) {
            case BPF_ADD: a += operand; break;
            case BPF_SUB: a -= operand; break;
            case BPF_MUL: a *= operand; break;
            case BPF_DIV: if (!operand) return 0; a /= operand; break;
            case BPF_MOD: if (!operand) return 0; a %= operand; break;
            case BPF_AND: a &= operand; break;
            case BPF_OR: a |= operand; break;
            case BPF_XOR: a ^= operand; break;
            case BPF_LSH: a <<= operand; break;
            case BPF_RSH: a >>= operand; break;
            case BPF_NEG: a = -a; break;
            }
            break;
        case BPF_JMP: {
            bool yes = BPF_OP(f[pc].code) == BPF_JEQ ? a == operand : BPF_OP(f[pc].code) == BPF_JGT ? a > operand
                       : BPF_OP(f[pc].code) == BPF_JGE ? a >= operand : (a & operand) != 0;
            pc += yes ? f[pc].jt : f[pc].jf;
        }
        }
    }
}

static int generate(struct sock_filter *f, int size) {
    static const uint16_t ops[] = {BPF_ADD, BPF_SUB, BPF_MUL, BPF_DIV, BPF_MOD, BPF_AND, BPF_OR, BPF_XOR};
    static const uint16_t jumps[] = {BPF_JEQ, BPF_JGT, BPF_JGE, BPF_JSET};
    int n = 0;
    for (int i = 0; i < 4; i++) f[n++] = (struct sock_filter)BPF_STMT(BPF_ST, i);
    while (n < size - 2) {
        uint32_t k = rnd();
        uint16_t source = rnd() & 1 ? BPF_X : BPF_K;
        switch (rnd() % 9) {
        case 0: f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_ABS | (k & 1 ? BPF_W : k & 2 ? BPF_H : BPF_B), k >> 8 & 31); break;
        case 1: f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_IMM, k); break;
        case 2: f[n++] = (struct sock_filter)BPF_STMT(BPF_LDX | BPF_IMM, k % 7 ? k : k & 15); break;
        case 3: f[n++] = (struct sock_filter)BPF_STMT(BPF_ST, k & 3); break;
        case 4: f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_MEM, k & 3); break;
        case 5: f[n++] = (struct sock_filter)BPF_STMT(BPF_MISC | (k & 1 ? BPF_TAX : BPF_TXA), 0); break;
        case 6: f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | (k & 1 ? BPF_LSH : BPF_RSH) | BPF_K, k >> 4 & 31); break;
        case 7:
            if (n < size - 8) {
                f[n] = (struct sock_filter)BPF_JUMP(BPF_JMP | jumps[k & 3] | source, rnd() >> (rnd() & 63), rnd() % 5, rnd() % 5);
                n++;
            }
            break;
        default:
            // A constant zero as divisor is refused.
            f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | ops[rnd() % 8] | source, k | 1);
        }
    }
    // The verdict: how many bytes of the packet pass.
    f[n++] = (struct sock_filter)BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 63);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_A, 0);
    return n;
}

static void socket_filters(void) {
    jit_on();
    long passed = 0, cut = 0;
    for (long i = 0; i < rounds(150); i++) {
        struct sock_filter f[128];
        struct sock_fprog program = {generate(f, 16 + rnd() % 100), f};
        int pair[2];
        MUST(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, pair));
        MUST(setsockopt(pair[1], SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program));
        for (int k = 0; k < 20; k++) {
            uint8_t out[64], in[64];
            uint32_t size = 36 + rnd() % 20;
            for (unsigned b = 0; b < size; b++) out[b] = rnd();
            uint32_t expected = interpret(f, out, size);
            if (expected > size) expected = size;
            ssize_t sent = send(pair[0], out, size, 0), got = recv(pair[1], in, sizeof in, 0);
            // What is wholly filtered is dropped, and the sender may be told so.
            CHECK(sent == size || (expected == 0 && sent == -1), "sent %zd: %s", sent, strerror(errno));
            if (expected == 0) CHECK(got == -1, "filter %ld, packet %d: passed instead of dropped", i, k);
            else CHECK(got == expected && !memcmp(in, out, got), "filter %ld, packet %d: %zd bytes instead of %u", i, k, got, expected);
            if (expected) passed++;
            if (expected && expected < size) cut++;
        }
        close(pair[0]), close(pair[1]);
    }
    note("%ld packets passed, %ld of them cut", passed, cut);
}

// Each process filters the same calls with other answers.
struct answer {
    int first, count;
};
static void filtered(void *argument) {
    struct answer *w = argument;
    struct sock_filter f[64];
    int n = 0;
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpgid, 1, 0);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    f[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args));
    for (int i = 0; i < w->count; i++) {
        f[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, i, 0, 1);
        f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (w->first + i));
    }
    f[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 99);
    struct sock_fprog program = {n, f};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
    for (int round = 0; round < 50; round++)
        for (int i = 0; i < w->count + 3; i++) {
            long r = syscall(SYS_getpgid, i);
            int expected = i < w->count ? w->first + i : 99;
            CHECK(r == -1 && errno == expected, "argument %d: %ld, errno %d instead of %d", i, r, errno, expected);
        }
}
static void seccomp(void) {
    jit_on();
    for (long i = 0; i < rounds(5); i++) {
        pid_t all[6];
        struct answer want[6];
        for (int k = 0; k < 6; k++) {
            want[k] = (struct answer){1 + rnd() % 60, 1 + rnd() % 20};
            all[k] = child(filtered, &want[k]);
        }
        for (int k = 0; k < 6; k++) reap(all[k]);
    }
}

const struct test bpf_tests[] = {{"bpf-socket-filters", socket_filters}, {"bpf-seccomp", seccomp}, {0, 0}};
