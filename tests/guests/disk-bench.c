// Reads or writes blocks of 4 KiB at random places of a disk, past the guest's cache, one after the
// other, and says when it begins and ends:
//
//     disk-bench DEVICE read|write BLOCKS
//
// The places are the same each time.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { BLOCK = 4096 };

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: disk-bench DEVICE read|write BLOCKS\n");
        return 2;
    }
    int writes = strcmp(argv[2], "write") == 0;
    int fd = open(argv[1], (writes ? O_WRONLY : O_RDONLY) | O_DIRECT);
    if (fd < 0) {
        perror(argv[1]);
        return 1;
    }
    off_t blocks = lseek(fd, 0, SEEK_END) / BLOCK;
    void *buffer;
    if (blocks < 1 || posix_memalign(&buffer, BLOCK, BLOCK) != 0) {
        fprintf(stderr, "disk-bench: no disk or no memory\n");
        return 1;
    }
    memset(buffer, 0x5a, BLOCK);
    // xorshift64
    uint64_t random = 0x9e3779b97f4a7c15;
    printf("disk-bench begins: %s\n", argv[2]);
    fflush(stdout);
    for (long left = atol(argv[3]); left > 0; left--) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        off_t at = (off_t)(random % (uint64_t)blocks) * BLOCK;
        ssize_t count = writes ? pwrite(fd, buffer, BLOCK, at) : pread(fd, buffer, BLOCK, at);
        if (count != BLOCK) {
            perror("disk-bench");
            return 1;
        }
    }
    printf("disk-bench ends: %s\n", argv[2]);
    return 0;
}
