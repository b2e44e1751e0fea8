// A server for measurements, in the guest or on the host.
//
//     serve PORT
//
// Listens on every address. A connection begins with a request of 17 bytes: a letter, the length of
// a message and a count (both 8 bytes, little-endian). Then:
//
//     E  every message is sent back, until the client closes
//     R  `count` bytes are received, then one byte is sent
//     S  `count` bytes are sent; if the length is not 0, in parts of 16 KiB with a pause of so many
//        microseconds after each, and the word at offset o is o / 8 times 0x9e3779b97f4a7c15
//     C  `count` steps of a random number generator are computed, then its 8 bytes are sent
//
// Each connection has a process of its own. Datagrams to the same port are sent back.
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PART ((size_t)1 << 14)

static char buffer[1 << 18];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

// Whether `length` bytes came before the end of the connection.
static int receive_all(int connection, char *to, size_t length)
{
    while (length > 0) {
        ssize_t count = read(connection, to, length);
        if (count <= 0)
            return 0;
        to += count;
        length -= (size_t)count;
    }
    return 1;
}

static int send_all(int connection, const char *from, size_t length)
{
    while (length > 0) {
        ssize_t count = write(connection, from, length);
        if (count <= 0)
            return 0;
        from += count;
        length -= (size_t)count;
    }
    return 1;
}

static void serve(int connection)
{
    char request[17];
    uint64_t length, count;

    if (!receive_all(connection, request, sizeof request))
        return;
    memcpy(&length, request + 1, sizeof length);
    memcpy(&count, request + 9, sizeof count);
    switch (request[0]) {
    case 'E':
        if (length > sizeof buffer)
            return;
        while (receive_all(connection, buffer, length) && send_all(connection, buffer, length))
            ;
        break;
    case 'R':
        while (count > 0) {
            size_t most = count < sizeof buffer ? count : sizeof buffer;
            ssize_t got = read(connection, buffer, most);
            if (got <= 0)
                return;
            count -= (uint64_t)got;
        }
        send_all(connection, "!", 1);
        break;
    case 'S':
        for (uint64_t word = 0; length > 0 && count > 0;) {
            size_t part = count < PART ? count : PART;
            for (size_t at = 0; at < part; at += 8, word++) {
                uint64_t value = word * 0x9e3779b97f4a7c15u;
                memcpy(buffer + at, &value, sizeof value);
            }
            if (!send_all(connection, buffer, part))
                return;
            count -= part;
            usleep((useconds_t)length);
        }
        while (count > 0) {
            size_t part = count < sizeof buffer ? count : sizeof buffer;
            if (!send_all(connection, buffer, part))
                return;
            count -= part;
        }
        break;
    case 'C': {
        uint64_t x = 88172645463325252u;
        for (; count > 0; count--) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
        }
        send_all(connection, (const char *)&x, sizeof x);
        break;
    }
    }
}

static void echo_datagrams(const struct sockaddr_in *address)
{
    int socket_ = socket(AF_INET, SOCK_DGRAM, 0);

    if (socket_ < 0 || bind(socket_, (const struct sockaddr *)address, sizeof *address) != 0)
        fail("datagrams");
    for (;;) {
        struct sockaddr_in from;
        socklen_t length = sizeof from;
        ssize_t count =
            recvfrom(socket_, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length);
        if (count >= 0)
            sendto(socket_, buffer, (size_t)count, 0, (struct sockaddr *)&from, length);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    int one = 1, listener;

    if (argc != 2) {
        fprintf(stderr, "usage: serve PORT\n");
        return 2;
    }
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    address.sin_port = htons((uint16_t)atoi(argv[1]));
    listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        fail("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0)
        fail("bind");
    if (listen(listener, 64) != 0)
        fail("listen");
    if (fork() == 0)
        echo_datagrams(&address);
    printf("serving\n");
    fflush(stdout);
    for (;;) {
        int connection = accept(listener, NULL, NULL);
        if (connection < 0) {
            if (errno == EINTR || errno == ECONNABORTED)
                continue;
            fail("accept");
        }
        setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (fork() == 0) {
            serve(connection);
            _exit(0);
        }
        close(connection);
    }
}
