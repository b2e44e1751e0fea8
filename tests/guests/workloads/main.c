/*
 * workload: a guest program that does a fixed amount of one kind of work.
 *
 *     workload NAME SIZE     does it and prints a checksum of the result
 *     workload text BYTES    prints that many bytes of words, in lines
 *     workload nothing       ends at once
 *
 * The checksum depends on NAME and SIZE alone: not on time, process ids or the
 * machine.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "workloads.h"

static const struct {
	const char *name;
	uint64_t (*work)(unsigned long size);
} workloads[] = {
	{ "sha256", sha256_work },	 { "sieve", sieve_work },   { "crc32", crc32_work },
	{ "recursion", recursion_work }, { "bytecode", bytecode_work },
	{ "nbody", nbody_work },	 { "mandelbrot", mandelbrot_work },
	{ "matrix", matrix_work },	 { "copy", copy_work },	    { "set", set_work },
	{ "rep-movs", rep_movs_work },	 { "triad", triad_work },   { "chase", chase_work },
	{ "syscall", syscall_work },	 { "fork", fork_work },	    { "exec", exec_work },
	{ "pipe", pipe_work },		 { "touch", touch_work },
};

void fail(const char *what)
{
	fprintf(stderr, "workload: %s: %s\n", what, strerror(errno));
	exit(1);
}

void *memory_of(size_t bytes)
{
	/* Between two mappings some pages stay free, so that streams of a power of
	 * two do not meet in the same entries of a direct-mapped TLB: that would
	 * measure nothing else. */
	static size_t apart = 0;
	apart += 17 * 4096;
	uint8_t *memory = mmap(NULL, bytes + apart, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		fail("mmap");
	return memory + apart;
}

/* Words of 2 to 9 letters, the shorter the more frequent, up to 12 a line. */
static void print_text(unsigned long bytes)
{
	uint64_t random = 20101;
	unsigned long written = 0;

	while (written < bytes) {
		unsigned words = 4 + next_random(&random) % 9;
		for (unsigned word = 0; word < words; word++) {
			uint64_t bits = next_random(&random);
			unsigned length = 2 + (bits >> 60 & 3) + (bits >> 58 & bits >> 56 & 3) + (bits >> 55 & 1);
			char letters[16];
			for (unsigned i = 0; i < length; i++, bits >>= 4)
				letters[i] = "etaoinshrdlucmfw"[bits & 15];
			letters[length] = word + 1 < words ? ' ' : '\n';
			fwrite(letters, 1, length + 1, stdout);
			written += length + 1;
		}
	}
	if (fflush(stdout) != 0)
		fail("writing the text");
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "nothing") == 0)
		return 0;
	if (argc == 3) {
		char *end;
		errno = 0;
		unsigned long size = strtoul(argv[2], &end, 10);
		if (errno != 0 || *end != 0 || end == argv[2]) {
			fprintf(stderr, "workload: not a number: %s\n", argv[2]);
			return 2;
		}
		if (strcmp(argv[1], "text") == 0) {
			print_text(size);
			return 0;
		}
		for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
			if (strcmp(argv[1], workloads[i].name) == 0) {
				printf("%016llx\n", (unsigned long long)workloads[i].work(size));
				return 0;
			}
		}
	}
	fprintf(stderr, "usage: workload NAME SIZE\n");
	return 2;
}
