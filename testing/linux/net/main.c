// The network benchmark's guest: `net HOST SINK SOURCE DATAGRAMS` does a fixed amount of work with servers of the host and prints
// `BENCH row seconds` for each row. SINK takes what comes, SOURCE sends as many bytes as the 8 bytes ask for that it gets first,
// DATAGRAMS tells over TCP how many datagrams came to the UDP port of the same number since it was asked last.
//
// Build: gcc -O2 -static.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BULK (64 << 20)
#define STREAMS 100
#define STREAM_BYTES (512 << 10)
#define DATAGRAMS 40000
#define CONNECTIONS 400
#define MORE_CONNECTIONS 2000
#define PINGS 400

static const char *host;
static char buffer[256 << 10];

static void die(const char *what) {
    fprintf(stderr, "net: %s: %s\n", what, strerror(errno));
    exit(1);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static struct sockaddr_in address(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
        die("address");
    return a;
}

static int dial(int port) {
    struct sockaddr_in a = address(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        die("connect");
    return fd;
}

// Until the sink has taken everything and closed.
static void up(int sink) {
    int fd = dial(sink);
    for (long left = BULK; left > 0;) {
        ssize_t n = write(fd, buffer, left < (long)sizeof buffer ? left : (long)sizeof buffer);
        if (n < 0)
            die("write");
        left -= n;
    }
    shutdown(fd, SHUT_WR);
    if (read(fd, buffer, 1) != 0)
        die("the sink said something");
    close(fd);
}

static int request(int source, uint64_t bytes) {
    int fd = dial(source);
    if (write(fd, &bytes, sizeof bytes) != sizeof bytes)
        die("request");
    return fd;
}

static void down(int source) {
    int fd = request(source, BULK);
    long got = 0;
    for (ssize_t n; (n = read(fd, buffer, sizeof buffer)) > 0;)
        got += n;
    if (got != BULK)
        die("down");
    close(fd);
}

static void streams(int source) {
    struct pollfd fds[STREAMS];
    long got = 0;
    for (int i = 0; i < STREAMS; i++)
        fds[i] = (struct pollfd){.fd = request(source, STREAM_BYTES), .events = POLLIN};
    for (int open = STREAMS; open > 0;) {
        if (poll(fds, STREAMS, 60000) <= 0)
            die("poll");
        for (int i = 0; i < STREAMS; i++) {
            if (fds[i].fd < 0 || !fds[i].revents)
                continue;
            ssize_t n = read(fds[i].fd, buffer, sizeof buffer);
            if (n < 0)
                die("read");
            got += n;
            if (n == 0) {
                close(fds[i].fd);
                fds[i].fd = -1;
                open--;
            }
        }
    }
    if (got != (long)STREAMS * STREAM_BYTES)
        die("streams");
}

static uint64_t arrived(int port) {
    uint64_t n;
    int fd = dial(port);
    if (read(fd, &n, sizeof n) != sizeof n)
        die("count");
    close(fd);
    return n;
}

// What was lost counts as not sent.
static double datagrams(int port) {
    struct sockaddr_in a = address(port);
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    arrived(port);
    double start = seconds();
    for (int i = 0; i < DATAGRAMS; i++)
        sendto(fd, buffer, 64, 0, (struct sockaddr *)&a, sizeof a);
    double took = seconds() - start;
    usleep(500000);
    uint64_t n = arrived(port);
    close(fd);
    if (n == 0)
        die("no datagram arrived");
    return took * DATAGRAMS / n;
}

static void connections(int sink, int count) {
    for (int i = 0; i < count; i++)
        close(dial(sink));
}

static uint16_t checksum(const uint16_t *words, int count) {
    uint32_t sum = 0;
    while (count--)
        sum += *words++;
    sum = (sum >> 16) + (sum & 0xffff);
    return ~(sum + (sum >> 16));
}

static void pings(void) {
    struct sockaddr_in a = address(0);
    int fd = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    struct timeval patience = {.tv_sec = 5};
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0)
        die("ping");
    for (int i = 1; i <= PINGS; i++) {
        struct icmphdr h = {.type = ICMP_ECHO, .un.echo = {.id = htons(7), .sequence = htons(i)}};
        h.checksum = checksum((uint16_t *)&h, sizeof h / 2);
        if (sendto(fd, &h, sizeof h, 0, (struct sockaddr *)&a, sizeof a) < 0)
            die("ping");
        struct icmphdr *reply = (struct icmphdr *)(buffer + 20);
        do {
            if (recv(fd, buffer, sizeof buffer, 0) < 28)
                die("no answer to a ping");
        } while (reply->type != ICMP_ECHOREPLY || reply->un.echo.sequence != htons(i));
    }
    close(fd);
}

static void row(const char *name, double took) {
    printf("BENCH %s %.6f s\n", name, took);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    host = argv[1];
    int sink = atoi(argv[2]), source = atoi(argv[3]), counter = atoi(argv[4]);
    double t = seconds();
#define ROW(name, work)                                                                                                \
    t = seconds();                                                                                                     \
    work;                                                                                                              \
    row(name, seconds() - t)
    // What it costs to be there.
    sleep(2);
    row("idle", 2);
    ROW("ping", pings());
    ROW("connect", connections(sink, CONNECTIONS));
    // When everything that a connection runs through has been seen: what can be kept up.
    ROW("connections", connections(sink, MORE_CONNECTIONS));
    ROW("up", up(sink));
    ROW("down", down(source));
    ROW("streams", streams(source));
    row("datagram", datagrams(counter));
    return 0;
}
