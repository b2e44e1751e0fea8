/* The workloads of the CPU benchmark: each does `size` units of its work and
 * gives a checksum of the result, which must be the same on every machine. */
#ifndef WORKLOADS_H
#define WORKLOADS_H

#include <stddef.h>
#include <stdint.h>

/* integer.c */
uint64_t sha256_work(unsigned long size);
uint64_t sieve_work(unsigned long size);
uint64_t crc32_work(unsigned long size);
uint64_t recursion_work(unsigned long size);
uint64_t bytecode_work(unsigned long size);

/* floating.c */
uint64_t nbody_work(unsigned long size);
uint64_t mandelbrot_work(unsigned long size);
uint64_t matrix_work(unsigned long size);

/* memory.c */
uint64_t copy_work(unsigned long size);
uint64_t set_work(unsigned long size);
uint64_t rep_movs_work(unsigned long size);
uint64_t triad_work(unsigned long size);
uint64_t chase_work(unsigned long size);

/* system.c */
uint64_t syscall_work(unsigned long size);
uint64_t fork_work(unsigned long size);
uint64_t exec_work(unsigned long size);
uint64_t pipe_work(unsigned long size);
uint64_t touch_work(unsigned long size);

/* main.c */

/* Ends the program with status 1, naming what failed and errno. */
void fail(const char *what);

/* A fresh mapping of zeroes; it is never given back. */
void *memory_of(size_t bytes);

/* The next number of the sequence whose state is at `random` (xorshift64*);
 * the state must not be 0. */
static inline uint64_t next_random(uint64_t *random)
{
	uint64_t x = *random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	*random = x;
	return x * UINT64_C(0x2545F4914F6CDD1D);
}

/* Takes one more word into a checksum. */
static inline uint64_t mix(uint64_t sum, uint64_t word)
{
	sum = (sum ^ word) * UINT64_C(0x9E3779B97F4A7C15);
	return sum ^ sum >> 29;
}

#endif
