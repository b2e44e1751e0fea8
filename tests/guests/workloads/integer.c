/* Integer work: hashing, tables, branches, calls, and a switch in a loop. */
#include "workloads.h"

#include <string.h>

#include "../sha256.h"

/* SHA-256 of `size` blocks of 4 KiB, each the hash of the last one's chain. */
uint64_t sha256_work(unsigned long size)
{
	static uint8_t block[4096];
	uint8_t hash[SHA256_BYTES];
	uint64_t word;
	struct sha256 sha;

	sha256_start(&sha);
	for (unsigned long i = 0; i < size; i++) {
		block[i % sizeof block]++;
		sha256_add(&sha, block, sizeof block);
	}
	sha256_finish(&sha, hash);
	memcpy(&word, hash, sizeof word);
	return word;
}

/* `size` times the primes below a million, one byte a number. */
uint64_t sieve_work(unsigned long size)
{
	enum { LIMIT = 1000000 };
	uint8_t *composite = memory_of(LIMIT);
	uint64_t sum = 0;

	for (unsigned long round = 0; round < size; round++) {
		memset(composite, 0, LIMIT);
		for (uint32_t n = 2; n < LIMIT; n++) {
			if (composite[n])
				continue;
			sum = mix(sum, n);
			for (uint64_t multiple = (uint64_t)n * n; multiple < LIMIT; multiple += n)
				composite[multiple] = 1;
		}
	}
	return sum;
}

/* CRC-32 (IEEE 802.3), a byte at a time by table, of `size` KiB. */
uint64_t crc32_work(unsigned long size)
{
	static uint32_t table[256];
	static uint8_t block[1024];
	uint32_t crc = UINT32_MAX;
	uint64_t random = 802;

	for (uint32_t n = 0; n < 256; n++) {
		uint32_t value = n;
		for (int bit = 0; bit < 8; bit++)
			value = value & 1 ? value >> 1 ^ UINT32_C(0xEDB88320) : value >> 1;
		table[n] = value;
	}
	for (size_t i = 0; i < sizeof block; i++)
		block[i] = (uint8_t)next_random(&random);
	for (unsigned long i = 0; i < size; i++)
		for (size_t at = 0; at < sizeof block; at++)
			crc = table[(crc ^ block[at]) & 255] ^ crc >> 8;
	return ~crc;
}

static __attribute__((noinline)) uint64_t fibonacci(unsigned n)
{
	if (n < 2)
		return n;
	uint64_t before = fibonacci(n - 1);
	/* Keeps the compiler from making a loop of the second call. */
	__asm__ volatile("" : "+r"(before));
	return before + fibonacci(n - 2);
}

/* Fibonacci's numbers by their definition, up to the one of `size`. */
uint64_t recursion_work(unsigned long size)
{
	uint64_t sum = 0;

	for (unsigned n = 0; n <= size; n++)
		sum = mix(sum, fibonacci(n));
	return sum;
}

enum operation { PUSH, LOAD, STORE, ADD, MULTIPLY, XOR, SHIFT, LESS, JUMP_IF, HALT };

struct instruction {
	uint8_t operation;
	int32_t operand;
};

/* A stack machine runs a loop of `size` thousand turns. */
uint64_t bytecode_work(unsigned long size)
{
	/* 0: the turn, 1: the sum, 2: the number of turns */
	static const struct instruction program[] = {
		{ LOAD, 1 },	{ PUSH, 31 }, { MULTIPLY, 0 }, { LOAD, 0 },  { ADD, 0 },
		{ LOAD, 1 },	{ PUSH, 7 },  { SHIFT, 0 },    { XOR, 0 },   { STORE, 1 },
		{ LOAD, 0 },	{ PUSH, 1 },  { ADD, 0 },      { STORE, 0 }, { LOAD, 0 },
		{ LOAD, 2 },	{ LESS, 0 },  { JUMP_IF, 0 },  { HALT, 0 },
	};
	uint64_t variables[3] = { 0, 1, size * 1000 };
	uint64_t stack[8], *top = stack;
	const struct instruction *at = program;

	for (;;) {
		struct instruction now = *at++;
		switch ((enum operation)now.operation) {
		case PUSH:
			*top++ = (uint64_t)now.operand;
			break;
		case LOAD:
			*top++ = variables[now.operand];
			break;
		case STORE:
			variables[now.operand] = *--top;
			break;
		case ADD:
			top--;
			top[-1] += *top;
			break;
		case MULTIPLY:
			top--;
			top[-1] *= *top;
			break;
		case XOR:
			top--;
			top[-1] ^= *top;
			break;
		case SHIFT:
			top--;
			top[-1] >>= *top;
			break;
		case LESS:
			top--;
			top[-1] = top[-1] < *top;
			break;
		case JUMP_IF:
			if (*--top)
				at = program + now.operand;
			break;
		case HALT:
			return variables[1];
		}
		/* What an operation leaves is not known at the next one. */
		__asm__ volatile("" : "+r"(at), "+r"(top) : : "memory");
	}
}
