// Reads or writes blocks of 4 KiB at random places of a disk, past the guest's cache, and says when
// it begins and ends:
//
//     disk-bench DEVICE read|write BLOCKS [PROCESSES]
//
// Each process does its share of them, one after the other. The places are the same each time. What
// is done before it begins, for the engine to get used to it, does not count.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { BLOCK = 4096, WARM_UP = 500 };

static int writes;
static off_t disk_blocks;
static void *buffer;

// `count` blocks, with places of which `seed` is the first.
static int transfer(int fd, uint64_t seed, long count) {
    // xorshift64
    uint64_t random = seed;
    for (; count > 0; count--) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        off_t at = (off_t)(random % (uint64_t)disk_blocks) * BLOCK;
        ssize_t done = writes ? pwrite(fd, buffer, BLOCK, at) : pread(fd, buffer, BLOCK, at);
        if (done != BLOCK) {
            perror("disk-bench");
            return 1;
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: disk-bench DEVICE read|write BLOCKS [PROCESSES]\n");
        return 2;
    }
    writes = strcmp(argv[2], "write") == 0;
    long blocks = atol(argv[3]);
    long processes = argc == 5 ? atol(argv[4]) : 1;
    int fd = open(argv[1], (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
    if (fd < 0) {
        perror(argv[1]);
        return 1;
    }
    disk_blocks = lseek(fd, 0, SEEK_END) / BLOCK;
    if (disk_blocks < 1 || processes < 1 || posix_memalign(&buffer, BLOCK, BLOCK) != 0) {
        fprintf(stderr, "disk-bench: no disk, no processes or no memory\n");
        return 1;
    }
    memset(buffer, 0x5a, BLOCK);
    if (transfer(fd, 88172645463325252, WARM_UP) != 0)
        return 1;
    printf("disk-bench begins: %s %ld\n", argv[2], processes);
    fflush(stdout);
    for (long process = 0; process < processes; process++) {
        pid_t child = fork();
        if (child < 0) {
            perror("disk-bench");
            return 1;
        }
        if (child == 0)
            _exit(transfer(fd, 0x9e3779b97f4a7c15 + (uint64_t)process, blocks / processes));
    }
    int failed = 0;
    for (int status; wait(&status) > 0;)
        failed |= status;
    if (failed)
        return 1;
    printf("disk-bench ends: %s %ld\n", argv[2], processes);
    return 0;
}
